// WebAssembly SIMD: registers of 16 bytes, and neither partial loads nor partial stores. A part of a register
// is loaded and stored with what lies beyond it, which comes back as it was: no other thread sees this
// memory, and binding/wasm.cpp leaves a line beyond whatever it allocates.
#pragma once

#include <wasm_simd128.h>

#include <type_traits>

#include "../kernels.h"
#include "convert.h"

namespace {

/// Whether stream() goes past the caches.
constexpr bool kStreamsPastCaches = false;
/// Whether code should be small where speed is lost in tails only.
constexpr bool kSmallCode = true;
/// Whether parts of vectors are loaded and stored by calls.
constexpr bool kPartsByCalls = false;

/// Plain stores need no fence of their own.
inline void fence_streams() {}

template <typename T>
struct Lanes;

template <>
struct Lanes<float> {
  static ALWAYS_INLINE v128_t broadcast(float x) { return wasm_f32x4_splat(x); }
  static ALWAYS_INLINE v128_t add(v128_t a, v128_t b) { return wasm_f32x4_add(a, b); }
  static ALWAYS_INLINE v128_t subtract(v128_t a, v128_t b) { return wasm_f32x4_sub(a, b); }
  static ALWAYS_INLINE v128_t multiply(v128_t a, v128_t b) { return wasm_f32x4_mul(a, b); }
  /// Those that are zero or below.
  static ALWAYS_INLINE v128_t not_positive(v128_t a) { return wasm_f32x4_le(a, wasm_f32x4_const_splat(0)); }
  static ALWAYS_INLINE v128_t equal(v128_t a, v128_t b) { return wasm_f32x4_eq(a, b); }
  static ALWAYS_INLINE v128_t first(size_t count) {
    return wasm_i32x4_lt(wasm_i32x4_const(0, 1, 2, 3), wasm_i32x4_splat(static_cast<int32_t>(count)));
  }
  static ALWAYS_INLINE v128_t of_bits(unsigned bits) {
    const v128_t lanes = wasm_i32x4_const(1, 2, 4, 8);
    return wasm_i32x4_eq(wasm_v128_and(wasm_i32x4_splat(static_cast<int32_t>(bits)), lanes), lanes);
  }
  static ALWAYS_INLINE unsigned to_bits(v128_t lanes) { return wasm_i32x4_bitmask(lanes); }
};

template <>
struct Lanes<double> {
  static ALWAYS_INLINE v128_t broadcast(double x) { return wasm_f64x2_splat(x); }
  static ALWAYS_INLINE v128_t add(v128_t a, v128_t b) { return wasm_f64x2_add(a, b); }
  static ALWAYS_INLINE v128_t subtract(v128_t a, v128_t b) { return wasm_f64x2_sub(a, b); }
  static ALWAYS_INLINE v128_t multiply(v128_t a, v128_t b) { return wasm_f64x2_mul(a, b); }
  static ALWAYS_INLINE v128_t not_positive(v128_t a) { return wasm_f64x2_le(a, wasm_f64x2_const_splat(0)); }
  static ALWAYS_INLINE v128_t equal(v128_t a, v128_t b) { return wasm_f64x2_eq(a, b); }
  static ALWAYS_INLINE v128_t first(size_t count) {
    return wasm_i32x4_lt(wasm_i32x4_const(0, 0, 1, 1), wasm_i32x4_splat(static_cast<int32_t>(count)));
  }
  static ALWAYS_INLINE v128_t of_bits(unsigned bits) {
    const v128_t lanes = wasm_i32x4_const(1, 1, 2, 2);
    return wasm_i32x4_eq(wasm_v128_and(wasm_i32x4_splat(static_cast<int32_t>(bits)), lanes), lanes);
  }
  static ALWAYS_INLINE unsigned to_bits(v128_t lanes) { return wasm_i64x2_bitmask(lanes); }
};

template <typename T>
struct Register {
  static constexpr size_t kLanes = 16 / sizeof(T);
  v128_t value;

  static ALWAYS_INLINE Register broadcast(T x) { return {Lanes<T>::broadcast(x)}; }
  static ALWAYS_INLINE Register load(const T* from) { return {wasm_v128_load(from)}; }
  /// Of doubles.
  template <typename From, typename = std::enable_if_t<std::is_same_v<From, float> && sizeof(T) == 8>>
  static ALWAYS_INLINE Register load(const From* from) {
    return {wasm_f64x2_promote_low_f32x4(wasm_v128_load64_zero(from))};
  }
  static ALWAYS_INLINE Register load(const T* from, size_t count, Register fill) {
    return select(count, load(from), fill);
  }
  ALWAYS_INLINE void store(T* to) const { wasm_v128_store(to, value); }
  ALWAYS_INLINE void store(T* to, size_t count) const { select(count, *this, load(to)).store(to); }
  ALWAYS_INLINE void stream(T* to) const { store(to); }
  friend ALWAYS_INLINE Register select(size_t count, Register first, Register rest) {
    return {wasm_v128_bitselect(first.value, rest.value, Lanes<T>::first(count))};
  }
  friend ALWAYS_INLINE Register add(Register a, Register b) { return {Lanes<T>::add(a.value, b.value)}; }
  friend ALWAYS_INLINE Register subtract(Register a, Register b) {
    return {Lanes<T>::subtract(a.value, b.value)};
  }
  friend ALWAYS_INLINE Register multiply(Register a, Register b) {
    return {Lanes<T>::multiply(a.value, b.value)};
  }
  /// Of doubles, sums of neighbours: of the pair of a, then of that of b.
  friend ALWAYS_INLINE Register add_pairs(Register a, Register b) {
    return {Lanes<T>::add(wasm_i64x2_shuffle(a.value, b.value, 0, 2),
                          wasm_i64x2_shuffle(a.value, b.value, 1, 3))};
  }
  /// One bit per lane: whether it is above zero or NaN.
  ALWAYS_INLINE unsigned positive() const {
    return Lanes<T>::to_bits(Lanes<T>::not_positive(value)) ^ ((1u << kLanes) - 1);
  }
  /// +0 in the lanes whose bit is 0.
  ALWAYS_INLINE Register keep(unsigned lanes) const {
    return {wasm_v128_and(value, Lanes<T>::of_bits(lanes))};
  }
  friend ALWAYS_INLINE Register keep_positive(Register a, Register of) {
    return {wasm_v128_andnot(a.value, Lanes<T>::not_positive(of.value))};
  }
  friend ALWAYS_INLINE Register select_positive(Register of, Register a, Register b) {
    return {wasm_v128_bitselect(b.value, a.value, Lanes<T>::not_positive(of.value))};
  }
  /// a in the lanes in which `of` is no NaN, b in the others.
  friend ALWAYS_INLINE Register select_ordered(Register of, Register a, Register b) {
    return {wasm_v128_bitselect(a.value, b.value, Lanes<T>::equal(of.value, of.value))};
  }
};

/// The compiler makes vectors of these.
template <batchnorm::Storage S>
using StoredLine = PortableLine<S>;

}  // namespace
