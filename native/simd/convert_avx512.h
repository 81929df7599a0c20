// Conversions of lines with AVX-512.
#pragma once

#include <immintrin.h>

#include "convert.h"

namespace {

template <batchnorm::Storage S>
struct StoredLine {
  static constexpr size_t kValues = 64 / batchnorm::bytes_of(S);

  template <bool Stream>
  static ALWAYS_INLINE void widen(const Stored<S>* from, float* to) {
    for (size_t i = 0; i < kValues; i += 16) {
      if constexpr (Stream)
        _mm512_stream_ps(to + i, widened(from + i));
      else
        _mm512_storeu_ps(to + i, widened(from + i));
    }
  }
  template <bool Stream>
  static ALWAYS_INLINE void narrow(const float* from, Stored<S>* to) {
    if constexpr (Stream)
      _mm512_stream_si512(reinterpret_cast<__m512i*>(to), narrowed(from));
    else
      _mm512_storeu_si512(to, narrowed(from));
  }

 private:
  // All lanes; the forms without a mask make GCC 12 warn of its own header.
  static constexpr __mmask16 kAll = 0xffff;

  /// 16 values.
  static ALWAYS_INLINE __m512 widened(const Stored<S>* from) {
    using namespace batchnorm;
    const auto half = [&] { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)); };
    const auto quarter = [&] { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from)); };
    const auto whole = [](__m512i numbers) { return _mm512_maskz_cvtepi32_ps(kAll, numbers); };
    if constexpr (S == kFloat32)
      return _mm512_loadu_ps(from);
    else if constexpr (S == kBfloat16)
      return _mm512_castsi512_ps(
          _mm512_maskz_slli_epi32(kAll, _mm512_maskz_cvtepu16_epi32(kAll, half()), 16));
    else if constexpr (S == kFloat16)
      return _mm512_maskz_cvtph_ps(kAll, half());
    else if constexpr (S == kUint8)
      return whole(_mm512_maskz_cvtepu8_epi32(kAll, quarter()));
    else if constexpr (S == kInt8)
      return whole(_mm512_maskz_cvtepi8_epi32(kAll, quarter()));
    else
      return whole(_mm512_maskz_cvtepi16_epi32(kAll, half()));
  }

  /// A line of values.
  static ALWAYS_INLINE __m512i narrowed(const float* from) {
    using namespace batchnorm;
    const auto load = [&](size_t index) { return _mm512_loadu_ps(from + 16 * index); };
    if constexpr (S == kFloat32) {
      return _mm512_castps_si512(load(0));
    } else if constexpr (S == kFloat16) {
      constexpr int nearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
      const __m512i first = _mm512_castsi256_si512(_mm512_maskz_cvtps_ph(kAll, load(0), nearest));
      return _mm512_maskz_inserti64x4(0xff, first, _mm512_maskz_cvtps_ph(kAll, load(1), nearest), 1);
    } else if constexpr (S == kBfloat16) {
      const __m512 a = load(0), b = load(1);
      // Of both at once: a comparison for each would cost as much as the rounding.
      const bool has_nan = _mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q) != 0;
      if (__builtin_expect(has_nan, 0)) return pack(halves_or_nan(a), halves_or_nan(b));
      return pack(halves(a), halves(b));
    } else if constexpr (S == kInt16) {
      const __m512i packed = _mm512_packs_epi32(whole(load(0)), whole(load(1)));
      return in_order(packed);
    } else {
      const __m512i first = _mm512_packs_epi32(whole(load(0)), whole(load(1)));
      const __m512i second = _mm512_packs_epi32(whole(load(2)), whole(load(3)));
      const __m512i packed =
          S == kUint8 ? _mm512_packus_epi16(first, second) : _mm512_packs_epi16(first, second);
      const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
      return _mm512_maskz_permutexvar_epi32(kAll, order, packed);
    }
  }

  static ALWAYS_INLINE __m512i upper(__m512 of) {
    return _mm512_maskz_srli_epi32(kAll, _mm512_castps_si512(of), 16);
  }
  static ALWAYS_INLINE __m512i halves(__m512 of) {
    const __m512i last = _mm512_and_si512(upper(of), _mm512_set1_epi32(1));
    const __m512i biased = _mm512_add_epi32(_mm512_castps_si512(of), _mm512_set1_epi32(0x7fff));
    return _mm512_maskz_srli_epi32(kAll, _mm512_add_epi32(biased, last), 16);
  }
  static ALWAYS_INLINE __m512i halves_or_nan(__m512 of) {
    const __mmask16 is_nan = _mm512_cmp_ps_mask(of, of, _CMP_UNORD_Q);
    return _mm512_mask_or_epi32(halves(of), is_nan, upper(of), _mm512_set1_epi32(0x40));
  }
  static ALWAYS_INLINE __m512i pack(__m512i a, __m512i b) { return in_order(_mm512_packus_epi32(a, b)); }
  /// Of two vectors that were packed 16 bytes by 16 bytes.
  static ALWAYS_INLINE __m512i in_order(__m512i packed) {
    return _mm512_maskz_permutexvar_epi64(0xff, _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), packed);
  }
  /// What is below the range becomes the least 32-bit number, which packing saturates.
  static ALWAYS_INLINE __m512i whole(__m512 of) {
    const __mmask16 ordered = _mm512_cmp_ps_mask(of, of, _CMP_ORD_Q);
    return _mm512_maskz_cvtps_epi32(ordered, _mm512_maskz_min_ps(kAll, of, _mm512_set1_ps(kMost<S>)));
  }
};

}  // namespace
