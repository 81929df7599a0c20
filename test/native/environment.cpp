// The floating-point environment stays as it is: on the calling thread, on those of the pool, and on the
// queue's. Exits 1 where a pass has changed it.

#include <cfenv>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <mutex>
#include <vector>

#include "batchnorm.h"
#include "dispatch.h"
#include "parallel.h"
#include "queue.h"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace {

constexpr size_t kThreads = 4;

/// Rounding, denormals and traps; not the flags, which arithmetic raises.
uint64_t environment() {
#if defined(__x86_64__)
  return _mm_getcsr() & 0xffc0;
#elif defined(__aarch64__)
  uint64_t control;
  __asm__ volatile("mrs %0, fpcr" : "=r"(control));
  return control;
#else
  return static_cast<uint64_t>(std::fegetround());
#endif
}

void check(bool condition, const char* what, const char* isa) {
  if (condition) return;
  std::printf("failed: the floating-point environment of %s on %s\n", what, isa);
  std::exit(1);
}

/// Every pass over denormals and infinities, which somebody might want to be spared.
template <typename T>
void all_passes(const batchnorm::KernelTable* table, batchnorm::Shape shape) {
  const batchnorm::Execution execution{table, kThreads, 1 << 14, 0};
  std::vector<T> x(shape.size()), y(shape.size()), dresidual(shape.size());
  std::vector<T> weight(shape.channels, 1), bias(shape.channels, 0), dweight(shape.channels),
      dbias(shape.channels);
  std::vector<double> mean(shape.channels), variance(shape.channels);
  std::vector<unsigned char> mask(batchnorm::mask_bytes(shape.size()));
  for (size_t i = 0; i < x.size(); i++)
    x[i] = i % 5 == 0 ? std::numeric_limits<T>::infinity()
                      : std::numeric_limits<T>::denorm_min() * static_cast<T>(i);
  const batchnorm::Epilogue<T> both = {batchnorm::kRelu, x.data()};
  batchnorm::forward_training<T>(
      execution, {shape, 1e-5, x.data(), y.data(), weight.data(), bias.data(), both, mask.data()},
      mean.data(), variance.data());
  batchnorm::backward<T>(execution,
                         {shape, 1e-5, y.data(), x.data(), mean.data(), variance.data(), weight.data(),
                          bias.data(), both, mask.data()},
                         true, {y.data(), dweight.data(), dbias.data(), dresidual.data()});
  std::vector<unsigned char> frozen(batchnorm::frozen_bytes<T>(shape.channels));
  batchnorm::freeze<T>(
      execution,
      {shape.channels, 1e-5, mean.data(), variance.data(), weight.data(), bias.data(), batchnorm::kRelu},
      frozen.data());
  batchnorm::run_frozen<T>(execution, shape, frozen.data(), x.data(), nullptr, y.data());
}

void all_passes(const batchnorm::KernelTable* table) {
  for (const batchnorm::Shape shape : {batchnorm::Shape{4, 16, 330}, batchnorm::Shape{3000, 16, 1}}) {
    all_passes<float>(table, shape);
    all_passes<double>(table, shape);
  }
}

/// What the queue's thread has before and after the passes.
class OnTheQueue : public batchnorm::Operation {
 public:
  struct Report {
    std::mutex mutex;
    std::condition_variable arrived;
    bool done = false;
    bool unchanged = false;
  };
  OnTheQueue(const batchnorm::KernelTable* table, uint64_t expected, Report* report)
      : Operation(report), table_(table), expected_(expected), report_(*report) {}
  void run() noexcept override {
    const bool before = environment() == expected_;
    all_passes(table_);
    std::lock_guard<std::mutex> lock(report_.mutex);
    report_.unchanged = before && environment() == expected_;
    report_.done = true;
    report_.arrived.notify_one();
  }

 private:
  const batchnorm::KernelTable* table_;
  uint64_t expected_;
  Report& report_;
};

}  // namespace

int main() {
  const uint64_t expected = environment();
  for (const auto* table : batchnorm::kernel_tables()) {
    for (int round = 0; round < 20; round++) all_passes(table);
    check(environment() == expected, "the calling thread", table->name);
    // One flag per thread that has taken part; which do is up to the pool.
    std::vector<char> changed(kThreads, 0);
    batchnorm::parallel_for(kThreads, 20000, ~size_t{0}, false, [&](size_t, size_t slot) {
      if (environment() != expected) changed[slot] = 1;
    });
    for (const char one : changed) check(!one, "a thread of the pool", table->name);
    OnTheQueue::Report report;
    batchnorm::enqueue(std::make_unique<OnTheQueue>(table, expected, &report));
    std::unique_lock<std::mutex> lock(report.mutex);
    report.arrived.wait(lock, [&] { return report.done; });
    check(report.unchanged, "the queue's thread", table->name);
  }
  std::printf("The floating-point environment is unchanged on every thread\n");
}
