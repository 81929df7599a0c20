// Rows as batch norm: where a row is a channel of another view of the same memory, its passes serve. What is
// different: a group of channels shares its statistics (channels are summed, groups settled), and in layer
// norm each column of a row has a weight of its own: for that are the kernels of kernels/rows.h, and where an
// activation or a residual follows, batch norm's, a piece at a time in the nearest cache.
//
// Changes bits: the order in which the sums of channels become those of rows, and those of rows those of
// parameters.
#include "rows.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <type_traits>
#include <vector>

#include "traversal.h"

namespace batchnorm {
namespace {

/// From so many values on a channel of a row is a row of kernels with coefficients of its own; else it is a
/// column, or several.
constexpr size_t kLeastPlane = 16;
/// Values of a piece of rows that are normalized before their columns are scaled.
constexpr size_t kPiece = 2048;

/// The view in which rows are channels.
Shape rows_of(const RowShape& shape) {
  return {1, shape.rows(), shape.count()};
}
/// The view in which all channels of all samples are.
Shape planes_of(const RowShape& shape) {
  return {1, shape.samples * shape.parameters(), shape.inner};
}
/// A sample as batch norm has it.
Shape sample_of(const RowShape& shape) {
  return {shape.outer, shape.parameters(), shape.inner};
}

bool has_planes(const RowShape& shape) {
  return shape.outer == 1 && shape.inner >= kLeastPlane;
}

/// Where a row needs no parameters it is one plane. Of a forward pass: the gradients of parameters may be
/// asked for where there are none, and dx must be the same with them and without.
template <typename S>
RowForward<S> simplified(RowForward<S> pass) {
  RowShape& shape = pass.shape;
  const bool affine = pass.weight || pass.bias;
  if (shape.outer == 1 && !affine) shape = {shape.samples, 1, shape.groups, 1, shape.count()};
  return pass;
}

/// Statistics of rows, of those about their mean.
void centre(Range rows, bool centred, double* mean, double* variance) {
  if (centred) return;
  for (size_t row = rows.begin; row < rows.end; row++) {
    variance[row] += mean[row] * mean[row];
    mean[row] = 0;
  }
}

/// to[channel] = from[row of the channel], for the channels of `rows`, which begin at to[0].
template <typename T>
void spread_rows(Range rows, size_t channels, const T* from, T* to) {
  for (size_t row = rows.begin; row < rows.end; row++) to = std::fill_n(to, channels, from[row]);
}

/// Writes rows of which each channel has coefficients of its own: plain is the writer of planes.
template <typename Plain>
class PlaneWriter final : public TileWriter {
 public:
  PlaneWriter(const RowShape& shape, const Plain& plain)
      : channels_(shape.channels), inner_(shape.inner), plain_(plain) {}
  void write(const Tile& tile, size_t at, size_t row) const override {
    visit(tile, at, row,
          [&](Tile planes, size_t first, size_t plane) { plain_.write(planes, first, plane); });
  }
  /// Of whole rows alone.
  void stream_beside(const Tile& tile, size_t at, size_t row, const void* sums) const override {
    visit(tile, at, row,
          [&](Tile planes, size_t first, size_t plane) { plain_.stream_beside(planes, first, plane, sums); });
  }
  void finish() const override { plain_.finish(); }

 private:
  template <typename Visit>
  void visit(const Tile& tile, size_t at, size_t row, Visit visit_planes) const {
    const size_t length = channels_ * inner_;
    if (tile.columns == length)
      return visit_planes(Tile{tile.rows * channels_, inner_, inner_, tile.ahead}, at, row * channels_);
    // A part of a row: parts of its channels.
    const size_t end = at + tile.columns;
    while (at < end) {
      const size_t plane = at / inner_;
      const size_t columns = std::min(end, (plane + 1) * inner_) - at;
      visit_planes(Tile{1, columns, inner_, tile.ahead}, at, plane);
      at += columns;
    }
  }

  size_t channels_;
  size_t inner_;
  Plain plain_;
};

/// Values in T, of those that lie in memory as S: what is read is widened to `room` where it must be.
template <typename S>
class Values {
  using T = Compute<S>;

 public:
  explicit Values(const Execution& execution)
      : conversion_(execution.kernels->conversions[execution.storage]) {}
  /// Whether they lie as they are computed with.
  static constexpr bool kPlain = std::is_same_v<S, T>;

  const T* read(const S* from, size_t count, [[maybe_unused]] T* room) const {
    if constexpr (kPlain) {
      return from;
    } else {
      conversion_.widen(from, count, room);
      return room;
    }
  }
  /// Where a kernel is to write what belongs to `to`.
  T* target(S* to, [[maybe_unused]] T* room) const {
    if constexpr (kPlain)
      return to;
    else
      return room;
  }
  /// What a kernel has written there.
  void wrote([[maybe_unused]] Stores stores, [[maybe_unused]] const T* from, [[maybe_unused]] size_t count,
             [[maybe_unused]] S* to) const {
    if constexpr (!kPlain) (stores == kStreamed ? conversion_.stream : conversion_.narrow)(from, count, to);
  }
  /// How the kernel stores that writes to a target.
  static constexpr Stores stores_of(Stores stores) { return kPlain ? stores : kCached; }

 private:
  const Conversion& conversion_;
};

/// Room for a piece, which begins where the lines of a mask do, and for what is read behind it.
template <typename T>
struct alignas(kAlignment) Room {
  T values[kPiece + 2 * kLanes<T>];
};

/// Weight and bias of the columns of a sample, each as often as its channel has values, of as many samples as
/// are laid side by side. The mean that columns have is 0.
template <typename T>
class Columns {
 public:
  /// `folds`: whether tiles of several samples are asked for.
  Columns(Scratch& scratch, const RowShape& shape, const T* weight, const T* bias, bool folds)
      : values_(shape.of_sample()), fold_(folds ? fold_of<T>(values_) : 1) {
    const size_t width = values_ * fold_ + kLanes<T>;
    const auto take = [&](const T* from, T otherwise) {
      T* const to = scratch.template take<T>(width);
      if (!from) {
        std::fill_n(to, width, otherwise);
        return static_cast<const T*>(to);
      }
      if (shape.inner == 1)
        std::copy_n(from, values_, to);
      else
        for (size_t channel = 0; channel < shape.parameters(); channel++)
          std::fill_n(to + channel * shape.inner, shape.inner, from[channel]);
      for (size_t at = values_; at < width; at += values_)
        std::copy_n(to, std::min(values_, width - at), to + at);
      return static_cast<const T*>(to);
    };
    none_ = take(nullptr, T{0});
    weight_ = take(weight, T{1});
    bias_ = bias ? take(bias, T{0}) : none_;
  }

  /// Values of a sample, and columns side by side.
  size_t values() const { return values_; }
  size_t width() const { return values_ * fold_; }
  Normalization<const T> from(size_t column) const {
    return {none_ + column, weight_ + column, bias_ + column};
  }

  /// Calls visit(tile, first value, first column) for `count` values that begin at column `column` of a
  /// sample: whole samples, or a part of one.
  template <typename Visit>
  void for_each_tile(size_t count, size_t column, Visit visit) const {
    if (column > 0 || count < values_) return visit(Tile{1, count, count, straight_ahead(0)}, 0, column);
    const Tiling<T> tiling(Shape{count / values_, values_, 1}, kChannelsLast, fold_);
    tiling.for_each_tile(straight_ahead(0), [&](Tile tile, size_t at) { visit(tile, at, size_t{0}); });
  }

 private:
  size_t values_;
  size_t fold_;
  const T* none_;
  const T* weight_;
  const T* bias_;
};

/// Writes rows whose columns have weights: a piece is normalized, and then scaled.
template <typename S>
class ColumnWriter final : public TileWriter {
  using T = Compute<S>;

 public:
  ColumnWriter(const Execution& execution, const RowForward<S>& pass, Stores stores,
               const Normalization<const T>& rows, const Columns<T>& columns)
      : pass_(pass),
        values_(execution),
        fence_(execution.kernels->fence),
        stores_(stores),
        normalize_(kernels_of<T>(*execution.kernels).normalize[0][kIdentity].alone[kCached][kChannelsFirst]),
        scale_(kernels_of<T>(*execution.kernels)
                   .normalize[pass.epilogue.residual != nullptr][pass.epilogue.activation]
                   .alone[values_.stores_of(stores)][kChannelsLast]),
        plain_(pass.epilogue.residual == nullptr && pass.epilogue.activation == kIdentity),
        scale_rows_(kernels_of<T>(*execution.kernels).scale_rows[values_.stores_of(stores)]),
        rows_(rows),
        columns_(columns) {}

  void write(const Tile& tile, size_t at, size_t) const override {
    const size_t end = at + tile.rows * tile.columns;
    if (values_.kPlain && plain_) return scale(at, end - at, pass_.x + at, pass_.y + at, tile.ahead.distance);
    while (at < end) at += write_piece(at, end - at);
  }
  void finish() const override {
    if (stores_ == kStreamed) fence_();
  }

 private:
  /// Without an activation and a residual one pass does both.
  template <typename From, typename To>
  void scale([[maybe_unused]] size_t at, [[maybe_unused]] size_t count, [[maybe_unused]] const From* x,
             [[maybe_unused]] To* y, [[maybe_unused]] size_t distance) const {
    if constexpr (std::is_same_v<From, T> && std::is_same_v<To, T>) {
      const size_t row_values = pass_.shape.count();
      const size_t groups = pass_.shape.groups;
      const size_t end = at + count;
      while (at < end) {
        const size_t row = at / row_values;
        const size_t in_row = at % row_values;
        const size_t whole = (end - at) / row_values;
        // Rows of one group are alike; else each has other columns.
        const size_t rows = in_row > 0 || whole == 0 || groups > 1 ? 1 : whole;
        const size_t columns = std::min(end - at, row_values - in_row);
        const Normalization<const T> c = columns_.from(row % groups * row_values + in_row);
        scale_rows_({rows, columns, distance, x, y, rows_.mean + row, rows_.scale + row, rows_.offset + row,
                     c.scale, c.offset});
        x += rows * columns;
        y += rows * columns;
        at += rows * columns;
      }
    }
  }

  /// Whole samples, else whole rows, else a part of one; returns how many values.
  size_t write_piece(size_t at, size_t left) const {
    const size_t row_values = pass_.shape.count();
    const size_t in_row = at % row_values;
    const size_t in_sample = at % columns_.values();
    const auto whole = [&](size_t values, size_t most) { return std::min(kPiece, most) / values * values; };
    size_t count = in_sample == 0 ? whole(columns_.values(), left) : 0;
    if (count == 0 && in_row == 0) count = whole(row_values, std::min(left, columns_.values() - in_sample));
    const bool is_part = count == 0;
    if (is_part) count = std::min({kPiece, left, row_values - in_row});

    Room<T> room, added;
    const Mask mask = {pass_.mask, at};
    const size_t lead = !values_.kPlain && mask.bytes ? (mask.bytes[0] + at) % kLanes<T> : 0;
    T* const normalized = room.values + lead;
    const T* const x = values_.read(pass_.x + at, count, normalized);
    if (plain_) {
      scale(at, count, x, normalized, 0);
      values_.wrote(stores_, normalized, count, pass_.y + at);
      return count;
    }
    const size_t length = is_part ? count : row_values;
    const Normalization<const T> row = {rows_.mean + at / row_values, rows_.scale + at / row_values,
                                        rows_.offset + at / row_values};
    normalize_(NormalizeWork<T>{{count / length, length, length, straight_ahead(0)},
                                x,
                                nullptr,
                                {},
                                normalized,
                                row.mean,
                                row.scale,
                                row.offset});
    const T* residual = nullptr;
    if (pass_.epilogue.residual)
      residual = values_.read(pass_.epilogue.residual + at, count, added.values + lead);
    T* const y = values_.target(pass_.y + at, normalized);
    columns_.for_each_tile(count, in_sample, [&](const Tile& tile, size_t first, size_t column) {
      const Normalization<const T> c = columns_.from(column);
      scale_(NormalizeWork<T>{tile,
                              normalized + first,
                              residual ? residual + first : nullptr,
                              {mask.bytes, at + first},
                              y + first,
                              c.mean,
                              c.scale,
                              c.offset});
    });
    values_.wrote(stores_, y, count, pass_.y + at);
    return count;
  }

  const RowForward<S>& pass_;
  const Values<S> values_;
  void (*fence_)();
  const Stores stores_;
  void (*normalize_)(const NormalizeWork<T>&);
  void (*scale_)(const NormalizeWork<T>&);
  const bool plain_;
  void (*scale_rows_)(const ScaleRowsWork<T>&);
  const Normalization<const T> rows_;
  const Columns<T>& columns_;
};

/// Of rows without gaps: sums, settles and writes them, one group of rows after the other.
template <typename S>
void forward_contiguous(const Execution& execution, const RowForward<S>& pass, double* mean,
                        double* variance) {
  using T = Compute<S>;
  const RowShape& shape = pass.shape;
  const Kernels<T>& kernels = kernels_of<T>(*execution.kernels);
  Scratch scratch;
  const Partition<T> partition(Tiling<T>(rows_of(shape), kChannelsFirst));
  const auto& normalize = kernels.normalize[pass.epilogue.residual != nullptr][pass.epilogue.activation];
  const bool has_beside = Access<S>::kBeside && has_planes(shape) && partition.pieces() == 1 &&
                          normalize.stream_beside != nullptr;
  const Plan plan = plan_of<S>(execution, partition, {1, pass.y != nullptr, pass.x == pass.y, has_beside});
  const MomentSums<S> sums(scratch, execution, partition, pass.x);
  const auto merge = [&](Range rows, const Partials<T>& partials) {
    sums.merge(rows, partials, mean, variance);
    centre(rows, pass.centred, mean, variance);
  };
  const auto sum_and_write = [&](Settle<T> settle, const TileWriter* writer) {
    if (pass.y) clear_mask(pass.mask, pass.y, shape.size());
    sum_settle_write<S>(scratch, kernels, plan, partition, sums, settle, partition, writer);
  };
  const auto take = [&](size_t count) { return scratch.template take<T>(count); };

  if (has_planes(shape) || !pass.y) {
    const size_t channels = shape.channels;
    const Tiling<T> planes(planes_of(shape), kChannelsFirst);
    const size_t width = pass.y ? padded_width(planes) : 0;
    const Normalization<T> c = {take(width), take(width), take(width)};
    double* const means = scratch.template take<double>(width);
    double* const variances = scratch.template take<double>(width);
    const auto settle = [&](Range rows, const Partials<T>& partials) {
      merge(rows, partials);
      if (!pass.y) return;
      spread_rows(rows, channels, mean, means + rows.begin * channels);
      spread_rows(rows, channels, variance, variances + rows.begin * channels);
      // As far as the parameters go before they begin again.
      for (size_t row = rows.begin; row < rows.end;) {
        const size_t group = row % shape.groups;
        const size_t some = std::min(rows.end - row, shape.groups - group);
        const size_t at = row * channels;
        kernels.normalization({some * channels, pass.eps, means + at, variances + at,
                               pass.weight ? pass.weight + group * channels : nullptr,
                               pass.bias ? pass.bias + group * channels : nullptr, c.mean + at, c.scale + at,
                               c.offset + at});
        row += some;
      }
    };
    const Writer plain(
        execution, Access<S>(execution), normalize, kChannelsFirst, plan.stores,
        NormalizeWork<S>{
            {}, pass.x, pass.epilogue.residual, {pass.mask, 0}, pass.y, c.mean, c.scale, c.offset});
    const PlaneWriter writer(shape, plain);
    return sum_and_write(settle, pass.y ? &writer : nullptr);
  }
  const size_t width = padded_width(static_cast<const Tiling<T>&>(partition));
  const Normalization<T> c = {take(width), take(width), take(width)};
  const auto settle = [&](Range rows, const Partials<T>& partials) {
    merge(rows, partials);
    const size_t at = rows.begin;
    kernels.normalization({rows.end - at, pass.eps, mean + at, variance + at, nullptr, nullptr, c.mean + at,
                           c.scale + at, c.offset + at});
  };
  const bool plain = pass.epilogue.residual == nullptr && pass.epilogue.activation == kIdentity;
  const Columns<T> columns(scratch, shape, pass.weight, pass.bias, !plain);
  const ColumnWriter<S> writer(execution, pass, plan.stores, c, columns);
  sum_and_write(settle, &writer);
}

/// The mask of a sample, which has one of its own.
template <typename Byte>
Byte* mask_of(const RowShape& shape, Byte* mask, size_t sample) {
  return mask ? mask + sample * mask_bytes(shape.of_sample()) : nullptr;
}

/// Of rows with gaps, as in channels-last: each sample is batch norm of its own, whose channels share
/// statistics in groups.
template <typename S>
void forward_samples(const Execution& execution, const RowForward<S>& pass, double* mean, double* variance) {
  const RowShape& shape = pass.shape;
  const size_t parameters = shape.parameters();
  const size_t channels = shape.channels;
  std::vector<double> means(parameters), variances(parameters);
  for (size_t sample = 0; sample < shape.samples; sample++) {
    const size_t at = sample * shape.of_sample();
    moments<S>(execution, sample_of(shape), pass.x + at, means.data(), variances.data());
    // What comes later needs no more memory than this.
    if (sample == 0) Scratch::keep();
    double* const row_mean = mean + sample * shape.groups;
    double* const row_variance = variance + sample * shape.groups;
    for (size_t group = 0; group < shape.groups; group++) {
      const double* const m = means.data() + group * channels;
      const double* const v = variances.data() + group * channels;
      const double count = static_cast<double>(channels);
      double first = 0, second = 0;
      // Of means that are equal exactly that.
      for (size_t i = 1; i < channels; i++) first += m[i] - m[0];
      row_mean[group] = m[0] + first / count;
      for (size_t i = 0; i < channels; i++)
        second += v[i] + (m[i] - row_mean[group]) * (m[i] - row_mean[group]);
      row_variance[group] = second / count;
    }
    const Range rows = {0, shape.groups};
    centre(rows, pass.centred, row_mean, row_variance);
    if (!pass.y) continue;
    spread_rows(rows, channels, row_mean, means.data());
    spread_rows(rows, channels, row_variance, variances.data());
    const S* const residual = pass.epilogue.residual;
    forward_inference<S>(execution,
                         {sample_of(shape),
                          pass.eps,
                          pass.x + at,
                          pass.y + at,
                          pass.weight,
                          pass.bias,
                          {pass.epilogue.activation, residual ? residual + at : nullptr},
                          mask_of(shape, pass.mask, sample)},
                         means.data(), variances.data());
  }
}

/// Coefficients of a backward pass, one for each channel that is seen.
template <typename T>
struct RowCoefficients {
  /// Of y, which an activation asks for.
  Normalization<T> y;
  /// By which dy is scaled; or behind an activation, which scales it by that of y, what is left of the mean.
  T* weight;
  T* slope;
  T* constant;
  T* scale;
};

/// What a piece has instead of an array where all values are alike.
template <typename T>
const T* alike(Scratch& scratch, T value) {
  constexpr size_t kMost = kPiece + 2 * kLanes<T>;
  T* const array = scratch.template take<T>(kMost);
  std::fill_n(array, kMost, value);
  return array;
}

/// Writes dx. The weight stands inside the sums of a row, and may be 0: so dy is scaled first, a piece at a
/// time.
template <typename S>
class ScaledWriter final : public TileWriter {
  using T = Compute<S>;

 public:
  ScaledWriter(Scratch& scratch, const Execution& execution, Layout layout, Stores stores,
               const RowBackward<S>& pass, S* dx, const RowCoefficients<T>& coefficients)
      : kernels_(kernels_of<T>(*execution.kernels)),
        fence_(execution.kernels->fence),
        values_(execution),
        layout_(layout),
        stores_(stores),
        pass_(pass),
        dx_(dx),
        c_(coefficients),
        none_(alike(scratch, T{0})),
        ones_(alike(scratch, T{1})) {}

  void write(const Tile& tile, size_t at, size_t channel) const override {
    // Pieces have no gaps: several whole rows, or a part of one.
    const bool whole = tile.columns == tile.stride && tile.columns <= kPiece;
    const size_t rows = whole ? kPiece / tile.columns : 1;
    const size_t columns = std::min(kPiece, tile.columns);
    for (size_t row = 0; row < tile.rows; row += rows)
      for (size_t column = 0; column < tile.columns; column += columns) {
        const size_t length = std::min(columns, tile.columns - column);
        write_piece({std::min(rows, tile.rows - row), length, length, straight_ahead(0)},
                    at + row * tile.stride + column, channel + (layout_ == kChannelsFirst ? row : column));
      }
  }
  void finish() const override {
    if (stores_ == kStreamed) fence_();
  }

 private:
  void write_piece(const Tile& tile, size_t at, size_t channel) const {
    Room<T> scaled, room;
    const size_t count = tile.rows * tile.columns;
    const T* dy = values_.read(pass_.dy + at, count, scaled.values);
    const T* const x = values_.read(pass_.x + at, count, room.values);
    const Normalization<T> y = c_.y.from(channel);
    const bool gated = pass_.epilogue.activation != kIdentity;
    if (gated) {
      kernels_.frozen_grad_input.alone[kCached][layout_](
          GradInputWork<T>{tile, dy, x, {}, scaled.values, nullptr, y.mean, none_, none_, y.scale, y.offset});
      normalize(tile, x, {y.mean, c_.scale + channel, c_.weight + channel}, room.values);
    } else {
      normalize(tile, dy, {none_, c_.weight + channel, none_}, scaled.values);
    }
    const bool streams = stores_ == kStreamed && (layout_ == kChannelsLast || tile.columns >= kLanes<T>);
    const Stores stores = streams ? kStreamed : kCached;
    T* const dx = values_.target(dx_ + at, scaled.values);
    kernels_.grad_input[kOpen].alone[values_.stores_of(stores)][layout_](
        GradInputWork<T>{tile,
                         scaled.values,
                         gated ? room.values : x,
                         {},
                         dx,
                         nullptr,
                         gated ? none_ : y.mean,
                         c_.slope + channel,
                         c_.constant + channel,
                         gated ? ones_ : c_.scale + channel,
                         none_});
    values_.wrote(stores, dx, count, dx_ + at);
  }
  void normalize(const Tile& tile, const T* from, const Normalization<const T>& c, T* to) const {
    kernels_.normalize[0][kIdentity].alone[kCached][layout_](
        NormalizeWork<T>{tile, from, nullptr, {}, to, c.mean, c.scale, c.offset});
  }

  const Kernels<T>& kernels_;
  void (*fence_)();
  const Values<S> values_;
  const Layout layout_;
  const Stores stores_;
  const RowBackward<S>& pass_;
  S* const dx_;
  const RowCoefficients<T> c_;
  const T* const none_;
  const T* const ones_;
};

double inverse_of(double variance, double eps) {
  return 1 / std::sqrt(variance + eps);
}

/// What T holds of a coefficient.
template <typename T>
T held(double coefficient) {
  constexpr double most = static_cast<double>(std::numeric_limits<T>::max());
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
  const bool gated = pass.epilogue.activation != kIdentity;
  for (size_t row = rows.begin; row < rows.end; row++) {
    const size_t begin = row * shape.channels - first;
    const double low = pass.mean[row] - static_cast<double>(to.y.mean[begin]);
    const double inverse = inverse_of(pass.variance[row], pass.eps);
    double gradient = 0, product = 0;
    for (size_t i = 0; i < shape.channels; i++) {
      const size_t parameter = row % shape.groups * shape.channels + i;
      const double weight = pass.weight ? static_cast<double>(pass.weight[parameter]) : 1;
      gradient += weight * sums.dy[begin + i];
      product += weight * (sums.dy_xc[begin + i] - low * sums.dy[begin + i]);
    }
    const double mean_gradient = pass.centred ? gradient / count : 0;
    const double mean_product = inverse * product / count;
    if (gated) {
      // What scales dy is the scale of y, with the inverse deviation in it; x is normalized, for the square
      // of that may be no number.
      std::fill_n(to.slope + begin, shape.channels, held<T>(inverse * mean_product));
      std::fill_n(to.constant + begin, shape.channels, held<T>(inverse * mean_gradient));
      std::fill_n(to.weight + begin, shape.channels, held<T>(-low * inverse));
    } else {
      const double slope = inverse * mean_product;
      std::fill_n(to.slope + begin, shape.channels, held<T>(slope));
      std::fill_n(to.constant + begin, shape.channels, held<T>(mean_gradient - low * slope));
      for (size_t i = 0; i < shape.channels; i++)
        to.weight[begin + i] = pass.weight ? pass.weight[row % shape.groups * shape.channels + i] : T{1};
    }
    std::fill_n(to.scale + begin, shape.channels, held<T>(inverse));
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
      weight_[parameter] +=
          (sums.dy_xc[parameter] - low * sums.dy[parameter]) * inverse_of(pass.variance[row], pass.eps);
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

/// The coefficients of y of the channels of one sample.
template <typename S>
void normalization_of_sample(const Kernels<Compute<S>>& kernels, const RowBackward<S>& pass, size_t sample,
                             double* mean, double* variance, const Normalization<Compute<S>>& to) {
  const RowShape& shape = pass.shape;
  const Range rows = {sample * shape.groups, (sample + 1) * shape.groups};
  spread_rows(rows, shape.channels, pass.mean, mean);
  spread_rows(rows, shape.channels, pass.variance, variance);
  kernels.normalization(
      {shape.parameters(), pass.eps, mean, variance, pass.weight, pass.bias, to.mean, to.scale, to.offset});
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
  const ScaledWriter<S> writer(scratch, execution, kChannelsFirst, plan.stores, pass, gradients.input, c);
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
T* laid_out(Scratch& scratch, const Kernels<T>& kernels, const Tiling<T>& tiling, const T* from) {
  const Range channels = {0, tiling.shape().channels};
  T* const to = scratch.template take<T>(padded_width(tiling));
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
  const WritePlan plan = plan_of_write<S>(execution, tiling, pass.dy == gradients.input);
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
    if (sample == 0)
      Scratch::keep(8 * padded_width(tiling) * sizeof(T) + 2 * sizeof(Room<T>) + 16 * kAlignment);
    Scratch scratch;
    const auto lay_out = [&](const T* from) { return laid_out(scratch, kernels, tiling, from); };
    const RowCoefficients<T>& c = of_channels;
    const RowCoefficients<T> laid = {{lay_out(c.y.mean), lay_out(c.y.scale), lay_out(c.y.offset)},
                                     lay_out(c.weight),
                                     lay_out(c.slope),
                                     lay_out(c.constant),
                                     lay_out(c.scale)};
    const ScaledWriter<S> writer(scratch, execution, tiling.layout(), plan.stores, part, gradients.input + at,
                                 laid);
    sweep<S>(plan.crew, tiling, writer, false);
  }
  of_parameters.write(gradients.weight, gradients.bias);
}

/// Rows whose columns have weights: a block of samples at a time is normalized again, beside dy times the
/// weight; their sums of rows and of columns are made of that, and dx.
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
        plain_(pass.epilogue.activation == kIdentity),
        columns_(scratch_, pass.shape, pass.weight, pass.bias, !plain_),
        block_(
            std::clamp<size_t>((plain_ ? kPlainValues : kBlockValues) / columns_.values(), 1, kStretch * 8)),
        chunk_(round_up(std::clamp<size_t>(kChunkValues / columns_.values(), 32, 128), block_)),
        tasks_(divide_up(shape_.samples, chunk_)),
        crew_(execution, 2 * shape_.size() * sizeof(S)),
        stores_(shape_.size() * sizeof(S) >= execution.stream_bytes && pass.dy != gradients.input &&
                        shape_.count() >= kLanes<T>
                    ? kStreamed
                    : kCached) {
    const size_t rows = shape_.rows();
    const auto take = [&](size_t count) { return scratch_.template take<T>(count); };
    const size_t width = rows + kLanes<T>;
    rows_ = {take(width), take(width), take(width)};
    kernels_.normalization(
        {rows, pass.eps, pass.mean, pass.variance, nullptr, nullptr, rows_.mean, rows_.scale, rows_.offset});
    const size_t rows_of_block = block_ * shape_.groups;
    const size_t padded = columns_.width() + kLanes<T>;
    none_ = take(std::max(padded, rows_of_block));
    std::fill_n(none_, std::max(padded, rows_of_block), T{0});
    partials_ = scratch_.template take<double>(tasks_ * 2 * padded);
    workers_ = scratch_.template take<Worker>(crew_.threads);
    const size_t values = block_ * columns_.values() + 2 * kLanes<T>;
    for (size_t i = 0; i < crew_.threads; i++) {
      Worker& worker = workers_[i];
      for (T** array : {&worker.normalized, &worker.gradient, &worker.wide}) *array = take(values);
      for (T** array : {&worker.first, &worker.second}) *array = take(rows_of_block * kLanes<T>);
      for (T** array : {&worker.column_first, &worker.column_second}) *array = take(padded);
      for (T** array : {&worker.slope, &worker.constant}) *array = take(rows_of_block);
      for (double** array : {&worker.first_total, &worker.second_total})
        *array = scratch_.template take<double>(rows_of_block * kLanes<T>);
      for (T* array : {worker.column_first, worker.column_second}) std::fill_n(array, padded, T{0});
      for (double** array : {&worker.dy, &worker.dy_normalized})
        *array = scratch_.template take<double>(rows_of_block);
    }
  }

  void compute() {
    ParameterSums parameters(shape_.parameters());
    const size_t padded = columns_.width() + kLanes<T>;
    work(crew_, tasks_, [&](size_t task, size_t worker) {
      const Range samples = part(shape_.samples, chunk_, task);
      double* const totals = partials_ + task * 2 * padded;
      std::fill_n(totals, 2 * padded, 0.0);
      for (size_t sample = samples.begin; sample < samples.end; sample += block_)
        add({sample, std::min(samples.end, sample + block_)}, workers_[worker], totals, totals + padded);
      if (stores_ == kStreamed) execution_.kernels->fence();
    });
    if (!gradients_.weight && !gradients_.bias) return;
    for (size_t task = 0; task < tasks_; task++) {
      const double* const dy = partials_ + task * 2 * padded;
      for (size_t begin = 0; begin < columns_.width(); begin += columns_.values())
        parameters.add(dy + begin, dy + padded + begin, shape_.inner);
    }
    parameters.write(gradients_.weight, gradients_.bias);
  }

 private:
  /// Values of a block, in each of three arrays: the second-level cache holds them, and what they come from.
  static constexpr size_t kBlockValues = size_t{1} << 14;
  /// The same where nothing is kept in between: what is read twice.
  static constexpr size_t kPlainValues = size_t{1} << 15;
  /// Values of a chunk, whose sums of columns are made by one thread.
  static constexpr size_t kChunkValues = size_t{1} << 18;

  struct Worker {
    T *normalized, *gradient, *wide;
    T *first, *second, *column_first, *column_second, *slope, *constant;
    double *first_total, *second_total, *dy, *dy_normalized;
  };

  void add(Range samples, const Worker& worker, double* dy_total, double* product_total) {
    if (plain_)
      add_plain(samples, worker, dy_total, product_total);
    else
      add_gated(samples, worker, dy_total, product_total);
  }

  /// Without an activation: x is normalized on the way, both times.
  void add_plain(Range samples, const Worker& worker, double* dy_total, double* product_total) {
    const size_t values = columns_.values();
    const size_t at = samples.begin * values;
    const size_t count = (samples.end - samples.begin) * values;
    const size_t row = samples.begin * shape_.groups;
    const size_t rows = (samples.end - samples.begin) * shape_.groups;
    const size_t length = shape_.count();
    const T* const x = values_.read(pass_.x + at, count, worker.normalized);
    const T* const dy = values_.read(pass_.dy + at, count, worker.wide);
    const Normalization<T> r = rows_.from(row);
    // Rows of a group share their columns: with one group all do.
    const size_t together = shape_.groups == 1 ? rows : 1;
    const size_t distance = std::min(kAheadBytes / sizeof(S), count);
    for (size_t i = 0; i < rows; i += together) {
      const size_t column = i % shape_.groups * length;
      kernels_.sum_rows({together, length, distance, dy + i * length, x + i * length, r.mean + i, r.scale + i,
                         r.offset + i, columns_.from(column).scale, worker.column_first + column,
                         worker.column_second + column, worker.dy + i, worker.dy_normalized + i});
    }
    kernels_.end_columns(values, worker.column_first, dy_total);
    kernels_.end_columns(values, worker.column_second, product_total);
    if (!gradients_.input) return;
    const double each = static_cast<double>(length);
    for (size_t i = 0; i < rows; i++) {
      const double mean = pass_.centred ? worker.dy[i] / each : 0;
      const double slope = worker.dy_normalized[i] / each;
      worker.slope[i] = held<T>(slope * static_cast<double>(r.scale[i]));
      worker.constant[i] = static_cast<T>(mean + slope * static_cast<double>(r.offset[i]));
    }
    T* const dx = values_.target(gradients_.input + at, worker.wide);
    const auto kernel = kernels_.grad_rows[values_.stores_of(stores_)];
    for (size_t i = 0; i < rows; i += together)
      kernel({together, length, 0, dy + i * length, x + i * length, dx + i * length, r.mean + i,
              worker.slope + i, worker.constant + i, r.scale + i,
              columns_.from(i % shape_.groups * length).scale});
    values_.wrote(stores_, dx, count, gradients_.input + at);
  }

  void add_gated(Range samples, const Worker& worker, double* dy_total, double* product_total) {
    const size_t values = columns_.values();
    const size_t at = samples.begin * values;
    const size_t count = (samples.end - samples.begin) * values;
    const size_t row = samples.begin * shape_.groups;
    const size_t rows = (samples.end - samples.begin) * shape_.groups;
    const size_t length = shape_.count();
    const Tile of_rows = {rows, length, length, straight_ahead(0)};
    Tile from_memory = of_rows;
    from_memory.ahead = straight_ahead(std::min(kAheadBytes / sizeof(S), count));

    const T* const x = values_.read(pass_.x + at, count, worker.normalized);
    const Normalization<T> r = rows_.from(row);
    kernels_.normalize[0][kIdentity].alone[kCached][kChannelsFirst](
        NormalizeWork<T>{from_memory, x, nullptr, {}, worker.normalized, r.mean, r.scale, r.offset});
    const T* const dy = values_.read(pass_.dy + at, count, worker.wide);
    const bool sums = gradients_.weight || gradients_.bias;
    if (sums) {
      std::fill_n(worker.column_first, columns_.width(), T{0});
      std::fill_n(worker.column_second, columns_.width(), T{0});
    }
    columns_.for_each_tile(count, 0, [&](const Tile& tile, size_t first, size_t column) {
      const Normalization<const T> c = columns_.from(column);
      const T* const normalized = worker.normalized + first;
      kernels_.frozen_grad_input.alone[kCached][kChannelsLast](GradInputWork<T>{tile,
                                                                                dy + first,
                                                                                normalized,
                                                                                {},
                                                                                worker.gradient + first,
                                                                                nullptr,
                                                                                c.mean,
                                                                                c.mean,
                                                                                c.mean,
                                                                                c.scale,
                                                                                c.offset});
      if (!sums) return;
      kernels_.grad_sums[kRecomputed][kChannelsLast](
          GradSumsWork<T>{tile,
                          dy + first,
                          normalized,
                          {},
                          c.mean,
                          c.scale,
                          c.offset,
                          {worker.column_first, worker.column_second, dy_total, product_total},
                          true});
    });
    if (!gradients_.input) return;

    const T* const gradient = worker.gradient;
    const size_t lanes = rows * kLanes<T>;
    for (T* array : {worker.first, worker.second}) std::fill_n(array, lanes, T{0});
    for (double* array : {worker.first_total, worker.second_total}) std::fill_n(array, lanes, 0.0);
    kernels_.grad_sums[kOpen][kChannelsFirst](
        GradSumsWork<T>{of_rows,
                        gradient,
                        worker.normalized,
                        {},
                        none_,
                        none_,
                        none_,
                        {worker.first, worker.second, worker.first_total, worker.second_total},
                        true});
    kernels_.collect_totals[kChannelsFirst](worker.first_total, rows, 1, worker.dy);
    kernels_.collect_totals[kChannelsFirst](worker.second_total, rows, 1, worker.dy_normalized);
    const double each = static_cast<double>(length);
    for (size_t i = 0; i < rows; i++) {
      worker.slope[i] = static_cast<T>(worker.dy_normalized[i] / each);
      worker.constant[i] = pass_.centred ? static_cast<T>(worker.dy[i] / each) : T{0};
    }
    T* const dx = values_.target(gradients_.input + at, worker.wide);
    kernels_.grad_input[kOpen].alone[values_.stores_of(stores_)][kChannelsFirst](
        GradInputWork<T>{of_rows,
                         gradient,
                         worker.normalized,
                         {},
                         dx,
                         nullptr,
                         none_,
                         worker.slope,
                         worker.constant,
                         r.scale,
                         none_});
    values_.wrote(stores_, dx, count, gradients_.input + at);
  }

  const Execution& execution_;
  const Kernels<T>& kernels_;
  const Values<S> values_;
  const RowBackward<S>& pass_;
  const Gradients<S>& gradients_;
  const RowShape& shape_;
  Scratch scratch_;
  const bool plain_;
  const Columns<T> columns_;
  const size_t block_;
  const size_t chunk_;
  const size_t tasks_;
  const Crew crew_;
  const Stores stores_;
  Normalization<T> rows_;
  T* none_;
  double* partials_;
  Worker* workers_;
};

/// Rows that are planes: batch norm of as many channels, whose parameters come again with each sample.
template <typename S>
bool is_batch_norm(const RowShape& shape, bool centred) {
  return has_planes(shape) && shape.channels == 1 && centred;
}

/// from[channel % parameters], of each plane; empty for nullptr.
template <typename T>
std::vector<T> repeated(const RowShape& shape, const T* from) {
  std::vector<T> to;
  if (!from) return to;
  to.reserve(shape.samples * shape.parameters());
  for (size_t sample = 0; sample < shape.samples; sample++)
    to.insert(to.end(), from, from + shape.parameters());
  return to;
}
template <typename T>
const T* data_of(const std::vector<T>& values) {
  return values.empty() ? nullptr : values.data();
}

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
void forward_rows(const Execution& execution, const RowForward<S>& given, double* mean, double* variance) {
  const RowForward<S> pass = simplified(given);
  const RowShape& shape = pass.shape;
  if (shape.size() == 0) {
    std::fill_n(mean, shape.rows(), std::numeric_limits<double>::quiet_NaN());
    std::fill_n(variance, shape.rows(), std::numeric_limits<double>::quiet_NaN());
    return;
  }
  if (shape.outer > 1) return forward_samples(execution, pass, mean, variance);
  if (!pass.y || !is_batch_norm<S>(shape, pass.centred))
    return forward_contiguous(execution, pass, mean, variance);
  const auto weight = repeated(shape, pass.weight);
  const auto bias = repeated(shape, pass.bias);
  forward_training<S>(
      execution,
      {planes_of(shape), pass.eps, pass.x, pass.y, data_of(weight), data_of(bias), pass.epilogue, pass.mask},
      mean, variance);
}

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

#define BATCHNORM_INSTANTIATE(S)                                                           \
  template void forward_rows<S>(const Execution&, const RowForward<S>&, double*, double*); \
  template void backward_rows<S>(const Execution&, const RowBackward<S>&, Gradients<S>);
BATCHNORM_INSTANTIATE(float)
BATCHNORM_INSTANTIATE(double)
BATCHNORM_INSTANTIATE(Half)

}  // namespace batchnorm
