// For every other CPU: a register is a 16-byte vector of the compiler's (GCC and Clang), which it maps to
// whatever the baseline has.
#pragma once

#include <stddef.h>

namespace {

/// Plain stores need no fence of their own.
inline void fence_streams() {}

template <typename T>
struct Register {
  static constexpr size_t kLanes = 16 / sizeof(T);
  typedef T Vector __attribute__((vector_size(16)));
  Vector value;

  static inline Register broadcast(T x) { return {x - Vector{}}; }
  static inline Register load(const T* from) {
    Register result;
    __builtin_memcpy(&result.value, from, sizeof(Vector));
    return result;
  }
  static inline Register load(const T* from, size_t count, Register fill) {
    if (count == kLanes) return load(from);
    for (size_t i = 0; i < count; i++) fill.value[i] = from[i];
    return fill;
  }
  inline void store(T* to) const { __builtin_memcpy(to, &value, sizeof(Vector)); }
  inline void store(T* to, size_t count) const {
    if (count == kLanes) return store(to);
    for (size_t i = 0; i < count; i++) to[i] = value[i];
  }
  inline void stream(T* to) const { store(to); }
  friend inline Register select(size_t count, Register first, Register rest) {
    for (size_t i = 0; i < count; i++) rest.value[i] = first.value[i];
    return rest;
  }
  friend inline Register add(Register a, Register b) { return {a.value + b.value}; }
  friend inline Register subtract(Register a, Register b) { return {a.value - b.value}; }
  friend inline Register multiply(Register a, Register b) { return {a.value * b.value}; }
};

}  // namespace
