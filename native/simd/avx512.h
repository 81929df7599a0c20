// AVX-512: one register is a whole Vec.
#pragma once

#include <immintrin.h>
#include <stddef.h>

#include "../kernels.h"
#include "convert_avx512.h"

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
  static constexpr size_t kLanes = 16;
  __m512 value;

  static ALWAYS_INLINE __mmask16 mask(size_t count) { return static_cast<__mmask16>((1u << count) - 1); }
  static ALWAYS_INLINE Register broadcast(float x) { return {_mm512_set1_ps(x)}; }
  static ALWAYS_INLINE Register load(const float* from) { return {_mm512_loadu_ps(from)}; }
  static ALWAYS_INLINE Register load(const float* from, size_t count, Register fill) {
    return {_mm512_mask_loadu_ps(fill.value, mask(count), from)};
  }
  ALWAYS_INLINE void store(float* to) const { _mm512_storeu_ps(to, value); }
  ALWAYS_INLINE void store(float* to, size_t count) const { _mm512_mask_storeu_ps(to, mask(count), value); }
  ALWAYS_INLINE void stream(float* to) const { _mm512_stream_ps(to, value); }
  friend ALWAYS_INLINE Register select(size_t count, Register first, Register rest) {
    return {_mm512_mask_blend_ps(mask(count), rest.value, first.value)};
  }
  friend ALWAYS_INLINE Register add(Register a, Register b) { return {_mm512_add_ps(a.value, b.value)}; }
  friend ALWAYS_INLINE Register subtract(Register a, Register b) { return {_mm512_sub_ps(a.value, b.value)}; }
  friend ALWAYS_INLINE Register multiply(Register a, Register b) { return {_mm512_mul_ps(a.value, b.value)}; }
  /// One bit per lane: whether it is above zero or NaN.
  ALWAYS_INLINE unsigned positive() const {
    return _mm512_cmp_ps_mask(value, _mm512_setzero_ps(), _CMP_NLE_UQ);
  }
  /// +0 in the lanes whose bit is 0.
  ALWAYS_INLINE Register keep(unsigned lanes) const {
    return {_mm512_maskz_mov_ps(static_cast<__mmask16>(lanes), value)};
  }
  friend ALWAYS_INLINE Register keep_positive(Register a, Register of) { return a.keep(of.positive()); }
  friend ALWAYS_INLINE Register select_positive(Register of, Register a, Register b) {
    return {_mm512_mask_blend_ps(static_cast<__mmask16>(of.positive()), b.value, a.value)};
  }
  /// a in the lanes in which `of` is no NaN, b in the others.
  friend ALWAYS_INLINE Register select_ordered(Register of, Register a, Register b) {
    return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(of.value, of.value, _CMP_ORD_Q), b.value, a.value)};
  }
};

template <>
struct Register<double> {
  static constexpr size_t kLanes = 8;
  __m512d value;

  static ALWAYS_INLINE __mmask8 mask(size_t count) { return static_cast<__mmask8>((1u << count) - 1); }
  static ALWAYS_INLINE Register broadcast(double x) { return {_mm512_set1_pd(x)}; }
  static ALWAYS_INLINE Register load(const double* from) { return {_mm512_loadu_pd(from)}; }
  static ALWAYS_INLINE Register load(const float* from) {
    // Of all lanes; the form without a mask makes GCC 12 warn of its own header.
    return {_mm512_maskz_cvtps_pd(0xff, _mm256_loadu_ps(from))};
  }
  static ALWAYS_INLINE Register load(const double* from, size_t count, Register fill) {
    return {_mm512_mask_loadu_pd(fill.value, mask(count), from)};
  }
  ALWAYS_INLINE void store(double* to) const { _mm512_storeu_pd(to, value); }
  ALWAYS_INLINE void store(double* to, size_t count) const { _mm512_mask_storeu_pd(to, mask(count), value); }
  ALWAYS_INLINE void stream(double* to) const { _mm512_stream_pd(to, value); }
  friend ALWAYS_INLINE Register select(size_t count, Register first, Register rest) {
    return {_mm512_mask_blend_pd(mask(count), rest.value, first.value)};
  }
  friend ALWAYS_INLINE Register add(Register a, Register b) { return {_mm512_add_pd(a.value, b.value)}; }
  friend ALWAYS_INLINE Register subtract(Register a, Register b) { return {_mm512_sub_pd(a.value, b.value)}; }
  friend ALWAYS_INLINE Register multiply(Register a, Register b) { return {_mm512_mul_pd(a.value, b.value)}; }
  /// Sums of neighbours: of the pairs of a, then of those of b.
  friend ALWAYS_INLINE Register add_pairs(Register a, Register b) {
    const __m512i even = _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14);
    const __m512i odd = _mm512_setr_epi64(1, 3, 5, 7, 9, 11, 13, 15);
    return {_mm512_add_pd(_mm512_permutex2var_pd(a.value, even, b.value),
                          _mm512_permutex2var_pd(a.value, odd, b.value))};
  }
  ALWAYS_INLINE unsigned positive() const {
    return _mm512_cmp_pd_mask(value, _mm512_setzero_pd(), _CMP_NLE_UQ);
  }
  ALWAYS_INLINE Register keep(unsigned lanes) const {
    return {_mm512_maskz_mov_pd(static_cast<__mmask8>(lanes), value)};
  }
  friend ALWAYS_INLINE Register keep_positive(Register a, Register of) { return a.keep(of.positive()); }
  friend ALWAYS_INLINE Register select_positive(Register of, Register a, Register b) {
    return {_mm512_mask_blend_pd(static_cast<__mmask8>(of.positive()), b.value, a.value)};
  }
  friend ALWAYS_INLINE Register select_ordered(Register of, Register a, Register b) {
    return {_mm512_mask_blend_pd(_mm512_cmp_pd_mask(of.value, of.value, _CMP_ORD_Q), b.value, a.value)};
  }
};

}  // namespace

// Behind the registers, of which it makes Vecs.
#include "words_avx512.h"
