// Pixels whose channels lie side by side, as a Vec per channel, and back: as many pixels as a Vec has lanes.
#pragma once

#include <type_traits>

#include "vec.h"

namespace {

#if defined(__AVX2__)

#define BATCHNORM_PIXELS_OF_BYTES 1

/// For a shuffle of 16 bytes: those of a channel of four pixels, each with zeros above it.
ALWAYS_INLINE __m128i places_of_bytes(size_t channel, size_t stride) {
  // Of a byte of zeros the upper bit of its place is set.
  const auto place = [=](size_t pixel)
                         INLINED { return static_cast<int>(0x80808000 | (channel + pixel * stride)); };
  return _mm_setr_epi32(place(0), place(1), place(2), place(3));
}

#endif

#if defined(__AVX512F__)

/// For each lane of a shuffle of two registers which of their 32 it takes.
struct Lanes16 {
  int32_t from[16];
};

/// What brings values `first`, `first + stride`, ... of neighbouring registers together: those of register
/// `with`, beside what was taken of those before.
constexpr Lanes16 every(size_t first, size_t stride, size_t with) {
  Lanes16 lanes = {};
  for (size_t lane = 0; lane < 16; lane++) {
    const size_t place = first + lane * stride;
    const size_t kept = with == 1 ? place % 16 : lane;
    lanes.from[lane] = static_cast<int32_t>(place / 16 == with ? 16 + place % 16 : kept);
  }
  return lanes;
}

/// What puts the values of `channels` registers side by side, in the register that begins with value `first`.
constexpr Lanes16 together(size_t first, size_t channels, size_t with) {
  Lanes16 lanes = {};
  for (size_t lane = 0; lane < 16; lane++) {
    const size_t channel = (first + lane) % channels, pixel = (first + lane) / channels;
    const size_t kept = with == 1 ? pixel : lane;
    lanes.from[lane] = static_cast<int32_t>(channel == with ? 16 + pixel : kept);
  }
  return lanes;
}

template <size_t First, size_t Stride, size_t With>
constexpr Lanes16 kEvery = every(First, Stride, With);
template <size_t First, size_t Channels, size_t With>
constexpr Lanes16 kTogether = together(First, Channels, With);

ALWAYS_INLINE __m512 shuffle(__m512 a, const Lanes16& lanes, __m512 b) {
  return _mm512_permutex2var_ps(a, _mm512_loadu_si512(&lanes), b);
}

template <size_t Channels, size_t Stride>
struct TakeApart {
  static ALWAYS_INLINE void apply(const float* from, Vec<float> (&to)[Channels]) {
    __m512 in[Stride];
    for (size_t i = 0; i < Stride; i++) in[i] = _mm512_loadu_ps(from + 16 * i);
    take<0>(in, to);
  }

 private:
  template <size_t Channel>
  static ALWAYS_INLINE void take(const __m512 (&in)[Stride], Vec<float> (&to)[Channels]) {
    if constexpr (Channel < Channels) {
      __m512 taken = shuffle(in[0], kEvery<Channel, Stride, 1>, in[1]);
      if constexpr (Stride > 2) taken = shuffle(taken, kEvery<Channel, Stride, 2>, in[2]);
      if constexpr (Stride > 3) taken = shuffle(taken, kEvery<Channel, Stride, 3>, in[3]);
      to[Channel].registers[0].value = taken;
      take<Channel + 1>(in, to);
    }
  }
};

template <size_t Channels>
struct PutTogether {
  static ALWAYS_INLINE void apply(const Vec<float> (&from)[Channels], float* to) { put<0>(from, to); }

 private:
  template <size_t Index>
  static ALWAYS_INLINE void put(const Vec<float> (&from)[Channels], float* to) {
    if constexpr (Index < Channels) {
      const auto in = [&](size_t i) { return from[i].registers[0].value; };
      __m512 values = shuffle(in(0), kTogether<16 * Index, Channels, 1>, in(1));
      if constexpr (Channels > 2) values = shuffle(values, kTogether<16 * Index, Channels, 2>, in(2));
      if constexpr (Channels > 3) values = shuffle(values, kTogether<16 * Index, Channels, 3>, in(3));
      _mm512_storeu_ps(to + 16 * Index, values);
      put<Index + 1>(from, to);
    }
  }
};

/// Of bytes, as numbers: each quarter of a register gets the bytes of four pixels, and of those the ones of a
/// channel, each with zeros above it.
template <size_t Channels, size_t Stride>
struct TakeBytes {
  /// From the first pixel on.
  static constexpr size_t kRead = 64;

  static ALWAYS_INLINE __m512i load(const unsigned char* from) {
    const __m512i bytes = _mm512_loadu_si512(from);
    if constexpr (Stride == 4)
      return bytes;
    else
      return _mm512_maskz_permutexvar_epi32(kAll, _mm512_loadu_si512(&kFours), bytes);
  }
  template <size_t Channel>
  static ALWAYS_INLINE Vec<float> of_channel(__m512i fours, std::integral_constant<size_t, Channel>) {
    const __m512i places = _mm512_maskz_broadcast_i32x4(kAll, places_of_bytes(Channel, Stride));
    return {{{_mm512_maskz_cvtepi32_ps(kAll, _mm512_shuffle_epi8(fours, places))}}};
  }

 private:
  // All lanes; the forms without a mask make GCC 12 warn of its own header.
  static constexpr __mmask16 kAll = 0xffff;
  static constexpr Lanes16 fours() {
    Lanes16 lanes = {};
    for (size_t lane = 0; lane < 16; lane++)
      lanes.from[lane] = static_cast<int32_t>(lane / 4 * Stride + lane % 4);
    return lanes;
  }
  static constexpr Lanes16 kFours = fours();
};

#elif defined(__AVX2__)

/// Four values and four others.
ALWAYS_INLINE __m256 two_halves(const float* low, const float* high) {
  return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(low)), _mm_loadu_ps(high), 1);
}
ALWAYS_INLINE void put_halves(__m256 values, float* low, float* high) {
  _mm_storeu_ps(low, _mm256_castps256_ps128(values));
  _mm_storeu_ps(high, _mm256_extractf128_ps(values, 1));
}

/// In each half of the registers.
ALWAYS_INLINE void transpose_fours(__m256 (&rows)[4]) {
  const __m256 ab = _mm256_unpacklo_ps(rows[0], rows[1]), cd = _mm256_unpackhi_ps(rows[0], rows[1]);
  const __m256 ab2 = _mm256_unpacklo_ps(rows[2], rows[3]), cd2 = _mm256_unpackhi_ps(rows[2], rows[3]);
  rows[0] = _mm256_shuffle_ps(ab, ab2, _MM_SHUFFLE(1, 0, 1, 0));
  rows[1] = _mm256_shuffle_ps(ab, ab2, _MM_SHUFFLE(3, 2, 3, 2));
  rows[2] = _mm256_shuffle_ps(cd, cd2, _MM_SHUFFLE(1, 0, 1, 0));
  rows[3] = _mm256_shuffle_ps(cd, cd2, _MM_SHUFFLE(3, 2, 3, 2));
}

template <size_t Channels, size_t Stride>
struct TakeApart {
  static ALWAYS_INLINE void apply(const float* from, Vec<float> (&to)[Channels]) {
    for (size_t i = 0; i < 2; i++) {
      __m256 taken[4];
      take(from + 8 * Stride * i, taken);
      for (size_t channel = 0; channel < Channels; channel++) to[channel].registers[i].value = taken[channel];
    }
  }

 private:
  static ALWAYS_INLINE void take(const float* from, __m256 (&to)[4]) {
    const auto in = [&](size_t i) INLINED { return two_halves(from + 4 * i, from + 4 * Stride + 4 * i); };
    if constexpr (Stride == 2) {
      const __m256 a = in(0), b = in(1);
      to[0] = _mm256_shuffle_ps(a, b, _MM_SHUFFLE(2, 0, 2, 0));
      to[1] = _mm256_shuffle_ps(a, b, _MM_SHUFFLE(3, 1, 3, 1));
    } else if constexpr (Stride == 3) {
      const __m256 a = in(0), b = in(1), c = in(2);
      const __m256 xy = _mm256_shuffle_ps(b, c, _MM_SHUFFLE(2, 1, 3, 2));
      const __m256 yz = _mm256_shuffle_ps(a, b, _MM_SHUFFLE(1, 0, 2, 1));
      to[0] = _mm256_shuffle_ps(a, xy, _MM_SHUFFLE(2, 0, 3, 0));
      to[1] = _mm256_shuffle_ps(yz, xy, _MM_SHUFFLE(3, 1, 2, 0));
      to[2] = _mm256_shuffle_ps(yz, c, _MM_SHUFFLE(3, 0, 3, 1));
    } else {
      for (size_t i = 0; i < 4; i++) to[i] = in(i);
      transpose_fours(to);
    }
  }
};

template <size_t Channels>
struct PutTogether {
  static ALWAYS_INLINE void apply(const Vec<float> (&from)[Channels], float* to) {
    for (size_t i = 0; i < 2; i++) {
      __m256 values[4];
      for (size_t channel = 0; channel < Channels; channel++)
        values[channel] = from[channel].registers[i].value;
      put(values, to + 8 * Channels * i);
    }
  }

 private:
  static ALWAYS_INLINE void put(__m256 (&of)[4], float* to) {
    if constexpr (Channels == 2) {
      const __m256 a = _mm256_unpacklo_ps(of[0], of[1]), b = _mm256_unpackhi_ps(of[0], of[1]);
      of[0] = a;
      of[1] = b;
    } else if constexpr (Channels == 3) {
      const __m256 xy = _mm256_shuffle_ps(of[0], of[1], _MM_SHUFFLE(2, 0, 2, 0));
      const __m256 yz = _mm256_shuffle_ps(of[1], of[2], _MM_SHUFFLE(3, 1, 3, 1));
      const __m256 zx = _mm256_shuffle_ps(of[2], of[0], _MM_SHUFFLE(3, 1, 2, 0));
      of[0] = _mm256_shuffle_ps(xy, zx, _MM_SHUFFLE(2, 0, 2, 0));
      of[1] = _mm256_shuffle_ps(yz, xy, _MM_SHUFFLE(3, 1, 2, 0));
      of[2] = _mm256_shuffle_ps(zx, yz, _MM_SHUFFLE(3, 1, 3, 1));
    } else {
      transpose_fours(of);
    }
    for (size_t i = 0; i < Channels; i++) put_halves(of[i], to + 4 * i, to + 4 * Channels + 4 * i);
  }
};

/// Of bytes, as numbers: each half of a register gets the bytes of four pixels, and of those the ones of a
/// channel, each with zeros above it.
template <size_t Channels, size_t Stride>
struct TakeBytes {
  /// From the first pixel on.
  static constexpr size_t kRead = 12 * Stride + 16;

  struct Fours {
    __m256i low, high;
  };
  static ALWAYS_INLINE Fours load(const unsigned char* from) {
    const auto four = [&](size_t index) INLINED {
      return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + 4 * Stride * index));
    };
    return {_mm256_set_m128i(four(1), four(0)), _mm256_set_m128i(four(3), four(2))};
  }
  template <size_t Channel>
  static ALWAYS_INLINE Vec<float> of_channel(Fours fours, std::integral_constant<size_t, Channel>) {
    const __m256i places = _mm256_broadcastsi128_si256(places_of_bytes(Channel, Stride));
    return {{{_mm256_cvtepi32_ps(_mm256_shuffle_epi8(fours.low, places))},
             {_mm256_cvtepi32_ps(_mm256_shuffle_epi8(fours.high, places))}}};
  }
};

#else

/// By way of memory: compilers make shuffles of it.
template <size_t Channels, size_t Stride>
struct TakeApart {
  static ALWAYS_INLINE void apply(const float* from, Vec<float> (&to)[Channels]) {
    float lanes[Channels][kLanes<float>];
    for (size_t lane = 0; lane < kLanes<float>; lane++)
      for (size_t i = 0; i < Channels; i++) lanes[i][lane] = from[lane * Stride + i];
    for (size_t i = 0; i < Channels; i++) to[i] = Vec<float>::load(lanes[i]);
  }
};

template <size_t Channels>
struct PutTogether {
  static ALWAYS_INLINE void apply(const Vec<float> (&from)[Channels], float* to) {
    float lanes[Channels][kLanes<float>];
    for (size_t i = 0; i < Channels; i++) from[i].store(lanes[i]);
    for (size_t lane = 0; lane < kLanes<float>; lane++)
      for (size_t i = 0; i < Channels; i++) to[lane * Channels + i] = lanes[i][lane];
  }
};

#endif

}  // namespace
