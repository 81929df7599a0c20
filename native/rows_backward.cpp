// Rows backward: see rows_forward.cpp.
//
// Changes bits: the order in which the sums of channels become those of rows, and those of rows those of
// parameters.
#include <cmath>
#include <limits>
#include <memory>

#include "row_views.h"

namespace batchnorm {
namespace {

/// Coefficients of a backward pass, one for each channel that is seen.
template <typename T>
struct RowCoefficients {
  /// Of y, which an activation asks for; without one y is above zero everywhere.
  Normalization<T> y;
  T* weight;
  T* slope;
  T* constant;
  T* scale;
};

/// Writes dx. The weight stands inside the sums of a row, and may be 0, so that it is no part of the scale.
template <typename S>
class WeightedWriter final : public TileWriter {
  using T = Compute<S>;

 public:
  WeightedWriter(const Execution& execution, Layout layout, Stores stores, const RowBackward<S>& pass, S* dx,
                 const RowCoefficients<T>& coefficients)
      : kernels_(kernels_of<T>(*execution.kernels)),
        fence_(execution.kernels->fence),
        values_(execution),
        layout_(layout),
        stores_(stores),
        pass_(pass),
        dx_(dx),
        c_(coefficients) {}

  void write(const Tile& tile, size_t at, size_t channel) const override {
    const bool has_gaps = tile.columns != tile.stride;
    if constexpr (Values<S>::kPlain) {
      if (!has_gaps || layout_ == kChannelsLast) return write_part(tile, at, channel);
      for (size_t row = 0; row < tile.rows; row++)
        write_part({1, tile.columns, tile.columns, tile.ahead}, at + row * tile.stride, channel + row);
    } else {
      // Pieces have no gaps: several whole rows, or a part of one.
      const bool whole = !has_gaps && tile.columns <= kPiece;
      const size_t rows = whole ? kPiece / tile.columns : 1;
      const size_t columns = std::min(kPiece, tile.columns);
      for (size_t row = 0; row < tile.rows; row += rows)
        for (size_t column = 0; column < tile.columns; column += columns) {
          const size_t length = std::min(columns, tile.columns - column);
          write_part({std::min(rows, tile.rows - row), length, length, straight_ahead(0)},
                     at + row * tile.stride + column, channel + (layout_ == kChannelsFirst ? row : column));
        }
    }
  }
  void finish() const override {
    if (stores_ == kStreamed) fence_();
  }

 private:
  void write_part(const Tile& tile, size_t at, size_t channel) const {
    std::conditional_t<Values<S>::kPlain, T*, Room<T>> of_dy, of_x;
    T *dy_room = nullptr, *x_room = nullptr;
    if constexpr (!Values<S>::kPlain) {
      dy_room = of_dy.values;
      x_room = of_x.values;
    }
    const size_t count = tile.rows * tile.columns;
    const T* const dy = values_.read(pass_.dy + at, count, dy_room);
    const T* const x = values_.read(pass_.x + at, count, x_room);
    T* const dx = values_.target(dx_ + at, dy_room);
    kernels_.weighted_grad_input[values_.stores_of(stores_)][layout_](
        {tile, dy, x, dx, c_.y.mean + channel, c_.slope + channel, c_.constant + channel, c_.scale + channel,
         c_.weight + channel, c_.y.scale + channel, c_.y.offset + channel});
    values_.wrote(stores_, dx, count, dx_ + at);
  }

  const Kernels<T>& kernels_;
  void (*fence_)();
  const Values<S> values_;
  const Layout layout_;
  const Stores stores_;
  const RowBackward<S>& pass_;
  S* const dx_;
  const RowCoefficients<T> c_;
};

template <typename T>
constexpr double kLargest = static_cast<double>(std::numeric_limits<T>::max());

/// What T holds of 1 / deviation, as in y.
template <typename T>
double inverse_of(double variance, double eps) {
  const double inverse = 1 / std::sqrt(variance + eps);
  return inverse > kLargest<T> ? kLargest<T> : inverse;
}

/// What T holds of a coefficient.
template <typename T>
T held(double coefficient) {
  constexpr double most = kLargest<T>;
  return static_cast<T>(coefficient > most ? most : coefficient < -most ? -most : coefficient);
}

/// Turns the sums of the channels of rows into the coefficients of dx, which begin at channel `first`; of
/// each of them `dy` is the sum of dy, and `dy_xc` that of dy * (x - what T holds of the mean).
template <typename S>
void settle_rows(const RowBackward<S>& pass, Range rows, GradientSums sums, size_t first,
                 const RowCoefficients<Compute<S>>& to) {
  using T = Compute<S>;
  const RowShape& shape = pass.shape;
  const double count = static_cast<double>(shape.count());
  for (size_t row = rows.begin; row < rows.end; row++) {
    const size_t begin = row * shape.channels - first;
    const double low = pass.mean[row] - static_cast<double>(to.y.mean[begin]);
    const double inverse = inverse_of<T>(pass.variance[row], pass.eps);
    double gradient = 0, product = 0;
    for (size_t i = 0; i < shape.channels; i++) {
      const size_t parameter = row % shape.groups * shape.channels + i;
      const double weight = pass.weight ? static_cast<double>(pass.weight[parameter]) : 1;
      gradient += weight * sums.dy[begin + i];
      product += weight * (sums.dy_xc[begin + i] - low * sums.dy[begin + i]);
    }
    const double mean_gradient = pass.centred ? gradient / count : 0;
    const double slope = inverse * (inverse * product / count);
    std::fill_n(to.slope + begin, shape.channels, held<T>(slope));
    std::fill_n(to.constant + begin, shape.channels, held<T>(mean_gradient - low * slope));
    std::fill_n(to.scale + begin, shape.channels, static_cast<T>(inverse));
    for (size_t i = 0; i < shape.channels; i++)
      to.weight[begin + i] = pass.weight ? pass.weight[row % shape.groups * shape.channels + i] : T{1};
  }
}

/// Sums of the gradients of parameters, in the order of the rows.
class ParameterSums {
 public:
  explicit ParameterSums(size_t parameters) : weight_(parameters), bias_(parameters) {}

  /// What the channels of a sample have, whose sums refer to `high`.
  template <typename S>
  void add(const RowBackward<S>& pass, size_t sample, GradientSums sums, const Compute<S>* high) {
    const RowShape& shape = pass.shape;
    for (size_t parameter = 0; parameter < shape.parameters(); parameter++) {
      const size_t row = sample * shape.groups + parameter / shape.channels;
      const double low = pass.mean[row] - static_cast<double>(high[parameter]);
      weight_[parameter] += (sums.dy_xc[parameter] - low * sums.dy[parameter]) *
                            inverse_of<Compute<S>>(pass.variance[row], pass.eps);
      bias_[parameter] += sums.dy[parameter];
    }
  }
  void add(size_t parameter, double weight, double bias) {
    weight_[parameter] += weight;
    bias_[parameter] += bias;
  }
  /// Sums of columns, of which each parameter has `columns`.
  void add(const double* dy, const double* product, size_t columns) {
    for (size_t parameter = 0; parameter < weight_.size(); parameter++)
      for (size_t i = 0; i < columns; i++) add(parameter, *product++, *dy++);
  }
  template <typename T>
  void write(T* dweight, T* dbias) const {
    for (size_t i = 0; i < weight_.size(); i++) {
      if (dweight) dweight[i] = static_cast<T>(weight_[i]);
      if (dbias) dbias[i] = static_cast<T>(bias_[i]);
    }
  }

 private:
  std::vector<double> weight_, bias_;
};

/// The coefficients of y of the channels of one sample, as a gate takes them.
template <typename S>
void normalization_of_sample(const Kernels<Compute<S>>& kernels, const RowBackward<S>& pass, size_t sample,
                             double* mean, double* variance, const Normalization<Compute<S>>& to) {
  using T = Compute<S>;
  const RowShape& shape = pass.shape;
  const Range rows = {sample * shape.groups, (sample + 1) * shape.groups};
  spread_rows(rows, shape.channels, pass.mean, mean);
  spread_rows(rows, shape.channels, pass.variance, variance);
  kernels.normalization(
      {shape.parameters(), pass.eps, mean, variance, pass.weight, pass.bias, to.mean, to.scale, to.offset});
  if (pass.epilogue.activation != kIdentity) return;
  std::fill_n(to.scale, shape.parameters(), T{0});
  std::fill_n(to.offset, shape.parameters(), std::numeric_limits<T>::infinity());
}

/// Contiguous rows of planes: the planes are summed, and settled a row at a time.
template <typename S>
void backward_planes(const Execution& execution, const RowBackward<S>& pass, const Gradients<S>& gradients) {
  using T = Compute<S>;
  const RowShape& shape = pass.shape;
  const Kernels<T>& kernels = kernels_of<T>(*execution.kernels);
  ParameterSums parameters(shape.parameters());
  Scratch scratch;
  const Partition<T> partition(Tiling<T>(planes_of(shape), kChannelsFirst));
  Plan plan =
      plan_of<S>(execution, partition, {2, gradients.input != nullptr, pass.dy == gradients.input, false});
  plan.group = std::max(shape.channels, plan.group - plan.group % shape.channels);
  plan.settled = round_up(plan.settled, shape.channels);
  // There is one sample: no other comes before it.
  plan.crowded = false;
  const size_t planes = shape.samples * shape.parameters();
  const auto take = [&] { return scratch.template take<T>(planes); };
  const RowCoefficients<T> c = {{take(), take(), take()}, take(), take(), take(), take()};
  double* const means = scratch.template take<double>(shape.parameters());
  double* const variances = scratch.template take<double>(shape.parameters());
  for (size_t sample = 0; sample < shape.samples; sample++)
    normalization_of_sample(kernels, pass, sample, means, variances, c.y.from(sample * shape.parameters()));
  const GradientSums to = {scratch.template take<double>(planes), scratch.template take<double>(planes)};
  const Gate gate = pass.epilogue.activation == kIdentity ? kOpen : kRecomputed;
  const GradSums<S> sums(scratch, execution, partition, pass.dy, pass.x, gate, nullptr, c.y, to);
  const auto settle = [&](Range channels, const Partials<T>& partials) {
    sums.merge(channels, partials);
    if (!gradients.input) return;
    settle_rows(pass, {channels.begin / shape.channels, channels.end / shape.channels}, to, 0, c);
  };
  const WeightedWriter<S> writer(execution, kChannelsFirst, plan.stores, pass, gradients.input, c);
  sum_settle_write<S>(scratch, kernels, plan, partition, sums, settle, partition,
                      gradients.input ? &writer : nullptr);
  for (size_t sample = 0; sample < shape.samples; sample++) {
    const size_t at = sample * shape.parameters();
    parameters.add(pass, sample, {to.dy + at, to.dy_xc + at}, c.y.mean + at);
  }
  parameters.write(gradients.weight, gradients.bias);
}

/// Lays the coefficients of channels out as a tiling has them.
template <typename T>
T* laid_out(const Kernels<T>& kernels, const Tiling<T>& tiling, const T* from, T* to) {
  const Range channels = {0, tiling.shape().channels};
  if (tiling.columns_of_channel() > 1) {
    spread(kernels, tiling, channels, from, to);
  } else {
    std::copy_n(from, channels.end, to);
    repeat(tiling, channels, to);
  }
  return to;
}

/// Rows with gaps, sample by sample.
template <typename S>
void backward_samples(const Execution& execution, const RowBackward<S>& pass, const Gradients<S>& gradients) {
  using T = Compute<S>;
  const RowShape& shape = pass.shape;
  const size_t parameters = shape.parameters();
  const Kernels<T>& kernels = kernels_of<T>(*execution.kernels);
  ParameterSums of_parameters(parameters);
  std::vector<double> means(parameters), variances(parameters), dy_sums(parameters), dy_xc(parameters);
  std::vector<T> arrays(7 * parameters);
  const auto array = [&](size_t index) { return arrays.data() + index * parameters; };
  const RowCoefficients<T> of_channels = {
      {array(0), array(1), array(2)}, array(3), array(4), array(5), array(6)};
  const GradientSums sums = {dy_sums.data(), dy_xc.data()};
  const Tiling<T> tiling(sample_of(shape));
  const Execution of_sample = for_a_part(execution, shape.size() * sizeof(S));
  const WritePlan plan = plan_of_write<S>(of_sample, tiling, pass.dy == gradients.input);
  for (size_t sample = 0; sample < shape.samples; sample++) {
    const size_t at = sample * shape.of_sample();
    normalization_of_sample(kernels, pass, sample, means.data(), variances.data(), of_channels.y);
    RowBackward<S> part = pass;
    part.dy += at;
    part.x += at;
    grad_sums<S>(execution,
                 {sample_of(shape),
                  pass.eps,
                  part.dy,
                  part.x,
                  means.data(),
                  variances.data(),
                  pass.weight,
                  pass.bias,
                  {pass.epilogue.activation, nullptr},
                  nullptr},
                 nullptr, sums);
    of_parameters.add(pass, sample, sums, of_channels.y.mean);
    if (!gradients.input) continue;
    const Range rows = {sample * shape.groups, (sample + 1) * shape.groups};
    settle_rows(pass, rows, sums, sample * parameters, of_channels);
    // What comes later needs no more memory than this.
    if (sample == 0) Scratch::keep(7 * (padded_width(tiling) + kLanes<T>)*sizeof(T) + 14 * kAlignment);
    Scratch scratch;
    const auto lay_out = [&](const T* from) {
      return laid_out(kernels, tiling, from,
                      take_coefficients(scratch, tiling, plan.stores, gradients.input + at));
    };
    const RowCoefficients<T>& c = of_channels;
    const RowCoefficients<T> laid = {{lay_out(c.y.mean), lay_out(c.y.scale), lay_out(c.y.offset)},
                                     lay_out(c.weight),
                                     lay_out(c.slope),
                                     lay_out(c.constant),
                                     lay_out(c.scale)};
    const WeightedWriter<S> writer(execution, tiling.layout(), plan.stores, part, gradients.input + at, laid);
    sweep<S>(plan.crew, tiling, writer, true);
  }
  of_parameters.write(gradients.weight, gradients.bias);
}

/// Rows whose columns have weights: a few samples at a time are summed and written, in the nearest cache.
template <typename S>
class ColumnGradients {
  using T = Compute<S>;

 public:
  ColumnGradients(const Execution& execution, const RowBackward<S>& pass, const Gradients<S>& gradients)
      : execution_(execution),
        kernels_(kernels_of<T>(*execution.kernels)),
        values_(execution),
        pass_(pass),
        gradients_(gradients),
        shape_(pass.shape),
        gated_(pass.epilogue.activation != kIdentity),
        columns_(scratch_, pass.shape, pass.weight, pass.bias, false, values_of_lines<S>(gradients.input)),
        chunk_(round_up(std::clamp<size_t>(kChunkValues / columns_.values(), 32, 128), kStretchOfSamples)),
        tasks_(divide_up(shape_.samples, chunk_)),
        some_(std::min(some_rows(columns_.values(), 4), shape_.samples)),
        crew_(execution, 2 * shape_.size() * sizeof(S)),
        stores_(shape_.size() * sizeof(S) >= execution.stream_bytes && pass.dy != gradients.input &&
                        shape_.count() >= kLanes<T>
                    ? kStreamed
                    : kCached),
        distance_(ahead_bytes(shape_.size() * sizeof(S), kSumsAheadBytes) / sizeof(S)) {
    const size_t rows = shape_.rows();
    const auto take = [&](size_t count) { return scratch_.template take<T>(count); };
    const size_t width = rows + kLanes<T>;
    rows_ = {take(width), take(width), take(width)};
    kernels_.normalization(
        {rows, pass.eps, pass.mean, pass.variance, nullptr, nullptr, rows_.mean, rows_.scale, rows_.offset});
    const size_t padded = columns_.values() + kLanes<T>;
    partials_ = scratch_.template take<double>(tasks_ * 2 * padded);
    workers_ = scratch_.template take<Worker>(crew_.threads);
    const size_t values = some_ * columns_.values() + 2 * kLanes<T>;
    for (size_t i = 0; i < crew_.threads; i++) {
      Worker& worker = workers_[i];
      for (T** array : {&worker.x, &worker.dy}) *array = !values_.kPlain || gated_ ? take(values) : nullptr;
      for (T** array : {&worker.slope, &worker.constant}) *array = take(some_ * shape_.groups);
      for (double** array : {&worker.dy_sum, &worker.product_sum})
        *array = scratch_.template take<double>(some_ * shape_.groups);
      for (T** array : {&worker.column_dy, &worker.column_product}) {
        *array = take(padded);
        std::fill_n(*array, padded, T{0});
      }
    }
  }

  void compute() {
    ParameterSums parameters(shape_.parameters());
    const size_t padded = columns_.values() + kLanes<T>;
    work(crew_, tasks_, [&](size_t task, size_t worker) {
      double* const totals = partials_ + task * 2 * padded;
      std::fill_n(totals, 2 * padded, 0.0);
      add(part(shape_.samples, chunk_, task), workers_[worker], totals, totals + padded);
      if (stores_ == kStreamed) execution_.kernels->fence();
    });
    if (!gradients_.weight && !gradients_.bias) return;
    for (size_t task = 0; task < tasks_; task++) {
      const double* const dy = partials_ + task * 2 * padded;
      parameters.add(dy, dy + padded, shape_.inner);
    }
    parameters.write(gradients_.weight, gradients_.bias);
  }

 private:
  /// Values of a chunk, whose sums of columns are made by one thread.
  static constexpr size_t kChunkValues = size_t{1} << 18;
  /// Samples whose sums of columns are made in T.
  static constexpr size_t kStretchOfSamples = kStretch * 8;

  struct Worker {
    /// What is widened, or let through.
    T *x, *dy;
    T *column_dy, *column_product, *slope, *constant;
    double *dy_sum, *product_sum;
  };

  void add(Range samples, const Worker& worker, double* dy_total, double* product_total) {
    for (Range stretch = samples; stretch.begin < samples.end; stretch.begin = stretch.end) {
      stretch.end = std::min(samples.end, stretch.begin + kStretchOfSamples);
      for (Range some = stretch; some.begin < stretch.end; some.begin = some.end) {
        some.end = std::min(stretch.end, some.begin + some_);
        add_some(some, worker);
      }
      kernels_.end_columns(columns_.values(), worker.column_dy, dy_total);
      kernels_.end_columns(columns_.values(), worker.column_product, product_total);
    }
  }

  void add_some(Range samples, const Worker& worker) {
    const size_t at = samples.begin * columns_.values();
    const size_t count = samples.end * columns_.values() - at;
    const size_t rows = (samples.end - samples.begin) * shape_.groups;
    const size_t length = shape_.count();
    const double share = 1 / static_cast<double>(length);
    const T* const x = values_.read(pass_.x + at, count, worker.x);
    const T* dy = values_.read(pass_.dy + at, count, worker.dy);
    const Normalization<T> r = rows_.from(samples.begin * shape_.groups);
    // Calls visit(rows, first row, first value, coefficients of columns): rows of a group share their
    // columns; with one group all do.
    const auto for_each_group = [&](auto visit) {
      const size_t together = shape_.groups == 1 ? rows : 1;
      for (size_t row = 0; row < rows; row += together)
        visit(together, row, row * length, row % shape_.groups * length);
    };
    if (gated_) {
      for_each_group([&](size_t some, size_t row, size_t value, size_t column) {
        const Normalization<const T> c = columns_.from(column);
        kernels_.gate_rows({{some, length, distance_, x + value, worker.dy + value, r.mean + row,
                             r.scale + row, r.offset + row, c.scale, c.offset},
                            dy + value});
      });
      dy = worker.dy;
    }
    for_each_group([&](size_t some, size_t row, size_t value, size_t column) {
      kernels_.sum_rows({some, length, distance_, dy + value, x + value, r.mean + row, r.scale + row,
                         r.offset + row, columns_.from(column).scale, worker.column_dy + column,
                         worker.column_product + column, worker.dy_sum + row, worker.product_sum + row});
    });
    if (!gradients_.input) return;
    kernels_.slopes_of_rows({rows, share, pass_.centred, worker.dy_sum, worker.product_sum, r.scale, r.offset,
                             worker.slope, worker.constant});
    T* const dx = values_.target(gradients_.input + at, worker.dy);
    for_each_group([&](size_t some, size_t row, size_t value, size_t column) {
      kernels_.grad_rows[values_.stores_of(stores_)](
          {some, length, distance_, dy + value, x + value, dx + value, r.mean + row, worker.slope + row,
           worker.constant + row, r.scale + row, columns_.from(column).scale});
    });
    values_.wrote(stores_, dx, count, gradients_.input + at);
  }

  const Execution& execution_;
  const Kernels<T>& kernels_;
  const Values<S> values_;
  const RowBackward<S>& pass_;
  const Gradients<S>& gradients_;
  const RowShape& shape_;
  Scratch scratch_;
  /// Whether an activation lets not all of dy through.
  const bool gated_;
  const Columns<T> columns_;
  const size_t chunk_;
  const size_t tasks_;
  /// Samples that are taken at once.
  const size_t some_;
  const Crew crew_;
  const Stores stores_;
  /// How far ahead memory is asked for.
  const size_t distance_;
  Normalization<T> rows_;
  double* partials_;
  Worker* workers_;
};

template <typename S>
void backward_plain(const Execution& execution, const RowBackward<S>& pass, const Gradients<S>& gradients) {
  using T = Compute<S>;
  const RowShape& shape = pass.shape;
  const std::vector<T> weight = repeated(shape, pass.weight);
  const std::vector<T> bias = repeated(shape, pass.bias);
  std::vector<T> dweight(gradients.weight ? shape.rows() : 0), dbias(gradients.bias ? shape.rows() : 0);
  ParameterSums parameters(shape.parameters());
  backward<S>(execution,
              {planes_of(shape), pass.eps, pass.dy, pass.x, pass.mean, pass.variance, data_of(weight),
               data_of(bias), pass.epilogue, nullptr},
              true,
              {gradients.input, dweight.empty() ? nullptr : dweight.data(),
               dbias.empty() ? nullptr : dbias.data(), nullptr});
  for (size_t row = 0; row < shape.rows(); row++)
    parameters.add(row % shape.parameters(), dweight.empty() ? 0 : static_cast<double>(dweight[row]),
                   dbias.empty() ? 0 : static_cast<double>(dbias[row]));
  parameters.write(gradients.weight, gradients.bias);
}

/// The gradient of the residual: dy as the activation lets it through, which a mask tells.
template <typename S>
void write_residual(const Execution& execution, const RowBackward<S>& pass, S* to) {
  const RowShape& shape = pass.shape;
  if (pass.epilogue.activation == kIdentity) {
    std::copy_n(pass.dy, shape.size(), to);
    return;
  }
  std::unique_ptr<unsigned char[]> own;
  const unsigned char* mask = pass.mask;
  if (!mask) {
    own.reset(new unsigned char[row_mask_bytes(shape)]);
    std::vector<double> mean(shape.rows()), variance(shape.rows());
    forward_rows<S>(
        execution,
        {shape, pass.eps, pass.centred, pass.x, to, pass.weight, pass.bias, pass.epilogue, own.get()},
        mean.data(), variance.data());
    mask = own.get();
  }
  const size_t parts = shape.outer > 1 ? shape.samples : 1;
  const size_t size = shape.size() / parts;
  for (size_t part = 0; part < parts; part++)
    apply_mask(execution, size, pass.dy + part * size, mask_of(shape, mask, part), to + part * size);
}

}  // namespace

template <typename S>
void backward_rows(const Execution& execution, const RowBackward<S>& given, Gradients<S> gradients) {
  RowBackward<S> pass = given;
  if (pass.shape.size() == 0) {
    if (gradients.weight) std::fill_n(gradients.weight, pass.shape.parameters(), Compute<S>{0});
    if (gradients.bias) std::fill_n(gradients.bias, pass.shape.parameters(), Compute<S>{0});
    return;
  }
  const bool gated = pass.epilogue.activation != kIdentity && (pass.epilogue.residual || pass.mask);
  if (gradients.residual) write_residual(execution, pass, gradients.residual);
  if (gated) {
    pass.dy = gradients.residual;
    pass.epilogue.activation = kIdentity;
  }
  pass.epilogue.residual = nullptr;
  pass.mask = nullptr;
  if (pass.shape.outer > 1) return backward_samples(execution, pass, gradients);
  if (is_batch_norm<S>(pass.shape, pass.centred)) return backward_plain(execution, pass, gradients);
  if (has_planes(pass.shape) && pass.centred) return backward_planes(execution, pass, gradients);
  ColumnGradients<S>(execution, pass, gradients).compute();
}

#define BATCHNORM_INSTANTIATE(S) \
  template void backward_rows<S>(const Execution&, const RowBackward<S>&, Gradients<S>);
BATCHNORM_INSTANTIATE(float)
BATCHNORM_INSTANTIATE(double)
BATCHNORM_INSTANTIATE(Half)

}  // namespace batchnorm
