// NEON: a Vec is four registers.
#pragma once

#include <arm_neon.h>
#include <stddef.h>

#include "../kernels.h"
#include "convert_neon.h"

namespace {

/// Whether stream() goes past the caches.
constexpr bool kStreamsPastCaches = false;
/// Whether code should be small where speed is lost in tails only.
constexpr bool kSmallCode = false;
/// Whether parts of vectors are loaded and stored by calls.
constexpr bool kPartsByCalls = false;

/// There are no intrinsics for streaming stores: plain ones need no fence of their own.
inline void fence_streams() {}

template <typename T>
struct Register;

template <>
struct Register<float> {
  static constexpr size_t kLanes = 4;
  float32x4_t value;

  static ALWAYS_INLINE Register broadcast(float x) { return {vdupq_n_f32(x)}; }
  static ALWAYS_INLINE Register load(const float* from) { return {vld1q_f32(from)}; }
  static ALWAYS_INLINE Register load(const float* from, size_t count, Register fill) {
    float lanes[kLanes];
    fill.store(lanes);
    for (size_t i = 0; i < count; i++) lanes[i] = from[i];
    return load(lanes);
  }
  ALWAYS_INLINE void store(float* to) const { vst1q_f32(to, value); }
  ALWAYS_INLINE void store(float* to, size_t count) const {
    float lanes[kLanes];
    store(lanes);
    for (size_t i = 0; i < count; i++) to[i] = lanes[i];
  }
  ALWAYS_INLINE void stream(float* to) const { store(to); }
  friend ALWAYS_INLINE Register select(size_t count, Register first, Register rest) {
    float lanes[kLanes];
    first.store(lanes);
    return load(lanes, count, rest);
  }
  friend ALWAYS_INLINE Register add(Register a, Register b) { return {vaddq_f32(a.value, b.value)}; }
  friend ALWAYS_INLINE Register subtract(Register a, Register b) { return {vsubq_f32(a.value, b.value)}; }
  friend ALWAYS_INLINE Register multiply(Register a, Register b) { return {vmulq_f32(a.value, b.value)}; }
  static ALWAYS_INLINE uint32x4_t bits() {
    const uint32_t lanes[kLanes] = {1, 2, 4, 8};
    return vld1q_u32(lanes);
  }
  ALWAYS_INLINE Register masked(uint32x4_t mask) const {
    return {vreinterpretq_f32_u32(vandq_u32(mask, vreinterpretq_u32_f32(value)))};
  }
  ALWAYS_INLINE uint32x4_t is_positive() const { return vmvnq_u32(vcleq_f32(value, vdupq_n_f32(0))); }
  /// One bit per lane: whether it is above zero or NaN.
  ALWAYS_INLINE unsigned positive() const { return vaddvq_u32(vandq_u32(is_positive(), bits())); }
  /// +0 in the lanes whose bit is 0.
  ALWAYS_INLINE Register keep(unsigned lanes) const { return masked(vtstq_u32(vdupq_n_u32(lanes), bits())); }
  friend ALWAYS_INLINE Register keep_positive(Register a, Register of) { return a.masked(of.is_positive()); }
  friend ALWAYS_INLINE Register select_positive(Register of, Register a, Register b) {
    return {vbslq_f32(of.is_positive(), a.value, b.value)};
  }
  /// a in the lanes in which `of` is no NaN, b in the others.
  friend ALWAYS_INLINE Register select_ordered(Register of, Register a, Register b) {
    return {vbslq_f32(vceqq_f32(of.value, of.value), a.value, b.value)};
  }
};

template <>
struct Register<double> {
  static constexpr size_t kLanes = 2;
  float64x2_t value;

  static ALWAYS_INLINE Register broadcast(double x) { return {vdupq_n_f64(x)}; }
  static ALWAYS_INLINE Register load(const double* from) { return {vld1q_f64(from)}; }
  static ALWAYS_INLINE Register load(const float* from) { return {vcvt_f64_f32(vld1_f32(from))}; }
  static ALWAYS_INLINE Register load(const double* from, size_t count, Register fill) {
    double lanes[kLanes];
    fill.store(lanes);
    for (size_t i = 0; i < count; i++) lanes[i] = from[i];
    return load(lanes);
  }
  ALWAYS_INLINE void store(double* to) const { vst1q_f64(to, value); }
  ALWAYS_INLINE void store(double* to, size_t count) const {
    double lanes[kLanes];
    store(lanes);
    for (size_t i = 0; i < count; i++) to[i] = lanes[i];
  }
  ALWAYS_INLINE void stream(double* to) const { store(to); }
  friend ALWAYS_INLINE Register select(size_t count, Register first, Register rest) {
    double lanes[kLanes];
    first.store(lanes);
    return load(lanes, count, rest);
  }
  friend ALWAYS_INLINE Register add(Register a, Register b) { return {vaddq_f64(a.value, b.value)}; }
  friend ALWAYS_INLINE Register subtract(Register a, Register b) { return {vsubq_f64(a.value, b.value)}; }
  friend ALWAYS_INLINE Register multiply(Register a, Register b) { return {vmulq_f64(a.value, b.value)}; }
  /// Sums of neighbours: of the pairs of a, then of those of b.
  friend ALWAYS_INLINE Register add_pairs(Register a, Register b) { return {vpaddq_f64(a.value, b.value)}; }
  static ALWAYS_INLINE uint64x2_t bits() {
    const uint64_t lanes[kLanes] = {1, 2};
    return vld1q_u64(lanes);
  }
  ALWAYS_INLINE Register masked(uint64x2_t mask) const {
    return {vreinterpretq_f64_u64(vandq_u64(mask, vreinterpretq_u64_f64(value)))};
  }
  ALWAYS_INLINE uint64x2_t is_positive() const {
    const uint64x2_t is_not = vcleq_f64(value, vdupq_n_f64(0));
    return vreinterpretq_u64_u32(vmvnq_u32(vreinterpretq_u32_u64(is_not)));
  }
  ALWAYS_INLINE unsigned positive() const {
    return static_cast<unsigned>(vaddvq_u64(vandq_u64(is_positive(), bits())));
  }
  ALWAYS_INLINE Register keep(unsigned lanes) const { return masked(vtstq_u64(vdupq_n_u64(lanes), bits())); }
  friend ALWAYS_INLINE Register keep_positive(Register a, Register of) { return a.masked(of.is_positive()); }
  friend ALWAYS_INLINE Register select_positive(Register of, Register a, Register b) {
    return {vbslq_f64(of.is_positive(), a.value, b.value)};
  }
  friend ALWAYS_INLINE Register select_ordered(Register of, Register a, Register b) {
    return {vbslq_f64(vceqq_f64(of.value, of.value), a.value, b.value)};
  }
};

}  // namespace
