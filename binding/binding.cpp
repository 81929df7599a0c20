// Node-API <-> plain structs. lib/backend/native.ts declares what is exported here.
//
// lib/validate.ts has decided what is meaningful, types of arrays included (asking Node-API for a type costs
// more than a small batch norm). Here only lengths are checked again, last thing before the pointers are
// used: they are what a getter of the caller's may have changed since.

#include <napi.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <memory>
#include <new>
#include <string>
#include <type_traits>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#elif defined(__APPLE__)
#include <dlfcn.h>
#elif defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#define NOMINMAX
#include <windows.h>
#endif

#include "batchnorm.h"
#include "dispatch.h"
#include "mailbox.h"

namespace {

using batchnorm::Activation;
using batchnorm::Epilogue;
using batchnorm::Execution;
using batchnorm::FrozenParameters;
using batchnorm::Gradients;
using batchnorm::Shape;

/// Process-wide, like the threads themselves. 0 until the first setThreads.
std::atomic<size_t> thread_count{0};

/// Of one Node environment: environment variables may differ between workers.
struct Instance {
  const batchnorm::KernelTable* kernels = batchnorm::kernel_tables().front();
  /// Those that this process may use.
  size_t cpus = 1;
  size_t cache_bytes = 0;
  size_t most_stream_bytes = 0;
  size_t stream_bytes_per_thread = 0;
  binding::Mailbox mailbox;
};

Instance& instance_of(napi_env env) {
  void* instance = nullptr;
  napi_get_instance_data(env, &instance);
  return *static_cast<Instance*>(instance);
}

Execution execution_of(napi_env env, size_t most_threads = SIZE_MAX) {
  const Instance& settings = instance_of(env);
  const size_t threads =
      std::clamp<size_t>(thread_count.load(std::memory_order_relaxed), 1, std::max<size_t>(1, most_threads));
  return {settings.kernels, threads, settings.cache_bytes,
          std::min(settings.most_stream_bytes, settings.stream_bytes_per_thread * threads)};
}

/// Thrown where an array is not as long as it was when lib/ looked.
struct BufferChanged {};

/// Thrown where a result overlaps an input. Pointers see what lib/ cannot: memory that two SharedArrayBuffer
/// objects map.
struct Overlap {
  const char* rule;
  size_t bytes;
};

constexpr const char* kOverX = "be x.data itself or not overlap it";
constexpr const char* kOffResidual = "not overlap residual.data";

/// How many bytes two arrays share.
template <typename T>
size_t shared_bytes(const T* a, const T* b, size_t length) {
  const size_t distance =
      static_cast<size_t>(std::abs(reinterpret_cast<intptr_t>(a) - reinterpret_cast<intptr_t>(b)));
  return distance < length * sizeof(T) ? length * sizeof(T) - distance : 0;
}

/// Whether a result is written over an input; it must do so value for value or not at all.
template <typename T>
bool is_in_place(const T* result, const T* input, size_t length, const char* rule) {
  const size_t shared = shared_bytes(result, input, length);
  if (shared > 0 && result != input) throw Overlap{rule, shared};
  return shared > 0;
}

/// nullptr overlaps nothing.
template <typename T>
void check_apart(const T* result, const T* input, size_t length, const char* rule) {
  const size_t shared = input ? shared_bytes(result, input, length) : 0;
  if (shared > 0) throw Overlap{rule, shared};
}

/// The arguments of a call, read through the C interface: the wrappers of node-addon-api ask for types.
template <size_t Count>
class Arguments {
 public:
  static constexpr size_t kCount = Count;
  Arguments(napi_env env, napi_callback_info info) : env_(env) {
    napi_get_cb_info(env, info, &given_, values_, nullptr, &data_);
  }

  double number(size_t index) const {
    double value = 0;
    napi_get_value_double(env_, values_[index], &value);
    return value;
  }
  size_t size(size_t index) const { return static_cast<size_t>(number(index)); }
  bool boolean(size_t index) const {
    bool value = false;
    napi_get_value_bool(env_, values_[index], &value);
    return value;
  }
  /// The values of a typed array of exactly `length`.
  template <typename T>
  T* array(size_t index, size_t length) const {
    void* values = nullptr;
    size_t actual = 0;
    const napi_status status =
        napi_get_typedarray_info(env_, values_[index], nullptr, &actual, &values, nullptr, nullptr);
    if (status != napi_ok || actual != length) throw BufferChanged{};
    return static_cast<T*>(values);
  }
  /// The same, or nullptr for undefined. Not to be given at all is cheaper.
  template <typename T>
  T* optional_array(size_t index, size_t length) const {
    if (index >= given_) return nullptr;
    napi_valuetype type = napi_undefined;
    napi_typeof(env_, values_[index], &type);
    return type == napi_undefined ? nullptr : array<T>(index, length);
  }
  Activation activation(size_t index) const {
    return boolean(index) ? batchnorm::kRelu : batchnorm::kIdentity;
  }
  void* data() const { return data_; }
  napi_env env() const { return env_; }
  napi_value operator[](size_t index) const { return values_[index]; }

 private:
  napi_env env_;
  size_t given_ = Count;
  napi_value values_[Count];
  void* data_ = nullptr;
};

/// A callback out of which no C++ exception can fly.
template <auto Function>
napi_value guarded(napi_env env, napi_callback_info info) {
  try {
    return Function(env, info);
  } catch (const BufferChanged&) {
    napi_throw_error(
        env, "ERR_BATCHNORM_BUFFER_CHANGED",
        "every array must keep its length during a call, got a buffer that was detached or resized");
  } catch (const Overlap& overlap) {
    const std::string message = std::string("out must ") + overlap.rule + ", got views that share " +
                                std::to_string(overlap.bytes) + " bytes";
    napi_throw_range_error(env, "ERR_BATCHNORM_OVERLAP", message.c_str());
  } catch (const Napi::Error& error) {
    error.ThrowAsJavaScriptException();
  } catch (const std::bad_alloc&) {
    napi_throw_range_error(env, "ERR_BATCHNORM_OUT_OF_MEMORY",
                           "an operation must fit into memory, got no more of it");
  } catch (const std::exception& error) {
    napi_throw_error(env, "ERR_BATCHNORM_NATIVE", error.what());
  } catch (...) {
    napi_throw_error(env, "ERR_BATCHNORM_NATIVE", "unknown exception");
  }
  return nullptr;
}

/// Computes at once.
struct Now {
  static constexpr size_t kArguments = 0;
  static Execution execution(napi_env env) { return execution_of(env); }
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
  static Execution execution(napi_env env) { return execution_of(env, instance_of(env).cpus - 1); }
  template <typename Arguments, typename Compute>
  static void run(const Arguments& arguments, Compute compute) {
    const napi_env env = arguments.env();
    instance_of(env).mailbox.submit(env, static_cast<int32_t>(arguments.number(Arguments::kCount - 1)),
                                    std::move(compute));
  }
};

/// forwardTraining and forwardInference (outer, channels, inner, eps, x, y, weight?, bias?, mean, variance,
/// relu, residual?, mask?): whether y is x
template <typename T, auto Forward, typename When>
napi_value forward(napi_env env, napi_callback_info info) {
  const Arguments<13 + When::kArguments> arguments(env, info);
  const Shape shape{arguments.size(0), arguments.size(1), arguments.size(2)};
  const double eps = arguments.number(3);
  const T* x = arguments.template array<T>(4, shape.size());
  T* y = arguments.template array<T>(5, shape.size());
  const T* weight = arguments.template optional_array<T>(6, shape.channels);
  const T* bias = arguments.template optional_array<T>(7, shape.channels);
  auto* mean = arguments.template array<double>(8, shape.channels);
  auto* variance = arguments.template array<double>(9, shape.channels);
  const Epilogue<T> epilogue = {arguments.activation(10),
                                arguments.template optional_array<T>(11, shape.size())};
  auto* mask = arguments.template optional_array<unsigned char>(12, batchnorm::mask_bytes(shape.size()));
  const bool in_place = is_in_place<T>(y, x, shape.size(), kOverX);
  check_apart<T>(y, epilogue.residual, shape.size(), kOffResidual);
  When::run(arguments, [=, execution = When::execution(env)] {
    Forward(execution, shape, eps, x, y, weight, bias, mean, variance, epilogue, mask);
  });
  return Napi::Boolean::New(env, in_place);
}

/// backward(outer, channels, inner, eps, training, dy, x, mean, variance, weight?, bias?, relu, residual?,
/// mask?, dx?, dWeight?, dBias?, dResidual?)
template <typename T, typename When>
napi_value backward(napi_env env, napi_callback_info info) {
  const Arguments<18 + When::kArguments> arguments(env, info);
  const Shape shape{arguments.size(0), arguments.size(1), arguments.size(2)};
  const double eps = arguments.number(3);
  const bool training = arguments.boolean(4);
  const T* dy = arguments.template array<T>(5, shape.size());
  const T* x = arguments.template array<T>(6, shape.size());
  const auto* mean = arguments.template array<double>(7, shape.channels);
  const auto* variance = arguments.template array<double>(8, shape.channels);
  const T* weight = arguments.template optional_array<T>(9, shape.channels);
  const T* bias = arguments.template optional_array<T>(10, shape.channels);
  const Epilogue<T> epilogue = {arguments.activation(11),
                                arguments.template optional_array<T>(12, shape.size())};
  const auto* mask =
      arguments.template optional_array<unsigned char>(13, batchnorm::mask_bytes(shape.size()));
  const Gradients<T> gradients = {arguments.template optional_array<T>(14, shape.size()),
                                  arguments.template optional_array<T>(15, shape.channels),
                                  arguments.template optional_array<T>(16, shape.channels),
                                  arguments.template optional_array<T>(17, shape.size())};
  if (gradients.input) {
    is_in_place<T>(gradients.input, dy, shape.size(), "be dy.data itself or not overlap it");
    check_apart<T>(gradients.input, x, shape.size(), "not overlap x.data");
    check_apart<T>(gradients.input, epilogue.residual, shape.size(), kOffResidual);
  }
  When::run(arguments, [=, execution = When::execution(env)] {
    batchnorm::backward<T>(execution, shape, eps, training, dy, x, mean, variance, weight, bias, epilogue,
                           mask, gradients);
  });
  return nullptr;
}

template <typename T>
using SharedParameters = std::shared_ptr<const FrozenParameters<T>>;

/// run(outer, inner, x, y, residual?) of what freeze returns; its parameters are the function's data.
template <typename T, typename When>
napi_value run_frozen(napi_env env, napi_callback_info info) {
  const Arguments<5 + When::kArguments> arguments(env, info);
  const auto& parameters = *static_cast<const SharedParameters<T>*>(arguments.data());
  const Shape shape{arguments.size(0), parameters->channels(), arguments.size(1)};
  const T* x = arguments.template array<T>(2, shape.size());
  T* y = arguments.template array<T>(3, shape.size());
  const T* residual = arguments.template optional_array<T>(4, shape.size());
  is_in_place<T>(y, x, shape.size(), kOverX);
  check_apart<T>(y, residual, shape.size(), kOffResidual);
  if constexpr (std::is_same_v<When, Now>)
    parameters->run(execution_of(env), shape, x, residual, y);
  else
    When::run(arguments,
              [=, execution = When::execution(env)] { parameters->run(execution, shape, x, residual, y); });
  return nullptr;
}

/// A function with shared parameters, which live as long as it and every operation it has begun.
template <typename T, auto Function>
napi_value function_of(napi_env env, const SharedParameters<T>& parameters) {
  auto data = std::make_unique<SharedParameters<T>>(parameters);
  napi_value function;
  if (napi_create_function(env, "run", NAPI_AUTO_LENGTH, guarded<Function>, data.get(), &function) != napi_ok)
    throw Napi::Error::New(env);
  const auto destroy = [](napi_env, void* data, void*) { delete static_cast<SharedParameters<T>*>(data); };
  if (napi_add_finalizer(env, function, data.get(), destroy, nullptr, nullptr) != napi_ok)
    throw Napi::Error::New(env);
  data.release();
  return function;
}

/// freeze(channels, eps, weight?, bias?, mean, variance, relu): { run, runLater }
template <typename T>
napi_value freeze(napi_env env, napi_callback_info info) {
  const Arguments<7> arguments(env, info);
  const size_t channels = arguments.size(0);
  const auto parameters = std::make_shared<const FrozenParameters<T>>(
      execution_of(env), channels, arguments.number(1), arguments.template array<double>(4, channels),
      arguments.template array<double>(5, channels), arguments.template optional_array<T>(2, channels),
      arguments.template optional_array<T>(3, channels), arguments.activation(6));
  Napi::Object result = Napi::Object::New(env);
  result.Set("run", Napi::Value(env, function_of<T, run_frozen<T, Now>>(env, parameters)));
  result.Set("runLater", Napi::Value(env, function_of<T, run_frozen<T, Later>>(env, parameters)));
  return result;
}

/// updateRunningStats(mean, variance, channels, count, decay, unbiased, runningMean, runningVar, accepted?):
/// rejected channels
napi_value update_running_stats(napi_env env, napi_callback_info info) {
  const Arguments<9> arguments(env, info);
  const size_t channels = arguments.size(2);
  const size_t rejected = batchnorm::update_running_stats(
      *execution_of(env).kernels, channels, arguments.array<double>(0, channels),
      arguments.array<double>(1, channels), arguments.number(3), arguments.number(4), arguments.boolean(5),
      arguments.array<double>(6, channels), arguments.array<double>(7, channels),
      arguments.optional_array<double>(8, channels));
  return Napi::Number::New(env, static_cast<double>(rejected));
}

/// adviseHugePages(array): first touches of 4 KiB at a time cost more than a batch norm does.
napi_value advise_huge_pages(napi_env env, napi_callback_info info) {
#if defined(MADV_HUGEPAGE)
  const Arguments<1> arguments(env, info);
  const Napi::TypedArray array(env, arguments[0]);
  const auto begin = reinterpret_cast<uintptr_t>(array.ArrayBuffer().Data()) + array.ByteOffset();
  static const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t first = (begin + page - 1) / page * page;
  const uintptr_t last = (begin + array.ByteLength()) / page * page;
  // Refused is as good as not asked.
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#else
  static_cast<void>(env), static_cast<void>(info);
#endif
  return nullptr;
}

/// setThreads(count)
napi_value set_threads(napi_env env, napi_callback_info info) {
  thread_count.store(Arguments<1>(env, info).size(0), std::memory_order_relaxed);
  return nullptr;
}

/// threads(): count
napi_value threads(napi_env env, napi_callback_info) {
  return Napi::Number::New(env, static_cast<double>(thread_count.load(std::memory_order_relaxed)));
}

/// setMachine(cpus, cacheBytes, mostStreamBytes, streamBytesPerThread)
napi_value set_machine(napi_env env, napi_callback_info info) {
  const Arguments<4> arguments(env, info);
  Instance& settings = instance_of(env);
  settings.cpus = arguments.size(0);
  settings.cache_bytes = arguments.size(1);
  settings.most_stream_bytes = arguments.size(2);
  settings.stream_bytes_per_thread = arguments.size(3);
  return nullptr;
}

/// useIsa(name): whether this CPU can run it
napi_value use_isa(napi_env env, napi_callback_info info) {
  const std::string name = Napi::String(env, Arguments<1>(env, info)[0]);
  const batchnorm::KernelTable* table = batchnorm::find_kernel_table(name);
  if (table) instance_of(env).kernels = table;
  return Napi::Boolean::New(env, table != nullptr);
}

/// onFinished(handler): see Mailbox::open. Once.
napi_value on_finished(napi_env env, napi_callback_info info) {
  if (!instance_of(env).mailbox.open(env, Arguments<1>(env, info)[0])) throw Napi::Error::New(env);
  return nullptr;
}

/// takeFinished(slots): how many; see Mailbox::take
napi_value take_finished(napi_env env, napi_callback_info info) {
  void* slots = nullptr;
  size_t room = 0;
  napi_get_typedarray_info(env, Arguments<1>(env, info)[0], nullptr, &room, &slots, nullptr, nullptr);
  const size_t taken = instance_of(env).mailbox.take(env, static_cast<int32_t*>(slots), room);
  return Napi::Number::New(env, static_cast<double>(taken));
}

/// cancel(slot): whether the operation had not begun
napi_value cancel(napi_env env, napi_callback_info info) {
  const auto slot = static_cast<int32_t>(Arguments<1>(env, info).number(0));
  return Napi::Boolean::New(env, instance_of(env).mailbox.cancel(env, slot));
}

/// Keeps this library in memory: its threads outlive the last worker that loaded it. On Linux the linker's
/// flag nodelete says so.
void stay_loaded() {
#if defined(__APPLE__)
  Dl_info self;
  if (dladdr(reinterpret_cast<const void*>(&stay_loaded), &self) != 0)
    dlopen(self.dli_fname, RTLD_LAZY | RTLD_NOLOAD | RTLD_NODELETE);
#elif defined(_WIN32)
  HMODULE self;
  GetModuleHandleExW(GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS | GET_MODULE_HANDLE_EX_FLAG_PIN,
                     reinterpret_cast<LPCWSTR>(&stay_loaded), &self);
#endif
}

template <auto Function>
void export_function(Napi::Object target, const char* name) {
  napi_value function;
  if (napi_create_function(target.Env(), name, NAPI_AUTO_LENGTH, guarded<Function>, nullptr, &function) !=
      napi_ok)
    throw Napi::Error::New(target.Env());
  target.Set(name, Napi::Value(target.Env(), function));
}

template <typename T>
Napi::Object passes_of(Napi::Env env) {
  Napi::Object passes = Napi::Object::New(env);
  export_function<forward<T, batchnorm::forward_training<T>, Now>>(passes, "forwardTraining");
  export_function<forward<T, batchnorm::forward_inference<T>, Now>>(passes, "forwardInference");
  export_function<backward<T, Now>>(passes, "backward");
  export_function<forward<T, batchnorm::forward_training<T>, Later>>(passes, "forwardTrainingLater");
  export_function<forward<T, batchnorm::forward_inference<T>, Later>>(passes, "forwardInferenceLater");
  export_function<backward<T, Later>>(passes, "backwardLater");
  export_function<freeze<T>>(passes, "freeze");
  return passes;
}

Napi::Object initialize(Napi::Env env, Napi::Object exports) {
  stay_loaded();
  env.SetInstanceData(new Instance);
  Napi::Array isas = Napi::Array::New(env);
  for (const batchnorm::KernelTable* table : batchnorm::kernel_tables())
    isas.Set(isas.Length(), Napi::String::New(env, table->name));
  exports.Set("isas", isas);
  exports.Set("float32", passes_of<float>(env));
  exports.Set("float64", passes_of<double>(env));
  export_function<update_running_stats>(exports, "updateRunningStats");
  export_function<advise_huge_pages>(exports, "adviseHugePages");
  export_function<set_threads>(exports, "setThreads");
  export_function<threads>(exports, "threads");
  export_function<set_machine>(exports, "setMachine");
  export_function<use_isa>(exports, "useIsa");
  export_function<on_finished>(exports, "onFinished");
  export_function<take_finished>(exports, "takeFinished");
  export_function<cancel>(exports, "cancel");
  return exports;
}

}  // namespace

NODE_API_MODULE(batchnorm, initialize)
