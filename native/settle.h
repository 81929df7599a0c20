// From statistics and parameters to the coefficients that kernels read, and where those lie. Changes bits.
#pragma once

#include <algorithm>

#include "partition.h"
#include "scratch.h"

namespace batchnorm {
namespace {

/// The length of a per-channel array that kernels read: a partition's width, and in channels-last what the
/// streaming ones read of the next row.
template <typename T>
size_t padded_width(const Tiling<T>& tiling) {
  return tiling.layout() == kChannelsFirst ? tiling.width() : tiling.width() + kLanes<T>;
}

/// Copies the values of channels [begin, end) to all their other places in such arrays.
template <typename T, typename... Arrays>
void repeat(const Tiling<T>& tiling, Range channels, Arrays*... arrays) {
  const size_t width = tiling.shape().channels;
  const size_t end = padded_width(tiling);
  for (size_t copy = width; copy + channels.begin < end; copy += width) {
    const size_t count = std::min(channels.end, end - copy) - channels.begin;
    (std::copy_n(arrays + channels.begin, count, arrays + copy + channels.begin), ...);
  }
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
    const size_t at = channels.begin;
    kernels.normalization({channels.end - at, eps, mean + at, variance + at, weight ? weight + at : nullptr,
                           bias ? bias + at : nullptr, to.mean + at, to.scale + at, to.offset + at});
    repeat(tiling, channels, to.mean, to.scale, to.offset);
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
    const size_t at = channels.begin;
    kernels.gradients({channels.end - at, eps, count, mean + at, variance + at, high + at, sums.dy + at,
                       sums.dy_xc + at, slope + at, constant + at, dweight ? dweight + at : nullptr,
                       dbias ? dbias + at : nullptr});
    repeat(tiling, channels, slope, constant);
  }
};

/// Takes a per-channel array that kernels read while they write `to`. Where they stream channels-last rows
/// they load it where lines of `to` begin: it begins as far from a line as `to`, for a load that straddles
/// two lines costs two.
template <typename T>
T* take_coefficients(Scratch& scratch, const Tiling<T>& tiling, Stores stores, const T* to) {
  const size_t shift = stores == kStreamed && tiling.layout() == kChannelsLast
                           ? reinterpret_cast<uintptr_t>(to) % kAlignment / sizeof(T)
                           : 0;
  return scratch.take<T>(padded_width(tiling) + shift) + shift;
}

}  // namespace
}  // namespace batchnorm
