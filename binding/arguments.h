// What callbacks begin with: their arguments, read and checked, and where they compute. See binding.cpp.
#pragma once

#include <napi.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <utility>

#include "batchnorm.h"
#include "dispatch.h"
#include "mailbox.h"

namespace binding {

using batchnorm::Activation;
using batchnorm::Compute;
using batchnorm::Execution;
using batchnorm::Half;
using batchnorm::Shape;
using batchnorm::Storage;

/// Process-wide, like the threads themselves. 0 until the first setThreads.
inline std::atomic<size_t> thread_count{0};

struct Instance;

/// What a function is exported with: its environment's instance, and what its tensors of Half hold.
struct Exported {
  Instance* instance;
  Storage storage;
};

/// Of one Node environment: environment variables may differ between workers.
struct Instance {
  Instance() {
    for (size_t i = 0; i < batchnorm::kStorages; i++) exported[i] = {this, static_cast<Storage>(i)};
  }
  Instance(const Instance&) = delete;
  Instance& operator=(const Instance&) = delete;

  const batchnorm::KernelTable* kernels = batchnorm::kernel_tables().front();
  /// Those that this process may use.
  size_t cpus = 1;
  size_t cache_bytes = 0;
  size_t most_stream_bytes = 0;
  size_t stream_bytes_per_thread = 0;
  Mailbox mailbox;
  Exported exported[batchnorm::kStorages];
};

inline Instance& instance_of(napi_env env) {
  void* instance = nullptr;
  napi_get_instance_data(env, &instance);
  return *static_cast<Instance*>(instance);
}

inline Execution execution_of(const Instance& settings, Storage storage, size_t most_threads = SIZE_MAX) {
  const size_t threads =
      std::clamp<size_t>(thread_count.load(std::memory_order_relaxed), 1, std::max<size_t>(1, most_threads));
  return {settings.kernels,
          threads,
          settings.cache_bytes,
          std::min(settings.most_stream_bytes, settings.stream_bytes_per_thread * threads),
          storage,
          settings.most_stream_bytes};
}

inline Execution execution_of(napi_env env, Storage storage) {
  return execution_of(instance_of(env), storage);
}

/// Thrown where an array is not as long as it was when lib/ looked.
struct BufferChanged {
  const char* name;
};

/// Thrown where values of `bytes` bytes cannot lie: in memory that another addon has made.
struct Misaligned {
  const char* name;
  size_t bytes;
};

/// Thrown for what lib/ never gives.
struct InvalidCall {
  const char* rule;
};

/// Thrown where a result overlaps an input. Pointers see what lib/ cannot: memory that two SharedArrayBuffer
/// objects map.
struct Overlap {
  const char* name;
  const char* rule;
  size_t bytes;
};

constexpr const char* kOut = "out";
constexpr const char* kOverX = "be x.data itself or not overlap it";
constexpr const char* kOffX = "not overlap x.data";
constexpr const char* kOffResidual = "not overlap residual.data";
constexpr const char* kOffValues = "not overlap values";
constexpr const char* kOffWeight = "not overlap weight";
constexpr const char* kOffBias = "not overlap bias";
constexpr const char* kOffMean = "not overlap mean";
constexpr const char* kOffVariance = "not overlap variance";

/// Values that a call reads or writes.
template <typename T>
struct Values {
  T* at;
  size_t length;
  size_t bytes() const { return length * sizeof(T); }
};

/// How many bytes two arrays share; nullptr shares none.
template <typename A, typename B>
size_t shared_bytes(Values<A> a, Values<B> b) {
  if (!a.at || !b.at) return 0;
  const auto first = reinterpret_cast<uintptr_t>(a.at);
  const auto second = reinterpret_cast<uintptr_t>(b.at);
  const uintptr_t begin = std::max(first, second);
  const uintptr_t end = std::min(first + a.bytes(), second + b.bytes());
  return begin < end ? end - begin : 0;
}

/// Whether a result is written over an input of its length; it must do so value for value or not at all.
template <typename T>
bool is_in_place(Values<T> result, Values<const T> input, const char* rule) {
  const size_t shared = shared_bytes(result, input);
  if (shared > 0 && result.at != input.at) throw Overlap{kOut, rule, shared};
  return shared > 0;
}

template <typename A, typename B>
void check_apart(Values<A> result, Values<B> other, const char* rule, const char* name = kOut) {
  const size_t shared = shared_bytes(result, other);
  if (shared > 0) throw Overlap{name, rule, shared};
}

/// The arguments of a call, read through the C interface: the wrappers of node-addon-api ask for types.
template <size_t Count>
class Arguments {
 public:
  static constexpr size_t kCount = Count;
  /// 2^53: integers up to here are exact, and no size in bytes overflows.
  static constexpr double kLargest = 9007199254740992.0;
  Arguments(napi_env env, napi_callback_info info) : env_(env) {
    void* exported = nullptr;
    napi_get_cb_info(env, info, &given_, values_, nullptr, &exported);
    exported_ = static_cast<const Exported*>(exported);
  }

  double number(size_t index) const {
    double value = 0;
    napi_get_value_double(env_, values_[index], &value);
    return value;
  }
  size_t size(size_t index) const {
    const double value = number(index);
    if (!(value >= 0 && value <= kLargest)) throw InvalidCall{"be given sizes"};
    return static_cast<size_t>(value);
  }
  /// No array can have more.
  size_t channels(size_t index) const { return checked_channels(size(index)); }
  /// x[outer][channels][inner], of which two are given by their arguments.
  Shape shape(size_t outer, size_t channels, size_t inner) const {
    const Shape shape{size(outer), checked_channels(channels), size(inner)};
    if (static_cast<double>(shape.outer) * static_cast<double>(shape.channels) *
            static_cast<double>(shape.inner) >
        kLargest)
      throw InvalidCall{"be given a shape that memory can hold"};
    return shape;
  }
  bool boolean(size_t index) const {
    bool value = false;
    napi_get_value_bool(env_, values_[index], &value);
    return value;
  }
  /// A view of exactly `length` values. Bytes are what memory is made of: they are asked for, and not how
  /// many values a view of whatever type has.
  template <typename T>
  Values<T> array(size_t index, size_t length, const char* name) const {
    void* values = nullptr;
    size_t bytes = 0;
    const napi_status status = napi_get_buffer_info(env_, values_[index], &values, &bytes);
    if (status != napi_ok || bytes != length * sizeof(T)) throw BufferChanged{name};
    if (reinterpret_cast<uintptr_t>(values) % alignof(T) != 0) throw Misaligned{name, alignof(T)};
    return {static_cast<T*>(values), length};
  }
  /// The same, or nullptr for undefined. Not to be given at all is cheaper.
  template <typename T>
  Values<T> optional_array(size_t index, size_t length, const char* name) const {
    if (index >= given_) return {nullptr, length};
    napi_valuetype type = napi_undefined;
    napi_typeof(env_, values_[index], &type);
    return type == napi_undefined ? Values<T>{nullptr, length} : array<T>(index, length, name);
  }
  /// The bytes of an ArrayBuffer.
  Values<unsigned char> memory(size_t index) const {
    void* memory = nullptr;
    size_t bytes = 0;
    if (napi_get_arraybuffer_info(env_, values_[index], &memory, &bytes) != napi_ok)
      throw InvalidCall{"be given the memory of a frozen layer"};
    return {static_cast<unsigned char*>(memory), bytes};
  }
  unsigned char* memory(size_t index, size_t bytes) const {
    const auto memory = this->memory(index);
    if (memory.length != bytes) throw InvalidCall{"be given the memory of a frozen layer"};
    return memory.at;
  }
  int32_t slot(size_t index) const {
    const double value = number(index);
    if (!(value >= 0 && value <= INT32_MAX)) throw InvalidCall{"be given a slot"};
    return static_cast<int32_t>(value);
  }
  Activation activation(size_t index) const {
    return boolean(index) ? batchnorm::kRelu : batchnorm::kIdentity;
  }
  napi_env env() const { return env_; }
  /// What the function was exported with: see export_function. To ask the environment takes longer.
  Storage storage() const { return exported_->storage; }
  const Instance& instance() const { return *exported_->instance; }
  napi_value operator[](size_t index) const { return values_[index]; }

 private:
  static size_t checked_channels(size_t channels) {
    constexpr size_t kMost = size_t{1} << 48;
    if (channels == 0 || channels > kMost) throw InvalidCall{"be given channels"};
    return channels;
  }

  napi_env env_;
  size_t given_ = Count;
  const Exported* exported_ = nullptr;
  napi_value values_[Count];
};

/// Throws in JavaScript what is being handled. Not a part of guarded(), which there is once for each
/// callback.
void throw_caught(napi_env env);

/// A callback out of which no C++ exception can fly.
template <auto Function>
napi_value guarded(napi_env env, napi_callback_info info) {
  try {
    return Function(env, info);
  } catch (...) {
    throw_caught(env);
  }
  return nullptr;
}

/// Computes at once.
struct Now {
  static constexpr size_t kArguments = 0;
  template <typename Arguments>
  static Execution execution(const Arguments& arguments) {
    return execution_of(arguments.instance(), arguments.storage());
  }
  template <typename Arguments, typename Compute>
  static void run(const Arguments&, Compute compute) {
    compute();
  }
};

/// Computes on the queue's thread; its slot is one more argument, the last. The caller keeps all arrays alive
/// and where they are until the slot is reported.
struct Later {
  static constexpr size_t kArguments = 1;
  /// One CPU is left to the event loop and to libuv's threads: they would wait for a time slice.
  template <typename Arguments>
  static Execution execution(const Arguments& arguments) {
    return execution_of(arguments.instance(), arguments.storage(), arguments.instance().cpus - 1);
  }
  template <typename Arguments, typename Compute>
  static void run(const Arguments& arguments, Compute compute) {
    const napi_env env = arguments.env();
    if (!instance_of(env).mailbox.submit(env, arguments.slot(Arguments::kCount - 1), std::move(compute)))
      throw InvalidCall{"be given the next slot, or one that was free before, once it is listened to"};
  }
};

}  // namespace binding
