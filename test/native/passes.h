// One case of the C++ interface: all passes with the same data, whose results must not depend on the manner
// in which they were computed.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <type_traits>

#include "batchnorm.h"
#include "dispatch.h"
#include "guarded.h"
#include "presence.h"

/// Which values a tensor holds.
enum Filling {
  kGrid,         ///< multiples of 1/4096 around 3
  kUniform,      ///< from -1 to 1
  kConstant,     ///< one value per tensor
  kFarFromZero,  ///< 1e4 with a deviation of 1e-2
  kHuge,         ///< up to the largest: squares and sums overflow
  kSquares,      ///< up to half its root: sums of squares overflow, the variance does not
  kDenormal,     ///< below the smallest normal
  kSigns,        ///< +0 and -0
  kSpecial,      ///< uniform, with a NaN, an infinity, a zero, ... here and there
  kBits,         ///< any bits
  kFillings,
};

/// What is computed.
struct Case {
  batchnorm::Shape shape;
  Filling filling = kGrid;
  uint32_t seed = 1;
  double eps = 1e-5;
  bool weight = true;
  bool bias = true;
  bool relu = false;
  bool residual = false;
  /// Whether the forward pass leaves a mask to the backward pass, where there are both a residual and a ReLU.
  bool mask = false;
  /// Which gradients are asked for: of the input (and the residual), of weight and bias.
  bool input_gradient = true;
  bool parameter_gradients = true;
  /// Of tensors of Half.
  batchnorm::Storage storage = batchnorm::kBfloat16;
};

/// How it is computed: changes no bit.
struct Manner {
  batchnorm::Execution execution;
  /// See Guarded.
  size_t place = 0;
  /// y over x, dx over dy.
  bool in_place = false;
};

namespace passes {

/// A linear congruential generator: the same values on every machine.
class Random {
 public:
  explicit Random(uint32_t seed) : state_(seed) {}
  uint32_t next() {
    state_ = state_ * 1664525u + 1013904223u;
    return state_ >> 8;
  }
  /// From -1 to 1.
  double uniform() { return next() / double{1 << 23} - 1; }

 private:
  uint32_t state_;
};

template <typename T>
T value_of(Filling filling, Random& random) {
  using Limits = std::numeric_limits<T>;
  const T specials[] = {Limits::quiet_NaN(), Limits::infinity(), -Limits::infinity(), 0, -T{0},
                        Limits::max(),       Limits::lowest(),   Limits::denorm_min()};
  switch (filling) {
    case kUniform:
      return static_cast<T>(random.uniform());
    case kFarFromZero:
      return static_cast<T>(1e4 + 1e-2 * random.uniform());
    case kHuge:
      return static_cast<T>(random.uniform()) * Limits::max();
    case kSquares:
      return static_cast<T>(random.uniform()) * std::sqrt(Limits::max()) / 2;
    case kDenormal:
      return static_cast<T>(random.uniform()) * Limits::min();
    case kSigns:
      return random.next() % 2 ? T{0} : -T{0};
    case kSpecial:
      return random.next() % 64 ? static_cast<T>(random.uniform()) : specials[random.next() % 8];
    case kBits: {
      const uint64_t bits = uint64_t{random.next()} << 40 ^ uint64_t { random.next() } << 20 ^ random.next();
      T value;
      std::memcpy(&value, &bits, sizeof(value));
      return value;
    }
    default:
      return static_cast<T>(random.next() >> 10) / 4096 + 1;
  }
}

/// What others are compared with.
inline const batchnorm::KernelTable& plainest_table() {
  return *batchnorm::kernel_tables().back();
}

/// Of Half, the values of float that are nearest to one that it holds.
template <typename S>
std::vector<S> values(size_t size, Filling filling, uint32_t seed, batchnorm::Storage storage) {
  Random random(seed);
  if constexpr (std::is_same_v<S, batchnorm::Half>) {
    std::vector<S> result(size);
    if (filling == kBits) {
      for (S& value : result) value.bits = static_cast<uint16_t>(random.next());
      return result;
    }
    std::vector<float> wide = values<float>(size, filling, seed, storage);
    // The range of float16 is another.
    const float largest = std::numeric_limits<float>::max();
    const float scale = storage == batchnorm::kBfloat16 ? 1
                        : filling == kHuge              ? 65504 / largest
                        : filling == kSquares           ? 255 / std::sqrt(largest)
                        : filling == kDenormal          ? 0x1p112f
                                                        : 1;
    for (float& value : wide) value *= scale;
    plainest_table().conversions[storage].narrow(wide.data(), size, result.data());
    return result;
  } else {
    if (filling == kConstant) return std::vector<S>(size, value_of<S>(kUniform, random));
    std::vector<S> result(size);
    for (S& value : result) value = value_of<S>(filling, random);
    return result;
  }
}

template <typename S>
struct Inputs {
  using T = batchnorm::Compute<S>;
  explicit Inputs(const Case& c)
      : x(values<S>(c.shape.size(), c.filling, c.seed, c.storage)),
        dy(values<S>(c.shape.size(), c.filling, c.seed + 1, c.storage)),
        residual(values<S>(c.shape.size(), c.filling, c.seed + 2, c.storage)),
        weight(values<T>(c.shape.channels, c.filling, c.seed + 3, c.storage)),
        bias(values<T>(c.shape.channels, c.filling, c.seed + 4, c.storage)) {}
  /// Tensors of Half, widened.
  Inputs(const Inputs<batchnorm::Half>& from, batchnorm::Storage storage)
      : x(from.x.size()), dy(from.x.size()), residual(from.x.size()), weight(from.weight), bias(from.bias) {
    const auto widen = plainest_table().conversions[storage].widen;
    widen(from.x.data(), x.size(), x.data());
    widen(from.dy.data(), x.size(), dy.data());
    widen(from.residual.data(), x.size(), residual.data());
  }
  std::vector<S> x, dy, residual;
  std::vector<T> weight, bias;
};

template <typename T>
bool is_nan(T value, batchnorm::Storage) {
  return std::isnan(value);
}
inline bool is_nan(batchnorm::Half value, batchnorm::Storage storage) {
  return (value.bits & 0x7fff) > (storage == batchnorm::kBfloat16 ? 0x7f80 : 0x7c00);
}

/// Whether two arrays have the same bits, those of a NaN excepted.
template <typename T>
bool same(const Guarded<T>& a, const Guarded<T>& b, batchnorm::Storage storage) {
  if (a.size() == 0 || std::memcmp(a.data(), b.data(), a.bytes()) == 0) return true;
  for (size_t i = 0; i < a.size(); i++)
    if (std::memcmp(a.data() + i, b.data() + i, sizeof(T)) != 0 &&
        !(is_nan(a.data()[i], storage) && is_nan(b.data()[i], storage)))
      return false;
  return true;
}

template <typename S>
struct Results {
  using T = batchnorm::Compute<S>;
  Results(batchnorm::Shape shape, size_t place)
      : y(shape.size(), place),
        inferred(shape.size(), place),
        frozen(shape.size(), place),
        dx(shape.size(), place),
        dresidual(shape.size(), place),
        inferred_dx(shape.size(), place),
        inferred_dresidual(shape.size(), place),
        dweight(shape.channels, place),
        dbias(shape.channels, place),
        inferred_dweight(shape.channels, place),
        inferred_dbias(shape.channels, place),
        mean(shape.channels, place),
        variance(shape.channels, place),
        running_mean(shape.channels, place),
        running_var(shape.channels, place),
        present_y(shape.size(), place),
        present_dx(shape.size(), place),
        present_dresidual(shape.size(), place),
        present_count(shape.channels, place),
        present_squares(shape.channels, place),
        present_mean(shape.channels, place),
        present_variance(shape.channels, place),
        present_dy(shape.channels, place),
        present_dy_xc(shape.channels, place),
        present_dbias(shape.channels, place),
        dweights(shape.outer * shape.inner, place) {}
  Guarded<S> y, inferred, frozen;
  Guarded<S> dx, dresidual, inferred_dx, inferred_dresidual;
  Guarded<T> dweight, dbias, inferred_dweight, inferred_dbias;
  Guarded<double> mean, variance, running_mean, running_var;
  Guarded<S> present_y, present_dx, present_dresidual;
  Guarded<double> present_count, present_squares, present_mean, present_variance;
  Guarded<double> present_dy, present_dy_xc, present_dbias, dweights;
  size_t rejected = 0;

  /// Calls visit(name, this array, the other's) for all of them.
  template <typename Other, typename Visit>
  void for_each(Other& other, Visit visit) const {
    visit("y", y, other.y);
    visit("y in inference", inferred, other.inferred);
    visit("y of frozen parameters", frozen, other.frozen);
    visit("dx", dx, other.dx);
    visit("dResidual", dresidual, other.dresidual);
    visit("dx in inference", inferred_dx, other.inferred_dx);
    visit("dResidual in inference", inferred_dresidual, other.inferred_dresidual);
    visit("dWeight", dweight, other.dweight);
    visit("dBias", dbias, other.dbias);
    visit("dWeight in inference", inferred_dweight, other.inferred_dweight);
    visit("dBias in inference", inferred_dbias, other.inferred_dbias);
    visit("mean", mean, other.mean);
    visit("variance", variance, other.variance);
    visit("runningMean", running_mean, other.running_mean);
    visit("runningVar", running_var, other.running_var);
    visit("y of what counts", present_y, other.present_y);
    visit("dx of what counts", present_dx, other.present_dx);
    visit("dResidual of what counts", present_dresidual, other.present_dresidual);
    visit("count", present_count, other.present_count);
    visit("squares of weights", present_squares, other.present_squares);
    visit("mean of what counts", present_mean, other.present_mean);
    visit("variance of what counts", present_variance, other.present_variance);
    visit("sums of what counts", present_dy, other.present_dy);
    visit("sums with x of what counts", present_dy_xc, other.present_dy_xc);
    visit("dBias of what counts", present_dbias, other.present_dbias);
    visit("dWeights", dweights, other.dweights);
  }
  /// The name of the first array for which is_right(this array, the other's) is false.
  template <typename IsRight>
  const char* find(const Results& other, IsRight is_right) const {
    const char* found = nullptr;
    for_each(other, [&](const char* name, const auto& a, const auto& b) {
      if (!found && !is_right(a, b)) found = name;
    });
    return found;
  }
};

[[noreturn]] inline void fail(const char* what, const char* array, const Case& c, const Manner& m,
                              size_t bytes_of_value) {
  std::printf(
      "failed: %s must be %s\n"
      "float%zu, storage %d, shape {%zu, %zu, %zu}, filling %d, seed %u, eps %g, weight %d, bias %d, relu "
      "%d, residual "
      "%d, "
      "mask %d, input_gradient %d, parameter_gradients %d\n"
      "on %s, %zu threads, cache_bytes %zu, stream_bytes %zu, place %zu, in_place %d\n",
      array, what, 8 * bytes_of_value, c.storage, c.shape.outer, c.shape.channels, c.shape.inner, c.filling,
      c.seed, c.eps, c.weight, c.bias, c.relu, c.residual, c.mask, c.input_gradient, c.parameter_gradients,
      m.execution.kernels->name, m.execution.threads, m.execution.cache_bytes, m.execution.stream_bytes,
      m.place, m.in_place);
  std::fflush(stdout);
  std::abort();
}

/// All passes. Aborts where anything but the results was written.
template <typename S>
std::unique_ptr<Results<S>> run(const Case& c, const Inputs<S>& inputs, const Manner& m) {
  using namespace batchnorm;
  using T = Compute<S>;
  const Shape shape = c.shape;
  Execution execution = m.execution;
  execution.storage = c.storage;
  const auto same = [&](const auto& a, const auto& b) { return passes::same(a, b, c.storage); };
  const auto require = [&](bool condition, const char* what, const char* array) {
    if (!condition) fail(what, array, c, m, sizeof(S));
  };
  auto results = std::make_unique<Results<S>>(shape, m.place);
  Results<S>& r = *results;

  Guarded<S> x(shape.size(), m.place), dy(shape.size(), m.place), residual(shape.size(), m.place);
  Guarded<T> weight(shape.channels, m.place), bias(shape.channels, m.place);
  x.fill(inputs.x);
  dy.fill(inputs.dy);
  residual.fill(inputs.residual);
  weight.fill(inputs.weight);
  bias.fill(inputs.bias);
  const T* const w = c.weight ? weight.data() : nullptr;
  const T* const b = c.bias ? bias.data() : nullptr;
  const bool gated = c.relu && c.residual;
  const size_t masked = gated && c.mask ? mask_bytes(shape.size()) : 0;
  Guarded<unsigned char> mask(masked, m.place), inferred_mask(masked, m.place);
  const Epilogue<S> epilogue = {c.relu ? kRelu : kIdentity, c.residual ? residual.data() : nullptr};
  const auto mask_of = [&](Guarded<unsigned char>& bits) { return masked > 0 ? bits.data() : nullptr; };
  /// Where a pass reads what it will write to `to`.
  const auto input = [&](const S* from, Guarded<S>& to, const std::vector<S>& values) {
    if (!m.in_place) return from;
    to.fill(values);
    return static_cast<const S*>(to.data());
  };
  for (Guarded<S>* array : {&r.dx, &r.dresidual, &r.inferred_dx, &r.inferred_dresidual, &r.present_y,
                            &r.present_dx, &r.present_dresidual})
    std::fill_n(array->data(), array->size(), S{0});
  for (Guarded<T>* array : {&r.dweight, &r.dbias, &r.inferred_dweight, &r.inferred_dbias})
    std::fill_n(array->data(), array->size(), T{0});

  const auto forward = [&](Guarded<S>& y, Guarded<unsigned char>& bits) {
    return Forward<S>{shape, c.eps, input(x.data(), y, inputs.x), y.data(), w, b, epilogue, mask_of(bits)};
  };
  forward_training<S>(execution, forward(r.y, mask), r.mean.data(), r.variance.data());
  std::fill_n(r.running_mean.data(), shape.channels, 0.25);
  std::fill_n(r.running_var.data(), shape.channels, 1.5);
  r.rejected = update_running_stats(*execution.kernels, shape.channels, r.mean.data(), r.variance.data(),
                                    static_cast<double>(shape.count()), 0.9, true, r.running_mean.data(),
                                    r.running_var.data(), nullptr);
  const double* const running_mean = r.running_mean.data();
  const double* const running_var = r.running_var.data();
  forward_inference<S>(execution, forward(r.inferred, inferred_mask), running_mean, running_var);
  Guarded<unsigned char> frozen(frozen_bytes<T>(shape.channels), m.place);
  freeze<T>(execution, {shape.channels, c.eps, running_mean, running_var, w, b, epilogue.activation},
            frozen.data());
  require(frozen_channels<T>(frozen.data(), frozen.size()) == shape.channels, "as prepared",
          "the channels of a frozen layer");
  run_frozen<S>(execution, shape, frozen.data(), input(x.data(), r.frozen, inputs.x), epilogue.residual,
                r.frozen.data());

  const auto pass_of = [&](const S* dy_data, const double* mean, const double* variance,
                           Guarded<unsigned char>& bits) {
    return Backward<S>{shape, c.eps, dy_data, x.data(), mean, variance, w, b, epilogue, mask_of(bits)};
  };
  const bool needs_dresidual = gated && masked == 0;
  const bool wants_dresidual = needs_dresidual || (c.residual && c.input_gradient);
  const auto run_backward = [&](bool training, const double* mean, const double* variance,
                                Guarded<unsigned char>& bits, Guarded<S>& dx, Guarded<S>& dresidual,
                                Guarded<T>& dweight, Guarded<T>& dbias) {
    const S* const from = c.input_gradient ? input(dy.data(), dx, inputs.dy) : dy.data();
    backward<S>(
        execution, pass_of(from, mean, variance, bits), training,
        {c.input_gradient ? dx.data() : nullptr, c.parameter_gradients ? dweight.data() : nullptr,
         c.parameter_gradients ? dbias.data() : nullptr, wants_dresidual ? dresidual.data() : nullptr});
  };
  run_backward(true, r.mean.data(), r.variance.data(), mask, r.dx, r.dresidual, r.dweight, r.dbias);
  run_backward(false, running_mean, running_var, inferred_mask, r.inferred_dx, r.inferred_dresidual,
               r.inferred_dweight, r.inferred_dbias);
  if (c.input_gradient) {
    // By halves.
    Guarded<S> dx(shape.size(), m.place), dresidual(shape.size(), m.place);
    Guarded<double> sum_dy(shape.channels, m.place), sum_dy_xc(shape.channels, m.place);
    const GradientSums sums = {sum_dy.data(), sum_dy_xc.data()};
    S* const to_residual = wants_dresidual ? dresidual.data() : nullptr;
    const S* const from = input(dy.data(), dx, inputs.dy);
    const Backward<S> pass = pass_of(from, r.mean.data(), r.variance.data(), mask);
    grad_sums<S>(execution, pass, to_residual, sums);
    grad_input<S>(execution, pass, sums, static_cast<double>(shape.count()), dx.data(), to_residual);
    require(same(dx, r.dx), "the same to the bit by halves", "dx");
    require(!wants_dresidual || same(dresidual, r.dresidual), "the same to the bit by halves", "dresidual");
    Guarded<T> dweight(shape.channels, m.place), dbias(shape.channels, m.place);
    grad_parameters<T>(execution, shape.channels, c.eps, pass.mean, pass.variance, sums, dweight.data(),
                       dbias.data());
    // Of no values there are no statistics, but sums.
    require(!c.parameter_gradients || shape.size() == 0 || same(dweight, r.dweight),
            "the same to the bit by halves", "dweight");
    require(!c.parameter_gradients || shape.size() == 0 || same(dbias, r.dbias),
            "the same to the bit by halves", "dbias");
    require(dx.intact() && dresidual.intact() && sum_dy.intact() && sum_dy_xc.intact() && dweight.intact() &&
                dbias.intact(),
            "alone in what is written", "gradients by halves");
  }
  // Values of which not all count alike, in one of the ways there are; of every third case, for emulators are
  // slow.
  const size_t positions = shape.outer * shape.inner;
  Random ways(static_cast<uint32_t>(c.seed + 31 * shape.channels + 7 * shape.outer + shape.inner));
  if (ways.next() % 3 == 0) {
    const bool has_weights = ways.next() % 4 > 0;
    const bool missing = ways.next() % 2 > 0;
    const bool impute = missing && ways.next() % 2 > 0;
    const bool zero = has_weights && ways.next() % 2 > 0;
    Guarded<double> weights(positions, m.place);
    std::vector<double> weight_values(positions);
    for (double& value : weight_values) value = std::fmax(0, ways.uniform() + 0.5);
    weights.fill(weight_values);
    const Presence presence = {has_weights ? weights.data() : nullptr, missing, impute, zero};
    for (Guarded<double>* array : {&r.present_dbias, &r.dweights})
      std::fill_n(array->data(), array->size(), 0.0);
    moments_of_present<S>(
        execution, shape, x.data(), presence,
        {r.present_count.data(), r.present_squares.data(), r.present_mean.data(), r.present_variance.data()});
    Guarded<unsigned char> present_mask(masked, m.place);
    infer_present<S>(execution, forward(r.present_y, present_mask), presence, r.present_mean.data(),
                     r.present_variance.data());
    const S* const present_from =
        c.input_gradient ? input(dy.data(), r.present_dx, inputs.dy) : static_cast<const S*>(dy.data());
    const Backward<S> present_pass =
        pass_of(present_from, r.present_mean.data(), r.present_variance.data(), present_mask);
    const GradientSums present_sums = {r.present_dy.data(), r.present_dy_xc.data()};
    S* const present_residual = wants_dresidual ? r.present_dresidual.data() : nullptr;
    grad_sums_of_present<S>(execution, present_pass, presence, present_residual, present_sums,
                            r.present_dbias.data());
    if (has_weights)
      grad_weights<S>(execution, present_pass, presence, present_sums, r.present_count.data(),
                      r.dweights.data());
    if (c.input_gradient)
      grad_input_of_present<S>(execution, present_pass, presence, present_sums, r.present_count.data(),
                               r.present_dx.data(), present_residual);
    require(weights.intact() && weights.holds(weight_values), "left as they were", "weights");
    require(present_mask.intact(), "alone in what is written", "the mask of what counts");
  }
  Guarded<double> mean(shape.channels, m.place), variance(shape.channels, m.place);
  moments<S>(execution, shape, x.data(), mean.data(), variance.data());
  require(same(mean, r.mean) && same(variance, r.variance), "the same to the bit alone", "moments");
  require(mean.intact() && variance.intact(), "alone in what is written", "moments");

  const char* const overrun = r.find(r, [](const auto& array, const auto&) { return array.intact(); });
  require(overrun == nullptr, "alone in what is written", overrun);
  require(mask.intact() && inferred_mask.intact(), "alone in what is written", "mask");
  require(frozen.intact(), "alone in what is written", "the coefficients of a frozen layer");
  require(x.intact() && x.holds(inputs.x), "left as it was", "x");
  require(dy.intact() && dy.holds(inputs.dy), "left as it was", "dy");
  require(residual.intact() && residual.holds(inputs.residual), "left as it was", "residual");
  require(weight.intact() && weight.holds(inputs.weight), "left as it was", "weight");
  require(bias.intact() && bias.holds(inputs.bias), "left as it was", "bias");
  return results;
}

/// The simplest manner: `generic`, one thread, one block, nothing streamed.
inline Manner plainest() {
  return {{&plainest_table(), 1, size_t{1} << 19, ~size_t{0}}, 0, false};
}

/// What every manner must give: on the plainest; of Half, in float on what has been widened, rounded once.
template <typename S>
std::unique_ptr<Results<S>> expect(const Case& c, const Inputs<S>& inputs) {
  if constexpr (!std::is_same_v<S, batchnorm::Half>) {
    return run<S>(c, inputs, plainest());
  } else {
    const auto wide = run<float>(c, Inputs<float>(inputs, c.storage), plainest());
    auto results = std::make_unique<Results<S>>(c.shape, 0);
    results->rejected = wide->rejected;
    wide->for_each(*results, [&](const char*, const auto& from, auto& to) {
      if constexpr (std::is_same_v<decltype(to.data()), batchnorm::Half*>)
        plainest_table().conversions[c.storage].narrow(from.data(), from.size(), to.data());
      else if (from.size() > 0)
        std::memcpy(to.data(), from.data(), from.bytes());
    });
    return results;
  }
}

/// Aborts where the results of a manner differ from what they must be.
template <typename S>
void compare(const Case& c, const Manner& m, const Results<S>& actual, const Results<S>& expected) {
  const char* const different =
      actual.find(expected, [&](const auto& a, const auto& b) { return same(a, b, c.storage); });
  if (different) fail("the same to the bit as on generic with one thread", different, c, m, sizeof(S));
  if (actual.rejected != expected.rejected)
    fail("as many as on generic", "rejected channels", c, m, sizeof(S));
}

}  // namespace passes
