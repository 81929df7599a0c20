// One case of the passes of group, instance, layer and RMS norm, whose results must not depend on the manner
// in which they were computed.
#pragma once

#include "passes.h"
#include "rows.h"

namespace norms {

using batchnorm::RowShape;
using passes::Random;

/// What is computed.
struct Case {
  RowShape shape;
  Filling filling;
  uint32_t seed;
  double eps;
  bool centred, weight, bias, relu, residual;
  /// Whether the forward pass leaves a mask to the backward pass, where there are both a residual and a ReLU.
  bool mask;
  bool input_gradient, weight_gradient, bias_gradient;
  /// Of tensors of Half.
  batchnorm::Storage storage = batchnorm::kBfloat16;
};

template <typename S>
struct Inputs {
  using T = batchnorm::Compute<S>;
  explicit Inputs(const Case& c)
      : x(passes::values<S>(c.shape.size(), c.filling, c.seed, c.storage)),
        dy(passes::values<S>(c.shape.size(), c.filling, c.seed + 1, c.storage)),
        residual(passes::values<S>(c.shape.size(), c.filling, c.seed + 2, c.storage)),
        weight(passes::values<T>(c.shape.parameters(), c.filling, c.seed + 3, c.storage)),
        bias(passes::values<T>(c.shape.parameters(), c.filling, c.seed + 4, c.storage)) {}
  /// Tensors of Half, widened.
  Inputs(const Inputs<batchnorm::Half>& from, batchnorm::Storage storage)
      : x(from.x.size()), dy(from.x.size()), residual(from.x.size()), weight(from.weight), bias(from.bias) {
    const auto widen = passes::plainest_table().conversions[storage].widen;
    widen(from.x.data(), x.size(), x.data());
    widen(from.dy.data(), x.size(), dy.data());
    widen(from.residual.data(), x.size(), residual.data());
  }
  std::vector<S> x, dy, residual;
  std::vector<T> weight, bias;
};

template <typename S>
struct Results {
  using T = batchnorm::Compute<S>;
  Results(const RowShape& shape, size_t place)
      : y(shape.size(), place),
        dx(shape.size(), place),
        dresidual(shape.size(), place),
        dweight(shape.parameters(), place),
        dbias(shape.parameters(), place),
        mean(shape.rows(), place),
        variance(shape.rows(), place) {
    for (Guarded<S>* array : {&y, &dx, &dresidual}) std::fill_n(array->data(), array->size(), S{0});
    for (Guarded<T>* array : {&dweight, &dbias}) std::fill_n(array->data(), array->size(), T{0});
  }
  Guarded<S> y, dx, dresidual;
  Guarded<T> dweight, dbias;
  Guarded<double> mean, variance;

  /// Calls visit(name, this array, the other's) for all of them.
  template <typename Other, typename Visit>
  void for_each(Other& other, Visit visit) const {
    visit("y", y, other.y);
    visit("dx", dx, other.dx);
    visit("dResidual", dresidual, other.dresidual);
    visit("dWeight", dweight, other.dweight);
    visit("dBias", dbias, other.dbias);
    visit("mean", mean, other.mean);
    visit("variance", variance, other.variance);
  }
};

[[noreturn]] inline void fail(const char* what, const char* array, const Case& c, const Manner& m,
                              size_t bytes_of_value) {
  const RowShape& shape = c.shape;
  std::printf(
      "failed: %s of rows must be %s\n"
      "float%zu, storage %d, shape {%zu, %zu, %zu, %zu, %zu}, filling %d, seed %u, eps %g, centred %d, "
      "weight %d, bias %d, relu %d, residual %d, mask %d, gradients of input %d, weight %d, bias %d\n"
      "on %s, %zu threads, cache_bytes %zu, stream_bytes %zu, place %zu, in_place %d\n",
      array, what, 8 * bytes_of_value, c.storage, shape.samples, shape.outer, shape.groups, shape.channels,
      shape.inner, c.filling, c.seed, c.eps, c.centred, c.weight, c.bias, c.relu, c.residual, c.mask,
      c.input_gradient, c.weight_gradient, c.bias_gradient, m.execution.kernels->name, m.execution.threads,
      m.execution.cache_bytes, m.execution.stream_bytes, m.place, m.in_place);
  std::fflush(stdout);
  std::abort();
}

/// Both passes, and the statistics alone. Aborts where anything but the results was written.
template <typename S>
std::unique_ptr<Results<S>> run(const Case& c, const Inputs<S>& inputs, const Manner& m) {
  using namespace batchnorm;
  using T = Compute<S>;
  const RowShape& shape = c.shape;
  Execution execution = m.execution;
  execution.storage = c.storage;
  const auto require = [&](bool condition, const char* what, const char* array) {
    if (!condition) fail(what, array, c, m, sizeof(S));
  };
  auto results = std::make_unique<Results<S>>(shape, m.place);
  Results<S>& r = *results;

  Guarded<S> x(shape.size(), m.place), dy(shape.size(), m.place), residual(shape.size(), m.place);
  Guarded<T> weight(shape.parameters(), m.place), bias(shape.parameters(), m.place);
  x.fill(inputs.x);
  dy.fill(inputs.dy);
  residual.fill(inputs.residual);
  weight.fill(inputs.weight);
  bias.fill(inputs.bias);
  const T* const w = c.weight ? weight.data() : nullptr;
  const T* const b = c.bias ? bias.data() : nullptr;
  const Epilogue<S> epilogue = {c.relu ? kRelu : kIdentity, c.residual ? residual.data() : nullptr};
  const bool gated = c.relu && c.residual;
  Guarded<unsigned char> bits(gated && c.mask ? row_mask_bytes(shape) : 0, m.place);
  unsigned char* const mask = bits.size() > 0 ? bits.data() : nullptr;
  /// Where a pass reads what it will write to `to`.
  const auto input = [&](const S* from, Guarded<S>& to, const std::vector<S>& values) {
    if (!m.in_place) return from;
    to.fill(values);
    return static_cast<const S*>(to.data());
  };

  const S* const read = input(x.data(), r.y, inputs.x);
  forward_rows<S>(execution, {shape, c.eps, c.centred, read, r.y.data(), w, b, epilogue, mask}, r.mean.data(),
                  r.variance.data());
  const S* const gradient = c.input_gradient ? input(dy.data(), r.dx, inputs.dy) : dy.data();
  backward_rows<S>(
      execution,
      {shape, c.eps, c.centred, gradient, x.data(), r.mean.data(), r.variance.data(), w, b, epilogue, mask},
      {c.input_gradient ? r.dx.data() : nullptr, c.weight_gradient ? r.dweight.data() : nullptr,
       c.bias_gradient ? r.dbias.data() : nullptr,
       gated || (c.residual && c.input_gradient) ? r.dresidual.data() : nullptr});

  Guarded<double> mean(shape.rows(), m.place), variance(shape.rows(), m.place);
  forward_rows<S>(execution, {shape, c.eps, c.centred, x.data(), nullptr, nullptr, nullptr, {}, nullptr},
                  mean.data(), variance.data());
  require(passes::same(mean, r.mean, c.storage) && passes::same(variance, r.variance, c.storage),
          "the same to the bit alone", "statistics");
  require(mean.intact() && variance.intact(), "alone in what is written", "statistics");
  r.for_each(r, [&](const char* name, const auto& array, const auto&) {
    require(array.intact(), "alone in what is written", name);
  });
  require(bits.intact(), "alone in what is written", "the mask");
  require(x.intact() && x.holds(inputs.x), "left as it was", "x");
  require(dy.intact() && dy.holds(inputs.dy), "left as it was", "dy");
  require(residual.intact() && residual.holds(inputs.residual), "left as it was", "the residual");
  require(weight.intact() && weight.holds(inputs.weight), "left as it was", "the weight");
  require(bias.intact() && bias.holds(inputs.bias), "left as it was", "the bias");
  return results;
}

/// What every manner must give: on the plainest; of Half, in float on what has been widened, rounded once.
template <typename S>
std::unique_ptr<Results<S>> expect(const Case& c, const Inputs<S>& inputs) {
  if constexpr (!std::is_same_v<S, batchnorm::Half>) {
    return run<S>(c, inputs, passes::plainest());
  } else {
    const auto wide = run<float>(c, Inputs<float>(inputs, c.storage), passes::plainest());
    auto results = std::make_unique<Results<S>>(c.shape, 0);
    wide->for_each(*results, [&](const char*, const auto& from, auto& to) {
      if constexpr (std::is_same_v<decltype(to.data()), batchnorm::Half*>)
        passes::plainest_table().conversions[c.storage].narrow(from.data(), from.size(), to.data());
      else if (from.size() > 0)
        std::memcpy(to.data(), from.data(), from.bytes());
    });
    return results;
  }
}

/// Aborts where the results of a manner differ from what they must be.
template <typename S>
void compare(const Case& c, const Manner& m, const Results<S>& actual, const Results<S>& expected) {
  actual.for_each(expected, [&](const char* name, const auto& a, const auto& b) {
    if (!passes::same(a, b, c.storage))
      fail("the same to the bit as on generic with one thread", name, c, m, sizeof(S));
  });
}

// ---- What main.cpp tries. ----

constexpr size_t kNever = ~size_t{0};

/// Each is there for a path of native/rows_forward.cpp or rows_backward.cpp: planes, columns and samples,
/// rows that are shorter and longer than a piece, rows in several groups, samples that are laid side by side,
/// more than one chunk and thread.
constexpr RowShape kShapes[] = {
    {2, 1, 3, 4, 49},   {3, 1, 2, 2, 1500}, {1, 1, 1, 3, 20001}, {9, 1, 4, 5, 333},  {4, 1, 7, 1, 33},
    {2, 1, 2, 1, 9000}, {5, 1, 1, 1, 16},   {1, 1, 1, 1, 1},     {50, 1, 1, 40, 1},  {700, 1, 1, 3, 1},
    {300, 1, 1, 24, 1}, {1, 1, 1, 768, 1},  {150, 1, 1, 257, 1}, {5, 1, 1, 5000, 1}, {2, 1, 1, 20000, 1},
    {40, 1, 4, 6, 1},   {9, 1, 3, 5, 4},    {5, 1, 3, 700, 2},   {3, 1, 2, 2500, 1}, {3, 20, 2, 4, 1},
    {4, 9, 1, 8, 1},    {2, 49, 4, 3, 1},   {2, 7, 2, 3, 5},     {2, 300, 2, 8, 1},  {2, 10, 3, 500, 1},
    {2, 5, 2, 3, 40},   {3, 2, 5, 1, 1},    {0, 1, 1, 4, 1},     {3, 1, 2, 2, 0}};

constexpr Case kCases[] = {
    {{}, kGrid, 1, 1e-5, true, true, true, false, false, false, true, true, true},
    {{}, kSpecial, 2, 1e-5, true, true, false, true, false, false, true, true, true},
    {{}, kUniform, 3, 1e-6, false, true, false, false, false, false, true, true, false},
    {{}, kFarFromZero, 4, 1e-12, true, false, false, false, false, false, true, false, false},
    {{}, kUniform, 5, 1e-5, true, true, true, true, true, true, true, true, true},
    {{}, kBits, 6, 1e-5, false, true, true, true, true, false, true, true, true},
    {{}, kGrid, 7, 1e-3, true, false, true, false, true, false, true, false, true},
    {{}, kHuge, 8, 1.0, true, true, true, false, false, false, false, true, false},
    {{}, kSquares, 9, 1e-5, false, false, true, true, false, false, false, false, true},
};

struct Variation {
  size_t threads, place, cache_bytes, stream_bytes;
  bool in_place;
};
constexpr Variation kVariations[] = {{1, kAtEnd, 1 << 19, kNever, false},
                                     {2, 5, 1, 0, false},
                                     {3, 3, 1 << 14, kNever, true},
                                     {1, 1, 1 << 16, 0, false},
                                     {2, kAtEnd, 1 << 18, kNever, true}};

/// Every variation with another of the cases; with `once` every second of them.
template <typename S>
int test_shape(const std::vector<const batchnorm::KernelTable*>& tables, const RowShape& shape, size_t number,
               bool once, bool threads_only, batchnorm::Storage storage = batchnorm::kFloat32) {
  int passed = 0;
  for (size_t variation = 0; variation < std::size(kVariations); variation++) {
    const auto [threads, place, cache_bytes, stream_bytes, in_place] = kVariations[variation];
    if (threads_only ? threads == 1 : once && (number + variation) % 2 == 0) continue;
    Case c = kCases[(number + 2 * variation) % std::size(kCases)];
    c.shape = shape;
    c.storage = storage;
    const Inputs<S> inputs(c);
    const auto expected = expect<S>(c, inputs);
    for (const auto* table : tables) {
      const Manner m = {{table, threads, cache_bytes, stream_bytes}, place, in_place};
      compare<S>(c, m, *run<S>(c, inputs, m), *expected);
      passed++;
    }
  }
  return passed;
}

/// @return how many were tried.
inline int test_all(const std::vector<const batchnorm::KernelTable*>& tables, bool once, bool threads_only) {
  int passed = 0;
  size_t number = 0;
  for (const RowShape& shape : kShapes) {
    passed += test_shape<float>(tables, shape, number++, once, threads_only);
    passed += test_shape<double>(tables, shape, number++, once, threads_only);
    const auto storage = number / 2 % 2 ? batchnorm::kBfloat16 : batchnorm::kFloat16;
    passed += test_shape<batchnorm::Half>(tables, shape, number++, once, threads_only, storage);
  }
  return passed;
}

}  // namespace norms
