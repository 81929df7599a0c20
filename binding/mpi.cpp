#include "mpi.h"

#include <dlfcn.h>
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <thread>
#include <vector>

namespace binding::mpi {
namespace {

using Clock = std::chrono::steady_clock;

/// Members of one machine come within this time of each other, and there may be more of them than CPUs.
constexpr auto kYield = std::chrono::milliseconds(1);
constexpr auto kSleep = std::chrono::microseconds(100);

/// More than MPI_MAX_LIBRARY_VERSION_STRING and MPI_MAX_ERROR_STRING of any of them.
constexpr size_t kTextBytes = 8193;
/// More than an MPI_Status of any of them.
constexpr size_t kStatusBytes = 256;

/// A symbol of a library that must be there.
void* symbol_of(void* library, const char* name) {
  void* symbol = dlsym(library, name);
  if (!symbol) throw std::runtime_error(std::string("it has no ") + name);
  return symbol;
}

template <typename Function>
void find(void* library, const char* name, Function*& function) {
  function = reinterpret_cast<Function*>(symbol_of(library, name));
}

/// What the constants of mpi.h are in a library.
template <typename Handle>
struct Constants {
  Handle comm_world;
  Handle comm_self;
  Handle value;
  Handle errors_return;
  int thread_funneled;
};

class Library {
 public:
  virtual ~Library() = default;
  virtual bool is_started() const = 0;
  virtual void start() = 0;
  virtual void begin(Exchange exchange, int count) = 0;
  virtual bool test() = 0;
  virtual void finalize() = 0;
  virtual void abort(int code) = 0;

  int rank = 0;
  int size = 1;
  std::string version;
  /// MPI reads and writes them until an exchange has ended, however long that takes.
  std::vector<double> sent;
  std::vector<double> received;
  bool on_its_way = false;
};

/// The functions of MPI have the same names and parameters everywhere; what a handle is, differs.
template <typename Handle>
class LibraryOf final : public Library {
 public:
  LibraryOf(void* library, const Constants<Handle>& constants) : constants_(constants) {
    find(library, "MPI_Initialized", initialized_);
    find(library, "MPI_Init_thread", init_thread_);
    find(library, "MPI_Finalize", finalize_);
    find(library, "MPI_Abort", abort_);
    find(library, "MPI_Comm_rank", comm_rank_);
    find(library, "MPI_Comm_size", comm_size_);
    find(library, "MPI_Comm_set_errhandler", set_errhandler_);
    find(library, "MPI_Error_string", error_string_);
    find(library, "MPI_Iallgather", iallgather_);
    find(library, "MPI_Ialltoall", ialltoall_);
    find(library, "MPI_Test", test_);
    int (*library_version)(char*, int*) = nullptr;
    find(library, "MPI_Get_library_version", library_version);
    char text[kTextBytes] = "";
    int length = 0;
    library_version(text, &length);
    version = text;
    // Of MPICH there are more lines, of how it was built, and tabs.
    version.resize(std::min(version.size(), version.find('\n')));
    std::replace(version.begin(), version.end(), '\t', ' ');
  }

  bool is_started() const override {
    int initialized = 0;
    initialized_(&initialized);
    return initialized != 0;
  }

  void start() override {
    int provided = 0;
    check(init_thread_(nullptr, nullptr, constants_.thread_funneled, &provided));
    // Before a communicator is at hand, MPI-4 hangs errors on this one.
    check(set_errhandler_(constants_.comm_self, constants_.errors_return));
    check(set_errhandler_(constants_.comm_world, constants_.errors_return));
    check(comm_rank_(constants_.comm_world, &rank));
    check(comm_size_(constants_.comm_world, &size));
    if (provided < constants_.thread_funneled) {
      finalize_();
      throw std::runtime_error("it allows no process with threads (MPI_THREAD_FUNNELED)");
    }
  }

  void begin(Exchange exchange, int count) override {
    const auto function = exchange == kAllGather ? iallgather_ : ialltoall_;
    check(function(sent.data(), count, constants_.value, received.data(), count, constants_.value,
                   constants_.comm_world, &request_));
  }

  bool test() override {
    alignas(8) char status[kStatusBytes];
    int done = 0;
    check(test_(&request_, &done, status));
    return done != 0;
  }

  void finalize() override { finalize_(); }
  void abort(int code) override { abort_(constants_.comm_world, code); }

 private:
  void check(int code) {
    if (code == 0) return;
    char text[kTextBytes] = "";
    int length = 0;
    error_string_(code, text, &length);
    throw std::runtime_error(text);
  }

  using Exchanging = int(const void*, int, Handle, void*, int, Handle, Handle, Handle*);

  Constants<Handle> constants_;
  Handle request_{};
  int (*initialized_)(int*) = nullptr;
  int (*init_thread_)(int*, char***, int, int*) = nullptr;
  int (*finalize_)() = nullptr;
  int (*abort_)(Handle, int) = nullptr;
  int (*comm_rank_)(Handle, int*) = nullptr;
  int (*comm_size_)(Handle, int*) = nullptr;
  int (*set_errhandler_)(Handle, Handle) = nullptr;
  int (*error_string_)(int, char*, int*) = nullptr;
  Exchanging* iallgather_ = nullptr;
  Exchanging* ialltoall_ = nullptr;
  int (*test_)(Handle*, int*, void*) = nullptr;
};

/// Whether a library has the constants of MPI-5's ABI: others have the function too, and say that they have
/// not.
bool has_standard_abi(void* library) {
  auto* const abi_version = reinterpret_cast<int (*)(int*, int*)>(dlsym(library, "MPI_Abi_get_version"));
  int major = -1;
  int minor = -1;
  return abi_version && abi_version(&major, &minor) == 0 && major >= 1;
}

std::unique_ptr<Library> library_of(void* library) {
  symbol_of(library, "MPI_Init_thread");
  if (has_standard_abi(library)) {
    const auto handle = [](uintptr_t value) { return reinterpret_cast<void*>(value); };
    return std::make_unique<LibraryOf<void*>>(
        library, Constants<void*>{handle(0x101), handle(0x102), handle(0x214), handle(0x143), 1024});
  }
  if (dlsym(library, "ompi_mpi_comm_world"))
    return std::make_unique<LibraryOf<void*>>(
        library, Constants<void*>{
                     symbol_of(library, "ompi_mpi_comm_world"), symbol_of(library, "ompi_mpi_comm_self"),
                     symbol_of(library, "ompi_mpi_double"), symbol_of(library, "ompi_mpi_errors_return"), 1});
  // Of MPICH and all that share its ABI.
  if (dlsym(library, "MPIR_Err_create_code"))
    return std::make_unique<LibraryOf<int>>(
        library, Constants<int>{0x44000000, 0x44000001, 0x4c00080b, 0x54000001, 1});
  throw std::runtime_error("it is neither Open MPI nor of the ABI of MPICH or MPI-5");
}

/// Of the process. Never destroyed: MPI ends after whatever else does.
struct State {
  std::unique_ptr<Library> library;
  bool started = false;
  bool ended = false;
  int code = 1;
};

State& state() {
  static State* instance = new State;
  return *instance;
}

/// What was not ended well. Whoever waits for this member would do so for ever.
void abort_job() {
  State& process = state();
  if (process.ended) return;
  process.ended = true;
  process.library->abort(process.code);
}

/// The file that a symbol comes from.
std::string file_of(void* symbol) {
  Dl_info info;
  return dladdr(symbol, &info) != 0 && info.dli_fname ? info.dli_fname : "elsewhere";
}

}  // namespace

std::string load(const char* library) {
  void* const before = dlsym(RTLD_DEFAULT, "MPI_Init_thread");
  // Plugins of Open MPI look for its symbols among the global ones.
  void* const loaded = dlopen(library, RTLD_NOW | RTLD_GLOBAL);
  if (!loaded) {
    const char* reason = dlerror();
    throw std::runtime_error(reason ? reason : "it could not be loaded");
  }
  try {
    void* const now = symbol_of(loaded, "MPI_Init_thread");
    if (before && before != now)
      throw std::runtime_error("the process has another MPI already, " + file_of(before));
    state().library = library_of(loaded);
  } catch (...) {
    dlclose(loaded);
    throw;
  }
  return state().library->version;
}

bool is_started() {
  const State& process = state();
  return process.started || (process.library && process.library->is_started());
}

void start() {
  State& process = state();
  process.started = true;
  process.ended = true;
  process.library->start();
  process.ended = false;
  std::atexit(abort_job);
}

int rank() {
  return state().library->rank;
}

int size() {
  return state().library->size;
}

void begin(Exchange exchange, const double* values, size_t count) {
  Library& library = *state().library;
  if (library.on_its_way) throw std::runtime_error("another exchange is on its way");
  const size_t all = count * static_cast<size_t>(library.size);
  const size_t sent = exchange == kAllGather ? count : all;
  library.sent.assign(values, values + sent);
  library.received.resize(all);
  // Also where it does not get far: the others wait for it.
  library.on_its_way = true;
  library.begin(exchange, static_cast<int>(count));
}

bool wait(double milliseconds) {
  Library& library = *state().library;
  const auto begun = Clock::now();
  const std::chrono::duration<double, std::milli> limit(milliseconds);
  for (;;) {
    if (library.test()) {
      library.on_its_way = false;
      return true;
    }
    const auto passed = Clock::now() - begun;
    if (passed >= limit) return false;
    if (passed < kYield)
      sched_yield();
    else
      std::this_thread::sleep_for(kSleep);
  }
}

size_t received() {
  return state().library->received.size();
}

void take(double* values) {
  const std::vector<double>& received = state().library->received;
  std::copy(received.begin(), received.end(), values);
}

void end(int code) {
  State& process = state();
  if (process.ended) return;
  const bool is_orderly = !process.library->on_its_way && (code == 0 || process.library->size == 1);
  if (!is_orderly) {
    process.code = code != 0 ? code : 1;
    return;
  }
  process.ended = true;
  process.library->finalize();
}

}  // namespace binding::mpi
