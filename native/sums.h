// The sums of a pass, chunk by chunk, and what they become: statistics, and the sums of gradients. Changes
// bits.
#pragma once

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "access.h"
#include "ahead.h"
#include "settle.h"
#include "underflow.h"

namespace batchnorm {

/// What becomes of them: sums of chunks and channels, and the shifts they refer to.
template <typename T>
struct Partials {
  Partials() = default;
  Partials(Scratch& scratch, size_t chunks, size_t channels)
      : stride(channels),
        shifts(scratch.take<T>(chunks * channels)),
        first(scratch.take<double>(chunks * channels)),
        second(scratch.take<double>(chunks * channels)) {}

  size_t at(size_t chunk, size_t channel) const { return chunk * stride + channel - origin; }

  /// The channel that comes first in a chunk, and how many there are.
  size_t origin = 0;
  size_t stride;
  T* shifts;
  double* first;
  double* second;
};

/// Calls add(first in the chunk, first of them, count) for channels [begin, end) of a chunk, one copy of them
/// after the other.
template <typename T, typename Add>
void for_each_copy(const Partition<T>& partition, const Span& span, Range channels, Add add) {
  const size_t width = partition.shape().channels;
  const size_t end = partition.channels_of(span, {0, partition.width_in_channels()}).end;
  for (size_t copy = 0; copy + channels.begin < end; copy += width)
    add(copy + channels.begin, channels.begin, std::min(copy + channels.end, end) - copy - channels.begin);
}

/// What kernels add to. Chunks of one stretch have sums of their own and no totals; else the sums, which
/// every chunk leaves at 0, are those of all, and the totals each chunk's: where a channel has one column
/// they are its partials.
template <typename T>
class Accumulators {
 public:
  /// For so many chunks of so many channels, to be collected together.
  Accumulators(Scratch& scratch, const Partition<T>& partition, size_t chunks, size_t channels)
      : layout_(partition.layout()),
        one_stretch_(partition.is_one_stretch()),
        columns_of_channel_(partition.columns_of_channel()),
        has_totals_(layout_ == kChannelsFirst || columns_of_channel_ > 1) {
    const size_t each = size(channels);
    if (columns_of_channel_ > 1) columns_ = scratch.take<T>(each);
    first_ = scratch.take<T>(one_stretch_ ? chunks * each : each);
    second_ = scratch.take<T>(one_stretch_ ? chunks * each : each);
    if (one_stretch_) return;
    std::fill_n(first_, each, T{0});
    std::fill_n(second_, each, T{0});
    if (!has_totals_) return;
    first_totals_ = scratch.take<double>(chunks * each);
    second_totals_ = scratch.take<double>(chunks * each);
  }

  /// Where the sums of chunk `index` begin; those of all before it have been asked for.
  LaneSums<T> begin(size_t index, size_t chunk, Range channels, const Partials<T>& partials) const {
    const size_t count = size(channels.end - channels.begin);
    if (one_stretch_) {
      LaneSums<T> sums = {first_ + index * count, second_ + index * count, nullptr, nullptr};
      std::fill_n(sums.first, count, T{0});
      std::fill_n(sums.second, count, T{0});
      return sums;
    }
    const size_t at = has_totals_ ? index * count : partials.at(chunk, channels.begin);
    const size_t totals = has_totals_ ? count : round_up(channels.end - channels.begin, kLanes<T>);
    LaneSums<T> sums = {first_, second_, (has_totals_ ? first_totals_ : partials.first) + at,
                        (has_totals_ ? second_totals_ : partials.second) + at};
    std::fill_n(sums.first_total, totals, 0.0);
    std::fill_n(sums.second_total, totals, 0.0);
    return sums;
  }

  /// Turns what channels of some chunks have added up into partials, which hold these channels alone if there
  /// are several chunks.
  void collect(const Kernels<T>& kernels, Range chunks, Range channels, const Partials<T>& partials) const {
    const size_t count = (chunks.end - chunks.begin) * (channels.end - channels.begin);
    const size_t at = partials.at(chunks.begin, channels.begin);
    if (one_stretch_) {
      kernels.collect[layout_](first_, count, columns_of_channel_, partials.first + at);
      kernels.collect[layout_](second_, count, columns_of_channel_, partials.second + at);
    } else if (has_totals_) {
      kernels.collect_totals[layout_](first_totals_, count, columns_of_channel_, partials.first + at);
      kernels.collect_totals[layout_](second_totals_, count, columns_of_channel_, partials.second + at);
    }
  }

  /// Room for a value of each column, where a channel has several.
  T* columns() const { return columns_; }

 private:
  size_t size(size_t channels) const {
    if (layout_ == kChannelsFirst) return channels * kLanes<T>;
    // Vectors may begin in the middle of one.
    return round_up(channels * columns_of_channel_, kLanes<T>) + kLanes<T>;
  }

  Layout layout_;
  bool one_stretch_;
  size_t columns_of_channel_;
  bool has_totals_;
  T* first_;
  T* second_;
  double* first_totals_ = nullptr;
  double* second_totals_ = nullptr;
  T* columns_ = nullptr;
};

/// Nine values of channel `channel` from all over a span: images begin with borders.
template <typename S>
void find_nine(const Partition<Compute<S>>& partition, const Span& span, size_t channel, const S* x,
               const S* (&nine)[9]) {
  size_t places[9];
  partition.find_places(span, channel, places);
  for (size_t i = 0; i < 9; i++) nine[i] = x + places[i];
}

/// All chunks in their order.
template <typename T>
const Span* take_chunks(Scratch& scratch, const Partition<T>& partition) {
  Span* const chunks = scratch.take<Span>(partition.chunks());
  for (size_t chunk = 0; chunk < partition.chunks(); chunk++) chunks[chunk] = partition.chunk(chunk);
  return chunks;
}

/// A sum in double, and beside it what its roundings have lost (Neumaier, 1974).
class CompensatedSum {
 public:
  void add(double value) {
    const double total = sum_ + value;
    lost_ += std::fabs(sum_) >= std::fabs(value) ? (sum_ - total) + value : (value - total) + sum_;
    sum_ = total;
  }
  double value() const { return sum_ + lost_; }

 private:
  double sum_ = 0;
  double lost_ = 0;
};

/// Sums of deviations from a shift near the data, per chunk.
template <typename S>
class MomentSums {
  using T = Compute<S>;

 public:
  MomentSums(Scratch& scratch, const Execution& execution, const Partition<T>& partition, const S* x)
      : access_(execution),
        kernels_(kernels_of<T>(*execution.kernels)),
        partition_(partition),
        chunks_(take_chunks(scratch, partition)),
        x_(x),
        reference_sums_(scratch.take<double>(partition.shape().channels)),
        reference_squares_(scratch.take<double>(partition.shape().channels)) {}

  /// Asks memory for what sum() of a chunk reads before anything else: the nine values from all over it of
  /// each channel, of which one becomes the shift.
  void ask_for(size_t chunk, Range channels) const {
    const S* nine[9];
    find_nine(partition_, chunks_[chunk], channels.begin, x_, nine);
    if (partition_.layout() == kChannelsLast) {
      const size_t columns = (channels.end - channels.begin) * partition_.columns_of_channel();
      for (const S* at : nine)
        for (size_t column = 0; column < columns; column += kLanes<S>) prefetch(at + column);
      return;
    }
    for (size_t channel = channels.begin; channel < channels.end; channel++)
      for (const S*& at : nine) {
        prefetch(at);
        at += partition_.shape().inner;
      }
  }

  /// Adds up channels [begin, end) of one chunk: add(work) does each tile. `columns` has room for a value of
  /// each column, where channels have several.
  template <typename Add>
  void sum(size_t chunk, Range channels, const LaneSums<T>& sums, T* columns, const Partials<T>& partials,
           Add add) const {
    const Span& span = chunks_[chunk];
    channels = partition_.channels_of(span, channels);
    if (channels.begin >= channels.end) return;
    const size_t count = channels.end - channels.begin;
    const size_t columns_of_channel = partition_.columns_of_channel();
    // Being values of the data, shifts lie on their grid: deviations of data with few mantissa bits, and
    // their squares, are exact, and those of a constant channel are 0.
    T* const shifts = partials.shifts + partials.at(chunk, channels.begin);
    const S* nine[9];
    find_nine(partition_, span, channels.begin, x_, nine);
    access_.centres(kernels_, nine, partition_.shape().inner, count, shifts);
    if (columns_of_channel > 1) kernels_.spread(shifts, count, columns_of_channel, columns);
    const T* const read = columns_of_channel > 1 ? columns : shifts;
    size_t before = 0;
    partition_.for_each_tile(
        span, channels.begin * columns_of_channel, channels.end * columns_of_channel,
        ahead<S>(partition_, span, channels, kMomentsAheadBytes), [&](Tile tile, size_t at) {
          add(MomentsWork<S>{tile, x_ + at, read, sums, partition_.ends_stretch(span, before++)});
        });
  }

  /// What is to be done when the partials of channels of some chunks are there: all that this thread has
  /// summed since it was last here.
  void check(Range chunks, Range channels, const Partials<T>& partials) const {
    const bool lost = may_have_underflowed();
    for (size_t chunk = chunks.begin; chunk < chunks.end; chunk++) {
      const Span& span = chunks_[chunk];
      Range summed = partition_.channels_of(span, channels);
      if (summed.begin >= summed.end) break;
      const double values = static_cast<double>(partition_.values(span));
      while (true) {
        const size_t at = partials.at(chunk, summed.begin);
        summed.begin += kernels_.find_bad(summed.end - summed.begin, lost, values, partials.first + at,
                                          partials.second + at);
        if (summed.begin == summed.end) break;
        const size_t bad = partials.at(chunk, summed.begin);
        sum_in_double(span, summed.begin, partials.shifts[bad], partials.first[bad], partials.second[bad]);
        summed.begin++;
      }
    }
    if (lost) forget_underflow();
  }

  void add(const MomentsWork<S>& work) const {
    access_.sum(kernels_.moments[partition_.layout()], partition_.layout(), work);
  }

  /// Mean and biased variance of channels [begin, end) of the tensor: the chunks in their order, all with
  /// reference to the shift of the first.
  void merge(Range channels, const Partials<T>& partials, double* mean, double* variance) const {
    const size_t at = channels.begin;
    const size_t channels_settled = channels.end - at;
    std::fill_n(reference_sums_ + at, channels_settled, 0.0);
    std::fill_n(reference_squares_ + at, channels_settled, 0.0);
    const T* const reference = partials.shifts + partials.at(0, at);
    for (size_t chunk = 0; chunk < partition_.chunks(); chunk++) {
      const Span& span = chunks_[chunk];
      const double values = static_cast<double>(partition_.values(span));
      for_each_copy(partition_, span, channels, [&](size_t in_chunk, size_t channel, size_t count) {
        const size_t from = partials.at(chunk, in_chunk);
        kernels_.merge(count, values, partials.first + from, partials.second + from, partials.shifts + from,
                       reference + (channel - at), reference_sums_ + channel, reference_squares_ + channel);
      });
    }
    kernels_.statistics(channels_settled, static_cast<double>(partition_.shape().count()), reference,
                        reference_sums_ + at, reference_squares_ + at, mean + at, variance + at);
    // Squares of float32 do not overflow in double.
    if constexpr (std::is_same_v<T, double>)
      if (kernels_.find_bad(channels_settled, false, 1, mean + at, variance + at) < channels_settled)
        mend(channels, mean, variance);
  }

 private:
  /// Statistics that are not finite though the data is, once more.
  void mend(Range channels, double* mean, double* variance) const {
    const size_t end = channels.end;
    for (Range block = channels; block.begin < end; block.begin = block.end) {
      block.end = std::min(end, block.begin + kMended);
      bool open[kMended];
      for (size_t channel = block.begin; channel < block.end; channel++)
        open[channel - block.begin] = !std::isfinite(mean[channel]) || !std::isfinite(variance[channel]);
      keep_finite(block, open);
      for (size_t channel = block.begin; channel < block.end; channel++)
        if (open[channel - block.begin]) find_scaled(channel, mean[channel], variance[channel]);
    }
  }

  /// Channels looked at together: a few lines of a row.
  static constexpr size_t kMended = 64;

  /// Closes the channels of a block that have a value which is not finite, at the first of them or soon
  /// after.
  void keep_finite(Range block, bool (&open)[kMended]) const {
    const Shape& shape = partition_.shape();
    const size_t count = block.end - block.begin;
    if (shape.inner > 1) {
      for (size_t i = 0; i < count; i++)
        for (size_t sample = 0; sample < shape.outer && open[i]; sample++) {
          const T* const values = x_ + (sample * shape.channels + block.begin + i) * shape.inner;
          open[i] = std::all_of(values, values + shape.inner, [](T value) { return std::isfinite(value); });
        }
      return;
    }
    // Of x - x, which is 0 or NaN: a loop over columns that the compiler does several at a time.
    T nothing[kMended] = {};
    constexpr size_t kRows = 32;
    for (size_t row = 0; row < shape.outer; row++) {
      const T* const values = x_ + row * shape.channels + block.begin;
      for (size_t i = 0; i < count; i++) nothing[i] += values[i] - values[i];
      if ((row + 1) % kRows != 0 && row + 1 < shape.outer) continue;
      for (size_t i = 0; i < count; i++) open[i] = open[i] && nothing[i] == 0;
      if (std::none_of(open, open + count, [](bool is_open) { return is_open; })) return;
    }
  }

  /// In two passes over values so small that no square of them overflows: only what is found may.
  void find_scaled(size_t channel, double& mean, double& variance) const {
    // Where squares have overflowed, what such a scale takes below the smallest double is no matter.
    constexpr double kDown = 0x1p-600;
    constexpr double kUp = 0x1p600;
    const Shape& shape = partition_.shape();
    const auto mean_of = [&](auto term) {
      CompensatedSum sum;
      for (size_t sample = 0; sample < shape.outer; sample++) {
        const T* const values = x_ + (sample * shape.channels + channel) * shape.inner;
        for (size_t i = 0; i < shape.inner; i++) sum.add(term(values[i] * kDown));
      }
      return sum.value() / static_cast<double>(shape.count());
    };
    const double centre = mean_of([](double value) { return value; });
    const double rest = mean_of([=](double value) { return value - centre; });
    const double squares = mean_of([=](double value) { return (value - centre) * (value - centre); });
    mean = (centre + rest) * kUp;
    variance = (squares - rest * rest) * kUp * kUp;
  }

  /// In double, where float32 sums overflow (deviations from 1e19 on), where the shift is far from the mean
  /// or the squares are tiny, and where the data is not finite, for then the result must not depend on the
  /// order of the additions.
  void sum_in_double(const Span& span, size_t channel, T& shift, double& first, double& second) const {
    if (!std::isfinite(shift)) shift = 0;
    double sums[kLanes<T>] = {};
    double squares[kLanes<T>] = {};
    const auto add = [&](const S* values, size_t count) {
      access_.add_in_double(kernels_, values, count, static_cast<double>(shift), sums, squares);
    };
    const size_t columns = partition_.columns_of_channel();
    partition_.for_each_tile(span, channel * columns, (channel + 1) * columns, straight_ahead(0),
                             [&](Tile tile, size_t at) {
                               if (partition_.layout() == kChannelsFirst) return add(x_ + at, tile.columns);
                               for (const S* column = x_ + at; column < x_ + at + columns; column++) {
                                 S values[Partition<T>::kChunkRows];
                                 for (size_t row = 0; row < tile.rows; row++)
                                   values[row] = column[row * tile.stride];
                                 add(values, tile.rows);
                               }
                             });
    for (size_t half = kLanes<T> / 2; half > 0; half /= 2)
      for (size_t lane = 0; lane < half; lane++) {
        sums[lane] += sums[lane + half];
        squares[lane] += squares[lane + half];
      }
    first = sums[0];
    second = squares[0];
  }

  const Access<S> access_;
  const Kernels<T>& kernels_;
  const Partition<T>& partition_;
  const Span* chunks_;
  const S* x_;
  double* reference_sums_;
  double* reference_squares_;
};

/// Sums of dy and dy * (x - mean), per chunk, of the dy that the activation lets through.
template <typename S>
class GradSums {
  using T = Compute<S>;

 public:
  GradSums(Scratch& scratch, const Execution& execution, const Partition<T>& partition, const S* dy,
           const S* x, Gate gate, unsigned char* mask, Normalization<const T> coefficients, GradientSums to)
      : access_(execution),
        pass_(kernels_of<T>(*execution.kernels).grad_sums[access_.gate_of(gate)][partition.layout()]),
        partition_(partition),
        chunks_(take_chunks(scratch, partition)),
        dy_(dy),
        x_(x),
        mask_(mask),
        coefficients_(coefficients),
        to_(to) {}

  /// sum() reads nothing but what follows.
  void ask_for(size_t, Range) const {}

  /// Adds up channels [begin, end) of one chunk: add(work) does each tile.
  template <typename Add>
  void sum(size_t chunk, Range channels, const LaneSums<T>& sums, T*, const Partials<T>&, Add add) const {
    const Span& span = chunks_[chunk];
    const size_t columns = partition_.columns_of_channel();
    const Normalization<const T> c = coefficients_.from(channels.begin * columns);
    size_t before = 0;
    partition_.for_each_tile(span, channels.begin * columns, channels.end * columns,
                             ahead<S>(partition_, span, channels, kAheadBytes), [&](Tile tile, size_t at) {
                               add(GradSumsWork<S>{tile,
                                                   dy_ + at,
                                                   x_ + at,
                                                   {mask_, at},
                                                   c.mean,
                                                   c.scale,
                                                   c.offset,
                                                   sums,
                                                   partition_.ends_stretch(span, before++)});
                             });
  }

  void check(Range, Range, const Partials<T>&) const {}

  void add(const GradSumsWork<S>& work) const { access_.sum(pass_, partition_.layout(), work); }

  /// The sums of channels [begin, end) of the tensor, the chunks in their order.
  void merge(Range channels, const Partials<T>& partials) const {
    for (size_t channel = channels.begin; channel < channels.end; channel++) {
      to_.dy[channel] = 0;
      to_.dy_xc[channel] = 0;
    }
    for (size_t chunk = 0; chunk < partition_.chunks(); chunk++)
      for_each_copy(partition_, chunks_[chunk], channels, [&](size_t in_chunk, size_t first, size_t count) {
        const size_t at = partials.at(chunk, in_chunk);
        for (size_t i = 0; i < count; i++) {
          to_.dy[first + i] += partials.first[at + i];
          to_.dy_xc[first + i] += partials.second[at + i];
        }
      });
  }

 private:
  const Access<S> access_;
  void (*pass_)(const GradSumsWork<T>&);
  const Partition<T>& partition_;
  const Span* chunks_;
  const S* dy_;
  const S* x_;
  unsigned char* mask_;
  Normalization<const T> coefficients_;
  GradientSums to_;
};

}  // namespace batchnorm
