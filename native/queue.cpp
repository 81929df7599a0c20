#include "queue.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

#include "pause.h"

namespace batchnorm {
namespace {

/// Bridges the gap between an answer and the next request, short against a time slice.
constexpr auto kSpin = std::chrono::microseconds(50);

class Queue {
 public:
  void start() {
    std::lock_guard<std::mutex> lock(mutex_);
    start_locked();
  }

  uint64_t enqueue(std::unique_ptr<Operation> operation) {
    std::unique_lock<std::mutex> lock(mutex_);
    start_locked();
    waiting_.push_back(std::move(operation));
    const uint64_t number = first_ + waiting_.size() - 1;
    count_.store(waiting_.size(), std::memory_order_relaxed);
    const bool wake = asleep_;
    lock.unlock();
    if (wake) arrived_.notify_one();
    return number;
  }

  bool cancel(uint64_t number) {
    std::unique_ptr<Operation> cancelled;
    std::lock_guard<std::mutex> lock(mutex_);
    if (number < first_ || number - first_ >= waiting_.size()) return false;
    cancelled.swap(waiting_[number - first_]);
    return cancelled != nullptr;
  }

  void cancel_all(const void* owner) {
    std::unique_lock<std::mutex> lock(mutex_);
    for (std::unique_ptr<Operation>& operation : waiting_)
      if (operation && operation->owner() == owner) operation.reset();
    finished_.wait(lock, [&] { return running_ != owner; });
  }

 private:
  void start_locked() {
    if (started_) return;
    std::thread([this] { work(); }).detach();
    started_ = true;
  }

  void work() {
    for (;;) {
      std::unique_ptr<Operation> operation = next();
      if (operation) operation->run();
      operation.reset();
      std::lock_guard<std::mutex> lock(mutex_);
      running_ = nullptr;
      finished_.notify_all();
    }
  }

  /// nullptr for one that has been cancelled.
  std::unique_ptr<Operation> next() {
    const auto until = std::chrono::steady_clock::now() + kSpin;
    while (count_.load(std::memory_order_relaxed) == 0 && std::chrono::steady_clock::now() < until) pause();
    std::unique_lock<std::mutex> lock(mutex_);
    asleep_ = true;
    arrived_.wait(lock, [&] { return !waiting_.empty(); });
    asleep_ = false;
    std::unique_ptr<Operation> operation = std::move(waiting_.front());
    waiting_.pop_front();
    first_++;
    count_.store(waiting_.size(), std::memory_order_relaxed);
    running_ = operation ? operation->owner() : nullptr;
    return operation;
  }

  std::mutex mutex_;
  std::condition_variable arrived_;
  std::condition_variable finished_;
  bool started_ = false;
  bool asleep_ = false;
  const void* running_ = nullptr;
  /// The number of the first that waits.
  uint64_t first_ = 0;
  std::deque<std::unique_ptr<Operation>> waiting_;
  /// What the thread looks at before it sleeps.
  std::atomic<size_t> count_{0};
};

/// Never destroyed: its thread may outlive every destructor of the process.
Queue& queue() {
  static Queue* instance = new Queue;
  return *instance;
}

}  // namespace

void start_queue() {
  queue().start();
}

uint64_t enqueue(std::unique_ptr<Operation> operation) {
  return queue().enqueue(std::move(operation));
}

bool cancel(uint64_t number) {
  return queue().cancel(number);
}

void cancel_all(const void* owner) {
  queue().cancel_all(owner);
}

}  // namespace batchnorm
