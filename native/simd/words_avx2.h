// 16 values of 16 bits, to and from a Vec, with AVX2 and F16C.
#pragma once

#include "avx2.h"
#include "vec.h"

#define BATCHNORM_WORDS 1

namespace {

template <batchnorm::Storage S>
ALWAYS_INLINE __m256 widened_eight(__m128i words) {
  if constexpr (S == batchnorm::kFloat16)
    return _mm256_cvtph_ps(words);
  else
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(words), 16));
}
template <batchnorm::Storage S>
ALWAYS_INLINE Vec<float> widened_words(const uint16_t* from) {
  const auto* const halves = reinterpret_cast<const __m128i*>(from);
  return {{{widened_eight<S>(_mm_loadu_si128(halves))}, {widened_eight<S>(_mm_loadu_si128(halves + 1))}}};
}
/// The first `count` of them, and zeros.
template <batchnorm::Storage S>
ALWAYS_INLINE Vec<float> widened_words(const uint16_t* from, size_t count) {
  // By pairs, of which a load leaves alone what it does not want, and the odd one out.
  const auto some = static_cast<int>(count);
  const __m256i pairs =
      _mm256_cmpgt_epi32(_mm256_set1_epi32(some / 2), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  __m256i words = _mm256_maskload_epi32(reinterpret_cast<const int*>(from), pairs);
  if (some % 2 == 1) {
    const __m256i places = _mm256_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m256i is_last = _mm256_cmpeq_epi16(places, _mm256_set1_epi16(static_cast<int16_t>(some - 1)));
    words = _mm256_blendv_epi8(words, _mm256_set1_epi16(static_cast<int16_t>(from[count - 1])), is_last);
  }
  return {{{widened_eight<S>(_mm256_castsi256_si128(words))},
           {widened_eight<S>(_mm256_extracti128_si256(words, 1))}}};
}

/// The bits of a bfloat16 in the lower half of each lane. Of results of arithmetic: of them every NaN is
/// quiet.
ALWAYS_INLINE __m256i halves_of(__m256 values) {
  const __m256i bits = _mm256_castps_si256(values);
  const __m256i last = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i half = _mm256_add_epi32(last, _mm256_set1_epi32(0x7fff));
  const __m256i is_number = _mm256_castps_si256(_mm256_cmp_ps(values, values, _CMP_ORD_Q));
  return _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_and_si256(half, is_number)), 16);
}

template <batchnorm::Storage S, bool Stream>
ALWAYS_INLINE void narrow_half_of_line(Vec<float> values, uint16_t* to) {
  const __m256 a = values.registers[0].value, b = values.registers[1].value;
  __m256i words;
  if constexpr (S == batchnorm::kFloat16) {
    constexpr int nearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    words = _mm256_set_m128i(_mm256_cvtps_ph(b, nearest), _mm256_cvtps_ph(a, nearest));
  } else {
    words =
        _mm256_permute4x64_epi64(_mm256_packus_epi32(halves_of(a), halves_of(b)), _MM_SHUFFLE(3, 1, 2, 0));
  }
  if constexpr (Stream)
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to), words);
  else
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), words);
}

template <batchnorm::Storage S>
ALWAYS_INLINE void narrow_words(Vec<float> values, uint16_t* to) {
  narrow_half_of_line<S, false>(values, to);
}
/// A line of them.
template <batchnorm::Storage S, bool Stream>
ALWAYS_INLINE void narrow_words(Vec<float> first, Vec<float> second, uint16_t* to) {
  narrow_half_of_line<S, Stream>(first, to);
  narrow_half_of_line<S, Stream>(second, to + batchnorm::kLanes<float>);
}

}  // namespace
