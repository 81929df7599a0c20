// 16 values of 16 bits, to and from a Vec, with AVX-512.
#pragma once

#include "avx512.h"
#include "vec.h"

#define BATCHNORM_WORDS 1

namespace {

/// For a shuffle of two registers: the odd words of both.
struct Words32 {
  uint16_t from[32];
};
constexpr Words32 odd_words() {
  Words32 words = {};
  for (size_t i = 0; i < 32; i++) words.from[i] = static_cast<uint16_t>(2 * i + 1);
  return words;
}
constexpr Words32 kUpperHalves = odd_words();
template <batchnorm::Storage S>
ALWAYS_INLINE Vec<float> widened_words(__m256i words) {
  // All lanes; the forms without a mask make GCC 12 warn of its own header.
  if constexpr (S == batchnorm::kFloat16)
    return {{{_mm512_maskz_cvtph_ps(0xffff, words)}}};
  else
    return {{{_mm512_castsi512_ps(
        _mm512_maskz_slli_epi32(0xffff, _mm512_maskz_cvtepu16_epi32(0xffff, words), 16))}}};
}
template <batchnorm::Storage S>
ALWAYS_INLINE Vec<float> widened_words(const uint16_t* from) {
  return widened_words<S>(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}
/// The first `count` of them, and zeros.
template <batchnorm::Storage S>
ALWAYS_INLINE Vec<float> widened_words(const uint16_t* from, size_t count) {
  const auto lanes = static_cast<__mmask16>((1u << count) - 1);
  return widened_words<S>(_mm256_maskz_loadu_epi16(lanes, from));
}

/// The bits of a bfloat16 in the upper half of each lane. Of results of arithmetic: of them every NaN is
/// quiet.
ALWAYS_INLINE __m512i rounded_words(__m512 values) {
  const __m512i bits = _mm512_castps_si512(values);
  // Half of a step, less the least bit, which a tie needs where what is kept is odd.
  const __mmask16 is_odd = _mm512_test_epi32_mask(bits, _mm512_set1_epi32(0x10000));
  const __m512i half = _mm512_mask_blend_epi32(is_odd, _mm512_set1_epi32(0x7fff), _mm512_set1_epi32(0x8000));
  const __mmask16 is_number = _mm512_cmp_ps_mask(values, values, _CMP_ORD_Q);
  return _mm512_mask_add_epi32(bits, is_number, bits, half);
}

template <batchnorm::Storage S>
ALWAYS_INLINE void narrow_words(Vec<float> values, uint16_t* to) {
  const __m512 value = values.registers[0].value;
  __m256i words;
  if constexpr (S == batchnorm::kFloat16)
    words = _mm512_maskz_cvtps_ph(0xffff, value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  else
    words = _mm512_maskz_cvtepi32_epi16(0xffff, _mm512_maskz_srli_epi32(0xffff, rounded_words(value), 16));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), words);
}

/// A line of them.
template <batchnorm::Storage S, bool Stream>
ALWAYS_INLINE void narrow_words(Vec<float> first, Vec<float> second, uint16_t* to) {
  const __m512 a = first.registers[0].value, b = second.registers[0].value;
  if constexpr (S == batchnorm::kFloat16) {
    constexpr int nearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    auto* const halves = reinterpret_cast<__m256i*>(to);
    const __m256i low = _mm512_maskz_cvtps_ph(0xffff, a, nearest);
    const __m256i high = _mm512_maskz_cvtps_ph(0xffff, b, nearest);
    // To put both together first takes longer.
    if constexpr (Stream) {
      _mm256_stream_si256(halves, low);
      _mm256_stream_si256(halves + 1, high);
    } else {
      _mm256_storeu_si256(halves, low);
      _mm256_storeu_si256(halves + 1, high);
    }
  } else {
    // The upper halves of all lanes by one shuffle: a shift and a narrowing of each take longer.
    const __m512i words =
        _mm512_permutex2var_epi16(rounded_words(a), _mm512_loadu_si512(&kUpperHalves), rounded_words(b));
    if constexpr (Stream)
      _mm512_stream_si512(reinterpret_cast<__m512i*>(to), words);
    else
      _mm512_storeu_si512(to, words);
  }
}

}  // namespace
