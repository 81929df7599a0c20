// Between storage types and float32, one value after the other in whole numbers and plain float32: what every
// ISA's own instructions must agree with, and what those use that have none.
#pragma once

#include <stdint.h>

#include "../kernels.h"

namespace {

template <batchnorm::Storage S>
struct StoredValue {
  using Type = uint16_t;
};
template <>
struct StoredValue<batchnorm::kFloat32> {
  using Type = float;
};
template <>
struct StoredValue<batchnorm::kUint8> {
  using Type = uint8_t;
};
template <>
struct StoredValue<batchnorm::kInt8> {
  using Type = int8_t;
};
template <>
struct StoredValue<batchnorm::kInt16> {
  using Type = int16_t;
};
template <batchnorm::Storage S>
using Stored = typename StoredValue<S>::Type;

/// The least and the most that an integer type holds.
template <batchnorm::Storage S>
constexpr float kLeast = S == batchnorm::kUint8  ? 0
                         : S == batchnorm::kInt8 ? -128
                                                 : -32768;
template <batchnorm::Storage S>
constexpr float kMost = S == batchnorm::kUint8  ? 255
                        : S == batchnorm::kInt8 ? 127
                                                : 32767;

ALWAYS_INLINE uint32_t bits_of(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof(bits));
  return bits;
}
ALWAYS_INLINE float float_of(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, sizeof(value));
  return value;
}

template <batchnorm::Storage S>
ALWAYS_INLINE float widen_value(Stored<S> value) {
  if constexpr (S == batchnorm::kBfloat16) {
    return float_of(uint32_t{value} << 16);
  } else if constexpr (S == batchnorm::kFloat16) {
    const uint32_t sign = uint32_t{value & 0x8000u} << 16;
    const uint32_t rest = uint32_t{value & 0x7fffu} << 13;
    const uint32_t exponent = rest & 0x0f800000;
    // From the exponents of one type to those of the other.
    constexpr uint32_t bias = (127u - 15) << 23;
    const uint32_t normal = rest + bias;
    // A denormal is what remains of a number with the least exponent when a one is taken away.
    const uint32_t denormal = bits_of(float_of(normal + (1u << 23)) - float_of(bias + (1u << 23)));
    const uint32_t quiet = (rest & 0x007fffff) != 0 ? 0x00400000 : 0;
    const uint32_t special = rest | 0x7f800000 | quiet;
    return float_of(sign | (exponent == 0x0f800000 ? special : exponent == 0 ? denormal : normal));
  } else {
    return static_cast<float>(value);
  }
}

template <batchnorm::Storage S>
ALWAYS_INLINE Stored<S> narrow_value(float value) {
  const uint32_t bits = bits_of(value);
  const uint32_t magnitude = bits & 0x7fffffff;
  if constexpr (S == batchnorm::kBfloat16) {
    const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    return static_cast<uint16_t>(magnitude > 0x7f800000 ? bits >> 16 | 0x40 : rounded);
  } else if constexpr (S == batchnorm::kFloat16) {
    const uint32_t rounded = (magnitude - ((127u - 15) << 23) + 0xfff + (magnitude >> 13 & 1)) >> 13;
    // Added to 1/2, whose last digit is worth as much as a denormal's, a small number is rounded to those.
    const uint32_t denormal = bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f);
    const uint32_t nan = 0x7e00 | (magnitude >> 13 & 0x3ff);
    const uint32_t infinity = 0x7c00;
    const uint32_t large = magnitude > 0x7f800000 ? nan : infinity;
    constexpr uint32_t beyond = (127u + 16) << 23, least = (127u - 14) << 23;
    const uint32_t result = magnitude >= beyond ? large : magnitude < least ? denormal : rounded;
    return static_cast<uint16_t>(bits >> 16 & 0x8000) | static_cast<uint16_t>(result);
  } else {
    const float above = value > kLeast<S> ? value : kLeast<S>;
    const float within = above < kMost<S> ? above : kMost<S>;
    // In a float of this size the last digit is worth one.
    constexpr float shift = 12582912;
    const int32_t whole = static_cast<int32_t>(bits_of(within + shift) - bits_of(shift));
    return static_cast<Stored<S>>(magnitude > 0x7f800000 ? 0 : whole);
  }
}

/// A line of memory at a time.
template <batchnorm::Storage S>
struct PortableLine {
  static constexpr size_t kValues = 64 / batchnorm::bytes_of(S);
  template <bool Stream>
  static ALWAYS_INLINE void widen(const Stored<S>* from, float* to) {
    for (size_t i = 0; i < kValues; i++) to[i] = widen_value<S>(from[i]);
  }
  template <bool Stream>
  static ALWAYS_INLINE void narrow(const float* from, Stored<S>* to) {
    for (size_t i = 0; i < kValues; i++) to[i] = narrow_value<S>(from[i]);
  }
};

}  // namespace
