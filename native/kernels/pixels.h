// Pixels that are taken apart into rows, one per channel, or put together from them, and normalized in
// between, while they are in registers. What each value goes through is what the normalize kernel does.
#pragma once

#include <type_traits>

#include "../simd/pixels.h"
#include "loops.h"

namespace {

/// Calls visit(Size<channel>) for each channel: loops over arrays of vectors GCC keeps in memory.
template <size_t Channels, size_t Channel = 0, typename Visit>
ALWAYS_INLINE void for_each_channel(const Visit& visit) {
  if constexpr (Channel < Channels) {
    visit(Size<Channel>{});
    for_each_channel<Channels, Channel + 1>(visit);
  }
}

/// The coefficients of the channels of a pixel, from one of them on, in registers.
template <size_t Channels, size_t Channel = 0>
struct PixelCoefficients {
  using V = Vec<float>;
  V mean, scale, offset;
  PixelCoefficients<Channels, Channel + 1> others;

  ALWAYS_INLINE explicit PixelCoefficients(const batchnorm::PixelsWork& work)
      : mean(V::broadcast(work.mean[Channel])),
        scale(V::broadcast(work.scale[Channel])),
        offset(V::broadcast(work.offset[Channel])),
        others(work) {}
  template <size_t Of>
  ALWAYS_INLINE V normalized(V x, Size<Of> of, bool relu) const {
    if constexpr (Of > Channel) {
      return others.normalized(x, of, relu);
    } else {
      const V y = ::normalized(x - mean, scale, offset);
      return relu ? keep_positive(y, y) : y;
    }
  }
};
template <size_t Channels>
struct PixelCoefficients<Channels, Channels> {
  ALWAYS_INLINE explicit PixelCoefficients(const batchnorm::PixelsWork&) {}
};

/// Calls run(relu, streams) with what a work says of them, as constants: in a loop they would take turns with
/// what is computed.
template <typename Run>
ALWAYS_INLINE void as_constants(const batchnorm::PixelsWork& work, const Run& run) {
  using Yes = std::true_type;
  using No = std::false_type;
  if (work.relu)
    work.streams ? run(Yes{}, Yes{}) : run(Yes{}, No{});
  else
    work.streams ? run(No{}, Yes{}) : run(No{}, No{});
}

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
    for_each_channel<Channels>([&](auto channel) INLINED {
      const V y = of.normalized(x[channel], channel, relu);
      if (streams)
        y.stream(work.rows[channel] + at);
      else
        y.store(work.rows[channel] + at);
    });
  }
  if (at == work.count) return;
  for_each_channel<Channels>([&](auto channel) INLINED {
    const V x = part_of_pixels(work.pixels + at * Stride + channel, Stride, work.count - at);
    of.normalized(x, channel, relu).store(work.rows[channel] + at, work.count - at);
  });
}

#if BATCHNORM_PIXELS_OF_BYTES
template <size_t Channels, size_t Stride>
void take_bytes(const batchnorm::PixelsWork& work) {
  using Take = TakeBytes<Channels, Stride>;
  const PixelCoefficients<Channels> of(work);
  const size_t total = work.count;
  if (total == 0) return;
  // Copies, which nothing that is written can change.
  const unsigned char* const pixels = work.bytes;
  float* const rows[] = {work.rows[0], work.rows[1], work.rows[2], work.rows[3]};
  const size_t bytes = (total - 1) * Stride + Channels;
  size_t at = 0;
  as_constants(work, [&](auto relu, auto streams) INLINED {
    for (; at + kLanes<float> <= total && at * Stride + Take::kRead <= bytes; at += kLanes<float>) {
      const auto taken = Take::load(pixels + at * Stride);
      for_each_channel<Channels>([&](auto channel) INLINED {
        const Vec<float> y = of.normalized(Take::of_channel(taken, channel), channel, relu);
        if constexpr (streams)
          y.stream(rows[channel] + at);
        else
          y.store(rows[channel] + at);
      });
    }
  });
  // Behind the last pixel there may be nothing.
  while (at < total) {
    unsigned char last[Take::kRead] = {};
    const size_t left = bytes - at * Stride;
    __builtin_memcpy(last, pixels + at * Stride, left < Take::kRead ? left : Take::kRead);
    const size_t count = total - at < kLanes<float> ? total - at : kLanes<float>;
    const auto taken = Take::load(last);
    for_each_channel<Channels>([&](auto channel) INLINED {
      of.normalized(Take::of_channel(taken, channel), channel, work.relu).store(rows[channel] + at, count);
    });
    at += count;
  }
}
#endif

template <size_t Channels, size_t Stride>
constexpr auto bytes_taker() -> void (*)(const batchnorm::PixelsWork&) {
#if BATCHNORM_PIXELS_OF_BYTES
  return take_bytes<Channels, Stride>;
#else
  return nullptr;
#endif
}

template <size_t Channels>
void put_pixels(const batchnorm::PixelsWork& work) {
  using V = Vec<float>;
  const PixelCoefficients<Channels> of(work);
  const bool relu = work.relu;
  size_t at = 0;
  for (; at + kLanes<float> <= work.count; at += kLanes<float>) {
    V y[Channels];
    for_each_channel<Channels>([&](auto channel) INLINED {
      y[channel] = of.normalized(V::load(work.rows[channel] + at), channel, relu);
    });
    PutTogether<Channels>::apply(y, work.pixels + at * Channels);
  }
  for (; at < work.count; at++)
    for_each_channel<Channels>([&](auto channel) INLINED {
      const V x = V::load(work.rows[channel] + at, 1, V::broadcast(0));
      of.normalized(x, channel, relu).store(work.pixels + at * Channels + channel, 1);
    });
}

}  // namespace
