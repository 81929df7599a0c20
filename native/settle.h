// From statistics and parameters to the coefficients that kernels read, and where those lie. Changes bits.
#pragma once

#include <algorithm>
#include <type_traits>

#include "partition.h"
#include "scratch.h"

namespace batchnorm {

/// The length of a per-channel array that kernels read: a partition's width, and in channels-last what those
/// that go from line to line read of the next row.
template <typename T>
size_t padded_width(const Tiling<T>& tiling) {
  return tiling.layout() == kChannelsFirst ? tiling.width() : tiling.width() + kLanes<T>;
}

/// How much of it is read: not of whole rows where there are none.
template <typename T>
size_t filled_width(const Tiling<T>& tiling) {
  const size_t width = padded_width(tiling);
  if (tiling.layout() == kChannelsFirst || tiling.rows() > 0) return width;
  return std::min(width, round_up(tiling.rest(), kLanes<T>));
}

/// Copies the values of channels [begin, end) to all their other places in such arrays.
template <typename T, typename... Arrays>
void repeat(const Tiling<T>& tiling, Range channels, Arrays*... arrays) {
  const size_t width = tiling.shape().channels;
  const size_t end = filled_width(tiling);
  for (size_t copy = width; copy + channels.begin < end; copy += width) {
    const size_t count = std::min(channels.end, end - copy) - channels.begin;
    (std::copy_n(arrays + channels.begin, count, arrays + copy + channels.begin), ...);
  }
}

/// Channels of which coefficients are found together where each has several columns.
constexpr size_t kSpread = 64;

/// The same from an array that has one value for each of these channels, to all their places.
template <typename T>
void spread(const Kernels<T>& kernels, const Tiling<T>& tiling, Range channels, const T* from, T* to) {
  const size_t columns = tiling.columns_of_channel();
  const size_t begin = channels.begin * columns;
  const size_t width = tiling.shape().channels * columns;
  const size_t end = filled_width(tiling);
  const size_t count = (channels.end - channels.begin) * columns;
  kernels.spread(from, channels.end - channels.begin, columns, to + begin);
  for (size_t copy = begin + width; copy < end; copy += width)
    std::copy_n(to + begin, std::min(count, end - copy), to + copy);
}

/// Calls find(channels) for some channels after the other.
template <typename Find>
void for_each_spread(Range channels, Find find) {
  for (size_t begin = channels.begin; begin < channels.end; begin += kSpread)
    find(Range{begin, std::min(channels.end, begin + kSpread)});
}

/// The per-channel arrays of the normalize kernel.
template <typename T>
struct Normalization {
  T* mean;
  T* scale;
  T* offset;
  operator Normalization<const T>() const { return {mean, scale, offset}; }
  /// Of channels from `channel` on.
  Normalization from(size_t channel) const { return {mean + channel, scale + channel, offset + channel}; }
};

/// Turns the statistics of channels into what the normalize kernel takes.
template <typename T>
struct SettleNormalization {
  const Kernels<T>& kernels;
  const Tiling<T>& tiling;
  double eps;
  const double* mean;
  const double* variance;
  const T* weight;
  const T* bias;
  Normalization<T> to;

  void operator()(Range channels) const {
    if (tiling.columns_of_channel() == 1) {
      find(channels, to.from(channels.begin));
      return repeat(tiling, channels, to.mean, to.scale, to.offset);
    }
    for_each_spread(channels, [&](Range some) {
      T coefficients[3][kSpread];
      find(some, {coefficients[0], coefficients[1], coefficients[2]});
      spread(kernels, tiling, some, coefficients[0], to.mean);
      spread(kernels, tiling, some, coefficients[1], to.scale);
      spread(kernels, tiling, some, coefficients[2], to.offset);
    });
  }

 private:
  void find(Range channels, const Normalization<T>& found) const {
    const size_t at = channels.begin;
    kernels.normalization({channels.end - at, eps, mean + at, variance + at, weight ? weight + at : nullptr,
                           bias ? bias + at : nullptr, found.mean, found.scale, found.offset});
  }
};

/// Turns the sums of gradients of channels into what the grad_input kernel takes beside a normalization, and
/// into the gradients of weight and bias where they are not nullptr.
template <typename T>
struct SettleGradients {
  const Kernels<T>& kernels;
  const Tiling<T>& tiling;
  double eps;
  /// Values per channel, of which mean and variance are.
  double count;
  const double* mean;
  const double* variance;
  /// What T holds of the mean.
  const T* high;
  GradientSums sums;
  T* slope;
  T* constant;
  T* dweight;
  T* dbias;

  void operator()(Range channels) const {
    const size_t columns = tiling.columns_of_channel();
    if (columns == 1) {
      find(channels, high + channels.begin, slope + channels.begin, constant + channels.begin);
      return repeat(tiling, channels, slope, constant);
    }
    for_each_spread(channels, [&](Range some) {
      T coefficients[3][kSpread];
      for (size_t channel = some.begin; channel < some.end; channel++)
        coefficients[0][channel - some.begin] = high[channel * columns];
      find(some, coefficients[0], coefficients[1], coefficients[2]);
      spread(kernels, tiling, some, coefficients[1], slope);
      spread(kernels, tiling, some, coefficients[2], constant);
    });
  }

 private:
  void find(Range channels, const T* means, T* slopes, T* constants) const {
    const size_t at = channels.begin;
    kernels.gradients({channels.end - at, eps, count, mean + at, variance + at, means, sums.dy + at,
                       sums.dy_xc + at, slopes, constants, dweight ? dweight + at : nullptr,
                       dbias ? dbias + at : nullptr});
  }
};

/// How far from a line per-channel arrays begin that kernels read while they write `to`: where they go from
/// line to line of channels-last rows as far as `to`, for a load that straddles two lines costs two. What is
/// widened has lines of its own.
template <typename S>
size_t shift_of_coefficients(const Tiling<Compute<S>>& tiling, Stores stores, const S* to) {
  using T = Compute<S>;
  if (!std::is_same_v<S, T>) return 0;
  const bool lines = stores == kStreamed || goes_by_lines<T>(tiling.rows(), tiling.width());
  return lines && tiling.layout() == kChannelsLast ? reinterpret_cast<uintptr_t>(to) % kAlignment / sizeof(T)
                                                   : 0;
}

/// Takes a per-channel array that kernels read while they write `to`.
template <typename S>
Compute<S>* take_coefficients(Scratch& scratch, const Tiling<Compute<S>>& tiling, Stores stores,
                              const S* to) {
  const size_t shift = shift_of_coefficients(tiling, stores, to);
  return scratch.take<Compute<S>>(padded_width(tiling) + shift) + shift;
}

}  // namespace batchnorm
