// AVX2: a Vec is two registers.
#pragma once

#include <immintrin.h>
#include <stddef.h>

#include "../kernels.h"
#include "convert_avx2.h"

namespace {

/// Whether stream() goes past the caches.
constexpr bool kStreamsPastCaches = true;
/// Whether code should be small where speed is lost in tails only.
constexpr bool kSmallCode = false;
/// Whether parts of vectors are loaded and stored by calls.
constexpr bool kPartsByCalls = false;

/// Makes streamed values visible to other threads.
inline void fence_streams() {
  _mm_sfence();
}

template <typename T>
struct Register;

template <>
struct Register<float> {
  static constexpr size_t kLanes = 8;
  __m256 value;

  static ALWAYS_INLINE __m256i mask(size_t count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)),
                              _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static ALWAYS_INLINE Register broadcast(float x) { return {_mm256_set1_ps(x)}; }
  static ALWAYS_INLINE Register load(const float* from) { return {_mm256_loadu_ps(from)}; }
  static ALWAYS_INLINE Register load(const float* from, size_t count, Register fill) {
    return select(count, {_mm256_maskload_ps(from, mask(count))}, fill);
  }
  ALWAYS_INLINE void store(float* to) const { _mm256_storeu_ps(to, value); }
  ALWAYS_INLINE void store(float* to, size_t count) const { _mm256_maskstore_ps(to, mask(count), value); }
  ALWAYS_INLINE void stream(float* to) const { _mm256_stream_ps(to, value); }
  friend ALWAYS_INLINE Register select(size_t count, Register first, Register rest) {
    return {_mm256_blendv_ps(rest.value, first.value, _mm256_castsi256_ps(mask(count)))};
  }
  friend ALWAYS_INLINE Register add(Register a, Register b) { return {_mm256_add_ps(a.value, b.value)}; }
  friend ALWAYS_INLINE Register subtract(Register a, Register b) { return {_mm256_sub_ps(a.value, b.value)}; }
  friend ALWAYS_INLINE Register multiply(Register a, Register b) { return {_mm256_mul_ps(a.value, b.value)}; }
  ALWAYS_INLINE __m256 is_positive() const { return _mm256_cmp_ps(value, _mm256_setzero_ps(), _CMP_NLE_UQ); }
  /// One bit per lane: whether it is above zero or NaN.
  ALWAYS_INLINE unsigned positive() const { return static_cast<unsigned>(_mm256_movemask_ps(is_positive())); }
  /// +0 in the lanes whose bit is 0.
  ALWAYS_INLINE Register keep(unsigned lanes) const {
    const __m256i bits = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const __m256i of_lanes = _mm256_and_si256(_mm256_set1_epi32(static_cast<int>(lanes)), bits);
    return {_mm256_and_ps(_mm256_castsi256_ps(_mm256_cmpeq_epi32(of_lanes, bits)), value)};
  }
  friend ALWAYS_INLINE Register keep_positive(Register a, Register of) {
    return {_mm256_and_ps(of.is_positive(), a.value)};
  }
  friend ALWAYS_INLINE Register select_positive(Register of, Register a, Register b) {
    return {_mm256_blendv_ps(b.value, a.value, of.is_positive())};
  }
  /// a in the lanes in which `of` is no NaN, b in the others.
  friend ALWAYS_INLINE Register select_ordered(Register of, Register a, Register b) {
    return {_mm256_blendv_ps(b.value, a.value, _mm256_cmp_ps(of.value, of.value, _CMP_ORD_Q))};
  }
};

template <>
struct Register<double> {
  static constexpr size_t kLanes = 4;
  __m256d value;

  static ALWAYS_INLINE __m256i mask(size_t count) {
    return _mm256_cmpgt_epi64(_mm256_set1_epi64x(static_cast<long long>(count)),
                              _mm256_setr_epi64x(0, 1, 2, 3));
  }
  static ALWAYS_INLINE Register broadcast(double x) { return {_mm256_set1_pd(x)}; }
  static ALWAYS_INLINE Register load(const double* from) { return {_mm256_loadu_pd(from)}; }
  static ALWAYS_INLINE Register load(const float* from) { return {_mm256_cvtps_pd(_mm_loadu_ps(from))}; }
  static ALWAYS_INLINE Register load(const double* from, size_t count, Register fill) {
    return select(count, {_mm256_maskload_pd(from, mask(count))}, fill);
  }
  ALWAYS_INLINE void store(double* to) const { _mm256_storeu_pd(to, value); }
  ALWAYS_INLINE void store(double* to, size_t count) const { _mm256_maskstore_pd(to, mask(count), value); }
  ALWAYS_INLINE void stream(double* to) const { _mm256_stream_pd(to, value); }
  friend ALWAYS_INLINE Register select(size_t count, Register first, Register rest) {
    return {_mm256_blendv_pd(rest.value, first.value, _mm256_castsi256_pd(mask(count)))};
  }
  friend ALWAYS_INLINE Register add(Register a, Register b) { return {_mm256_add_pd(a.value, b.value)}; }
  friend ALWAYS_INLINE Register subtract(Register a, Register b) { return {_mm256_sub_pd(a.value, b.value)}; }
  friend ALWAYS_INLINE Register multiply(Register a, Register b) { return {_mm256_mul_pd(a.value, b.value)}; }
  /// Sums of neighbours: of the pairs of a, then of those of b.
  friend ALWAYS_INLINE Register add_pairs(Register a, Register b) {
    return {_mm256_permute4x64_pd(_mm256_hadd_pd(a.value, b.value), _MM_SHUFFLE(3, 1, 2, 0))};
  }
  ALWAYS_INLINE __m256d is_positive() const { return _mm256_cmp_pd(value, _mm256_setzero_pd(), _CMP_NLE_UQ); }
  ALWAYS_INLINE unsigned positive() const { return static_cast<unsigned>(_mm256_movemask_pd(is_positive())); }
  ALWAYS_INLINE Register keep(unsigned lanes) const {
    const __m256i bits = _mm256_setr_epi64x(1, 2, 4, 8);
    const __m256i of_lanes = _mm256_and_si256(_mm256_set1_epi64x(static_cast<long long>(lanes)), bits);
    return {_mm256_and_pd(_mm256_castsi256_pd(_mm256_cmpeq_epi64(of_lanes, bits)), value)};
  }
  friend ALWAYS_INLINE Register keep_positive(Register a, Register of) {
    return {_mm256_and_pd(of.is_positive(), a.value)};
  }
  friend ALWAYS_INLINE Register select_positive(Register of, Register a, Register b) {
    return {_mm256_blendv_pd(b.value, a.value, of.is_positive())};
  }
  friend ALWAYS_INLINE Register select_ordered(Register of, Register a, Register b) {
    return {_mm256_blendv_pd(b.value, a.value, _mm256_cmp_pd(of.value, of.value, _CMP_ORD_Q))};
  }
};

}  // namespace

// Behind the registers, of which it makes Vecs.
#include "words_avx2.h"
