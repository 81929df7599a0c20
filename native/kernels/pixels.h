// Pixels that are taken apart into rows, one per channel, or put together from them, and normalized in
// between, while they are in registers. What each value goes through is what the normalize kernel does.
#pragma once

#include "../simd/pixels.h"

namespace {

/// The coefficients of the channels of a pixel.
template <size_t Channels>
struct PixelCoefficients {
  using V = Vec<float>;
  V mean[Channels], scale[Channels], offset[Channels];
  ALWAYS_INLINE explicit PixelCoefficients(const batchnorm::PixelsWork& work) {
    for (size_t i = 0; i < Channels; i++) {
      mean[i] = V::broadcast(work.mean[i]);
      scale[i] = V::broadcast(work.scale[i]);
      offset[i] = V::broadcast(work.offset[i]);
    }
  }
  ALWAYS_INLINE V normalized(V x, size_t channel, bool relu) const {
    const V y = ::normalized(x - mean[channel], scale[channel], offset[channel]);
    return relu ? keep_positive(y, y) : y;
  }
};

/// One channel of some pixels.
ALWAYS_INLINE Vec<float> part_of_pixels(const float* from, size_t stride, size_t count) {
  float lanes[kLanes<float>] = {};
  for (size_t i = 0; i < count; i++) lanes[i] = from[i * stride];
  return Vec<float>::load(lanes);
}

template <size_t Channels, size_t Stride>
void take_pixels(const batchnorm::PixelsWork& work) {
  using V = Vec<float>;
  const PixelCoefficients<Channels> of(work);
  const bool relu = work.relu, streams = work.streams;
  size_t at = 0;
  for (; at + kLanes<float> <= work.count; at += kLanes<float>) {
    V x[Channels];
    TakeApart<Channels, Stride>::apply(work.pixels + at * Stride, x);
    for (size_t i = 0; i < Channels; i++) {
      const V y = of.normalized(x[i], i, relu);
      if (streams)
        y.stream(work.rows[i] + at);
      else
        y.store(work.rows[i] + at);
    }
  }
  if (at == work.count) return;
  for (size_t i = 0; i < Channels; i++) {
    const V x = part_of_pixels(work.pixels + at * Stride + i, Stride, work.count - at);
    of.normalized(x, i, relu).store(work.rows[i] + at, work.count - at);
  }
}

template <size_t Channels>
void put_pixels(const batchnorm::PixelsWork& work) {
  using V = Vec<float>;
  const PixelCoefficients<Channels> of(work);
  const bool relu = work.relu;
  size_t at = 0;
  for (; at + kLanes<float> <= work.count; at += kLanes<float>) {
    V y[Channels];
    for (size_t i = 0; i < Channels; i++) y[i] = of.normalized(V::load(work.rows[i] + at), i, relu);
    PutTogether<Channels>::apply(y, work.pixels + at * Channels);
  }
  for (; at < work.count; at++)
    for (size_t i = 0; i < Channels; i++) {
      const V x = V::load(work.rows[i] + at, 1, V::broadcast(0));
      of.normalized(x, i, relu).store(work.pixels + at * Channels + i, 1);
    }
}

}  // namespace
