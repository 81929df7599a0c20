#include "parallel.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>

#include "pause.h"

namespace batchnorm {
namespace {

/// Long enough to bridge the gap between two layers of a network, short against a time slice.
constexpr auto kSpin = std::chrono::microseconds(200);

/// Waking a sleeping thread takes as long as this much work.
constexpr size_t kWakeBytes = size_t{1} << 20;
/// Smaller pieces of work that follow each other at once wake it when they have come to so much: it joins
/// those to come, and what it costs to wake is little beside what was done. Training and backward of (4, 28,
/// 28, 64) last again and again take 27 and 28 us with one thread, 17 and 21 with two.
constexpr size_t kWakeStreakBytes = 4 * kWakeBytes;
constexpr auto kStreakGap = std::chrono::microseconds(50);

/// How long a worker works before it lets another process have its CPU, shorter than a time slice.
constexpr auto kTurn = std::chrono::milliseconds(1);

/// Pauses between two looks at the clock.
constexpr int kPausesPerLook = 64;

class Pool {
 public:
  void run(size_t threads, size_t tasks, size_t bytes, bool backwards, detail::Task call,
           const void* context) {
    std::unique_lock<std::mutex> owner(owner_, std::try_to_lock);
    if (!owner) {
      for (size_t task = 0; task < tasks; task++)
        call(context, detail::in_turn(task, 0, tasks, backwards), 0);
      return;
    }
    const bool wake = is_worth_waking(bytes);
    if (wake) start_workers(threads - 1);
    call_ = call;
    context_ = context;
    backwards_ = backwards;
    share_out(tasks, threads);
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
    last_ = Clock::now();
  }

 private:
  using Clock = std::chrono::steady_clock;

  bool is_worth_waking(size_t bytes) {
    if (Clock::now() - last_ > kStreakGap) streak_bytes_ = 0;
    streak_bytes_ += bytes;
    return bytes >= kWakeBytes || streak_bytes_ >= kWakeStreakBytes;
  }

  void start_workers(size_t wanted) {
    while (workers_ < wanted) {
      try {
        std::thread([this, slot = workers_ + 1] { worker(slot); }).detach();
      } catch (const std::system_error&) {
        return;  // The system has no more threads: those there are do the work.
      }
      workers_++;
    }
  }

  /// The tasks of a slot: neighbours, which are neighbours in memory, and the same in each pass over a
  /// tensor, so that a thread finds in its own cache what it has read or written before.
  struct alignas(64) Share {
    std::atomic<size_t> next;
    size_t begin;
    size_t end;
  };

  void share_out(size_t tasks, size_t threads) {
    // No worker is inside: the last job is closed, the next one is not open.
    if (threads > capacity_) {
      shares_.reset(new Share[threads]);
      capacity_ = threads;
    }
    slots_ = threads;
    for (size_t slot = 0; slot < threads; slot++) {
      Share& share = shares_[slot];
      share.begin = tasks * slot / threads;
      share.end = tasks * (slot + 1) / threads;
      share.next.store(share.begin, std::memory_order_relaxed);
    }
  }

  /// First the slot's own tasks, then what others have not begun.
  void work(size_t slot) {
    for (size_t i = 0; i < slots_; i++) {
      Share& share = shares_[(slot + i) % slots_];
      for (;;) {
        const size_t task = share.next.fetch_add(1, std::memory_order_relaxed);
        if (task >= share.end) break;
        call_(context_, detail::in_turn(task, share.begin, share.end, backwards_), slot);
      }
    }
  }

  void worker(size_t slot) {
    uint64_t seen = 0;
    auto turn = Clock::now();
    for (;;) {
      seen = wait_for_job(seen);
      // Announced before the state is read again: either the owner sees us inside, or we see the job closed.
      inside_.fetch_add(1, std::memory_order_seq_cst);
      if (is_open(state_.load(std::memory_order_seq_cst)) && slot < slots_) work(slot);
      inside_.fetch_sub(1, std::memory_order_release);
      // Between two jobs, where nobody waits for it. In the middle of a task the owner would wait for a time
      // slice: with a third busy process on two CPUs training took 2.0 times as long, so 1.4 to 1.8.
      if (Clock::now() - turn < kTurn) continue;
      std::this_thread::yield();
      turn = Clock::now();
    }
  }

  uint64_t wait_for_job(uint64_t seen) {
    const auto new_job = [&](uint64_t state) { return is_open(state) && state != seen; };
    const auto until = Clock::now() + kSpin;
    do {
      for (int i = 0; i < kPausesPerLook; i++) {
        const uint64_t state = state_.load(std::memory_order_acquire);
        if (new_job(state)) return state;
        pause();
      }
    } while (Clock::now() < until);
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
  /// When the last piece of work was done, and how much has come without a pause.
  Clock::time_point last_;
  size_t streak_bytes_ = 0;

  detail::Task call_ = nullptr;
  const void* context_ = nullptr;
  bool backwards_ = false;
  std::unique_ptr<Share[]> shares_;
  size_t capacity_ = 0;
  size_t slots_ = 0;
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

void detail::run_parallel(size_t threads, size_t tasks, size_t bytes, bool backwards, Task call,
                          const void* context) {
  pool().run(threads, tasks, bytes, backwards, call, context);
}

}  // namespace batchnorm
