// How one Node environment hears of its operations: a JavaScript handler is called when there is something
// to hear, and takes all there is. lib/operations.ts is the other side.
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

  /// handler() is called when an operation has finished, and then not again before take() has found none.
  /// Returns false where Node refuses. Throws std::system_error where there is no thread for operations: what
  /// comes with them must not fail for it.
  bool open(napi_env env, napi_value handler);

  /// Writes the slots of finished operations, at most `room`: slot, or ~slot where memory ran out. Returns
  /// how many.
  size_t take(napi_env env, int32_t* finished, size_t room);

  /// Computes off this thread and reports `slot`. What `compute` captures must stay valid until then. false,
  /// and nothing done, before open() and for a slot beyond the next one.
  bool submit(napi_env env, int32_t slot, std::function<void()> compute);

  /// Whether the operation of a slot had not begun: then it never will, and is not reported.
  bool cancel(napi_env env, int32_t slot);

 private:
  class Task;

  static void close(void* mailbox);
  /// From any thread.
  void report(int32_t slot);
  /// The loop of the environment stays alive for as long as something is on the way.
  void count(napi_env env, size_t more, size_t less);

  napi_threadsafe_function wake_ = nullptr;
  size_t on_the_way_ = 0;
  /// A number that no operation has.
  static constexpr uint64_t kNone = UINT64_MAX;
  /// The queue's numbers by slot.
  std::vector<uint64_t> numbers_;
  std::mutex mutex_;
  std::vector<int32_t> reported_;
  /// Whether the handler need not be called: it has been, and will take what comes.
  bool awake_ = false;
};

}  // namespace binding
