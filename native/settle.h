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

template <typename T>
void set_normalization(const Normalization<T>& coefficients, const Kernels<T>& kernels,
                       const Tiling<T>& tiling, Range channels, double eps, const double* mean,
                       const double* variance, const T* weight, const T* bias) {
  const size_t at = channels.begin;
  kernels.normalization(channels.end - at, eps, mean + at, variance + at, weight ? weight + at : nullptr,
                        bias ? bias + at : nullptr, coefficients.mean + at, coefficients.scale + at,
                        coefficients.offset + at);
  repeat(tiling, channels, coefficients.mean, coefficients.scale, coefficients.offset);
}

/// Whether a result goes past the caches: not in place, where its lines are in the cache already.
template <typename T>
bool is_streamed(const Execution& execution, const Tiling<T>& tiling, const T* from, const T* to) {
  const Shape& shape = tiling.shape();
  return from != to && shape.size() * sizeof(T) >= execution.stream_bytes &&
         (tiling.layout() == kChannelsLast || shape.inner >= kLanes<T>);
}

/// Takes a per-channel array that kernels read while they write `to`. Where they stream channels-last rows
/// they load it where lines of `to` begin: it begins as far behind a line as `to`, for a load that straddles
/// two lines costs two.
template <typename T>
T* take_coefficients(Scratch& scratch, const Tiling<T>& tiling, bool streamed, const T* to) {
  const size_t shift = streamed && tiling.layout() == kChannelsLast
                           ? reinterpret_cast<uintptr_t>(to) % kAlignment / sizeof(T)
                           : 0;
  return scratch.take<T>(padded_width(tiling) + shift) + shift;
}

}  // namespace
}  // namespace batchnorm
