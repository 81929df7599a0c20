// Conversions of lines with AVX2 and F16C.
#pragma once

#include <immintrin.h>

#include "convert.h"

namespace {

template <bool Stream>
ALWAYS_INLINE void put(__m256i values, void* to) {
  if constexpr (Stream)
    _mm256_stream_si256(static_cast<__m256i*>(to), values);
  else
    _mm256_storeu_si256(static_cast<__m256i*>(to), values);
}

template <batchnorm::Storage S>
struct StoredLine {
  static constexpr size_t kValues = 64 / batchnorm::bytes_of(S);

  template <bool Stream>
  static ALWAYS_INLINE void widen(const Stored<S>* from, float* to) {
    for (size_t i = 0; i < kValues; i += 8) {
      if constexpr (Stream)
        _mm256_stream_ps(to + i, widened(from + i));
      else
        _mm256_storeu_ps(to + i, widened(from + i));
    }
  }
  template <bool Stream>
  static ALWAYS_INLINE void narrow(const float* from, Stored<S>* to) {
    constexpr size_t step = 32 / sizeof(Stored<S>);
    for (size_t i = 0; i < kValues; i += step) put<Stream>(narrowed(from + i), to + i);
  }

 private:
  /// Eight values.
  static ALWAYS_INLINE __m256 widened(const Stored<S>* from) {
    using namespace batchnorm;
    const auto half = [&] { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from)); };
    const auto quarter = [&] { return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)); };
    if constexpr (S == kFloat32)
      return _mm256_loadu_ps(from);
    else if constexpr (S == kBfloat16)
      return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half()), 16));
    else if constexpr (S == kFloat16)
      return _mm256_cvtph_ps(half());
    else if constexpr (S == kUint8)
      return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(quarter()));
    else if constexpr (S == kInt8)
      return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(quarter()));
    else
      return _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(half()));
  }

  /// 32 bytes of values.
  static ALWAYS_INLINE __m256i narrowed(const float* from) {
    using namespace batchnorm;
    const auto load = [&](size_t index) { return _mm256_loadu_ps(from + 8 * index); };
    if constexpr (S == kFloat32) {
      return _mm256_castps_si256(load(0));
    } else if constexpr (S == kFloat16) {
      constexpr int nearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
      return _mm256_set_m128i(_mm256_cvtps_ph(load(1), nearest), _mm256_cvtps_ph(load(0), nearest));
    } else if constexpr (S == kBfloat16) {
      const __m256 a = load(0), b = load(1);
      // Of both at once: a comparison for each would cost as much as the rounding.
      const bool has_nan = _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_UNORD_Q)) != 0;
      if (__builtin_expect(has_nan, 0)) return pack(halves_or_nan(a), halves_or_nan(b));
      return pack(halves(a), halves(b));
    } else if constexpr (S == kInt16) {
      const __m256i packed = _mm256_packs_epi32(whole(load(0)), whole(load(1)));
      return _mm256_permute4x64_epi64(packed, _MM_SHUFFLE(3, 1, 2, 0));
    } else {
      const __m256i first = _mm256_packs_epi32(whole(load(0)), whole(load(1)));
      const __m256i second = _mm256_packs_epi32(whole(load(2)), whole(load(3)));
      const __m256i packed =
          S == kUint8 ? _mm256_packus_epi16(first, second) : _mm256_packs_epi16(first, second);
      return _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    }
  }

  static ALWAYS_INLINE __m256i halves(__m256 of) {
    const __m256i bits = _mm256_castps_si256(of);
    const __m256i last = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), last);
    return _mm256_srli_epi32(rounded, 16);
  }
  static ALWAYS_INLINE __m256i halves_or_nan(__m256 of) {
    const __m256i quiet =
        _mm256_or_si256(_mm256_srli_epi32(_mm256_castps_si256(of), 16), _mm256_set1_epi32(0x40));
    const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(of, of, _CMP_UNORD_Q));
    return _mm256_blendv_epi8(halves(of), quiet, is_nan);
  }
  static ALWAYS_INLINE __m256i pack(__m256i a, __m256i b) {
    return _mm256_permute4x64_epi64(_mm256_packus_epi32(a, b), _MM_SHUFFLE(3, 1, 2, 0));
  }
  /// What is below the range becomes the least 32-bit number, which packing saturates.
  static ALWAYS_INLINE __m256i whole(__m256 of) {
    // The second operand where one is NaN, which becomes 0.
    const __m256 within = _mm256_min_ps(_mm256_set1_ps(kMost<S>), of);
    const __m256 ordered = _mm256_cmp_ps(of, of, _CMP_ORD_Q);
    return _mm256_cvtps_epi32(_mm256_and_ps(within, ordered));
  }
};

}  // namespace
