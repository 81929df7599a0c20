// What is computed: the four passes of batch norm, each written once for all layouts, dtypes and ISAs.
// No fused multiply-add anywhere (the project compiles with -ffp-contract=off): every CPU gives the same
// bits.
#pragma once

#include <type_traits>

#include "channels.h"
#include "convert.h"
#include "loops.h"
#include "mask.h"
#include "pixels.h"
#include "presence.h"
#include "rows.h"
#include "terms.h"
#include "transpose.h"

namespace {

/// Two accumulators of a channel, in registers between open and close.
template <typename T>
struct PairOfSums {
  batchnorm::LaneSums<T> all;
  size_t at;
  Vec<T> first = Vec<T>::load(all.first + at);
  Vec<T> second = Vec<T>::load(all.second + at);

  Terms<T> held = {};

  ALWAYS_INLINE void add(const Terms<T>& quad) {
    first = first + quad.first;
    second = second + quad.second;
  }
  /// Zeros where nothing is held, which change no bit of what a sum becomes.
  ALWAYS_INLINE void add_held(const Terms<T>& quad) {
    add(held + quad);
    held = {};
  }
  ALWAYS_INLINE void end_stretch() {
    add_lanes(first, all.first_total + at);
    add_lanes(second, all.second_total + at);
    first = second = Vec<T>::broadcast(0);
  }
  ALWAYS_INLINE void close(bool ends_stretch) {
    if (ends_stretch) end_stretch();
    first.store(all.first + at);
    second.store(all.second + at);
  }
  /// The same of the first `count` lanes: the others are those of columns that are summed elsewhere, or of
  /// none.
  ALWAYS_INLINE void close_some(size_t count) const {
    first.store(all.first + at, count);
    second.store(all.second + at, count);
  }
};

template <typename S, typename T = Compute<S>>
struct Moments {
  const S* x;
  Ahead ahead;
  Vec<T> shift;
  PairOfSums<T> sums;

  /// Writes as many lines as the quad has vectors.
  template <typename Quad, typename Lines>
  ALWAYS_INLINE Terms<T> terms(Quad quad, Lines& lines) const {
    const Terms<T> sum = sum_of(quad, [&](size_t i) INLINED {
      // Filling with the shift makes inactive lanes add nothing.
      const Vec<T> deviation = quad.load(x, i, shift) - shift;
      return Terms<T>{deviation, deviation * deviation};
    });
    quad.prefetch(x, ahead);
    lines.template write<Quad::kMost>();
    return sum;
  }
};

/// Coefficients of one channel, or of the channels of a vector of columns.
template <typename T, size_t Count>
struct Coefficients {
  Vec<T> of[Count];

  friend ALWAYS_INLINE Coefficients select(size_t count, const Coefficients& first,
                                           const Coefficients& rest) {
    Coefficients result;
    for (size_t i = 0; i < Count; i++) result.of[i] = select(count, first.of[i], rest.of[i]);
    return result;
  }
};

/// What is fused into a forward pass.
template <batchnorm::Activation Activation, bool Adds = false>
struct Fused {
  static constexpr bool kRelu = Activation == batchnorm::kRelu;
  static constexpr bool kAdds = Adds;
  static constexpr bool kMasks = kRelu && kAdds;
};

/// What is fused into a backward pass.
template <batchnorm::Gate Gate>
struct Gated {
  static constexpr bool kRecomputes = Gate == batchnorm::kRecomputed;
  static constexpr bool kReads = Gate == batchnorm::kMasked;
};

/// How far ahead of x a residual is asked for: no pass before has had it in a cache.
template <typename S>
constexpr size_t kResidualAhead = 2048 / sizeof(S);

template <typename S, typename Fused, typename T = Compute<S>>
struct Normalize {
  const S* x;
  const S* residual;
  /// Of a pass that writes whole lines; see set_mask for the others.
  MaskBits mask;
  const T* mean;
  const T* scale;
  const T* offset;

  using OfChannel = Coefficients<T, 3>;
  template <typename Channel>
  ALWAYS_INLINE OfChannel coefficients(Channel channel) const {
    return {{channel.coefficient(mean), channel.coefficient(scale), channel.coefficient(offset)}};
  }
  template <typename Quad>
  ALWAYS_INLINE Vec<T> apply(const OfChannel& c, Quad quad, size_t index) const {
    Vec<T> y = normalized(quad.load(x, index, c.of[0]) - c.of[0], c.of[1], c.of[2]);
    if constexpr (Fused::kAdds) y = y + quad.load(residual, index, c.of[0]);
    if constexpr (Fused::kMasks)
      if (mask.bytes) note(quad, y.positive());
    return Fused::kRelu ? keep_positive(y, y) : y;
  }
  template <typename Quad>
  ALWAYS_INLINE void prefetch(Quad quad, size_t distance) const {
    quad.prefetch(x, distance);
    if constexpr (Fused::kAdds) quad.prefetch(residual, kResidualAhead<S>);
  }

 private:
  template <typename Quad>
  ALWAYS_INLINE void note(Quad quad, uint32_t bits) const {
    if constexpr (Quad::kWhole)
      mask.template store_line<T>(quad.at, bits);
    else
      mask.add(quad.at, quad.last_lanes, bits & ((1u << quad.last_lanes) - 1));
  }
};

template <typename S, typename Gated, typename T = Compute<S>>
struct GradSums {
  const S* dy;
  const S* x;
  Ahead ahead;
  MaskBits mask;
  Vec<T> mean;
  Vec<T> scale;
  Vec<T> offset;
  PairOfSums<T> sums;

  /// Writes a line after each vector of a quad: with twice as much to read, several at once hold up the
  /// sums (backward of (32, 512, 28, 28): 4.8 ms, so 4.0).
  template <typename Quad, typename Lines>
  ALWAYS_INLINE Terms<T> terms(Quad quad, Lines& lines) const {
    const Terms<T> sum = sum_of(quad, [&](size_t i) INLINED {
      const Vec<T> deviation = quad.load(x, i, mean) - mean;
      Vec<T> gradient = quad.load(dy, i, Vec<T>::broadcast(0));
      if constexpr (Gated::kRecomputes)
        gradient = keep_positive(gradient, normalized(deviation, scale, offset));
      if constexpr (Gated::kReads) gradient = gradient.keep(mask.load(quad.place(i)));
      lines.template write<1>();
      return Terms<T>{gradient, gradient * deviation};
    });
    quad.prefetch(x, ahead);
    quad.prefetch(dy, ahead);
    return sum;
  }
};

template <typename S, typename Gated, typename T = Compute<S>>
struct GradInput {
  const S* dy;
  const S* x;
  MaskBits mask;
  S* dresidual;
  /// Whether it is written past the caches, and its lines begin where those of dx do.
  bool streams_residual;
  const T* mean;
  const T* slope;
  const T* constant;
  const T* scale;
  const T* offset;

  using OfChannel = Coefficients<T, Gated::kRecomputes ? 5 : 4>;
  template <typename Channel>
  ALWAYS_INLINE OfChannel coefficients(Channel channel) const {
    OfChannel c = {{channel.coefficient(mean), channel.coefficient(slope), channel.coefficient(constant),
                    channel.coefficient(scale)}};
    if constexpr (Gated::kRecomputes) c.of[4] = channel.coefficient(offset);
    return c;
  }
  template <typename Quad>
  ALWAYS_INLINE Vec<T> apply(const OfChannel& c, Quad quad, size_t index) const {
    const Vec<T> deviation = quad.load(x, index, c.of[0]) - c.of[0];
    Vec<T> gradient = quad.load(dy, index, c.of[0]);
    if constexpr (Gated::kRecomputes)
      gradient = keep_positive(gradient, normalized(deviation, c.of[3], c.of[4]));
    if constexpr (Gated::kReads) {
      gradient = gradient.keep(mask.load(quad.place(index)));
      if (Quad::kWhole && streams_residual)
        stream_values(gradient, dresidual + quad.place(index));
      else
        quad.store(dresidual, index, gradient);
    }
    return ((gradient - deviation * c.of[1]) - c.of[2]) * c.of[3];
  }
  template <typename Quad>
  ALWAYS_INLINE void prefetch(Quad quad, size_t distance) const {
    quad.prefetch(x, distance);
    quad.prefetch(dy, distance);
  }
};

/// Behind a ReLU, with statistics that carry no gradient.
template <typename T>
struct FrozenGradInput {
  const T* dy;
  const T* x;
  const T* mean;
  const T* scale;
  const T* offset;

  using OfChannel = Coefficients<T, 3>;
  template <typename Channel>
  ALWAYS_INLINE OfChannel coefficients(Channel channel) const {
    return {{channel.coefficient(mean), channel.coefficient(scale), channel.coefficient(offset)}};
  }
  template <typename Quad>
  ALWAYS_INLINE Vec<T> apply(const OfChannel& c, Quad quad, size_t index) const {
    const Vec<T> y = normalized(quad.load(x, index, c.of[0]) - c.of[0], c.of[1], c.of[2]);
    // As without activation, where it is normalize that does this: a product of -0 becomes +0.
    return normalized(keep_positive(quad.load(dy, index, c.of[0]), y), c.of[1], Vec<T>::broadcast(0));
  }
  template <typename Quad>
  ALWAYS_INLINE void prefetch(Quad quad, size_t distance) const {
    quad.prefetch(x, distance);
    quad.prefetch(dy, distance);
  }
};

/// Where dy has a weight that is not a part of the scale: it may be 0, and stand inside the sums.
template <typename T>
struct WeightedGradInput {
  const batchnorm::WeightedGradInputWork<T> work;

  using OfChannel = Coefficients<T, 7>;
  template <typename Channel>
  ALWAYS_INLINE OfChannel coefficients(Channel channel) const {
    return {{channel.coefficient(work.mean), channel.coefficient(work.slope),
             channel.coefficient(work.constant), channel.coefficient(work.scale),
             channel.coefficient(work.weight), channel.coefficient(work.y_scale),
             channel.coefficient(work.y_offset)}};
  }
  template <typename Quad>
  ALWAYS_INLINE Vec<T> apply(const OfChannel& c, Quad quad, size_t index) const {
    const Vec<T> deviation = quad.load(work.x, index, c.of[0]) - c.of[0];
    const Vec<T> gradient =
        keep_positive(quad.load(work.dy, index, c.of[0]), normalized(deviation, c.of[5], c.of[6]));
    return ((gradient * c.of[4] - deviation * c.of[1]) - c.of[2]) * c.of[3];
  }
  template <typename Quad>
  ALWAYS_INLINE void prefetch(Quad quad, size_t distance) const {
    quad.prefetch(work.x, distance);
    quad.prefetch(work.dy, distance);
  }
};

/// Writes map.apply over the quads of a channel.
template <typename S, typename Map>
struct Writer {
  const Map& map;
  S* to;
  size_t distance;
  typename Map::OfChannel coefficients;

  static constexpr bool kSums = false;
  template <typename Quad>
  ALWAYS_INLINE void visit(Quad quad) const {
    for (size_t i = 0; i < quad.size(); i++) quad.store(to, i, map.apply(coefficients, quad, i));
    map.prefetch(quad, distance);
  }
  ALWAYS_INLINE void close(bool) const {}
};

/// What opens a channel of a pass that sums.
template <typename Fused, typename S, typename T = Compute<S>>
ALWAYS_INLINE auto opener(const batchnorm::MomentsWork<S>& work) {
  return [=](auto channel) INLINED {
    return Moments<S>{
        work.x, work.tile.ahead, channel.coefficient(work.shift), {work.sums, channel.template sums<T>()}};
  };
}
template <typename Gated, typename S, typename T = Compute<S>>
ALWAYS_INLINE auto opener(const batchnorm::GradSumsWork<S>& work) {
  const MaskBits mask(work.mask);
  return [=](auto channel) INLINED {
    const Vec<T> mean = channel.coefficient(work.mean);
    const bool normalizes = Gated::kRecomputes;
    return GradSums<S, Gated>{work.dy,
                              work.x,
                              work.tile.ahead,
                              mask,
                              mean,
                              normalizes ? channel.coefficient(work.scale) : mean,
                              normalizes ? channel.coefficient(work.offset) : mean,
                              {work.sums, channel.template sums<T>()}};
  };
}

/// For the pass that has no activation to be told of.
struct Frozen {};

/// What a pass that writes computes, and where to. `lines`: whether it writes whole lines.
template <typename Fused, bool Stream, typename S>
ALWAYS_INLINE Normalize<S, Fused> map_of(const batchnorm::NormalizeWork<S>& work, bool lines) {
  return {work.x,    work.residual, MaskBits(lines ? work.mask : batchnorm::Mask{nullptr, 0}),
          work.mean, work.scale,    work.offset};
}
template <typename Gated, bool Stream, typename S>
ALWAYS_INLINE auto map_of(const batchnorm::GradInputWork<S>& work, bool) {
  if constexpr (std::is_same_v<Gated, Frozen>) {
    return FrozenGradInput<S>{work.dy, work.x, work.mean, work.scale, work.offset};
  } else {
    const auto line_of = [](const S* at) INLINED { return reinterpret_cast<size_t>(at) % 64; };
    return GradInput<S, Gated>{work.dy,
                               work.x,
                               MaskBits(work.mask),
                               work.dresidual,
                               Stream && line_of(work.dresidual) == line_of(work.dx),
                               work.mean,
                               work.slope,
                               work.constant,
                               work.scale,
                               work.offset};
  }
}
template <typename S>
ALWAYS_INLINE S* target_of(const batchnorm::NormalizeWork<S>& work) {
  return work.y;
}
template <typename S>
ALWAYS_INLINE S* target_of(const batchnorm::GradInputWork<S>& work) {
  return work.dx;
}

/// A channel of a pass that sums, which takes turns with the lines of another pass.
template <typename Summing, typename Lines>
struct Sum {
  Summing of;
  Lines& lines;

  static constexpr bool kSums = true;
  template <typename Quad>
  ALWAYS_INLINE void visit(Quad quad) {
    of.sums.add(of.terms(quad, lines));
  }
  template <typename Quad>
  ALWAYS_INLINE void visit(Quad quad, Quad next) {
    const auto terms = of.terms(quad, lines);
    of.sums.add(terms + of.terms(next, lines));
  }
  template <typename Quad>
  ALWAYS_INLINE void hold(Quad quad) {
    of.sums.held = of.terms(quad, lines);
  }
  template <typename Quad>
  ALWAYS_INLINE void visit_held(Quad quad) {
    of.sums.add_held(of.terms(quad, lines));
  }
  ALWAYS_INLINE void end_stretch() { of.sums.end_stretch(); }
  ALWAYS_INLINE void close(bool ends_stretch) { of.sums.close(ends_stretch); }
  ALWAYS_INLINE void close_some(size_t count) const { of.sums.close_some(count); }
};

/// Those of a pass that sums alone.
struct NoLines {
  template <size_t>
  ALWAYS_INLINE void write() {}
};

template <batchnorm::Layout Layout, typename Fused, typename T, template <typename> class Work>
void sum(const Work<T>& work) {
  NoLines none;
  const auto open = opener<Fused>(work);
  const auto channel_of = [&](auto channel) INLINED {
    return Sum<decltype(open(channel)), NoLines>{open(channel), none};
  };
  if constexpr (Layout == batchnorm::kChannelsFirst)
    for_each_row<T>(work.tile, work.ends_stretch, channel_of);
  else
    for_each_column_summed<T>(work.tile, columns_before_line_read(work.tile, work.x), work.ends_stretch,
                              channel_of);
}

/// Line by line wherever lines go on from row to row: stores that straddle lines cost two. In channels-last
/// each line loads coefficients of its own, which is worth it where a register is a line, or code should be
/// small; there tiles have no gaps.
template <bool Stream, batchnorm::Layout Layout, typename T>
ALWAYS_INLINE bool writes_lines(Tile tile) {
  constexpr bool last = Layout == batchnorm::kChannelsLast;
  if (Stream || (last && kSmallCode)) return true;
  if (tile.stride != tile.columns) return false;
  return last ? Vec<T>::kRegisters == 1 && tile.rows >= batchnorm::kLineRows : tile.columns >= kLanes<T>;
}

template <batchnorm::Stores Stores, batchnorm::Layout Layout, typename Fused, typename T,
          template <typename> class Work>
ALWAYS_INLINE void write_tile(const Work<T>& work) {
  constexpr bool stream = Stores == batchnorm::kStreamed;
  const Tile tile = work.tile;
  T* const to = target_of(work);
  const bool lines = writes_lines<stream, Layout, T>(tile);
  const auto map = map_of<Fused, stream>(work, lines);
  using Map = decltype(map_of<Fused, stream>(work, lines));
  if (lines) {
    if constexpr (Layout == batchnorm::kChannelsFirst)
      return LinesOfRows<stream, T, Map>(tile, to, map).finish();
    else
      return write_lines_of_columns<stream>(tile, to, map);
  }
  if constexpr (Layout == batchnorm::kChannelsFirst || !kSmallCode) {
    const auto channel_of = [&](auto channel) INLINED {
      return Writer<T, Map>{map, to, tile.ahead.distance, map.coefficients(channel)};
    };
    if constexpr (Layout == batchnorm::kChannelsFirst)
      for_each_row<T>(tile, false, channel_of);
    else
      for_each_column_written<T>(tile, columns_before_line(tile, to), channel_of);
  }
}

template <batchnorm::Stores Stores, batchnorm::Layout Layout, typename Fused, typename T,
          template <typename> class Work>
void write(const Work<T>& work) {
  write_tile<Stores, Layout, Fused>(work);
  if constexpr (std::is_same_v<Fused, ::Fused<batchnorm::kRelu, true>>)
    if (work.mask.bytes && !writes_lines<Stores == batchnorm::kStreamed, Layout, T>(work.tile))
      set_mask(work);
}

template <batchnorm::Stores Stores, batchnorm::Layout Layout, typename T>
void weighted_grad_input(const batchnorm::WeightedGradInputWork<T>& work) {
  using Map = WeightedGradInput<T>;
  constexpr bool stream = Stores == batchnorm::kStreamed;
  const Map map{work};
  const Tile tile = work.tile;
  T* const to = work.dx;
  if constexpr (Layout == batchnorm::kChannelsFirst) {
    LinesOfRows<stream, T, Map>(tile, to, map).finish();
  } else {
    write_lines_of_columns<stream>(tile, to, map);
  }
}

template <typename Fused, typename T, template <typename> class Work, template <typename> class Sums>
void stream_beside_sum(const Work<T>& work, const Sums<T>& sums) {
  using Lines = LinesOfRows<true, T, decltype(map_of<Fused, true>(work, true))>;
  Lines lines(work.tile, target_of(work), map_of<Fused, true>(work, true));
  const auto open = opener<Fused>(sums);
  for_each_row<T>(sums.tile, sums.ends_stretch, [&](auto channel) INLINED {
    return Sum<decltype(open(channel)), Lines>{open(channel), lines};
  });
  lines.finish();
}

/// The stores that go past the caches, where the ISA has a way to do so: without, forms of their own would be
/// code for nothing.
constexpr batchnorm::Stores kPast = kStreamsPastCaches ? batchnorm::kStreamed : batchnorm::kCached;

template <typename Fused, typename T, template <typename> class Work, template <typename> class Sums>
constexpr batchnorm::WritingPass<Work<T>, Sums<T>> writing_pass() {
  using namespace batchnorm;
  return {{{write<kCached, kChannelsFirst, Fused, T, Work>, write<kCached, kChannelsLast, Fused, T, Work>},
           {write<kPast, kChannelsFirst, Fused, T, Work>, write<kPast, kChannelsLast, Fused, T, Work>}},
          nullptr};
}

/// The same with stream_beside.
template <typename Fused, typename T, template <typename> class Work, template <typename> class Sums>
constexpr batchnorm::WritingPass<Work<T>, Sums<T>> writing_pass_beside() {
  auto pass = writing_pass<Fused, T, Work, Sums>();
  if constexpr (kStreamsPastCaches) pass.stream_beside = stream_beside_sum<Fused, T, Work, Sums>;
  return pass;
}

template <typename T>
void add_in_double(const T* values, size_t count, double shift, double* sums, double* squares) {
  using Doubles = Vec<double>;
  constexpr size_t kParts = kLanes<T> / kLanes<double>;
  Doubles sum[kParts], square[kParts];
  for (size_t part = 0; part < kParts; part++) {
    sum[part] = Doubles::load(sums + part * kLanes<double>);
    square[part] = Doubles::load(squares + part * kLanes<double>);
  }
  size_t i = 0;
  for (; i + kLanes<T> <= count; i += kLanes<T>) {
    double deviations[kLanes<T>];
    for (size_t lane = 0; lane < kLanes<T>; lane++)
      deviations[lane] = static_cast<double>(values[i + lane]) - shift;
    for (size_t part = 0; part < kParts; part++) {
      const Doubles deviation = Doubles::load(deviations + part * kLanes<double>);
      sum[part] = sum[part] + deviation;
      square[part] = square[part] + deviation * deviation;
    }
  }
  for (size_t part = 0; part < kParts; part++) {
    sum[part].store(sums + part * kLanes<double>);
    square[part].store(squares + part * kLanes<double>);
  }
  for (size_t lane = 0; i + lane < count; lane++) {
    const double deviation = static_cast<double>(values[i + lane]) - shift;
    sums[lane] += deviation;
    squares[lane] += deviation * deviation;
  }
}

#if BATCHNORM_WORDS
template <typename S>
ALWAYS_INLINE batchnorm::MomentsWork<S> as(const batchnorm::MomentsWork<batchnorm::Half>& work) {
  return {work.tile, reinterpret_cast<const S*>(work.x), work.shift, work.sums, work.ends_stretch};
}
template <typename S>
ALWAYS_INLINE batchnorm::GradSumsWork<S> as(const batchnorm::GradSumsWork<batchnorm::Half>& work) {
  return {work.tile,
          reinterpret_cast<const S*>(work.dy),
          reinterpret_cast<const S*>(work.x),
          work.mask,
          work.mean,
          work.scale,
          work.offset,
          work.sums,
          work.ends_stretch};
}
template <typename S>
ALWAYS_INLINE batchnorm::NormalizeWork<S> as(const batchnorm::NormalizeWork<batchnorm::Half>& work) {
  return {work.tile,
          reinterpret_cast<const S*>(work.x),
          reinterpret_cast<const S*>(work.residual),
          work.mask,
          reinterpret_cast<S*>(work.y),
          work.mean,
          work.scale,
          work.offset};
}
template <typename S>
ALWAYS_INLINE batchnorm::GradInputWork<S> as(const batchnorm::GradInputWork<batchnorm::Half>& work) {
  return {work.tile,
          reinterpret_cast<const S*>(work.dy),
          reinterpret_cast<const S*>(work.x),
          work.mask,
          reinterpret_cast<S*>(work.dx),
          reinterpret_cast<S*>(work.dresidual),
          work.mean,
          work.slope,
          work.constant,
          work.scale,
          work.offset};
}

/// As sum; in channels-last of tiles without tails: see HalfKernels.
template <batchnorm::Layout Layout, typename Fused, typename S, template <typename> class Work>
void sum_words(const Work<batchnorm::Half>& halves) {
  constexpr size_t lanes = kLanes<float>;
  const Work<S> work = as<S>(halves);
  const Tile tile = work.tile;
  NoLines none;
  const auto open = opener<Fused>(work);
  const auto channel_of = [&](auto channel) INLINED {
    return Sum<decltype(open(channel)), NoLines>{open(channel), none};
  };
  if constexpr (Layout == batchnorm::kChannelsFirst) {
    for_each_row<float>(tile, work.ends_stretch, channel_of);
  } else {
    for (size_t row = 0; row < tile.rows; row += 2 * kQuad) {
      const size_t end = row + 2 * kQuad;
      const bool ends =
          work.ends_stretch && (end % (batchnorm::kStretch * 2 * kQuad) == 0 || end == tile.rows);
      for (size_t column = 0; column < tile.columns; column += lanes) {
        auto channel = channel_of(ColumnChannels{column});
        channel.visit(quad_of_rows<kQuad>(tile, row, column, AllLanes{}),
                      quad_of_rows<kQuad>(tile, row + kQuad, column, AllLanes{}));
        channel.close(ends);
      }
    }
  }
}

/// Line by line, whatever the layout: rows without gaps.
template <batchnorm::Stores Stores, batchnorm::Layout Layout, typename Fused, typename S,
          template <typename> class Work>
void write_words(const Work<batchnorm::Half>& halves) {
  constexpr bool stream = Stores == batchnorm::kStreamed;
  const Work<S> work = as<S>(halves);
  const auto map = map_of<Fused, stream>(work, true);
  using Map = decltype(map_of<Fused, stream>(work, true));
  if constexpr (Layout == batchnorm::kChannelsFirst)
    LinesOfRows<stream, S, Map>(work.tile, target_of(work), map).finish();
  else
    write_lines_of_columns<stream>(work.tile, target_of(work), map);
}

template <typename Fused, typename S, template <typename> class Work>
constexpr batchnorm::HalfKernels::Written<Work> written_words() {
  using namespace batchnorm;
  return {{{write_words<kCached, kChannelsFirst, Fused, S, Work>,
            write_words<kCached, kChannelsLast, Fused, S, Work>},
           {write_words<kStreamed, kChannelsFirst, Fused, S, Work>,
            write_words<kStreamed, kChannelsLast, Fused, S, Work>}}};
}

template <batchnorm::Storage Storage>
constexpr batchnorm::HalfKernels half_kernels() {
  using namespace batchnorm;
  using S = Word<Storage>;
  using Plain = Fused<kIdentity>;
  using Relu = Fused<kRelu>;
  using Open = Gated<kOpen>;
  using Recomputed = Gated<kRecomputed>;
  return {
      {sum_words<kChannelsFirst, Plain, S, MomentsWork>, sum_words<kChannelsLast, Plain, S, MomentsWork>},
      {{sum_words<kChannelsFirst, Open, S, GradSumsWork>, sum_words<kChannelsLast, Open, S, GradSumsWork>},
       {sum_words<kChannelsFirst, Recomputed, S, GradSumsWork>,
        sum_words<kChannelsLast, Recomputed, S, GradSumsWork>}},
      {written_words<Plain, S, NormalizeWork>(), written_words<Relu, S, NormalizeWork>()},
      {written_words<Open, S, GradInputWork>(), written_words<Recomputed, S, GradInputWork>()}};
}
#else
template <batchnorm::Storage>
constexpr batchnorm::HalfKernels half_kernels() {
  return {};
}
#endif

template <typename T>
constexpr batchnorm::Kernels<T> all_kernels() {
  using namespace batchnorm;
  using Plain = Fused<kIdentity>;
  using Relu = Fused<kRelu>;
  using Open = Gated<kOpen>;
  using Recomputed = Gated<kRecomputed>;
  using Masked = Gated<kMasked>;
  return {
      centres<T>,
      spread<T>,
      {collect_lanes<kLanes<T>, T>, collect_columns<T>},
      {collect_lanes<kLanes<T>, double>, collect_columns<double>},
      find_bad<T>,
      add_in_double<T>,
      merge<T>,
      statistics<T>,
      normalization<T>,
      gradients<T>,
      {sum<kChannelsFirst, Plain, T, MomentsWork>, sum<kChannelsLast, Plain, T, MomentsWork>},
      {{writing_pass_beside<Plain, T, NormalizeWork, MomentsWork>(),
        writing_pass_beside<Relu, T, NormalizeWork, MomentsWork>()},
       {writing_pass<Fused<kIdentity, true>, T, NormalizeWork, MomentsWork>(),
        writing_pass<Fused<kRelu, true>, T, NormalizeWork, MomentsWork>()}},
      {{sum<kChannelsFirst, Open, T, GradSumsWork>, sum<kChannelsLast, Open, T, GradSumsWork>},
       {sum<kChannelsFirst, Recomputed, T, GradSumsWork>, sum<kChannelsLast, Recomputed, T, GradSumsWork>},
       {sum<kChannelsFirst, Masked, T, GradSumsWork>, sum<kChannelsLast, Masked, T, GradSumsWork>}},
      {writing_pass_beside<Open, T, GradInputWork, GradSumsWork>(),
       writing_pass<Recomputed, T, GradInputWork, GradSumsWork>(),
       writing_pass<Masked, T, GradInputWork, GradSumsWork>()},
      writing_pass<Frozen, T, GradInputWork, GradSumsWork>(),
      {{weighted_grad_input<kCached, kChannelsFirst, T>, weighted_grad_input<kCached, kChannelsLast, T>},
       {weighted_grad_input<kPast, kChannelsFirst, T>, weighted_grad_input<kPast, kChannelsLast, T>}},
      {apply_mask<kCached, T>, apply_mask<kPast, T>},
      {present_moments<kChannelsFirst, T>, present_moments<kChannelsLast, T>},
      {present_normalize<kChannelsFirst, T>, present_normalize<kChannelsLast, T>},
      {present_grad_sums<kChannelsFirst, T>, present_grad_sums<kChannelsLast, T>},
      {present_grad_input<kChannelsFirst, T>, present_grad_input<kChannelsLast, T>},
      {grad_weights<kChannelsFirst, T>, grad_weights<kChannelsLast, T>},
      moments_of_rows<T>,
      {scale_rows<kCached, T>, scale_rows<kPast, T>},
      gate_rows<T>,
      sum_rows<T>,
      slopes_of_rows<T>,
      end_columns<T>,
      {grad_rows<kCached, T>, grad_rows<kPast, T>}};
}

}  // namespace

// The only symbol of a per-ISA object. A template or ALWAYS_INLINE function of the standard library must
// never come in here: the linker could keep this ISA's copy for the portable code.
#define BATCHNORM_KERNEL_TABLE(isa)                                                                        \
  extern "C" const batchnorm::KernelTable batchnorm_kernels_##isa;                                         \
  constexpr batchnorm::KernelTable batchnorm_kernels_##isa = {                                             \
      #isa,                                                                                                \
      fence_streams,                                                                                       \
      average,                                                                                             \
      merge_present,                                                                                       \
      {conversion<batchnorm::kFloat32>(), conversion<batchnorm::kBfloat16>(),                              \
       conversion<batchnorm::kFloat16>(), conversion<batchnorm::kUint8>(), conversion<batchnorm::kInt8>(), \
       conversion<batchnorm::kInt16>()},                                                                   \
      transpose,                                                                                           \
      {take_pixels<2, 2>, take_pixels<3, 3>, take_pixels<3, 4>, take_pixels<4, 4>},                        \
      {bytes_taker<2, 2>(), bytes_taker<3, 3>(), bytes_taker<3, 4>(), bytes_taker<4, 4>()},                \
      {put_pixels<2>, put_pixels<3>, put_pixels<4>},                                                       \
      all_kernels<float>(),                                                                                \
      all_kernels<double>(),                                                                               \
      {half_kernels<batchnorm::kBfloat16>(), half_kernels<batchnorm::kFloat16>()}};
