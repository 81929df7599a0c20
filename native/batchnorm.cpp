#include "batchnorm.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <new>

#include "frozen.h"
#include "traversal.h"

namespace batchnorm {
namespace {

template <typename S>
const auto& normalize_of(const Kernels<Compute<S>>& kernels, const Epilogue<S>& epilogue) {
  return kernels.normalize[epilogue.residual != nullptr][epilogue.activation];
}

/// What normalizes x with coefficients and an epilogue.
template <typename S>
auto normalizer(const Execution& execution, const Tiling<Compute<S>>& tiling, Stores stores, const S* x, S* y,
                const Normalization<const Compute<S>>& c, Epilogue<S> epilogue, unsigned char* mask) {
  return Writer(execution, Access<S>(execution),
                normalize_of(kernels_of<Compute<S>>(*execution.kernels), epilogue), tiling.layout(), stores,
                NormalizeWork<S>{{}, x, epilogue.residual, {mask, 0}, y, c.mean, c.scale, c.offset});
}

/// Writes a whole tensor, forwards.
template <typename S>
void write_all(const WritePlan& plan, const Tiling<Compute<S>>& tiling, const TileWriter& writer) {
  sweep<S>(plan.crew, tiling, writer, false);
}

/// What the sums and the results of a backward pass share: coefficients, and what the activation lets
/// through.
template <typename S>
class GradientPass {
  using T = Compute<S>;

 public:
  /// `count`: values per channel, of which mean and variance are.
  GradientPass(const Execution& execution, const Backward<S>& pass, S* dx, S* dresidual, double count)
      : execution_(execution),
        access_(execution),
        kernels_(kernels_of<T>(*execution.kernels)),
        pass_(pass),
        dx_(dx),
        dresidual_(dresidual),
        count_(count),
        mask_(const_cast<unsigned char*>(find_mask())),
        gate_(pass.epilogue.activation == kIdentity ? kOpen
              : mask_                               ? kMasked
                                                    : kRecomputed),
        partition_(pass.shape),
        written_(tiling_of_write(partition_)),
        plan_(plan_of<S>(execution, partition_, traffic())),
        slope_(take()),
        constant_(take()),
        // Only an activation asks for the offset of y.
        normalization_{take(), take(), gate_ == kRecomputed ? take() : constant_},
        summed_(normalization_) {
    const Range channels = {0, pass.shape.channels};
    SettleNormalization<T>{kernels_,      written_,    pass.eps,  pass.mean,
                           pass.variance, pass.weight, pass.bias, normalization_}(channels);
    if (written_.layout() == partition_.layout()) return;
    const auto spread_out = [&](const T* from) {
      T* const to = scratch_.template take<T>(padded_width(partition_));
      spread(kernels_, partition_, channels, from, to);
      return to;
    };
    summed_.mean = spread_out(normalization_.mean);
    if (gate_ != kRecomputed) return;
    summed_.scale = spread_out(normalization_.scale);
    summed_.offset = spread_out(normalization_.offset);
  }

  Gate gate() const { return gate_; }

  /// The gradient of the residual, for passes that do not write it beside dx.
  void write_residual() const { apply_mask(execution_, pass_.shape.size(), pass_.dy, mask_, dresidual_); }

  void sum(GradientSums sums) {
    sum_then(
        sums, [](Range) {}, nullptr);
  }

  /// The sums, the gradients of weight and bias (nullptr for none) that follow from them, and with `writes`
  /// dx.
  void sum_and_settle(T* dweight, T* dbias, bool writes) {
    const size_t channels = pass_.shape.channels;
    const GradientSums sums = {scratch_.template take<double>(channels),
                               scratch_.template take<double>(channels)};
    const auto writer = this->writer();
    sum_then(sums, settle(sums, dweight, dbias), writes ? &writer : nullptr);
  }

  /// dx of sums that are known.
  void write(GradientSums sums) {
    settle(sums, nullptr, nullptr)({0, pass_.shape.channels});
    write_all<S>(plan_of_write<S>(execution_, written_, pass_.dy == dx_), written_, writer());
  }

  /// dx where mean and variance are constants: dy * scale.
  void write_fixed() {
    const WritePlan plan = plan_of_write<S>(execution_, written_, pass_.dy == dx_);
    if (gate_ == kRecomputed)
      return write_all<S>(
          plan, written_,
          Writer(execution_, access_, kernels_.frozen_grad_input, written_.layout(), plan.stores, work()));
    // Nothing to subtract, nothing to add.
    std::fill_n(constant_, padded_width(written_), T{0});
    write_all<S>(plan, written_,
                 normalizer<S>(execution_, written_, plan.stores, gate_ == kMasked ? dresidual_ : pass_.dy,
                               dx_, {constant_, normalization_.scale, constant_}, {}, nullptr));
  }

 private:
  /// What the forward pass has filled, or would have, where a mask is needed.
  const unsigned char* find_mask() {
    if (pass_.epilogue.activation == kIdentity) return nullptr;
    if (pass_.mask || !pass_.epilogue.residual) return pass_.mask;
    own_mask_.reset(new unsigned char[mask_bytes(pass_.shape.size())]);
    forward_inference<S>(execution_,
                         {pass_.shape, pass_.eps, pass_.x, dresidual_, pass_.weight, pass_.bias,
                          pass_.epilogue, own_mask_.get()},
                         pass_.mean, pass_.variance);
    return own_mask_.get();
  }

  Traffic traffic() const {
    const bool has_beside = access_.kBeside && kernels_.grad_input[gate_].stream_beside != nullptr;
    return {2, dx_ != nullptr, pass_.dy == dx_, has_beside};
  }

  T* take() { return take_coefficients<S>(scratch_, written_, plan_.stores, dx_); }

  template <typename Then>
  void sum_then(GradientSums to, Then settle, const TileWriter* writer) {
    const GradSums<S> sums(scratch_, execution_, partition_, pass_.dy, pass_.x, gate_, mask_, summed_, to);
    const auto merge_and_settle = [&](Range channels, const Partials<T>& partials) {
      sums.merge(channels, partials);
      settle(channels);
    };
    sum_settle_write<S>(scratch_, kernels_, plan_, partition_, sums, merge_and_settle, written_, writer);
  }

  SettleGradients<T> settle(GradientSums sums, T* dweight, T* dbias) const {
    return {kernels_, written_, pass_.eps, count_,  pass_.mean, pass_.variance, normalization_.mean,
            sums,     slope_,   constant_, dweight, dbias};
  }

  GradInputWork<S> work() const {
    const Normalization<T>& c = normalization_;
    return {{}, pass_.dy, pass_.x, {mask_, 0}, dx_, dresidual_, c.mean, slope_, constant_, c.scale, c.offset};
  }

  auto writer() const {
    return Writer(execution_, access_, kernels_.grad_input[access_.gate_of(gate_)], written_.layout(),
                  plan_.stores, work());
  }

  const Execution& execution_;
  const Access<S> access_;
  const Kernels<T>& kernels_;
  const Backward<S>& pass_;
  S* const dx_;
  S* const dresidual_;
  const double count_;
  std::unique_ptr<unsigned char[]> own_mask_;
  unsigned char* const mask_;
  const Gate gate_;
  const Partition<T> partition_;
  const Tiling<T> written_;
  const Plan plan_;
  // Behind find_mask(), which is a pass of its own: calls do not nest.
  Scratch scratch_;
  T* const slope_;
  T* const constant_;
  const Normalization<T> normalization_;
  /// The same as the sums read it.
  Normalization<T> summed_;
};

}  // namespace

namespace {

/// Those of no values.
void clear_statistics(size_t channels, double* mean, double* variance) {
  std::fill_n(mean, channels, std::numeric_limits<double>::quiet_NaN());
  std::fill_n(variance, channels, std::numeric_limits<double>::quiet_NaN());
}

}  // namespace

template <typename S>
void forward_training(const Execution& execution, const Forward<S>& pass, double* mean, double* variance) {
  using T = Compute<S>;
  const Shape& shape = pass.shape;
  if (shape.size() == 0) return clear_statistics(shape.channels, mean, variance);
  Scratch scratch;
  const Kernels<T>& kernels = kernels_of<T>(*execution.kernels);
  const Partition<T> partition(shape);
  const bool has_beside = Access<S>::kBeside && normalize_of(kernels, pass.epilogue).stream_beside != nullptr;
  const Plan plan = plan_of<S>(execution, partition, {1, true, pass.x == pass.y, has_beside});
  const MomentSums<S> sums(scratch, execution, partition, pass.x);
  const Tiling<T> written = tiling_of_write(partition);
  const auto take = [&] { return take_coefficients(scratch, written, plan.stores, pass.y); };
  const Normalization<T> coefficients = {take(), take(), take()};
  const SettleNormalization<T> settle = {kernels,  written,     pass.eps,  mean,
                                         variance, pass.weight, pass.bias, coefficients};
  const auto merge_and_settle = [&](Range channels, const Partials<T>& partials) {
    sums.merge(channels, partials, mean, variance);
    settle(channels);
  };
  const auto writer =
      normalizer<S>(execution, written, plan.stores, pass.x, pass.y, coefficients, pass.epilogue, pass.mask);
  clear_mask(pass.mask, pass.y, shape.size());
  sum_settle_write<S>(scratch, kernels, plan, partition, sums, merge_and_settle, written, &writer);
}

template <typename S>
void moments(const Execution& execution, Shape shape, const S* x, double* mean, double* variance) {
  using T = Compute<S>;
  if (shape.size() == 0) return clear_statistics(shape.channels, mean, variance);
  Scratch scratch;
  const Partition<T> partition(shape);
  const Plan plan = plan_of<S>(execution, partition, {1, false, false, false});
  const MomentSums<S> sums(scratch, execution, partition, x);
  const auto merge = [&](Range channels, const Partials<T>& partials) {
    sums.merge(channels, partials, mean, variance);
  };
  sum_settle_write<S>(scratch, kernels_of<T>(*execution.kernels), plan, partition, sums, merge, partition,
                      nullptr);
}

template <typename S>
void forward_inference(const Execution& execution, const Forward<S>& pass, const double* mean,
                       const double* variance) {
  using T = Compute<S>;
  const Shape& shape = pass.shape;
  if (shape.size() == 0) return;
  Scratch scratch;
  const Tiling<T> tiling(shape);
  const WritePlan plan = plan_of_write<S>(execution, tiling, pass.x == pass.y);
  const auto take = [&] { return take_coefficients(scratch, tiling, plan.stores, pass.y); };
  const Normalization<T> coefficients = {take(), take(), take()};
  SettleNormalization<T>{kernels_of<T>(*execution.kernels),
                         tiling,
                         pass.eps,
                         mean,
                         variance,
                         pass.weight,
                         pass.bias,
                         coefficients}({0, shape.channels});
  clear_mask(pass.mask, pass.y, shape.size());
  write_all<S>(
      plan, tiling,
      normalizer<S>(execution, tiling, plan.stores, pass.x, pass.y, coefficients, pass.epilogue, pass.mask));
}

template <typename S>
void backward(const Execution& execution, const Backward<S>& pass, bool training, Gradients<S> gradients) {
  if (pass.shape.size() == 0) {
    if (gradients.weight) std::fill_n(gradients.weight, pass.shape.channels, Compute<S>{0});
    if (gradients.bias) std::fill_n(gradients.bias, pass.shape.channels, Compute<S>{0});
    return;
  }
  const double count = static_cast<double>(pass.shape.count());
  GradientPass<S> parts(execution, pass, gradients.input, gradients.residual, count);
  // Where dx follows from sums, the pass that writes it writes what a mask has let through as well.
  if (gradients.residual && (parts.gate() != kMasked || !training)) parts.write_residual();
  const bool writes = training && gradients.input;
  if (writes || gradients.weight || gradients.bias)
    parts.sum_and_settle(gradients.weight, gradients.bias, writes);
  if (!training && gradients.input) parts.write_fixed();
}

template <typename S>
void grad_sums(const Execution& execution, const Backward<S>& pass, S* residual, GradientSums sums) {
  if (pass.shape.size() == 0) {
    std::fill_n(sums.dy, pass.shape.channels, 0.0);
    std::fill_n(sums.dy_xc, pass.shape.channels, 0.0);
    return;
  }
  GradientPass<S>(execution, pass, nullptr, residual, 1).sum(sums);
}

template <typename S>
void grad_input(const Execution& execution, const Backward<S>& pass, GradientSums sums, double count, S* dx,
                S* residual) {
  if (pass.shape.size() == 0) return;
  GradientPass<S> parts(execution, pass, dx, residual, count);
  if (residual && parts.gate() != kMasked) parts.write_residual();
  parts.write(sums);
}

template <typename T>
void grad_parameters(const Execution& execution, size_t channels, double eps, const double* mean,
                     const double* variance, GradientSums sums, T* dweight, T* dbias) {
  Scratch scratch;
  const auto take = [&] { return scratch.template take<T>(channels); };
  const Kernels<T>& kernels = kernels_of<T>(*execution.kernels);
  const Normalization<T> c = {take(), take(), take()};
  kernels.normalization({channels, eps, mean, variance, nullptr, nullptr, c.mean, c.scale, c.offset});
  // Only slope and constant, which are not wanted here, depend on how many values there are.
  kernels.gradients(
      {channels, eps, 1, mean, variance, c.mean, sums.dy, sums.dy_xc, c.scale, c.offset, dweight, dbias});
}

size_t update_running_stats(const KernelTable& kernels, size_t channels, const double* mean,
                            const double* variance, double count, double decay, bool unbiased,
                            double* running_mean, double* running_var, double* accepted) {
  const bool variance_exists = !unbiased || count > 1;
  const double correction = unbiased && variance_exists ? count / (count - 1) : 1;
  return kernels.average(channels, decay, correction, mean, variance, running_mean,
                         variance_exists ? running_var : nullptr, accepted);
}

template <typename T>
size_t frozen_bytes(size_t channels) {
  return Frozen::of<T>(channels, kIdentity).bytes();
}

template <typename T>
size_t frozen_channels(const unsigned char* memory, size_t bytes) {
  if (bytes < sizeof(Frozen) + kAlignment) return 0;
  const Frozen& frozen = frozen_at(memory);
  // The memory of a tensor bounds what can be right, so that nothing overflows.
  if (frozen.channels == 0 || frozen.channels > bytes) return 0;
  const Frozen right = Frozen::of<T>(frozen.channels, kIdentity);
  const bool is_right =
      frozen.fold == right.fold && frozen.array_bytes == right.array_bytes && bytes == right.bytes();
  return is_right ? frozen.channels : 0;
}

template <typename T>
void freeze(const Execution& execution, const Fixed<T>& fixed, unsigned char* memory) {
  const size_t channels = fixed.channels;
  const auto* const frozen = new (align(memory)) Frozen(Frozen::of<T>(channels, fixed.activation));
  const Normalization<T> coefficients = frozen->coefficients<T>();
  std::fill_n(coefficients.mean, 3 * frozen->array_bytes / sizeof(T), T{0});
  // Of whole rows: what is read of the arrays depends on how many samples come.
  const Tiling<T> tiling(Shape{frozen->fold, channels, 1}, kChannelsLast, frozen->fold);
  SettleNormalization<T>{kernels_of<T>(*execution.kernels),
                         tiling,
                         fixed.eps,
                         fixed.mean,
                         fixed.variance,
                         fixed.weight,
                         fixed.bias,
                         coefficients}({0, channels});
}

namespace {

/// run_frozen of whatever there may be.
template <typename S>
void run_frozen_in_blocks(const Execution& execution, Shape shape, const unsigned char* memory, const S* x,
                          const S* residual, S* y) {
  using T = Compute<S>;
  const Frozen& frozen = frozen_at(memory);
  const Normalization<const T> coefficients = frozen.coefficients<const T>();
  const Tiling<T> tiling = shape.inner == 1 ? Tiling<T>(shape, kChannelsLast, frozen.fold) : Tiling<T>(shape);
  const WritePlan plan = plan_of_write<S>(execution, tiling, x == y);
  const auto infer = [&](const Normalization<const T>& c) {
    write_all<S>(
        plan, tiling,
        normalizer<S>(execution, tiling, plan.stores, x, y, c, {frozen.activation, residual}, nullptr));
  };
  const bool has_columns = tiling.columns_of_channel() > 1;
  const bool lies_right = plan.stores == kCached && shift_of_coefficients(tiling, plan.stores, y) == 0;
  if (lies_right && !has_columns) return infer(coefficients);
  Scratch scratch;
  const auto copy = [&](const T* array) {
    T* copied = take_coefficients(scratch, tiling, plan.stores, y);
    if (has_columns)
      spread(kernels_of<T>(*execution.kernels), tiling, {0, shape.channels}, array, copied);
    else
      std::copy_n(array, padded_width(tiling), copied);
    return static_cast<const T*>(copied);
  };
  infer({copy(coefficients.mean), copy(coefficients.scale), copy(coefficients.offset)});
}

}  // namespace

template <typename S>
void run_frozen(const Execution& execution, Shape shape, const unsigned char* memory, const S* x,
                const S* residual, S* y) {
  using T = Compute<S>;
  const size_t size = shape.size();
  if (size == 0) return;
  const Frozen& frozen = frozen_at(memory);
  const size_t width = shape.channels * frozen.fold;
  const size_t rows = shape.outer < frozen.fold ? 0 : shape.outer / frozen.fold;
  const size_t bytes = size * sizeof(S);
  const bool near = bytes <= kNearBytes && bytes < execution.stream_bytes;
  if (!near || shape.inner > 1 || goes_by_lines<T>(rows, width))
    return run_frozen_in_blocks<S>(execution, shape, memory, x, residual, y);
  // Of rows in the nearest cache nothing is to be decided. What kernels read is put together where they read
  // it, number by number: a copy waits for what has just been written in other pieces.
  const Normalization<const T> c = frozen.coefficients<const T>();
  const Access<S> access(execution);
  const auto& pass = normalize_of<S>(kernels_of<T>(*execution.kernels), {frozen.activation, residual});
  const auto write = [&](size_t rows, size_t columns, size_t at) {
    access.write(pass, kChannelsLast, kCached,
                 NormalizeWork<S>{{rows, columns, width, straight_ahead(0)},
                                  x + at,
                                  residual ? residual + at : nullptr,
                                  {nullptr, 0},
                                  y + at,
                                  c.mean,
                                  c.scale,
                                  c.offset});
  };
  const size_t whole = rows * width;
  if (rows > 0) write(rows, width, 0);
  if (whole < size) write(1, size - whole, whole);
}

#define BATCHNORM_INSTANTIATE(S)                                                                         \
  template void forward_training<S>(const Execution&, const Forward<S>&, double*, double*);              \
  template void moments<S>(const Execution&, Shape, const S*, double*, double*);                         \
  template void forward_inference<S>(const Execution&, const Forward<S>&, const double*, const double*); \
  template void backward<S>(const Execution&, const Backward<S>&, bool, Gradients<S>);                   \
  template void grad_sums<S>(const Execution&, const Backward<S>&, S*, GradientSums);                    \
  template void grad_input<S>(const Execution&, const Backward<S>&, GradientSums, double, S*, S*);       \
  template void run_frozen<S>(const Execution&, Shape, const unsigned char*, const S*, const S*, S*);
BATCHNORM_INSTANTIATE(float)
BATCHNORM_INSTANTIATE(double)
BATCHNORM_INSTANTIATE(Half)

#define BATCHNORM_INSTANTIATE_COMPUTED(T)                                                          \
  template void grad_parameters<T>(const Execution&, size_t, double, const double*, const double*, \
                                   GradientSums, T*, T*);                                          \
  template size_t frozen_bytes<T>(size_t);                                                         \
  template void freeze<T>(const Execution&, const Fixed<T>&, unsigned char*);                      \
  template size_t frozen_channels<T>(const unsigned char*, size_t);
BATCHNORM_INSTANTIATE_COMPUTED(float)
BATCHNORM_INSTANTIATE_COMPUTED(double)

}  // namespace batchnorm
