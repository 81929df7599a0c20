// How one Node environment hears of its operations: what the queue's thread has finished is told to a
// JavaScript handler, many at a time. lib/operations.ts is the other side.
#pragma once

#include <node_api.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <vector>

namespace binding {

class Mailbox {
 public:
  Mailbox() = default;
  Mailbox(const Mailbox&) = delete;
  Mailbox& operator=(const Mailbox&) = delete;

  /// handler(count) is called with the slots of finished operations in the first `count` values of `finished`
  /// (an Int32Array): slot, or ~slot where memory ran out. Returns false where Node refuses.
  bool open(napi_env env, napi_value handler, napi_value finished);

  /// Computes off this thread and reports `slot`. What `compute` captures must stay valid until then.
  void submit(napi_env env, int32_t slot, std::function<void()> compute);

  /// Whether the operation of a slot had not begun: then it never will, and is not reported.
  bool cancel(napi_env env, int32_t slot);

 private:
  class Task;

  static void deliver(napi_env env, napi_value handler, void* mailbox, void*);
  static void close(void* mailbox);
  /// From any thread.
  void report(int32_t slot);
  /// The loop of the environment stays alive for as long as something is on the way.
  void count(napi_env env, size_t more, size_t less);

  napi_threadsafe_function wake_ = nullptr;
  napi_ref finished_ = nullptr;
  size_t on_the_way_ = 0;
  /// The queue's numbers by slot.
  std::vector<uint64_t> numbers_;
  std::mutex mutex_;
  std::vector<int32_t> reported_;
};

}  // namespace binding
