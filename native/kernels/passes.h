// What is computed: the four passes of batch norm, each written once for all layouts, dtypes and ISAs.
// No fused multiply-add anywhere (the project compiles with -ffp-contract=off): every CPU gives the same
// bits.
#pragma once

#include "channels.h"
#include "loops.h"

namespace {

/// ((a0 + a1) + (a2 + a3)), with what is missing left out.
template <size_t Size, typename T>
inline Vec<T> tree_sum(const Vec<T> (&terms)[Size]) {
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
  inline void add(const Vec<T> (&first_terms)[Size], const Vec<T> (&second_terms)[Size]) {
    first = first + tree_sum(first_terms);
    second = second + tree_sum(second_terms);
  }
  inline void close() const {
    first.store(first_at);
    second.store(second_at);
  }
};

template <typename T>
struct Moments {
  const T* x;
  ptrdiff_t ahead;
  Vec<T> shift;
  PairOfSums<T> sums;

  template <typename Group>
  inline void visit(Group group) {
    Vec<T> deviation[group.size()], square[group.size()];
    for (size_t i = 0; i < group.size(); i++) {
      // Filling with the shift makes inactive lanes add nothing.
      deviation[i] = group.load(x, i, shift) - shift;
      square[i] = deviation[i] * deviation[i];
    }
    group.prefetch(x + ahead);
    sums.add(deviation, square);
  }
  inline void close() const { sums.close(); }
};

/// Coefficients of one channel, or of the channels of a vector of columns.
template <typename T, size_t Count>
struct Coefficients {
  Vec<T> of[Count];

  friend inline Coefficients select(size_t count, const Coefficients& first, const Coefficients& rest) {
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

  template <typename Channel>
  inline Coefficients<T, 3> coefficients(Channel channel) const {
    return {{channel.coefficient(mean), channel.coefficient(scale), channel.coefficient(offset)}};
  }
  template <typename Group>
  inline Vec<T> apply(const Coefficients<T, 3>& c, Group group, size_t index) const {
    return (group.load(x, index, c.of[0]) - c.of[0]) * c.of[1] + c.of[2];
  }
  template <typename Group>
  inline void prefetch(Group group, ptrdiff_t ahead) const {
    group.prefetch(x + ahead);
  }
};

template <typename T>
struct GradSums {
  const T* dy;
  const T* x;
  ptrdiff_t ahead;
  Vec<T> mean;
  PairOfSums<T> sums;

  template <typename Group>
  inline void visit(Group group) {
    const Vec<T> zero = Vec<T>::broadcast(0);
    Vec<T> gradient[group.size()], product[group.size()];
    for (size_t i = 0; i < group.size(); i++) {
      gradient[i] = group.load(dy, i, zero);
      product[i] = gradient[i] * (group.load(x, i, mean) - mean);
    }
    group.prefetch(x + ahead);
    group.prefetch(dy + ahead);
    sums.add(gradient, product);
  }
  inline void close() const { sums.close(); }
};

template <typename T>
struct GradInput {
  const T* dy;
  const T* x;
  const T* mean;
  const T* slope;
  const T* constant;
  const T* scale;

  template <typename Channel>
  inline Coefficients<T, 4> coefficients(Channel channel) const {
    return {{channel.coefficient(mean), channel.coefficient(slope), channel.coefficient(constant),
             channel.coefficient(scale)}};
  }
  template <typename Group>
  inline Vec<T> apply(const Coefficients<T, 4>& c, Group group, size_t index) const {
    const Vec<T> deviation = group.load(x, index, c.of[0]) - c.of[0];
    return ((group.load(dy, index, c.of[0]) - deviation * c.of[1]) - c.of[2]) * c.of[3];
  }
  template <typename Group>
  inline void prefetch(Group group, ptrdiff_t ahead) const {
    group.prefetch(x + ahead);
    group.prefetch(dy + ahead);
  }
};

/// Writes map.apply over the groups of a channel.
template <typename T, typename Map, typename OfChannel>
struct Writer {
  const Map& map;
  T* to;
  ptrdiff_t ahead;
  OfChannel coefficients;

  template <typename Group>
  inline void visit(Group group) const {
    for (size_t i = 0; i < group.size(); i++) group.store(to, i, map.apply(coefficients, group, i));
    map.prefetch(group, ahead);
  }
  inline void close() const {}
};

/// Runs open(channel) over a tile in the given layout.
template <batchnorm::Layout Layout, typename T, typename Open>
inline void for_each_channel(Tile tile, Open open) {
  if constexpr (Layout == batchnorm::kChannelsFirst)
    for_each_row<T>(tile, open);
  else
    for_each_column<T>(tile, open);
}

template <batchnorm::Layout Layout, typename T>
void moments(Tile tile, const T* x, const T* shift, T* sum, T* sum_squares) {
  for_each_channel<Layout, T>(tile, [=](auto channel) {
    return Moments<T>{
        x, tile.ahead, channel.coefficient(shift), {channel.sums(sum), channel.sums(sum_squares)}};
  });
}

template <batchnorm::Layout Layout, bool Stream, typename T, typename Map>
inline void write_tile(Tile tile, T* to, const Map& map) {
  if constexpr (Layout == batchnorm::kChannelsFirst) {
    // Line by line wherever lines go on from row to row: stores that straddle lines cost two.
    if (Stream || (tile.stride == tile.columns && tile.columns >= kLanes<T>))
      return write_lines_of_rows<Stream>(tile, to, map);
  } else if (Stream) {
    return stream_columns(tile, to, map);
  }
  for_each_channel<Layout, T>(tile, [&](auto channel) {
    return Writer<T, Map, decltype(map.coefficients(channel))>{map, to, tile.ahead,
                                                               map.coefficients(channel)};
  });
}

template <batchnorm::Layout Layout, bool Stream, typename T>
void normalize(Tile tile, const T* x, T* y, const T* mean, const T* scale, const T* offset) {
  write_tile<Layout, Stream>(tile, y, Normalize<T>{x, mean, scale, offset});
}

template <batchnorm::Layout Layout, typename T>
void grad_sums(Tile tile, const T* dy, const T* x, const T* mean, T* sum_dy, T* sum_dy_xc) {
  for_each_channel<Layout, T>(tile, [=](auto channel) {
    return GradSums<T>{
        dy, x, tile.ahead, channel.coefficient(mean), {channel.sums(sum_dy), channel.sums(sum_dy_xc)}};
  });
}

template <batchnorm::Layout Layout, bool Stream, typename T>
void grad_input(Tile tile, const T* dy, const T* x, T* dx, const T* mean, const T* slope, const T* constant,
                const T* scale) {
  write_tile<Layout, Stream>(tile, dx, GradInput<T>{dy, x, mean, slope, constant, scale});
}

template <typename T>
constexpr batchnorm::Kernels<T> all_kernels() {
  using batchnorm::kChannelsFirst;
  using batchnorm::kChannelsLast;
  return {centres<T>,
          {collect<kChannelsFirst, T>, collect<kChannelsLast, T>},
          are_good<T>,
          merge<T>,
          statistics<T>,
          normalization<T>,
          gradients<T>,
          {moments<kChannelsFirst, T>, moments<kChannelsLast, T>},
          {normalize<kChannelsFirst, false, T>, normalize<kChannelsLast, false, T>},
          {normalize<kChannelsFirst, true, T>, normalize<kChannelsLast, true, T>},
          {grad_sums<kChannelsFirst, T>, grad_sums<kChannelsLast, T>},
          {grad_input<kChannelsFirst, false, T>, grad_input<kChannelsLast, false, T>},
          {grad_input<kChannelsFirst, true, T>, grad_input<kChannelsLast, true, T>}};
}

}  // namespace

// The only symbol of a per-ISA object. A template or inline function of the standard library must never come
// in here: the linker could keep this ISA's copy for the portable code.
#define BATCHNORM_KERNEL_TABLE(isa)                                                                      \
  extern "C" const batchnorm::KernelTable batchnorm_kernels_##isa;                                       \
  constexpr batchnorm::KernelTable batchnorm_kernels_##isa = {#isa, fence_streams, all_kernels<float>(), \
                                                              all_kernels<double>()};
