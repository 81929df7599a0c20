// AVX2: a Vec is two registers.
#pragma once

#include <immintrin.h>
#include <stddef.h>

namespace {

template <typename T>
struct Register;

template <>
struct Register<float> {
  static constexpr size_t kLanes = 8;
  __m256 value;

  static inline __m256i mask(size_t count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)),
                              _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static inline Register broadcast(float x) { return {_mm256_set1_ps(x)}; }
  static inline Register load(const float* from) { return {_mm256_loadu_ps(from)}; }
  static inline Register load(const float* from, size_t count, Register fill) {
    const __m256i active = mask(count);
    return {_mm256_blendv_ps(fill.value, _mm256_maskload_ps(from, active), _mm256_castsi256_ps(active))};
  }
  inline void store(float* to) const { _mm256_storeu_ps(to, value); }
  inline void store(float* to, size_t count) const { _mm256_maskstore_ps(to, mask(count), value); }
  friend inline Register add(Register a, Register b) { return {_mm256_add_ps(a.value, b.value)}; }
  friend inline Register subtract(Register a, Register b) { return {_mm256_sub_ps(a.value, b.value)}; }
  friend inline Register multiply(Register a, Register b) { return {_mm256_mul_ps(a.value, b.value)}; }
};

template <>
struct Register<double> {
  static constexpr size_t kLanes = 4;
  __m256d value;

  static inline __m256i mask(size_t count) {
    return _mm256_cmpgt_epi64(_mm256_set1_epi64x(static_cast<long long>(count)),
                              _mm256_setr_epi64x(0, 1, 2, 3));
  }
  static inline Register broadcast(double x) { return {_mm256_set1_pd(x)}; }
  static inline Register load(const double* from) { return {_mm256_loadu_pd(from)}; }
  static inline Register load(const double* from, size_t count, Register fill) {
    const __m256i active = mask(count);
    return {_mm256_blendv_pd(fill.value, _mm256_maskload_pd(from, active), _mm256_castsi256_pd(active))};
  }
  inline void store(double* to) const { _mm256_storeu_pd(to, value); }
  inline void store(double* to, size_t count) const { _mm256_maskstore_pd(to, mask(count), value); }
  friend inline Register add(Register a, Register b) { return {_mm256_add_pd(a.value, b.value)}; }
  friend inline Register subtract(Register a, Register b) { return {_mm256_sub_pd(a.value, b.value)}; }
  friend inline Register multiply(Register a, Register b) { return {_mm256_mul_pd(a.value, b.value)}; }
};

}  // namespace
