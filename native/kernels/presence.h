// The passes over values of which not all count alike: weighted, outside of a mask, or missing. Sums are in
// double, for weights make terms of all sizes; so neither stretches nor sums of a second kind are needed.
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

/// The share of one line: of its columns, or of its row.
template <typename T, typename Lanes>
ALWAYS_INLINE Vec<T> share_of(RowChannel, const T* shares, size_t, size_t column, Lanes lanes) {
  return Vec<T>::load(shares + column, lanes, Vec<T>::broadcast(0));
}
template <typename T, typename Lanes>
ALWAYS_INLINE Vec<T> share_of(ColumnChannels, const T* shares, size_t row, size_t, Lanes) {
  return Vec<T>::broadcast(shares[row]);
}

/// A line of a row.
template <typename Lanes>
struct Line {
  size_t row;
  size_t column;
  size_t place;  ///< in the tile
  Lanes lanes;
};

/// Calls open(channel) for each row in channels-first, for each line in channels-last, visit(line) of what it
/// returns for the lines, and close(). Lines begin where those of `to` do if it is given. Rows that `skip`
/// are passed over.
template <batchnorm::Layout Layout, typename T, typename Skip, typename Open>
ALWAYS_INLINE void for_each_line(Tile tile, const T* to, Skip skip, Open open) {
  for (size_t row = 0; row < tile.rows; row++) {
    if (skip(row)) continue;
    const size_t first = row * tile.stride;
    const size_t before = to ? before_first_line(to + first, tile.columns) : 0;
    const auto each = [&](auto visit) INLINED {
      if (before > 0) visit(Line<size_t>{row, 0, first, before});
      size_t at = before;
      for (; at + kLanes<T> <= tile.columns; at += kLanes<T>) visit(Line<AllLanes>{row, at, first + at, {}});
      if (at < tile.columns) visit(Line<size_t>{row, at, first + at, tile.columns - at});
    };
    if constexpr (Layout == batchnorm::kChannelsFirst) {
      auto channel = open(RowChannel{row});
      each([&](auto line) INLINED { channel.visit(line); });
      channel.close();
    } else {
      each([&](auto line) INLINED {
        auto channel = open(ColumnChannels{line.column});
        channel.visit(line);
        channel.close();
      });
    }
  }
}
constexpr auto kNoSkip = [](size_t) { return false; };

/// Some sums of a channel in double, in registers between open and close.
template <typename T, size_t Count>
struct WideSums {
  double* const (&all)[Count];
  size_t at;
  Vec<double> sums[Count][kParts<T>];

  ALWAYS_INLINE WideSums(double* const (&from)[Count], size_t first) : all(from), at(first) {
    for (size_t sum = 0; sum < Count; sum++)
      for (size_t part = 0; part < kParts<T>; part++)
        if (all[sum]) sums[sum][part] = Vec<double>::load(all[sum] + at + part * kLanes<double>);
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

template <bool Missing, typename T, typename Channel>
struct PresentMoments {
  const batchnorm::PresentMomentsWork<T>& work;
  Channel channel;
  WideSums<T, Missing ? 4 : 2> sums;

  ALWAYS_INLINE void add(size_t part, Vec<double> x, Vec<double> weight) {
    const Vec<double> zero = Vec<double>::broadcast(0);
    if constexpr (Missing) weight = select_ordered(x, weight, zero);
    const Vec<double> deviation = keep_positive(x - wide(channel, work.shift, part), weight);
    const Vec<double> weighted = weight * deviation;
    sums.add(0, part, weighted);
    sums.add(1, part, weighted * deviation);
    if constexpr (Missing) {
      sums.add(2, part, weight);
      sums.add(3, part, weight * weight);
    }
  }
  template <typename Lanes>
  ALWAYS_INLINE void visit(Line<Lanes> line) {
    const T* values = work.x + line.place;
    const double* weights = work.present.weights;
    constexpr bool by_columns = std::is_same_v<Channel, RowChannel>;
    T some_values[kLanes<T>];
    double some_weights[kLanes<T>];
    if constexpr (!std::is_same_v<Lanes, AllLanes>) {
      for (size_t i = 0; i < kLanes<T>; i++) {
        const bool is_there = i < line.lanes;
        some_values[i] = is_there ? values[i] : 0;
        if (by_columns) some_weights[i] = is_there ? weights[line.column + i] : 0;
      }
      values = some_values;
    }
    for (size_t part = 0; part < kParts<T>; part++) {
      const size_t at = part * kLanes<double>;
      Vec<double> weight;
      if constexpr (!by_columns)
        weight = Vec<double>::broadcast(weights[line.row]);
      else if constexpr (std::is_same_v<Lanes, AllLanes>)
        weight = Vec<double>::load(weights + line.column + at);
      else
        weight = Vec<double>::load(some_weights + at);
      add(part, Vec<double>::widen(values + at), weight);
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

template <bool Missing, batchnorm::Layout Layout, typename T>
ALWAYS_INLINE void present_moments_of(const batchnorm::PresentMomentsWork<T>& all) {
  const auto work = trimmed<Layout>(all);
  double* const sums[] = {work.sums.first, work.sums.second, work.sums.weight, work.sums.squares};
  double* const two[] = {work.sums.first, work.sums.second};
  const auto open = [&](auto channel) INLINED {
    const size_t at = channel.template sums<T>();
    if constexpr (Missing)
      return PresentMoments<true, T, decltype(channel)>{work, channel, {sums, at}};
    else
      return PresentMoments<false, T, decltype(channel)>{work, channel, {two, at}};
  };
  // A row without weight is not read.
  const auto skip = [&](size_t row) INLINED {
    return Layout == batchnorm::kChannelsLast && work.present.weights[row] == 0;
  };
  for_each_line<Layout, T>(work.tile, nullptr, skip, open);
}

template <batchnorm::Layout Layout, typename T>
void present_moments(const batchnorm::PresentMomentsWork<T>& work) {
  if (work.present.missing)
    present_moments_of<true, Layout>(work);
  else
    present_moments_of<false, Layout>(work);
}

/// Writes a vector, past the caches where it is a whole line.
template <typename T>
ALWAYS_INLINE void put(Vec<T> values, T* to, size_t lanes, bool) {
  values.store(to, lanes);
}
template <typename T>
ALWAYS_INLINE void put(Vec<T> values, T* to, AllLanes, bool streams) {
  if (streams)
    values.stream(to);
  else
    values.store(to);
}

template <typename T>
ALWAYS_INLINE void clear_row(T* to, size_t row, Tile tile) {
  if (to)
    for (size_t column = 0; column < tile.columns; column++) to[row * tile.stride + column] = 0;
}

/// The coefficients of y of a channel.
template <typename T, typename Channel>
struct PresentCoefficients {
  Vec<T> mean;
  Vec<T> scale;
  Vec<T> offset;
  Vec<T> bias;
  template <typename Work>
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

template <bool Adds, bool Relu, typename T, typename Channel>
struct PresentNormalize {
  const batchnorm::PresentNormalizeWork<T>& work;
  Channel channel;
  PresentCoefficients<T, Channel> of{work, channel};

  template <typename Lanes>
  ALWAYS_INLINE void visit(Line<Lanes> line) const {
    const Vec<T> x = Vec<T>::load(work.x + line.place, line.lanes, of.mean);
    Vec<T> y = of.normalized(x, work.present.impute);
    if constexpr (Adds) y = y + Vec<T>::load(work.residual + line.place, line.lanes, of.mean);
    if constexpr (Relu) y = keep_positive(y, y);
    if (work.present.zero)
      y = keep_positive(y, share_of<T>(channel, work.present.shares, line.row, line.column, line.lanes));
    put(y, work.y + line.place, line.lanes, work.streams);
  }
  ALWAYS_INLINE void close() const {}
};

template <bool Adds, bool Relu, batchnorm::Layout Layout, typename T>
ALWAYS_INLINE void present_normalize_of(const batchnorm::PresentNormalizeWork<T>& work) {
  const auto open = [&](auto channel) INLINED {
    return PresentNormalize<Adds, Relu, T, decltype(channel)>{work, channel};
  };
  const auto skip = [&](size_t row) INLINED {
    if (Layout == batchnorm::kChannelsFirst || !work.present.zero || work.present.shares[row] != 0)
      return false;
    // What it would be of x is not asked.
    clear_row(work.y, row, work.tile);
    return true;
  };
  for_each_line<Layout, T>(work.tile, work.streams ? work.y : nullptr, skip, open);
  if constexpr (Adds && Relu) {
    if (!work.mask.bytes) return;
    const MaskBits mask(work.mask);
    for (size_t row = 0; row < work.tile.rows; row++)
      set_mask(work.y + row * work.tile.stride, work.tile.columns, mask, row * work.tile.stride);
  }
}

template <batchnorm::Layout Layout, typename T>
void present_normalize(const batchnorm::PresentNormalizeWork<T>& work) {
  const bool relu = work.activation == batchnorm::kRelu;
  if (work.residual)
    return relu ? present_normalize_of<true, true, Layout>(work)
                : present_normalize_of<true, false, Layout>(work);
  return relu ? present_normalize_of<false, true, Layout>(work)
              : present_normalize_of<false, false, Layout>(work);
}

/// What passes back through an activation, and what of it has a value to belong to.
template <typename T>
struct PresentGradient {
  Vec<T> all;
  Vec<T> kept;
  Vec<T> share;

  template <batchnorm::Gate Gate, typename Work, typename Channel, typename Lanes>
  static ALWAYS_INLINE PresentGradient of(const Work& work,
                                          const PresentCoefficients<T, Channel>& coefficients,
                                          Channel channel, MaskBits mask, Line<Lanes> line, Vec<T> x) {
    const Vec<T> zero = Vec<T>::broadcast(0);
    const batchnorm::PresentWork<T>& present = work.present;
    Vec<T> gradient = Vec<T>::load(work.dy + line.place, line.lanes, zero);
    if constexpr (Gate == batchnorm::kRecomputed)
      gradient = keep_positive(gradient, coefficients.normalized(x, present.impute));
    if constexpr (Gate == batchnorm::kMasked) gradient = gradient.keep(mask.load(line.place));
    const Vec<T> share = share_of<T>(channel, present.shares, line.row, line.column, line.lanes);
    if (present.zero) gradient = keep_positive(gradient, share);
    const Vec<T> ordered = select_ordered(x, gradient, zero);
    if (present.missing)
      return {present.impute ? gradient : ordered, ordered, select_ordered(x, share, zero)};
    // A NaN that has weight is in all sums as it is.
    const Vec<T> kept = select_positive(share, gradient, ordered);
    return {kept, kept, share};
  }
};

template <batchnorm::Gate Gate, bool Imputes, typename T, typename Channel>
struct PresentGradSums {
  const batchnorm::PresentGradSumsWork<T>& work;
  MaskBits mask;
  Channel channel;
  WideSums<T, Imputes ? 3 : 2> sums;
  PresentCoefficients<T, Channel> of{work, channel};

  template <typename Lanes>
  ALWAYS_INLINE void visit(Line<Lanes> line) {
    const Vec<T> x = Vec<T>::load(work.x + line.place, line.lanes, of.mean);
    const auto gradient = PresentGradient<T>::template of<Gate>(work, of, channel, mask, line, x);
    T all[kLanes<T>], kept[kLanes<T>], values[kLanes<T>];
    if constexpr (Imputes) gradient.all.store(all);
    gradient.kept.store(kept);
    x.store(values);
    const Vec<double> zero = Vec<double>::broadcast(0);
    for (size_t part = 0; part < kParts<T>; part++) {
      const size_t at = part * kLanes<double>;
      const Vec<double> value = Vec<double>::widen(values + at);
      const Vec<double> dy = Vec<double>::widen(kept + at);
      const Vec<double> deviation = select_ordered(value, value - wide(channel, work.centre, part), zero);
      sums.add(0, part, dy);
      sums.add(1, part, dy * deviation);
      if constexpr (Imputes) sums.add(2, part, Vec<double>::widen(all + at));
    }
  }
  ALWAYS_INLINE void close() const { sums.close(); }
};

/// Of a row that is outside nothing passes back.
template <batchnorm::Layout Layout, typename Work>
ALWAYS_INLINE bool is_outside(const Work& work, size_t row) {
  return Layout == batchnorm::kChannelsLast && work.present.zero && work.present.shares[row] == 0;
}

template <batchnorm::Gate Gate, bool Imputes, batchnorm::Layout Layout, typename T>
ALWAYS_INLINE void present_grad_sums_of(const batchnorm::PresentGradSumsWork<T>& work) {
  const MaskBits mask(work.mask);
  double* const two[] = {work.dy_sum, work.dy_xc};
  double* const three[] = {work.dy_sum, work.dy_xc, work.all};
  const auto open = [&](auto channel) INLINED {
    const size_t at = channel.template sums<T>();
    if constexpr (Imputes)
      return PresentGradSums<Gate, true, T, decltype(channel)>{work, mask, channel, {three, at}};
    else
      return PresentGradSums<Gate, false, T, decltype(channel)>{work, mask, channel, {two, at}};
  };
  const auto skip = [&](size_t row) INLINED { return is_outside<Layout>(work, row); };
  for_each_line<Layout, T>(work.tile, nullptr, skip, open);
}

template <batchnorm::Layout Layout, typename T>
void present_grad_sums(const batchnorm::PresentGradSumsWork<T>& work) {
  const auto run = [&](auto gate) INLINED {
    constexpr auto kGate = static_cast<batchnorm::Gate>(decltype(gate)::value);
    return work.all ? present_grad_sums_of<kGate, true, Layout>(work)
                    : present_grad_sums_of<kGate, false, Layout>(work);
  };
  switch (work.gate) {
    case batchnorm::kOpen:
      return run(Size<batchnorm::kOpen>{});
    case batchnorm::kRecomputed:
      return run(Size<batchnorm::kRecomputed>{});
    case batchnorm::kMasked:
      return run(Size<batchnorm::kMasked>{});
  }
}

template <batchnorm::Gate Gate, typename T, typename Channel>
struct PresentGradInput {
  const batchnorm::PresentGradInputWork<T>& work;
  MaskBits mask;
  Channel channel;
  PresentCoefficients<T, Channel> of{work, channel};
  Vec<T> slope = channel.coefficient(work.slope);
  Vec<T> constant = channel.coefficient(work.constant);

  template <typename Lanes>
  ALWAYS_INLINE void visit(Line<Lanes> line) const {
    const Vec<T> x = Vec<T>::load(work.x + line.place, line.lanes, of.mean);
    const auto gradient = PresentGradient<T>::template of<Gate>(work, of, channel, mask, line, x);
    if (work.dresidual) put(gradient.all, work.dresidual + line.place, line.lanes, false);
    if (!work.dx) return;
    const Vec<T> term = keep_positive((x - of.mean) * slope + constant, gradient.share);
    put((gradient.kept - term * gradient.share) * of.scale, work.dx + line.place, line.lanes, work.streams);
  }
  ALWAYS_INLINE void close() const {}
};

template <batchnorm::Gate Gate, batchnorm::Layout Layout, typename T>
ALWAYS_INLINE void present_grad_input_of(const batchnorm::PresentGradInputWork<T>& work) {
  const MaskBits mask(work.mask);
  const auto open = [&](auto channel) INLINED {
    return PresentGradInput<Gate, T, decltype(channel)>{work, mask, channel};
  };
  const auto skip = [&](size_t row) INLINED {
    if (!is_outside<Layout>(work, row)) return false;
    clear_row(work.dx, row, work.tile);
    clear_row(work.dresidual, row, work.tile);
    return true;
  };
  for_each_line<Layout, T>(work.tile, work.streams ? work.dx : nullptr, skip, open);
}

template <batchnorm::Layout Layout, typename T>
void present_grad_input(const batchnorm::PresentGradInputWork<T>& work) {
  switch (work.gate) {
    case batchnorm::kOpen:
      return present_grad_input_of<batchnorm::kOpen, Layout>(work);
    case batchnorm::kRecomputed:
      return present_grad_input_of<batchnorm::kRecomputed, Layout>(work);
    case batchnorm::kMasked:
      return present_grad_input_of<batchnorm::kMasked, Layout>(work);
  }
}

template <typename T, typename Channel>
struct GradWeights {
  const batchnorm::GradWeightsWork<T>& work;
  Channel channel;

  template <typename Lanes>
  ALWAYS_INLINE void visit(Line<Lanes> line) const {
    const Vec<T> nothing = Vec<T>::broadcast(static_cast<T>(__builtin_nan("")));
    T values[kLanes<T>];
    Vec<T>::load(work.x + line.place, line.lanes, nothing).store(values);
    const Vec<double> zero = Vec<double>::broadcast(0);
    double terms[kLanes<T>];
    for (size_t part = 0; part < kParts<T>; part++) {
      const size_t at = part * kLanes<double>;
      const auto of = [&](const double* array) INLINED { return wide(channel, array, part); };
      const Vec<double> x = Vec<double>::widen(values + at);
      const Vec<double> n = (x - of(work.mean)) * of(work.inverse);
      const Vec<double> term = of(work.linear) * n + of(work.square) * (n * n - of(work.least));
      select_ordered(x, term, zero).store(terms + at);
    }
    if constexpr (std::is_same_v<Channel, RowChannel>) {
      size_t count = kLanes<T>;
      if constexpr (!std::is_same_v<Lanes, AllLanes>) count = line.lanes;
      for (size_t i = 0; i < count; i++) work.dweights[line.column + i] += terms[i];
    } else {
      for (size_t half = kLanes<T> / 2; half > 0; half /= 2)
        for (size_t i = 0; i < half; i++) terms[i] += terms[i + half];
      work.dweights[line.row] += terms[0];
    }
  }
  ALWAYS_INLINE void close() const {}
};

template <batchnorm::Layout Layout, typename T>
void grad_weights(const batchnorm::GradWeightsWork<T>& work) {
  for_each_line<Layout, T>(work.tile, nullptr, kNoSkip, [&](auto channel) INLINED {
    return GradWeights<T, decltype(channel)>{work, channel};
  });
}

}  // namespace
