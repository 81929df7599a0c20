#include "parallel.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>

#include "pause.h"

namespace batchnorm {
namespace {

/// Long enough to bridge the gap between two layers of a network, short against a time slice.
constexpr auto kSpin = std::chrono::microseconds(200);

/// How long a worker works before it lets another process have its CPU, shorter than a time slice.
constexpr auto kTurn = std::chrono::milliseconds(1);

/// Pauses between two looks at the clock.
constexpr int kPausesPerLook = 64;

class Pool {
 public:
  void run(size_t threads, size_t tasks, bool wake, detail::Task call, const void* context) {
    std::unique_lock<std::mutex> owner(owner_, std::try_to_lock);
    if (!owner) {
      for (size_t task = 0; task < tasks; task++) call(context, task, 0);
      return;
    }
    if (wake) start_workers(threads - 1);
    call_ = call;
    context_ = context;
    tasks_ = tasks;
    slots_.store(1, std::memory_order_relaxed);
    max_slots_ = threads;
    next_task_.store(0, std::memory_order_relaxed);
    const uint64_t open = state_.load(std::memory_order_relaxed) + 1;
    state_.store(open, std::memory_order_seq_cst);
    if (wake && sleepers_.load(std::memory_order_seq_cst) > 0) {
      std::lock_guard<std::mutex> lock(sleep_);
      wake_.notify_all();
    }
    work(0);
    state_.store(open + 1, std::memory_order_seq_cst);
    for (int spins = 0; inside_.load(std::memory_order_seq_cst) != 0; spins++) {
      if (spins < 4096)
        pause();
      else
        std::this_thread::yield();
    }
  }

 private:
  void start_workers(size_t wanted) {
    while (workers_ < wanted) {
      try {
        std::thread([this] { worker(); }).detach();
      } catch (const std::system_error&) {
        return;  // The system has no more threads: those there are do the work.
      }
      workers_++;
    }
  }

  void work(size_t slot) {
    for (;;) {
      const size_t task = next_task_.fetch_add(1, std::memory_order_relaxed);
      if (task >= tasks_) return;
      call_(context_, task, slot);
    }
  }

  void worker() {
    uint64_t seen = 0;
    auto turn = std::chrono::steady_clock::now();
    for (;;) {
      seen = wait_for_job(seen);
      // Announced before the state is read again: either the owner sees us inside, or we see the job closed.
      inside_.fetch_add(1, std::memory_order_seq_cst);
      if (is_open(state_.load(std::memory_order_seq_cst))) {
        const size_t slot = slots_.fetch_add(1, std::memory_order_relaxed);
        if (slot < max_slots_) work(slot);
      }
      inside_.fetch_sub(1, std::memory_order_release);
      // Between two jobs, where nobody waits for it. In the middle of a task the owner would wait for a time
      // slice: with a third busy process on two CPUs training took 2.0 times as long, so 1.4 to 1.8.
      if (std::chrono::steady_clock::now() - turn < kTurn) continue;
      std::this_thread::yield();
      turn = std::chrono::steady_clock::now();
    }
  }

  uint64_t wait_for_job(uint64_t seen) {
    const auto new_job = [&](uint64_t state) { return is_open(state) && state != seen; };
    const auto until = std::chrono::steady_clock::now() + kSpin;
    do {
      for (int i = 0; i < kPausesPerLook; i++) {
        const uint64_t state = state_.load(std::memory_order_acquire);
        if (new_job(state)) return state;
        pause();
      }
    } while (std::chrono::steady_clock::now() < until);
    std::unique_lock<std::mutex> lock(sleep_);
    sleepers_.fetch_add(1, std::memory_order_seq_cst);
    uint64_t state;
    wake_.wait(lock, [&] {
      state = state_.load(std::memory_order_seq_cst);
      return new_job(state);
    });
    sleepers_.fetch_sub(1, std::memory_order_seq_cst);
    return state;
  }

  /// Odd while a job is there to join; each job has its own number.
  static bool is_open(uint64_t state) { return state % 2 == 1; }

  std::mutex owner_;
  size_t workers_ = 0;

  detail::Task call_ = nullptr;
  const void* context_ = nullptr;
  size_t tasks_ = 0;
  size_t max_slots_ = 0;
  alignas(64) std::atomic<size_t> next_task_{0};
  std::atomic<size_t> slots_{0};
  alignas(64) std::atomic<uint64_t> state_{0};
  alignas(64) std::atomic<int> inside_{0};

  std::mutex sleep_;
  std::condition_variable wake_;
  std::atomic<int> sleepers_{0};
};

/// Never destroyed: its threads may outlive every destructor of the process.
Pool& pool() {
  static Pool* instance = new Pool;
  return *instance;
}

}  // namespace

void detail::run_parallel(size_t threads, size_t tasks, bool wake, Task call, const void* context) {
  pool().run(threads, tasks, wake, call, context);
}

}  // namespace batchnorm
