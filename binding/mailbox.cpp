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

bool Mailbox::open(napi_env env, napi_value handler, napi_value finished) {
  napi_value name;
  // Without a limit: what waits is bounded by the operations on the way, each of which reports once.
  if (napi_create_string_utf8(env, "batchnorm", NAPI_AUTO_LENGTH, &name) != napi_ok ||
      napi_create_reference(env, finished, 1, &finished_) != napi_ok ||
      napi_create_threadsafe_function(env, handler, nullptr, name, 0, 1, nullptr, nullptr, this, deliver,
                                      &wake_) != napi_ok)
    return false;
  // Hooks run in the reverse order: this one before that of the function, which it still needs.
  return napi_unref_threadsafe_function(env, wake_) == napi_ok &&
         napi_add_env_cleanup_hook(env, close, this) == napi_ok;
}

void Mailbox::submit(napi_env env, int32_t slot, std::function<void()> compute) {
  const size_t index = static_cast<size_t>(slot);
  if (index >= numbers_.size()) numbers_.resize(std::max<size_t>(64, 2 * index));
  {
    std::lock_guard<std::mutex> lock(mutex_);
    reported_.reserve(on_the_way_ + 1);  // Reporting must not fail.
  }
  numbers_[index] = batchnorm::enqueue(std::make_unique<Task>(this, slot, std::move(compute)));
  count(env, 1, 0);
}

bool Mailbox::cancel(napi_env env, int32_t slot) {
  const bool cancelled = batchnorm::cancel(numbers_[static_cast<size_t>(slot)]);
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
  const bool first = reported_.empty();
  reported_.push_back(slot);
  lock.unlock();
  // One call tells of all until it is answered.
  if (first) napi_call_threadsafe_function(wake_, nullptr, napi_tsfn_nonblocking);
}

void Mailbox::deliver(napi_env env, napi_value handler, void* context, void*) {
  // Of an environment that ends nobody waits for an answer.
  if (env == nullptr) return;
  auto* const mailbox = static_cast<Mailbox*>(context);
  std::vector<int32_t> reported;
  {
    std::lock_guard<std::mutex> lock(mailbox->mutex_);
    reported.swap(mailbox->reported_);
    mailbox->reported_.reserve(mailbox->on_the_way_);
  }
  mailbox->count(env, 0, reported.size());
  napi_value finished, receiver;
  void* values = nullptr;
  size_t room = 0;
  if (napi_get_reference_value(env, mailbox->finished_, &finished) != napi_ok ||
      napi_get_undefined(env, &receiver) != napi_ok)
    return;
  for (size_t told = 0; told < reported.size();) {
    if (napi_get_typedarray_info(env, finished, nullptr, &room, &values, nullptr, nullptr) != napi_ok) return;
    const size_t number = std::min(room, reported.size() - told);
    std::copy_n(reported.data() + told, number, static_cast<int32_t*>(values));
    told += number;
    napi_value count;
    // What the handler throws, and what a terminated worker refuses, is Node's to deal with.
    if (napi_create_uint32(env, static_cast<uint32_t>(number), &count) != napi_ok ||
        napi_call_function(env, receiver, handler, 1, &count, nullptr) != napi_ok)
      return;
  }
}

void Mailbox::close(void* context) {
  auto* const mailbox = static_cast<Mailbox*>(context);
  batchnorm::cancel_all(mailbox);
  napi_release_threadsafe_function(mailbox->wake_, napi_tsfn_abort);
}

}  // namespace binding
