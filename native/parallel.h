// The thread pool, as one function.
#pragma once

#include <cstddef>

namespace batchnorm {

namespace detail {
/// What is done at the turn of `task` where those of [begin, end) go in their order, or backwards.
constexpr size_t in_turn(size_t task, size_t begin, size_t end, bool backwards) {
  return backwards ? begin + end - 1 - task : task;
}
using Task = void (*)(const void* context, size_t task, size_t slot);
void run_parallel(size_t threads, size_t tasks, size_t bytes, bool backwards, Task call, const void* context);
}  // namespace detail

/// Calls body(task, slot) for every task in [0, tasks), each thread its own neighbours in their order or
/// `backwards`, on at most `threads` threads, the calling thread
/// among them; returns when all are done. slot < threads is unique among the threads that run at the same
/// time. body must not throw. Sleeping threads are woken only where that is worth it for work that moves
/// `bytes`, or with the work just before it; the caller never waits for a thread that has not joined. If
/// another thread's call has the pool, this one runs alone.
template <typename Body>
void parallel_for(size_t threads, size_t tasks, size_t bytes, bool backwards, const Body& body) {
  if (threads <= 1 || tasks <= 1) {
    for (size_t task = 0; task < tasks; task++) body(detail::in_turn(task, 0, tasks, backwards), size_t{0});
    return;
  }
  detail::run_parallel(
      threads, tasks, bytes, backwards,
      [](const void* context, size_t task, size_t slot) { (*static_cast<const Body*>(context))(task, slot); },
      &body);
}

}  // namespace batchnorm
