// Rows forward, as batch norm: where a row is a channel of another view of the same memory, its passes serve.
// What is different: a group of channels shares its statistics (channels are summed, groups settled), and in
// layer norm each column of a row has a weight of its own: for that are the kernels of kernels/rows.h, and
// where an activation or a residual follows, batch norm's, a piece at a time in the nearest cache.
//
// Changes bits: the order in which the sums of channels become those of rows.
#include <limits>

#include "row_views.h"

namespace batchnorm {
namespace {

/// Where a row needs no parameters it is one plane. Of a forward pass: the gradients of parameters may be
/// asked for where there are none, and dx must be the same with them and without.
template <typename S>
RowForward<S> simplified(RowForward<S> pass) {
  RowShape& shape = pass.shape;
  const bool affine = pass.weight || pass.bias;
  if (has_planes(shape) && !affine) shape = {shape.samples, 1, shape.groups, 1, shape.count()};
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

/// Whether contiguous rows that are no planes are summed, settled and written a few at a time, in the nearest
/// cache. Decides bits.
template <typename S>
bool are_short(const RowShape& shape) {
  return !has_planes(shape) && shape.count() <= kMostOfRow<S>;
}

/// Squares that float32 has lost digits of, or all, are summed again: a first sum of NaN asks for it, for the
/// sum of deviations from the mean may be 0 as well. Of values that all are the shift there are none.
template <typename T>
void mark_lost(const T* x, Range rows, size_t length, const Partials<T>& sums) {
  constexpr double kLeastSquare = sizeof(T) == sizeof(float) ? 0x1p-120 : 0;
  for (size_t row = rows.begin; row < rows.end; row++, x += length) {
    const bool lost = sums.second[row] < kLeastSquare * static_cast<double>(length) &&
                      std::any_of(x, x + length, [&](T value) { return value != sums.shifts[row]; });
    if (lost) sums.first[row] = std::numeric_limits<double>::quiet_NaN();
  }
}

/// Of such rows.
template <typename S>
void forward_short(const Execution& execution, const RowForward<S>& pass, double* mean, double* variance) {
  using T = Compute<S>;
  const RowShape& shape = pass.shape;
  const size_t length = shape.count();
  const Kernels<T>& kernels = kernels_of<T>(*execution.kernels);
  const Values<S> values(execution);
  Scratch scratch;
  const Partition<T> partition(Tiling<T>(rows_of(shape), kChannelsFirst));
  const Crew crew(execution, shape.size() * sizeof(S));
  const Stores stores = stores_of<S>(execution, partition, pass.x == pass.y);
  const MomentSums<S> sums(scratch, execution, partition, pass.x);
  const Partials<T> partials(scratch, 1, shape.rows());
  const size_t width = shape.rows() + kLanes<T>;
  const auto take = [&](size_t count) { return scratch.template take<T>(count); };
  const Normalization<T> c = {take(width), take(width), take(width)};
  const bool plain = pass.epilogue.residual == nullptr && pass.epilogue.activation == kIdentity;
  const Columns<T> columns(scratch, shape, pass.weight, pass.bias, !plain, values_of_lines<S>(pass.y));
  const ColumnWriter<S> writer(execution, pass, stores, c, columns);
  const size_t some = some_rows(length, 1);
  const size_t room = some * length + 2 * kLanes<T>;
  T* const rooms = values.kPlain ? nullptr : take(crew.threads * round_up(room, kLanes<T>));
  if (pass.y) clear_mask(pass.mask, pass.y, shape.size());
  const size_t block = round_up(std::max<size_t>(1, kBlockBytes / (length * sizeof(S))), some);
  const size_t distance = ahead_bytes(shape.size() * sizeof(S), kSumsAheadBytes) / sizeof(S);
  work(crew, divide_up(shape.rows(), block), [&](size_t task, size_t worker) {
    const Range all = part(shape.rows(), block, task);
    for (Range rows = all; rows.begin < all.end; rows.begin = rows.end) {
      rows.end = std::min(all.end, rows.begin + some);
      const size_t at = rows.begin;
      const size_t count = rows.end - at;
      const T* const x = values.read(pass.x + at * length, count * length,
                                     rooms ? rooms + worker * round_up(room, kLanes<T>) : nullptr);
      kernels.moments_of_rows({count, length, 1 / static_cast<double>(length), pass.centred, x,
                               partials.shifts + at, partials.first + at, partials.second + at});
      mark_lost(x, rows, length, partials);
      sums.check({0, 1}, rows, partials);
      sums.merge(rows, partials, mean, variance);
      centre(rows, pass.centred, mean, variance);
      if (!pass.y) continue;
      kernels.normalization({count, pass.eps, mean + at, variance + at, nullptr, nullptr, c.mean + at,
                             c.scale + at, c.offset + at});
      writer.write({count, length, length, straight_ahead(distance)}, at * length, at);
    }
    if (pass.y) writer.finish();
  });
}

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
  const Columns<T> columns(scratch, shape, pass.weight, pass.bias, !plain, values_of_lines<S>(pass.y));
  const ColumnWriter<S> writer(execution, pass, plan.stores, c, columns);
  sum_and_write(settle, &writer);
}

/// Of rows with gaps, as in channels-last: each sample is batch norm of its own, whose channels share
/// statistics in groups.
template <typename S>
void forward_samples(const Execution& execution, const RowForward<S>& pass, double* mean, double* variance) {
  const RowShape& shape = pass.shape;
  const size_t parameters = shape.parameters();
  const size_t channels = shape.channels;
  std::vector<double> means(parameters), variances(parameters);
  const Execution of_sample = for_a_part(execution, shape.size() * sizeof(S));
  for (size_t sample = 0; sample < shape.samples; sample++) {
    const size_t at = sample * shape.of_sample();
    moments<S>(execution, sample_of(shape), pass.x + at, means.data(), variances.data());
    // What comes later needs no more memory than this, or than the coefficients of a result.
    if (sample == 0)
      Scratch::keep(
          3 * (padded_width(Tiling<Compute<S>>(sample_of(shape))) + kLanes<Compute<S>>)*sizeof(Compute<S>) +
          6 * kAlignment);
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
    forward_inference<S>(of_sample,
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
  if (are_short<S>(shape)) return forward_short(execution, pass, mean, variance);
  if (!pass.y || !is_batch_norm<S>(shape, pass.centred))
    return forward_contiguous(execution, pass, mean, variance);
  const auto weight = repeated(shape, pass.weight);
  const auto bias = repeated(shape, pass.bias);
  forward_training<S>(
      execution,
      {planes_of(shape), pass.eps, pass.x, pass.y, data_of(weight), data_of(bias), pass.epilogue, pass.mask},
      mean, variance);
}

#define BATCHNORM_INSTANTIATE(S) \
  template void forward_rows<S>(const Execution&, const RowForward<S>&, double*, double*);
BATCHNORM_INSTANTIATE(float)
BATCHNORM_INSTANTIATE(double)
BATCHNORM_INSTANTIATE(Half)

}  // namespace batchnorm
