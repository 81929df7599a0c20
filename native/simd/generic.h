// Plain C++ for every other CPU: a register is 16 bytes, which compilers map to whatever the baseline has.
#pragma once

#include <stddef.h>

namespace {

/// Plain stores need no fence of their own.
inline void fence_streams() {}

template <typename T>
struct Register {
  static constexpr size_t kLanes = 16 / sizeof(T);
  T value[kLanes];

  static inline Register broadcast(T x) {
    Register result;
    for (T& lane : result.value) lane = x;
    return result;
  }
  static inline Register load(const T* from) {
    Register result;
    for (size_t i = 0; i < kLanes; i++) result.value[i] = from[i];
    return result;
  }
  static inline Register load(const T* from, size_t count, Register fill) {
    for (size_t i = 0; i < count; i++) fill.value[i] = from[i];
    return fill;
  }
  inline void store(T* to) const { store(to, kLanes); }
  inline void store(T* to, size_t count) const {
    for (size_t i = 0; i < count; i++) to[i] = value[i];
  }
  inline void stream(T* to) const { store(to); }
  friend inline Register select(size_t count, Register first, Register rest) {
    return load(first.value, count, rest);
  }
  friend inline Register add(Register a, Register b) {
    for (size_t i = 0; i < kLanes; i++) a.value[i] += b.value[i];
    return a;
  }
  friend inline Register subtract(Register a, Register b) {
    for (size_t i = 0; i < kLanes; i++) a.value[i] -= b.value[i];
    return a;
  }
  friend inline Register multiply(Register a, Register b) {
    for (size_t i = 0; i < kLanes; i++) a.value[i] *= b.value[i];
    return a;
  }
};

}  // namespace
