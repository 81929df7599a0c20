// 16 values of 16 bits, to and from a Vec, with AVX-512.
#pragma once

#include "avx512.h"
#include "vec.h"

#define BATCHNORM_WORDS 1

namespace {

template <batchnorm::Storage S>
ALWAYS_INLINE Vec<float> widened_words(const uint16_t* from) {
  const __m256i words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  // All lanes; the forms without a mask make GCC 12 warn of its own header.
  if constexpr (S == batchnorm::kFloat16)
    return {{{_mm512_maskz_cvtph_ps(0xffff, words)}}};
  else
    return {{{_mm512_castsi512_ps(
        _mm512_maskz_slli_epi32(0xffff, _mm512_maskz_cvtepu16_epi32(0xffff, words), 16))}}};
}

/// Of results of arithmetic: of them every NaN is quiet.
template <batchnorm::Storage S>
ALWAYS_INLINE __m256i narrowed_words(__m512 values) {
  if constexpr (S == batchnorm::kFloat16) {
    return _mm512_maskz_cvtps_ph(0xffff, values, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  } else {
    const __m512i bits = _mm512_castps_si512(values);
    // Half of a step, less the least bit, which a tie needs where what is kept is odd.
    const __mmask16 is_odd = _mm512_test_epi32_mask(bits, _mm512_set1_epi32(0x10000));
    const __m512i half =
        _mm512_mask_blend_epi32(is_odd, _mm512_set1_epi32(0x7fff), _mm512_set1_epi32(0x8000));
    const __mmask16 is_number = _mm512_cmp_ps_mask(values, values, _CMP_ORD_Q);
    const __m512i rounded = _mm512_mask_add_epi32(bits, is_number, bits, half);
    return _mm512_maskz_cvtepi32_epi16(0xffff, _mm512_maskz_srli_epi32(0xffff, rounded, 16));
  }
}

template <batchnorm::Storage S, bool Stream>
ALWAYS_INLINE void narrow_words(Vec<float> values, uint16_t* to) {
  const __m256i words = narrowed_words<S>(values.registers[0].value);
  if constexpr (Stream)
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to), words);
  else
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), words);
}

}  // namespace
