// The passes over values of which not all count alike: weighted, outside of a mask, or missing. Sums are in
// double, for weights make terms of all sizes; so neither stretches nor sums of a second kind are needed.
//
// There are so many cases that each line asks which one it is: a form for each would be a megabyte.
#pragma once

#include "loops.h"
#include "mask.h"

namespace {

/// Doubles that as many values as a line has become.
template <typename T>
constexpr size_t kParts = kLanes<T> / kLanes<double>;

/// Coefficients in double of one line, part by part.
ALWAYS_INLINE Vec<double> wide(RowChannel channel, const double* array, size_t) {
  return Vec<double>::broadcast(array[channel.row]);
}
ALWAYS_INLINE Vec<double> wide(ColumnChannels channel, const double* array, size_t part) {
  return Vec<double>::load(array + channel.column + part * kLanes<double>);
}

/// A line of a row, or a part of one.
template <typename T>
struct Line {
  size_t row;
  size_t column;
  size_t place;  ///< in the tile
  size_t lanes;

  ALWAYS_INLINE bool is_whole() const { return lanes == kLanes<T>; }
  /// Values from `from` on, for all lanes: 0 where the line has none.
  template <typename Value>
  ALWAYS_INLINE const Value* of(const Value* from, Value (&room)[kLanes<T>]) const {
    if (is_whole()) return from;
    for (size_t lane = 0; lane < kLanes<T>; lane++) room[lane] = lane < lanes ? from[lane] : 0;
    return room;
  }
  /// The same, and asks memory for what comes later.
  ALWAYS_INLINE Vec<T> load(const T* from) const {
    T room[kLanes<T>];
    ask(from);
    return Vec<T>::load(of(from, room));
  }
  ALWAYS_INLINE void ask(const T* from) const { prefetch(from, 8192 / sizeof(T)); }
  /// Past the caches, where it is a whole line that may be written so.
  ALWAYS_INLINE void store(Vec<T> values, T* to, bool streams) const {
    if (!is_whole())
      values.store(to, lanes);
    else if (streams)
      values.stream(to);
    else
      values.store(to);
  }
};

/// The share of a line: of its columns, or of its row.
template <typename T>
ALWAYS_INLINE Vec<T> share_of(RowChannel, const T* shares, const Line<T>& line) {
  T room[kLanes<T>];
  return Vec<T>::load(line.of(shares + line.column, room));
}
template <typename T>
ALWAYS_INLINE Vec<T> share_of(ColumnChannels, const T* shares, const Line<T>& line) {
  return Vec<T>::broadcast(shares[line.row]);
}

/// Calls open(channel) for each row in channels-first, for each line in channels-last, visit(line) of what it
/// returns for the lines, and close(). Lines begin where those of `to` do if it is given. Rows that `skip`
/// are passed over. `flows`: rows of channels-last without gaps, of which none is like no other, are one,
/// whose lines go on from row to row; coefficients do so beyond their last column.
template <batchnorm::Layout Layout, typename T, typename Skip, typename Open>
ALWAYS_INLINE void for_each_line(Tile tile, const T* to, bool flows, Skip skip, Open open) {
  const size_t width = tile.columns;
  if (Layout == batchnorm::kChannelsLast && flows && tile.stride == tile.columns) {
    tile.columns *= tile.rows;
    tile.rows = tile.rows > 0 ? 1 : 0;
  }
  for (size_t row = 0; row < tile.rows; row++) {
    if (skip(row)) continue;
    const size_t first = row * tile.stride;
    const size_t before = to ? before_first_line(to + first, tile.columns) : 0;
    const auto each = [&](auto visit) INLINED {
      size_t lanes = before > 0 ? before : kLanes<T>;
      size_t column = 0;
      for (size_t at = 0; at < tile.columns; at += lanes, lanes = kLanes<T>) {
        if (tile.columns - at < lanes) lanes = tile.columns - at;
        visit(Line<T>{row, column, first + at, lanes});
        column += lanes;
        while (column >= width) column -= width;
      }
    };
    if constexpr (Layout == batchnorm::kChannelsFirst) {
      auto channel = open(RowChannel{row});
      each([&](const Line<T>& line) INLINED { channel.visit(line); });
      channel.close();
    } else {
      each([&](const Line<T>& line) INLINED {
        auto channel = open(ColumnChannels{line.column});
        channel.visit(line);
        channel.close();
      });
    }
  }
}

/// Some sums of a channel in double, in registers between open and close; those of nullptr are not kept.
template <typename T, size_t Count>
struct WideSums {
  double* const (&all)[Count];
  size_t at;
  Vec<double> sums[Count][kParts<T>];

  ALWAYS_INLINE WideSums(double* const (&from)[Count], size_t first) : all(from), at(first) {
    for (size_t sum = 0; sum < Count; sum++)
      for (size_t part = 0; part < kParts<T>; part++)
        sums[sum][part] =
            all[sum] ? Vec<double>::load(all[sum] + at + part * kLanes<double>) : Vec<double>::broadcast(0);
  }
  ALWAYS_INLINE void add(size_t sum, size_t part, Vec<double> values) {
    sums[sum][part] = sums[sum][part] + values;
  }
  ALWAYS_INLINE void close() const {
    for (size_t sum = 0; sum < Count; sum++)
      for (size_t part = 0; part < kParts<T>; part++)
        if (all[sum]) sums[sum][part].store(all[sum] + at + part * kLanes<double>);
  }
};

template <typename T, typename Channel>
struct PresentMoments {
  const batchnorm::PresentMomentsWork<T>& work;
  Channel channel;
  WideSums<T, 4> sums;

  ALWAYS_INLINE void visit(const Line<T>& line) {
    T some_values[kLanes<T>];
    double some_weights[kLanes<T>];
    const Vec<double> zero = Vec<double>::broadcast(0);
    const T* const values = line.of(work.x + line.place, some_values);
    line.ask(work.x + line.place);
    const double* weights = work.present.weights + line.row;
    if constexpr (std::is_same_v<Channel, RowChannel>)
      weights = line.of(work.present.weights + line.column, some_weights);
    for (size_t part = 0; part < kParts<T>; part++) {
      const size_t at = part * kLanes<double>;
      const Vec<double> x = Vec<double>::widen(values + at);
      Vec<double> weight;
      if constexpr (std::is_same_v<Channel, RowChannel>)
        weight = Vec<double>::load(weights + at);
      else
        weight = Vec<double>::broadcast(*weights);
      if (work.present.missing) weight = select_ordered(x, weight, zero);
      const Vec<double> deviation = keep_positive(x - wide(channel, work.shift, part), weight);
      const Vec<double> weighted = weight * deviation;
      sums.add(0, part, weighted);
      sums.add(1, part, weighted * deviation);
      if (!work.present.missing) continue;
      sums.add(2, part, weight);
      sums.add(3, part, weight * weight);
    }
  }
  ALWAYS_INLINE void close() const { sums.close(); }
};

/// Without both ends of channels-first rows that have no weight.
template <batchnorm::Layout Layout, typename T>
ALWAYS_INLINE batchnorm::PresentMomentsWork<T> trimmed(batchnorm::PresentMomentsWork<T> work) {
  if constexpr (Layout == batchnorm::kChannelsFirst) {
    size_t begin = 0;
    size_t end = work.tile.columns;
    while (begin < end && work.present.weights[begin] == 0) begin++;
    while (end > begin && work.present.weights[end - 1] == 0) end--;
    begin -= begin % kLanes<T>;
    work.tile.columns = end - begin;
    work.x += begin;
    work.present.weights += begin;
  }
  return work;
}

template <batchnorm::Layout Layout, typename T>
void present_moments(const batchnorm::PresentMomentsWork<T>& all) {
  const auto work = trimmed<Layout>(all);
  double* const sums[] = {work.sums.first, work.sums.second, work.sums.weight, work.sums.squares};
  // A row without weight is not read.
  const auto skip = [&](size_t row) INLINED {
    return Layout == batchnorm::kChannelsLast && work.present.weights[row] == 0;
  };
  for_each_line<Layout, T>(work.tile, nullptr, false, skip, [&](auto channel) INLINED {
    return PresentMoments<T, decltype(channel)>{work, channel, {sums, channel.template sums<T>()}};
  });
}

template <typename T>
ALWAYS_INLINE void clear_row(T* to, size_t row, Tile tile) {
  if (to)
    for (size_t column = 0; column < tile.columns; column++) to[row * tile.stride + column] = 0;
}

/// Whether a whole row of channels-last is 0 in y, so that what it would be is not asked.
template <batchnorm::Layout Layout, typename Work>
ALWAYS_INLINE bool is_outside(const Work& work, size_t row) {
  return Layout == batchnorm::kChannelsLast && work.present.zero && work.present.shares[row] == 0;
}

/// The coefficients of y of a channel.
template <typename T>
struct PresentCoefficients {
  Vec<T> mean;
  Vec<T> scale;
  Vec<T> offset;
  Vec<T> bias;
  template <typename Work, typename Channel>
  ALWAYS_INLINE PresentCoefficients(const Work& work, Channel channel)
      : mean(channel.coefficient(work.mean)),
        scale(channel.coefficient(work.scale)),
        offset(channel.coefficient(work.offset)),
        bias(channel.coefficient(work.bias)) {}

  ALWAYS_INLINE Vec<T> normalized(Vec<T> x, bool impute) const {
    const Vec<T> y = ::normalized(x - mean, scale, offset);
    return impute ? select_ordered(x, y, bias) : y;
  }
};

template <typename T, typename Channel>
struct PresentNormalize {
  const batchnorm::PresentNormalizeWork<T>& work;
  Channel channel;
  PresentCoefficients<T> of{work, channel};

  ALWAYS_INLINE void visit(const Line<T>& line) const {
    Vec<T> y = of.normalized(line.load(work.x + line.place), work.present.impute);
    if (work.residual) y = y + line.load(work.residual + line.place);
    if (work.activation == batchnorm::kRelu) y = keep_positive(y, y);
    if (work.present.zero) y = keep_positive(y, share_of(channel, work.present.shares, line));
    line.store(y, work.y + line.place, work.streams);
  }
  ALWAYS_INLINE void close() const {}
};

template <batchnorm::Layout Layout, typename T>
void present_normalize(const batchnorm::PresentNormalizeWork<T>& work) {
  const auto skip = [&](size_t row) INLINED {
    const bool skips = is_outside<Layout>(work, row);
    if (skips) clear_row(work.y, row, work.tile);
    return skips;
  };
  for_each_line<Layout, T>(work.tile, work.streams ? work.y : nullptr, !work.present.zero, skip,
                           [&](auto channel) INLINED {
                             return PresentNormalize<T, decltype(channel)>{work, channel};
                           });
  if (!work.mask.bytes) return;
  const MaskBits mask(work.mask);
  for (size_t row = 0; row < work.tile.rows; row++)
    set_mask(work.y + row * work.tile.stride, work.tile.columns, mask, row * work.tile.stride);
}

/// What passes back through an activation, and what of it has a value to belong to.
template <typename T>
struct PresentGradient {
  Vec<T> residual;  ///< of y, imputed or not
  Vec<T> bias;      ///< with imputed values
  Vec<T> kept;
  Vec<T> share;
  Vec<T> x;  ///< the mean where it belongs to nothing

  template <typename Work, typename Channel>
  static ALWAYS_INLINE PresentGradient of(const Work& work, const PresentCoefficients<T>& coefficients,
                                          Channel channel, MaskBits mask, const Line<T>& line, Vec<T> x) {
    const Vec<T> zero = Vec<T>::broadcast(0);
    const batchnorm::PresentWork<T>& present = work.present;
    Vec<T> gradient = line.load(work.dy + line.place);
    if (work.gate == batchnorm::kRecomputed)
      gradient = keep_positive(gradient, coefficients.normalized(x, present.impute));
    if (work.gate == batchnorm::kMasked) gradient = gradient.keep(mask.load(line.place));
    const Vec<T> share = share_of(channel, present.shares, line);
    if (present.zero) gradient = keep_positive(gradient, share);
    // Outside, what is not finite is nothing; one that has weight is in all sums as it is.
    const Vec<T> finite = x - x;
    const Vec<T> outside = present.zero ? zero : select_ordered(finite, gradient, zero);
    const Vec<T> outside_x = present.zero ? coefficients.mean : select_ordered(finite, x, coefficients.mean);
    const Vec<T> kept = select_positive(share, gradient, outside);
    const Vec<T> kept_x = select_positive(share, x, outside_x);
    if (!present.missing) return {kept, kept, kept, share, kept_x};
    const Vec<T> there = select_ordered(x, kept, zero);
    return {present.impute ? gradient : there,
            present.impute ? select_ordered(x, kept, keep_positive(gradient, share)) : there, there,
            select_ordered(x, share, zero), select_ordered(x, kept_x, coefficients.mean)};
  }
};

template <typename T, typename Channel>
struct PresentGradSums {
  const batchnorm::PresentGradSumsWork<T>& work;
  MaskBits mask;
  Channel channel;
  WideSums<T, 3> sums;
  PresentCoefficients<T> of{work, channel};

  ALWAYS_INLINE void visit(const Line<T>& line) {
    const Vec<T> x = line.load(work.x + line.place);
    const auto gradient = PresentGradient<T>::of(work, of, channel, mask, line, x);
    T all[kLanes<T>], kept[kLanes<T>], values[kLanes<T>];
    gradient.bias.store(all);
    gradient.kept.store(kept);
    gradient.x.store(values);
    for (size_t part = 0; part < kParts<T>; part++) {
      const size_t at = part * kLanes<double>;
      const Vec<double> dy = Vec<double>::widen(kept + at);
      const Vec<double> deviation = Vec<double>::widen(values + at) - wide(channel, work.centre, part);
      sums.add(0, part, dy);
      sums.add(1, part, dy * deviation);
      if (work.all) sums.add(2, part, Vec<double>::widen(all + at));
    }
  }
  ALWAYS_INLINE void close() const { sums.close(); }
};

template <batchnorm::Layout Layout, typename T>
void present_grad_sums(const batchnorm::PresentGradSumsWork<T>& work) {
  const MaskBits mask(work.mask);
  double* const sums[] = {work.dy_sum, work.dy_xc, work.all};
  const auto skip = [&](size_t row) INLINED { return is_outside<Layout>(work, row); };
  for_each_line<Layout, T>(work.tile, nullptr, false, skip, [&](auto channel) INLINED {
    return PresentGradSums<T, decltype(channel)>{work, mask, channel, {sums, channel.template sums<T>()}};
  });
}

template <typename T, typename Channel>
struct PresentGradInput {
  const batchnorm::PresentGradInputWork<T>& work;
  MaskBits mask;
  Channel channel;
  PresentCoefficients<T> of{work, channel};
  Vec<T> slope = channel.coefficient(work.slope);
  Vec<T> constant = channel.coefficient(work.constant);

  ALWAYS_INLINE void visit(const Line<T>& line) const {
    const Vec<T> x = line.load(work.x + line.place);
    const auto gradient = PresentGradient<T>::of(work, of, channel, mask, line, x);
    if (work.dresidual) line.store(gradient.residual, work.dresidual + line.place, false);
    if (!work.dx) return;
    Vec<T> left = gradient.kept;
    if (!work.fixed)
      left = left - keep_positive((x - of.mean) * slope + constant, gradient.share) * gradient.share;
    line.store(left * of.scale, work.dx + line.place, work.streams);
  }
  ALWAYS_INLINE void close() const {}
};

template <batchnorm::Layout Layout, typename T>
void present_grad_input(const batchnorm::PresentGradInputWork<T>& work) {
  const MaskBits mask(work.mask);
  const auto skip = [&](size_t row) INLINED {
    const bool skips = is_outside<Layout>(work, row);
    if (skips) clear_row(work.dx, row, work.tile);
    if (skips) clear_row(work.dresidual, row, work.tile);
    return skips;
  };
  for_each_line<Layout, T>(work.tile, work.streams ? work.dx : nullptr, work.flows, skip,
                           [&](auto channel) INLINED {
                             return PresentGradInput<T, decltype(channel)>{work, mask, channel};
                           });
}

template <typename T, typename Channel>
struct GradWeights {
  const batchnorm::GradWeightsWork<T>& work;
  Channel channel;

  ALWAYS_INLINE void visit(const Line<T>& line) const {
    T some_values[kLanes<T>];
    const T* const values = line.of(work.x + line.place, some_values);
    const Vec<double> zero = Vec<double>::broadcast(0);
    double terms[kLanes<T>];
    for (size_t part = 0; part < kParts<T>; part++) {
      const size_t at = part * kLanes<double>;
      const auto of = [&](const double* array) INLINED { return wide(channel, array, part); };
      const Vec<double> x = Vec<double>::widen(values + at);
      const Vec<double> n = (x - of(work.mean)) * of(work.inverse);
      const Vec<double> term = of(work.linear) * n + of(work.square) * (n * n - of(work.least));
      select_ordered(x - x, term, zero).store(terms + at);
    }
    if constexpr (std::is_same_v<Channel, RowChannel>) {
      for (size_t lane = 0; lane < line.lanes; lane++) work.dweights[line.column + lane] += terms[lane];
    } else {
      for (size_t lane = line.lanes; lane < kLanes<T>; lane++) terms[lane] = 0;
      for (size_t half = kLanes<T> / 2; half > 0; half /= 2)
        for (size_t lane = 0; lane < half; lane++) terms[lane] += terms[lane + half];
      work.dweights[line.row] += terms[0];
    }
  }
  ALWAYS_INLINE void close() const {}
};

template <batchnorm::Layout Layout, typename T>
void grad_weights(const batchnorm::GradWeightsWork<T>& work) {
  const auto none = [](size_t) { return false; };
  for_each_line<Layout, T>(work.tile, nullptr, false, none, [&](auto channel) INLINED {
    return GradWeights<T, decltype(channel)>{work, channel};
  });
}

}  // namespace
