// What is computed: the four passes of batch norm, each written once for all layouts, dtypes and ISAs.
// No fused multiply-add anywhere (the project compiles with -ffp-contract=off): every CPU gives the same
// bits.
#pragma once

#include "channels.h"
#include "loops.h"

namespace {

/// ((a0 + a1) + (a2 + a3)), with what is missing left out.
template <size_t Size, typename T>
ALWAYS_INLINE Vec<T> tree_sum(const Vec<T> (&terms)[Size]) {
  if constexpr (Size == 1)
    return terms[0];
  else if constexpr (Size == 2)
    return terms[0] + terms[1];
  else if constexpr (Size == 3)
    return (terms[0] + terms[1]) + terms[2];
  else
    return (terms[0] + terms[1]) + (terms[2] + terms[3]);
}

/// Two accumulators of a channel, in registers between open and close.
template <typename T>
struct PairOfSums {
  T* first_at;
  T* second_at;
  Vec<T> first = Vec<T>::load(first_at);
  Vec<T> second = Vec<T>::load(second_at);

  template <size_t Size>
  ALWAYS_INLINE void add(const Vec<T> (&first_terms)[Size], const Vec<T> (&second_terms)[Size]) {
    first = first + tree_sum(first_terms);
    second = second + tree_sum(second_terms);
  }
  ALWAYS_INLINE void close() const {
    first.store(first_at);
    second.store(second_at);
  }
};

template <typename T>
struct Moments {
  const T* x;
  Ahead ahead;
  Vec<T> shift;
  PairOfSums<T> sums;

  template <typename Group>
  ALWAYS_INLINE void visit(Group group) {
    Vec<T> deviation[group.size()], square[group.size()];
    for (size_t i = 0; i < group.size(); i++) {
      // Filling with the shift makes inactive lanes add nothing.
      deviation[i] = group.load(x, i, shift) - shift;
      square[i] = deviation[i] * deviation[i];
    }
    group.prefetch(x, ahead);
    sums.add(deviation, square);
  }
  /// Writes as many lines as the group has vectors.
  template <typename Group, typename Lines>
  ALWAYS_INLINE void visit_beside(Group group, Lines& lines) {
    visit(group);
    lines.template write<group.size()>();
  }
  ALWAYS_INLINE void close() const { sums.close(); }
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

template <typename T>
struct Normalize {
  const T* x;
  const T* mean;
  const T* scale;
  const T* offset;

  using OfChannel = Coefficients<T, 3>;
  template <typename Channel>
  ALWAYS_INLINE OfChannel coefficients(Channel channel) const {
    return {{channel.coefficient(mean), channel.coefficient(scale), channel.coefficient(offset)}};
  }
  template <typename Group>
  ALWAYS_INLINE Vec<T> apply(const OfChannel& c, Group group, size_t index) const {
    return (group.load(x, index, c.of[0]) - c.of[0]) * c.of[1] + c.of[2];
  }
  template <typename Group>
  ALWAYS_INLINE void prefetch(Group group, size_t distance) const {
    group.prefetch(x, distance);
  }
};

template <typename T>
struct GradSums {
  const T* dy;
  const T* x;
  Ahead ahead;
  Vec<T> mean;
  PairOfSums<T> sums;

  template <typename Group>
  ALWAYS_INLINE void visit(Group group) {
    visit(group, [] {});
  }
  /// Writes a line after each vector of the group: with twice as much to read, several at once hold up the
  /// sums (backward of (32, 512, 28, 28): 4.8 ms, so 4.0).
  template <typename Group, typename Lines>
  ALWAYS_INLINE void visit_beside(Group group, Lines& lines) {
    visit(group, [&] { lines.template write<1>(); });
  }
  template <typename Group, typename AfterEach>
  ALWAYS_INLINE void visit(Group group, AfterEach after_each) {
    const Vec<T> zero = Vec<T>::broadcast(0);
    Vec<T> gradient[group.size()], product[group.size()];
    for (size_t i = 0; i < group.size(); i++) {
      gradient[i] = group.load(dy, i, zero);
      product[i] = gradient[i] * (group.load(x, i, mean) - mean);
      after_each();
    }
    group.prefetch(x, ahead);
    group.prefetch(dy, ahead);
    sums.add(gradient, product);
  }
  ALWAYS_INLINE void close() const { sums.close(); }
};

template <typename T>
struct GradInput {
  const T* dy;
  const T* x;
  const T* mean;
  const T* slope;
  const T* constant;
  const T* scale;

  using OfChannel = Coefficients<T, 4>;
  template <typename Channel>
  ALWAYS_INLINE OfChannel coefficients(Channel channel) const {
    return {{channel.coefficient(mean), channel.coefficient(slope), channel.coefficient(constant),
             channel.coefficient(scale)}};
  }
  template <typename Group>
  ALWAYS_INLINE Vec<T> apply(const OfChannel& c, Group group, size_t index) const {
    const Vec<T> deviation = group.load(x, index, c.of[0]) - c.of[0];
    return ((group.load(dy, index, c.of[0]) - deviation * c.of[1]) - c.of[2]) * c.of[3];
  }
  template <typename Group>
  ALWAYS_INLINE void prefetch(Group group, size_t distance) const {
    group.prefetch(x, distance);
    group.prefetch(dy, distance);
  }
};

/// Writes map.apply over the groups of a channel.
template <typename T, typename Map>
struct Writer {
  const Map& map;
  T* to;
  size_t distance;
  typename Map::OfChannel coefficients;

  template <typename Group>
  ALWAYS_INLINE void visit(Group group) const {
    for (size_t i = 0; i < group.size(); i++) group.store(to, i, map.apply(coefficients, group, i));
    map.prefetch(group, distance);
  }
  ALWAYS_INLINE void close() const {}
};

/// Runs open(channel) over a tile in the given layout.
template <batchnorm::Layout Layout, typename T, typename Open>
ALWAYS_INLINE void for_each_channel(Tile tile, Open open) {
  if constexpr (Layout == batchnorm::kChannelsFirst)
    for_each_row<T>(tile, open);
  else
    for_each_column<T>(tile, open);
}

/// What opens a channel of a pass that sums.
template <typename T>
ALWAYS_INLINE auto opener(const batchnorm::MomentsWork<T>& work) {
  return [=](auto channel) {
    return Moments<T>{work.x,
                      work.tile.ahead,
                      channel.coefficient(work.shift),
                      {channel.sums(work.sum), channel.sums(work.sum_squares)}};
  };
}
template <typename T>
ALWAYS_INLINE auto opener(const batchnorm::GradSumsWork<T>& work) {
  return [=](auto channel) {
    return GradSums<T>{work.dy,
                       work.x,
                       work.tile.ahead,
                       channel.coefficient(work.mean),
                       {channel.sums(work.sum_dy), channel.sums(work.sum_dy_xc)}};
  };
}

/// What a pass that writes computes, and where to.
template <typename T>
ALWAYS_INLINE Normalize<T> map_of(const batchnorm::NormalizeWork<T>& work) {
  return {work.x, work.mean, work.scale, work.offset};
}
template <typename T>
ALWAYS_INLINE GradInput<T> map_of(const batchnorm::GradInputWork<T>& work) {
  return {work.dy, work.x, work.mean, work.slope, work.constant, work.scale};
}
template <typename T>
ALWAYS_INLINE T* target_of(const batchnorm::NormalizeWork<T>& work) {
  return work.y;
}
template <typename T>
ALWAYS_INLINE T* target_of(const batchnorm::GradInputWork<T>& work) {
  return work.dx;
}

template <batchnorm::Layout Layout, typename T, template <typename> class Work>
void sum(const Work<T>& work) {
  for_each_channel<Layout, T>(work.tile, opener(work));
}

template <batchnorm::Stores Stores, batchnorm::Layout Layout, typename T, template <typename> class Work>
void write(const Work<T>& work) {
  constexpr bool stream = Stores == batchnorm::kStreamed;
  const Tile tile = work.tile;
  T* const to = target_of(work);
  const auto map = map_of(work);
  if constexpr (Layout == batchnorm::kChannelsFirst) {
    // Line by line wherever lines go on from row to row: stores that straddle lines cost two.
    if (stream || (tile.stride == tile.columns && tile.columns >= kLanes<T>))
      return LinesOfRows<stream, T, decltype(map_of(work))>(tile, to, map).finish();
  } else if (stream) {
    return stream_columns(tile, to, map);
  }
  for_each_channel<Layout, T>(tile, [&](auto channel) {
    return Writer<T, decltype(map_of(work))>{map, to, tile.ahead.distance, map.coefficients(channel)};
  });
}

/// A channel of a pass that sums, which takes turns with the lines of another pass.
template <typename Summing, typename Lines>
struct Beside {
  Summing summing;
  Lines& lines;

  template <typename Group>
  ALWAYS_INLINE void visit(Group group) {
    summing.visit_beside(group, lines);
  }
  ALWAYS_INLINE void close() const { summing.close(); }
};

template <typename T, template <typename> class Work, template <typename> class Sums>
void stream_beside_sum(const Work<T>& work, const Sums<T>& sums) {
  using Lines = LinesOfRows<true, T, decltype(map_of(work))>;
  Lines lines(work.tile, target_of(work), map_of(work));
  const auto open = opener(sums);
  for_each_row<T>(sums.tile, [&](auto channel) {
    return Beside<decltype(open(channel)), Lines>{open(channel), lines};
  });
  lines.finish();
}

template <typename T, template <typename> class Work, template <typename> class Sums>
constexpr batchnorm::WritingPass<Work<T>, Sums<T>> writing_pass() {
  using namespace batchnorm;
  return {{{write<kCached, kChannelsFirst, T, Work>, write<kCached, kChannelsLast, T, Work>},
           {write<kStreamed, kChannelsFirst, T, Work>, write<kStreamed, kChannelsLast, T, Work>}},
          kStreamsPastCaches ? stream_beside_sum<T, Work, Sums> : nullptr};
}

template <typename T>
constexpr batchnorm::Kernels<T> all_kernels() {
  using namespace batchnorm;
  return {centres<T>,
          {collect<kChannelsFirst, T>, collect<kChannelsLast, T>},
          are_good<T>,
          merge<T>,
          statistics<T>,
          normalization<T>,
          gradients<T>,
          {sum<kChannelsFirst, T, MomentsWork>, sum<kChannelsLast, T, MomentsWork>},
          writing_pass<T, NormalizeWork, MomentsWork>(),
          {sum<kChannelsFirst, T, GradSumsWork>, sum<kChannelsLast, T, GradSumsWork>},
          writing_pass<T, GradInputWork, GradSumsWork>()};
}

}  // namespace

// The only symbol of a per-ISA object. A template or ALWAYS_INLINE function of the standard library must
// never come in here: the linker could keep this ISA's copy for the portable code.
#define BATCHNORM_KERNEL_TABLE(isa)                                                         \
  extern "C" const batchnorm::KernelTable batchnorm_kernels_##isa;                          \
  constexpr batchnorm::KernelTable batchnorm_kernels_##isa = {#isa, fence_streams, average, \
                                                              all_kernels<float>(), all_kernels<double>()};
