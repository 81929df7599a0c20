#include "mailbox.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "queue.h"

namespace binding {

class Mailbox::Task : public batchnorm::Operation {
 public:
  Task(Mailbox* mailbox, int32_t slot, std::function<void()> compute)
      : Operation(mailbox), mailbox_(*mailbox), slot_(slot), compute_(std::move(compute)) {}

  void run() noexcept override {
    int32_t report = slot_;
    try {
      compute_();
    } catch (...) {
      report = ~slot_;
    }
    mailbox_.report(report);
  }

 private:
  Mailbox& mailbox_;
  int32_t slot_;
  std::function<void()> compute_;
};

bool Mailbox::open(napi_env env, napi_value handler) {
  // One call at a time is on its way, each of which calls the handler; nothing else is done here.
  const auto call = [](napi_env env, napi_value handler, void*, void*) {
    napi_value receiver;
    // What the handler throws, and what an environment that ends refuses, is Node's to deal with.
    if (env != nullptr && napi_get_undefined(env, &receiver) == napi_ok)
      napi_call_function(env, receiver, handler, 0, nullptr, nullptr);
  };
  if (wake_ != nullptr) return false;
  batchnorm::start_queue();
  napi_value name;
  if (napi_create_string_utf8(env, "batchnorm", NAPI_AUTO_LENGTH, &name) != napi_ok ||
      napi_create_threadsafe_function(env, handler, nullptr, name, 0, 1, nullptr, nullptr, nullptr, call,
                                      &wake_) != napi_ok)
    return false;
  // Hooks run in the reverse order: this one before that of the function, which it still needs.
  return napi_unref_threadsafe_function(env, wake_) == napi_ok &&
         napi_add_env_cleanup_hook(env, close, this) == napi_ok;
}

bool Mailbox::submit(napi_env env, int32_t slot, std::function<void()> compute) {
  const size_t index = static_cast<size_t>(slot);
  if (wake_ == nullptr || index > numbers_.size()) return false;
  if (index >= numbers_.size()) numbers_.resize(std::max<size_t>(64, 2 * index), kNone);
  {
    std::lock_guard<std::mutex> lock(mutex_);
    // Reporting must not fail.
    if (reported_.capacity() <= on_the_way_) reported_.reserve(std::max<size_t>(64, 2 * on_the_way_));
  }
  numbers_[index] = batchnorm::enqueue(std::make_unique<Task>(this, slot, std::move(compute)));
  count(env, 1, 0);
  return true;
}

bool Mailbox::cancel(napi_env env, int32_t slot) {
  const size_t index = static_cast<size_t>(slot);
  const bool cancelled = index < numbers_.size() && batchnorm::cancel(numbers_[index]);
  if (cancelled) count(env, 0, 1);
  return cancelled;
}

void Mailbox::count(napi_env env, size_t more, size_t less) {
  const bool was_idle = on_the_way_ == 0;
  on_the_way_ += more - less;
  const bool is_idle = on_the_way_ == 0;
  if (was_idle && !is_idle) napi_ref_threadsafe_function(env, wake_);
  if (!was_idle && is_idle) napi_unref_threadsafe_function(env, wake_);
}

void Mailbox::report(int32_t slot) {
  std::unique_lock<std::mutex> lock(mutex_);
  reported_.push_back(slot);
  const bool wake = !awake_;
  awake_ = true;
  lock.unlock();
  if (wake) napi_call_threadsafe_function(wake_, nullptr, napi_tsfn_nonblocking);
}

size_t Mailbox::take(napi_env env, int32_t* finished, size_t room) {
  size_t taken;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    taken = std::min(room, reported_.size());
    std::copy_n(reported_.begin(), taken, finished);
    reported_.erase(reported_.begin(), reported_.begin() + static_cast<ptrdiff_t>(taken));
    awake_ = taken > 0;
  }
  count(env, 0, taken);
  return taken;
}

void Mailbox::close(void* context) {
  auto* const mailbox = static_cast<Mailbox*>(context);
  batchnorm::cancel_all(mailbox);
  napi_release_threadsafe_function(mailbox->wake_, napi_tsfn_abort);
}

}  // namespace binding
