// What needs no Node and is best seen by sanitizers: every kernel table against generic to the bit, on
// exact-size buffers with canaries, with many threads, from many threads. Exits 1 at the first difference.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "batchnorm.h"
#include "dispatch.h"

namespace {

using batchnorm::Execution;
using batchnorm::Shape;

int passed = 0;

void check(bool condition, const char* what, Shape shape, const char* isa) {
  if (!condition) {
    std::printf("failed: %s for %zu x %zu x %zu on %s\n", what, shape.outer, shape.channels, shape.inner,
                isa);
    std::exit(1);
  }
  passed++;
}

/// `size` values at a place that is aligned to a value and to nothing more, between canaries.
template <typename T>
class Guarded {
 public:
  explicit Guarded(size_t size, size_t misalignment)
      : size_(size), from_(kCanaries + misalignment), values_(size + from_ + kCanaries, kCanary) {}
  T* data() { return values_.data() + from_; }
  size_t bytes() const { return size_ * sizeof(T); }
  bool intact() const {
    for (size_t i = 0; i < values_.size(); i++)
      if ((i < from_ || i >= from_ + size_) && values_[i] != kCanary) return false;
    return true;
  }

 private:
  static constexpr size_t kCanaries = 32;
  static constexpr T kCanary = T(-77);
  size_t size_;
  size_t from_;
  std::vector<T> values_;
};

/// Multiples of 1/4096 around 3: a linear congruential generator.
template <typename T>
void fill(T* values, size_t size, uint32_t seed) {
  for (size_t i = 0; i < size; i++) {
    seed = seed * 1664525u + 1013904223u;
    values[i] = static_cast<T>(seed >> 18) / 4096 + 1;
  }
}

template <typename T>
struct Results {
  explicit Results(Shape shape, size_t misalignment)
      : y(shape.size(), misalignment),
        inferred(shape.size(), misalignment),
        dx(shape.size(), misalignment),
        frozen_dx(shape.size(), misalignment),
        fused_y(shape.size(), misalignment),
        fused_dx(shape.size(), misalignment),
        dresidual(shape.size(), misalignment),
        mask(batchnorm::mask_bytes(shape.size()), misalignment),
        dweight(shape.channels, 0),
        dbias(shape.channels, 0),
        mean(shape.channels, 0),
        variance(shape.channels, 0) {}
  Guarded<T> y, inferred, dx, frozen_dx, fused_y, fused_dx, dresidual;
  Guarded<unsigned char> mask;
  Guarded<T> dweight, dbias;
  Guarded<double> mean, variance;

  bool intact() const {
    return y.intact() && inferred.intact() && dx.intact() && frozen_dx.intact() && fused_y.intact() &&
           fused_dx.intact() && dresidual.intact() && mask.intact() && dweight.intact() && dbias.intact() &&
           mean.intact() && variance.intact();
  }
  bool equals(Results& other) {
    const auto same = [](auto& a, auto& b) { return std::memcmp(a.data(), b.data(), a.bytes()) == 0; };
    return same(y, other.y) && same(inferred, other.inferred) && same(dx, other.dx) &&
           same(frozen_dx, other.frozen_dx) && same(fused_y, other.fused_y) &&
           same(fused_dx, other.fused_dx) && same(dresidual, other.dresidual) &&
           same(dweight, other.dweight) && same(dbias, other.dbias) && same(mean, other.mean) &&
           same(variance, other.variance);
  }
};

template <typename T>
std::unique_ptr<Results<T>> run(const Execution& execution, Shape shape, size_t misalignment) {
  auto results = std::make_unique<Results<T>>(shape, misalignment);
  Results<T>& r = *results;
  // Exactly as large as the tensor: AddressSanitizer sees any read beyond it.
  const std::unique_ptr<T[]> x(new T[shape.size()]), dy(new T[shape.size()]);
  const std::unique_ptr<T[]> weight(new T[shape.channels]), bias(new T[shape.channels]);
  fill(x.get(), shape.size(), 1);
  fill(dy.get(), shape.size(), 2);
  fill(weight.get(), shape.channels, 3);
  fill(bias.get(), shape.channels, 4);
  constexpr double eps = 1e-5;
  batchnorm::forward_training<T>(execution, shape, eps, x.get(), r.y.data(), weight.get(), bias.get(),
                                 r.mean.data(), r.variance.data(), {}, nullptr);
  const batchnorm::FrozenParameters<T> frozen(execution, shape.channels, eps, r.mean.data(),
                                              r.variance.data(), weight.get(), bias.get(), batchnorm::kRelu);
  frozen.run(execution, shape, x.get(), nullptr, r.inferred.data());
  batchnorm::backward<T>(execution, shape, eps, true, dy.get(), x.get(), r.mean.data(), r.variance.data(),
                         weight.get(), bias.get(), {batchnorm::kRelu, nullptr}, nullptr,
                         {r.dx.data(), r.dweight.data(), r.dbias.data(), nullptr});
  batchnorm::backward<T>(execution, shape, eps, false, dy.get(), x.get(), r.mean.data(), r.variance.data(),
                         weight.get(), bias.get(), {batchnorm::kRelu, nullptr}, nullptr,
                         {r.frozen_dx.data(), nullptr, nullptr, nullptr});
  // Both with a mask, whose bytes neighbours fill together.
  const batchnorm::Epilogue<T> both = {batchnorm::kRelu, dy.get()};
  batchnorm::forward_training<T>(execution, shape, eps, x.get(), r.fused_y.data(), weight.get(), bias.get(),
                                 r.mean.data(), r.variance.data(), both, r.mask.data());
  batchnorm::backward<T>(execution, shape, eps, true, dy.get(), x.get(), r.mean.data(), r.variance.data(),
                         weight.get(), bias.get(), both, r.mask.data(),
                         {r.fused_dx.data(), nullptr, nullptr, r.dresidual.data()});
  return results;
}

const Shape kShapes[] = {
    {1, 1, 2},    {2, 3, 1},   {5, 16, 1},    {33, 17, 1},  {700, 3, 1},   {600, 100, 1}, {520, 130, 1},
    {3, 5, 7},    {4, 33, 49}, {3, 2, 1000},  {2, 3, 4100}, {2, 2, 20001}, {400, 2, 64},  {1, 1, 200000},
    {64, 40, 49}, {9, 31, 16}, {70000, 3, 1}, {3, 40, 150}, {40, 11, 333}, {2, 12, 9000}, {3, 20, 520}};

/// For stream_bytes: no result is as large.
constexpr size_t kNever = ~size_t{0};

template <typename T>
void test_shape(Shape shape) {
  const auto& tables = batchnorm::kernel_tables();
  const auto expected = run<T>({tables.back(), 1, 1 << 19, kNever}, shape, 0);
  // Threads, misalignment, stores and blocks in combinations, each of which must change nothing.
  struct Variation {
    size_t threads, misalignment, cache_bytes, stream_bytes;
  };
  const Variation variations[] = {{1, 0, 1 << 19, kNever}, {1, 1, 1 << 19, 0}, {2, 5, 1, 0},
                                  {3, 3, 1 << 14, kNever}, {7, 0, 1 << 16, 0}, {1, 2, 1 << 14, 0},
                                  {1, 7, 1 << 18, 0},      {2, 0, 1 << 18, 0}};
  for (const auto* table : tables)
    for (const auto& [threads, misalignment, cache_bytes, stream_bytes] : variations) {
      const auto actual = run<T>({table, threads, cache_bytes, stream_bytes}, shape, misalignment);
      check(actual->intact(), "canaries intact", shape, table->name);
      check(actual->equals(*expected), "bits equal to generic", shape, table->name);
    }
}

/// Callers on several threads share the pool, or run alone where another has it.
void test_callers() {
  const Shape shape{8, 64, 784};
  const Execution execution{batchnorm::kernel_tables().front(), 3, 1 << 19, 24 << 20};
  const auto expected = run<float>(execution, shape, 0);
  std::vector<std::thread> callers;
  std::vector<char> equal(4, 0);
  for (size_t caller = 0; caller < equal.size(); caller++)
    callers.emplace_back([&, caller] {
      bool all = true;
      for (int i = 0; i < 5; i++) all = all && run<float>(execution, shape, 0)->equals(*expected);
      equal[caller] = all;
    });
  for (std::thread& caller : callers) caller.join();
  for (const char all : equal) check(all, "bits equal for callers at once", shape, "best");
}

}  // namespace

int main() {
  for (const Shape shape : kShapes) {
    test_shape<float>(shape);
    test_shape<double>(shape);
  }
  test_callers();
  std::printf("ISAs:");
  for (const auto* table : batchnorm::kernel_tables()) std::printf(" %s", table->name);
  std::printf("\nTests: %d passed, 0 failed\n", passed);
}
