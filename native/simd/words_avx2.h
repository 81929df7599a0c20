// 16 values of 16 bits, to and from a Vec, with AVX2 and F16C.
#pragma once

#include "avx2.h"
#include "vec.h"

#define BATCHNORM_WORDS 1

namespace {

template <batchnorm::Storage S>
ALWAYS_INLINE Vec<float> widened_words(const uint16_t* from) {
  Vec<float> result;
  for (size_t i = 0; i < 2; i++) {
    const __m128i words = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from) + i);
    if constexpr (S == batchnorm::kFloat16)
      result.registers[i].value = _mm256_cvtph_ps(words);
    else
      result.registers[i].value = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(words), 16));
  }
  return result;
}

/// The bits of a bfloat16 in the lower half of each lane.
ALWAYS_INLINE __m256i halves_of(__m256 values) {
  const __m256i bits = _mm256_castps_si256(values);
  const __m256i last = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), last);
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(values, values, _CMP_UNORD_Q));
  return _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, is_nan), 16);
}

template <batchnorm::Storage S>
ALWAYS_INLINE __m256i narrowed_words(__m256 a, __m256 b) {
  if constexpr (S == batchnorm::kFloat16) {
    constexpr int nearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return _mm256_set_m128i(_mm256_cvtps_ph(b, nearest), _mm256_cvtps_ph(a, nearest));
  } else {
    return _mm256_permute4x64_epi64(_mm256_packus_epi32(halves_of(a), halves_of(b)), _MM_SHUFFLE(3, 1, 2, 0));
  }
}

template <batchnorm::Storage S, bool Stream>
ALWAYS_INLINE void narrow_words(Vec<float> values, uint16_t* to) {
  const __m256i words = narrowed_words<S>(values.registers[0].value, values.registers[1].value);
  if constexpr (Stream)
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to), words);
  else
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), words);
}

}  // namespace
