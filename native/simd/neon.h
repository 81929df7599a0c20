// NEON: a Vec is four registers.
#pragma once

#include <arm_neon.h>
#include <stddef.h>

#include "../kernels.h"

namespace {

/// Whether stream() goes past the caches.
constexpr bool kStreamsPastCaches = false;

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
};

template <>
struct Register<double> {
  static constexpr size_t kLanes = 2;
  float64x2_t value;

  static ALWAYS_INLINE Register broadcast(double x) { return {vdupq_n_f64(x)}; }
  static ALWAYS_INLINE Register load(const double* from) { return {vld1q_f64(from)}; }
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
};

}  // namespace
