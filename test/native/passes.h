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

template <typename T>
std::vector<T> values(size_t size, Filling filling, uint32_t seed) {
  Random random(seed);
  if (filling == kConstant) return std::vector<T>(size, value_of<T>(kUniform, random));
  std::vector<T> result(size);
  for (T& value : result) value = value_of<T>(filling, random);
  return result;
}

template <typename T>
struct Inputs {
  explicit Inputs(const Case& c)
      : x(values<T>(c.shape.size(), c.filling, c.seed)),
        dy(values<T>(c.shape.size(), c.filling, c.seed + 1)),
        residual(values<T>(c.shape.size(), c.filling, c.seed + 2)),
        weight(values<T>(c.shape.channels, c.filling, c.seed + 3)),
        bias(values<T>(c.shape.channels, c.filling, c.seed + 4)) {}
  std::vector<T> x, dy, residual, weight, bias;
};

/// Whether two arrays have the same bits, those of a NaN excepted.
template <typename T>
bool same(const Guarded<T>& a, const Guarded<T>& b) {
  if (a.size() == 0 || std::memcmp(a.data(), b.data(), a.bytes()) == 0) return true;
  for (size_t i = 0; i < a.size(); i++)
    if (std::memcmp(a.data() + i, b.data() + i, sizeof(T)) != 0 &&
        !(std::isnan(a.data()[i]) && std::isnan(b.data()[i])))
      return false;
  return true;
}

template <typename T>
struct Results {
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
  Guarded<T> y, inferred, frozen;
  Guarded<T> dx, dresidual, inferred_dx, inferred_dresidual;
  Guarded<T> dweight, dbias, inferred_dweight, inferred_dbias;
  Guarded<double> mean, variance, running_mean, running_var;
  Guarded<T> present_y, present_dx, present_dresidual;
  Guarded<double> present_count, present_squares, present_mean, present_variance;
  Guarded<double> present_dy, present_dy_xc, present_dbias, dweights;
  size_t rejected = 0;

  /// Calls visit(name, this array, the other's) until it returns false.
  template <typename Visit>
  const char* find(const Results& other, Visit visit) const {
    const char* found = nullptr;
    const auto look = [&](const char* name, const auto& a, const auto& b) {
      if (!found && !visit(a, b)) found = name;
    };
    look("y", y, other.y);
    look("y in inference", inferred, other.inferred);
    look("y of frozen parameters", frozen, other.frozen);
    look("dx", dx, other.dx);
    look("dResidual", dresidual, other.dresidual);
    look("dx in inference", inferred_dx, other.inferred_dx);
    look("dResidual in inference", inferred_dresidual, other.inferred_dresidual);
    look("dWeight", dweight, other.dweight);
    look("dBias", dbias, other.dbias);
    look("dWeight in inference", inferred_dweight, other.inferred_dweight);
    look("dBias in inference", inferred_dbias, other.inferred_dbias);
    look("mean", mean, other.mean);
    look("variance", variance, other.variance);
    look("runningMean", running_mean, other.running_mean);
    look("runningVar", running_var, other.running_var);
    look("y of what counts", present_y, other.present_y);
    look("dx of what counts", present_dx, other.present_dx);
    look("dResidual of what counts", present_dresidual, other.present_dresidual);
    look("count", present_count, other.present_count);
    look("squares of weights", present_squares, other.present_squares);
    look("mean of what counts", present_mean, other.present_mean);
    look("variance of what counts", present_variance, other.present_variance);
    look("sums of what counts", present_dy, other.present_dy);
    look("sums with x of what counts", present_dy_xc, other.present_dy_xc);
    look("dBias of what counts", present_dbias, other.present_dbias);
    look("dWeights", dweights, other.dweights);
    return found;
  }
};

[[noreturn]] inline void fail(const char* what, const char* array, const Case& c, const Manner& m,
                              size_t bytes_of_value) {
  std::printf(
      "failed: %s must be %s\n"
      "float%zu, shape {%zu, %zu, %zu}, filling %d, seed %u, eps %g, weight %d, bias %d, relu %d, residual "
      "%d, "
      "mask %d, input_gradient %d, parameter_gradients %d\n"
      "on %s, %zu threads, cache_bytes %zu, stream_bytes %zu, place %zu, in_place %d\n",
      array, what, 8 * bytes_of_value, c.shape.outer, c.shape.channels, c.shape.inner, c.filling, c.seed,
      c.eps, c.weight, c.bias, c.relu, c.residual, c.mask, c.input_gradient, c.parameter_gradients,
      m.execution.kernels->name, m.execution.threads, m.execution.cache_bytes, m.execution.stream_bytes,
      m.place, m.in_place);
  std::fflush(stdout);
  std::abort();
}

/// All passes. Aborts where anything but the results was written.
template <typename T>
std::unique_ptr<Results<T>> run(const Case& c, const Inputs<T>& inputs, const Manner& m) {
  using namespace batchnorm;
  const Shape shape = c.shape;
  const Execution& execution = m.execution;
  const auto require = [&](bool condition, const char* what, const char* array) {
    if (!condition) fail(what, array, c, m, sizeof(T));
  };
  auto results = std::make_unique<Results<T>>(shape, m.place);
  Results<T>& r = *results;

  Guarded<T> x(shape.size(), m.place), dy(shape.size(), m.place), residual(shape.size(), m.place);
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
  const Epilogue<T> epilogue = {c.relu ? kRelu : kIdentity, c.residual ? residual.data() : nullptr};
  const auto mask_of = [&](Guarded<unsigned char>& bits) { return masked > 0 ? bits.data() : nullptr; };
  /// Where a pass reads what it will write to `to`.
  const auto input = [&](const T* from, Guarded<T>& to, const std::vector<T>& values) {
    if (!m.in_place) return from;
    to.fill(values);
    return static_cast<const T*>(to.data());
  };
  for (Guarded<T>* array : {&r.dx, &r.dresidual, &r.inferred_dx, &r.inferred_dresidual, &r.dweight, &r.dbias,
                            &r.inferred_dweight, &r.inferred_dbias})
    std::fill_n(array->data(), array->size(), T{0});

  const auto forward = [&](Guarded<T>& y, Guarded<unsigned char>& bits) {
    return Forward<T>{shape, c.eps, input(x.data(), y, inputs.x), y.data(), w, b, epilogue, mask_of(bits)};
  };
  forward_training<T>(execution, forward(r.y, mask), r.mean.data(), r.variance.data());
  std::fill_n(r.running_mean.data(), shape.channels, 0.25);
  std::fill_n(r.running_var.data(), shape.channels, 1.5);
  r.rejected = update_running_stats(*execution.kernels, shape.channels, r.mean.data(), r.variance.data(),
                                    static_cast<double>(shape.count()), 0.9, true, r.running_mean.data(),
                                    r.running_var.data(), nullptr);
  const double* const running_mean = r.running_mean.data();
  const double* const running_var = r.running_var.data();
  forward_inference<T>(execution, forward(r.inferred, inferred_mask), running_mean, running_var);
  Guarded<unsigned char> frozen(frozen_bytes<T>(shape.channels), m.place);
  freeze<T>(execution, {shape.channels, c.eps, running_mean, running_var, w, b, epilogue.activation},
            frozen.data());
  require(frozen_channels<T>(frozen.data(), frozen.size()) == shape.channels, "as prepared",
          "the channels of a frozen layer");
  run_frozen<T>(execution, shape, frozen.data(), input(x.data(), r.frozen, inputs.x), epilogue.residual,
                r.frozen.data());

  const auto pass_of = [&](const T* dy_data, const double* mean, const double* variance,
                           Guarded<unsigned char>& bits) {
    return Backward<T>{shape, c.eps, dy_data, x.data(), mean, variance, w, b, epilogue, mask_of(bits)};
  };
  const bool needs_dresidual = gated && masked == 0;
  const bool wants_dresidual = needs_dresidual || (c.residual && c.input_gradient);
  const auto run_backward = [&](bool training, const double* mean, const double* variance,
                                Guarded<unsigned char>& bits, Guarded<T>& dx, Guarded<T>& dresidual,
                                Guarded<T>& dweight, Guarded<T>& dbias) {
    const T* const from = c.input_gradient ? input(dy.data(), dx, inputs.dy) : dy.data();
    backward<T>(
        execution, pass_of(from, mean, variance, bits), training,
        {c.input_gradient ? dx.data() : nullptr, c.parameter_gradients ? dweight.data() : nullptr,
         c.parameter_gradients ? dbias.data() : nullptr, wants_dresidual ? dresidual.data() : nullptr});
  };
  run_backward(true, r.mean.data(), r.variance.data(), mask, r.dx, r.dresidual, r.dweight, r.dbias);
  run_backward(false, running_mean, running_var, inferred_mask, r.inferred_dx, r.inferred_dresidual,
               r.inferred_dweight, r.inferred_dbias);
  if (c.input_gradient) {
    // By halves.
    Guarded<T> dx(shape.size(), m.place), dresidual(shape.size(), m.place);
    Guarded<double> sum_dy(shape.channels, m.place), sum_dy_xc(shape.channels, m.place);
    const GradientSums sums = {sum_dy.data(), sum_dy_xc.data()};
    T* const to_residual = wants_dresidual ? dresidual.data() : nullptr;
    const T* const from = input(dy.data(), dx, inputs.dy);
    const Backward<T> pass = pass_of(from, r.mean.data(), r.variance.data(), mask);
    grad_sums<T>(execution, pass, to_residual, sums);
    grad_input<T>(execution, pass, sums, static_cast<double>(shape.count()), dx.data(), to_residual);
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
    for (Guarded<T>* array : {&r.present_dx, &r.present_dresidual})
      std::fill_n(array->data(), array->size(), T{0});
    moments_of_present<T>(
        execution, shape, x.data(), presence,
        {r.present_count.data(), r.present_squares.data(), r.present_mean.data(), r.present_variance.data()});
    Guarded<unsigned char> present_mask(masked, m.place);
    infer_present<T>(execution, forward(r.present_y, present_mask), presence, r.present_mean.data(),
                     r.present_variance.data());
    const T* const present_from =
        c.input_gradient ? input(dy.data(), r.present_dx, inputs.dy) : static_cast<const T*>(dy.data());
    const Backward<T> present_pass =
        pass_of(present_from, r.present_mean.data(), r.present_variance.data(), present_mask);
    const GradientSums present_sums = {r.present_dy.data(), r.present_dy_xc.data()};
    T* const present_residual = wants_dresidual ? r.present_dresidual.data() : nullptr;
    grad_sums_of_present<T>(execution, present_pass, presence, present_residual, present_sums,
                            r.present_dbias.data());
    if (has_weights)
      grad_weights<T>(execution, present_pass, presence, present_sums, r.present_count.data(),
                      r.dweights.data());
    if (c.input_gradient)
      grad_input_of_present<T>(execution, present_pass, presence, present_sums, r.present_count.data(),
                               r.present_dx.data(), present_residual);
    require(weights.intact() && weights.holds(weight_values), "left as they were", "weights");
    require(present_mask.intact(), "alone in what is written", "the mask of what counts");
  }
  Guarded<double> mean(shape.channels, m.place), variance(shape.channels, m.place);
  moments<T>(execution, shape, x.data(), mean.data(), variance.data());
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
  return {{batchnorm::kernel_tables().back(), 1, size_t{1} << 19, ~size_t{0}}, 0, false};
}

/// Aborts where the results of a manner differ from those of the plainest.
template <typename T>
void compare(const Case& c, const Manner& m, const Results<T>& actual, const Results<T>& expected) {
  const char* const different =
      actual.find(expected, [](const auto& a, const auto& b) { return same(a, b); });
  if (different) fail("the same to the bit as on generic with one thread", different, c, m, sizeof(T));
  if (actual.rejected != expected.rejected)
    fail("as many as on generic", "rejected channels", c, m, sizeof(T));
}

}  // namespace passes
