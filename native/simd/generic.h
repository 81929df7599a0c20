// For every other CPU: a register is a 16-byte vector of the compiler's (GCC and Clang), which it maps to
// whatever the baseline has.
#pragma once

#include <stddef.h>

#include <type_traits>

#include "../kernels.h"
#include "convert.h"

namespace {

/// Whether stream() goes past the caches.
constexpr bool kStreamsPastCaches = false;
/// Whether code should be small where speed is lost in tails only.
constexpr bool kSmallCode = true;

/// Plain stores need no fence of their own.
inline void fence_streams() {}

template <typename T>
struct Register {
  static constexpr size_t kLanes = 16 / sizeof(T);
  typedef T Vector __attribute__((vector_size(16)));
  typedef decltype(Vector{} < Vector{}) Mask;
  Vector value;

  static ALWAYS_INLINE Mask mask(size_t count) {
    Mask index;
    for (size_t i = 0; i < kLanes; i++) index[i] = static_cast<int>(i);
    return index < (Mask{} + static_cast<int>(count));
  }
  static ALWAYS_INLINE Register broadcast(T x) { return {x - Vector{}}; }
  static ALWAYS_INLINE Register load(const T* from) {
    Register result;
    __builtin_memcpy(&result.value, from, sizeof(Vector));
    return result;
  }
  /// Of doubles.
  template <typename From, typename = std::enable_if_t<std::is_same_v<From, float> && sizeof(T) == 8>>
  static ALWAYS_INLINE Register load(const From* from) {
    return {Vector{from[0], from[1]}};
  }
  static ALWAYS_INLINE Register load(const T* from, size_t count, Register fill) {
    return count == kLanes ? load(from) : load_some(from, count, fill);
  }
  ALWAYS_INLINE void store(T* to) const { __builtin_memcpy(to, &value, sizeof(Vector)); }
  ALWAYS_INLINE void store(T* to, size_t count) const {
    if (count == kLanes)
      store(to);
    else
      store_some(to, count);
  }
  ALWAYS_INLINE void stream(T* to) const { store(to); }
  friend ALWAYS_INLINE Register select(size_t count, Register first, Register rest) {
    return {mask(count) ? first.value : rest.value};
  }
  friend ALWAYS_INLINE Register add(Register a, Register b) { return {a.value + b.value}; }
  friend ALWAYS_INLINE Register subtract(Register a, Register b) { return {a.value - b.value}; }
  friend ALWAYS_INLINE Register multiply(Register a, Register b) { return {a.value * b.value}; }
  /// Of doubles, sums of neighbours: of the pair of a, then of that of b.
  friend ALWAYS_INLINE Register add_pairs(Register a, Register b) {
    return {Vector{a.value[0], b.value[0]} + Vector{a.value[1], b.value[1]}};
  }
  /// One bit per lane: whether it is above zero or NaN.
  ALWAYS_INLINE unsigned positive() const {
    const Mask is_not = value <= Vector{};
    unsigned bits = 0;
    for (size_t i = 0; i < kLanes; i++) bits |= is_not[i] ? 0u : 1u << i;
    return bits;
  }
  /// +0 in the lanes whose bit is 0.
  ALWAYS_INLINE Register keep(unsigned lanes) const {
    Mask bits;
    for (size_t i = 0; i < kLanes; i++) bits[i] = 1 << i;
    return {((Mask{} + static_cast<int>(lanes)) & bits) != Mask{} ? value : Vector{}};
  }
  friend ALWAYS_INLINE Register keep_positive(Register a, Register of) {
    return {of.value <= Vector{} ? Vector{} : a.value};
  }
  friend ALWAYS_INLINE Register select_positive(Register of, Register a, Register b) {
    return {of.value <= Vector{} ? b.value : a.value};
  }
  /// a in the lanes in which `of` is no NaN, b in the others.
  friend ALWAYS_INLINE Register select_ordered(Register of, Register a, Register b) {
    return {of.value == of.value ? a.value : b.value};
  }

 private:
  // Out of line: inline they are 36 KB.
  static __attribute__((noinline)) Register load_some(const T* from, size_t count, Register fill) {
    for (size_t i = 0; i < count; i++) fill.value[i] = from[i];
    return fill;
  }
  __attribute__((noinline)) void store_some(T* to, size_t count) const {
    for (size_t i = 0; i < count; i++) to[i] = value[i];
  }
};

/// The compiler makes vectors of these.
template <batchnorm::Storage S>
using StoredLine = PortableLine<S>;

}  // namespace
