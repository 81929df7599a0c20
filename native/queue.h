// Operations off the calling thread: one thread does them in the order in which they came, each with all the
// threads that it may use. Process-wide, like those.
#pragma once

#include <cstdint>
#include <memory>

namespace batchnorm {

class Operation {
 public:
  explicit Operation(const void* owner) : owner_(owner) {}
  Operation(const Operation&) = delete;
  Operation& operator=(const Operation&) = delete;
  virtual ~Operation() = default;
  /// On the queue's thread.
  virtual void run() noexcept = 0;
  /// Who can take it back: see cancel_all.
  const void* owner() const { return owner_; }

 private:
  const void* owner_;
};

/// Gets the thread, so that enqueue() need not. Throws std::system_error where there is none.
void start_queue();

/// Returns its number. Throws std::system_error where there is no thread to do it, std::bad_alloc.
uint64_t enqueue(std::unique_ptr<Operation> operation);

/// Destroys an operation that has not begun. Returns whether that was so.
bool cancel(uint64_t number);

/// Destroys all operations of an owner that have not begun, and waits for the one that has.
void cancel_all(const void* owner);

}  // namespace batchnorm
