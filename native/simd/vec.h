// Vec: 64 bytes of values on every ISA, made of the registers that simd/<isa>.h defines.
// Included by the per-ISA files only, after the ISA's header.
#pragma once

#include <stdint.h>

#include "../kernels.h"

namespace {

using batchnorm::Compute;
using batchnorm::kLanes;

/// Tag for "all lanes": makes the partial forms below fold to the full ones, so that no tail is written
/// twice.
struct AllLanes {};

template <typename T>
struct Vec {
  static constexpr size_t kRegisters = kLanes<T> / Register<T>::kLanes;
  Register<T> registers[kRegisters];

  static ALWAYS_INLINE Vec broadcast(T value) {
    return make([&](size_t) { return Register<T>::broadcast(value); });
  }
  static ALWAYS_INLINE Vec load(const T* from, AllLanes = {}) {
    return make([&](size_t i) { return Register<T>::load(from + i * Register<T>::kLanes); });
  }
  /// Lanes from `count` on are `fill`; memory beyond `count` values is not read.
  static ALWAYS_INLINE Vec load(const T* from, size_t count, Vec fill) {
    return kPartsByCalls ? call_load(from, count, fill) : load_part(from, count, fill);
  }
  static ALWAYS_INLINE Vec load(const T* from, AllLanes, Vec) { return load(from); }

  /// Of doubles: from floats, or from doubles as they are.
  template <typename From>
  static ALWAYS_INLINE Vec widen(const From* from) {
    return make([&](size_t i) { return Register<T>::load(from + i * Register<T>::kLanes); });
  }

  ALWAYS_INLINE void store(T* to, AllLanes = {}) const {
    for (size_t i = 0; i < kRegisters; i++) registers[i].store(to + i * Register<T>::kLanes);
  }
  /// Memory beyond `count` values is not written.
  ALWAYS_INLINE void store(T* to, size_t count) const {
    kPartsByCalls ? call_store(to, count) : store_part(to, count);
  }

  /// To a 64-byte aligned place, past the caches where the ISA can do that. Needs fence_streams().
  ALWAYS_INLINE void stream(T* to) const {
    for (size_t i = 0; i < kRegisters; i++) registers[i].stream(to + i * Register<T>::kLanes);
  }
  /// The first `count` lanes of one and the others of another.
  friend ALWAYS_INLINE Vec select(size_t count, Vec first, Vec rest) {
    return make([&](size_t i) { return select(lanes_in(i, count), first.registers[i], rest.registers[i]); });
  }

  friend ALWAYS_INLINE Vec operator+(Vec a, Vec b) {
    return make([&](size_t i) { return add(a.registers[i], b.registers[i]); });
  }
  friend ALWAYS_INLINE Vec operator-(Vec a, Vec b) {
    return make([&](size_t i) { return subtract(a.registers[i], b.registers[i]); });
  }
  friend ALWAYS_INLINE Vec operator*(Vec a, Vec b) {
    return make([&](size_t i) { return multiply(a.registers[i], b.registers[i]); });
  }
  /// Sums of neighbouring lanes: those of the pairs of a, then those of the pairs of b.
  friend ALWAYS_INLINE Vec add_pairs(Vec a, Vec b) {
    if constexpr (kRegisters == 1) {
      return {{add_pairs(a.registers[0], b.registers[0])}};
    } else {
      constexpr size_t half = kRegisters / 2;
      return make([&](size_t i) {
        const Register<T>* const from = i < half ? a.registers + 2 * i : b.registers + 2 * (i - half);
        return add_pairs(from[0], from[1]);
      });
    }
  }
  /// a in the lanes in which `of` is above zero or NaN, +0 in the others.
  friend ALWAYS_INLINE Vec keep_positive(Vec a, Vec of) {
    return make([&](size_t i) { return keep_positive(a.registers[i], of.registers[i]); });
  }
  /// a in the lanes in which `of` is above zero or NaN, b in the others.
  friend ALWAYS_INLINE Vec select_positive(Vec of, Vec a, Vec b) {
    return make([&](size_t i) { return select_positive(of.registers[i], a.registers[i], b.registers[i]); });
  }
  /// a in the lanes in which `of` is no NaN, b in the others.
  friend ALWAYS_INLINE Vec select_ordered(Vec of, Vec a, Vec b) {
    return make([&](size_t i) { return select_ordered(of.registers[i], a.registers[i], b.registers[i]); });
  }
  /// One bit per lane, the first lane's the lowest: whether it is above zero or NaN.
  ALWAYS_INLINE uint32_t positive() const {
    uint32_t bits = 0;
    for (size_t i = 0; i < kRegisters; i++) bits |= registers[i].positive() << i * Register<T>::kLanes;
    return bits;
  }
  /// +0 in the lanes whose bit is 0.
  ALWAYS_INLINE Vec keep(uint32_t lanes) const {
    return make([&](size_t i) { return registers[i].keep(lanes >> i * Register<T>::kLanes); });
  }

 private:
  static ALWAYS_INLINE Vec load_part(const T* from, size_t count, const Vec& fill) {
    return make([&](size_t i) {
      return Register<T>::load(from + i * Register<T>::kLanes, lanes_in(i, count), fill.registers[i]);
    });
  }
  ALWAYS_INLINE void store_part(T* to, size_t count) const {
    for (size_t i = 0; i < kRegisters; i++)
      registers[i].store(to + i * Register<T>::kLanes, lanes_in(i, count));
  }
  static __attribute__((noinline)) Vec call_load(const T* from, size_t count, const Vec& fill) {
    return load_part(from, count, fill);
  }
  __attribute__((noinline)) void call_store(T* to, size_t count) const { store_part(to, count); }

  template <typename Function>
  static ALWAYS_INLINE Vec make(Function function) {
    Vec result;
    for (size_t i = 0; i < kRegisters; i++) result.registers[i] = function(i);
    return result;
  }
  static ALWAYS_INLINE size_t lanes_in(size_t index, size_t count) {
    const size_t before = index * Register<T>::kLanes;
    if (count <= before) return 0;
    return count - before < Register<T>::kLanes ? count - before : Register<T>::kLanes;
  }
};

/// (x - mean) * scale + offset, the same to the bit wherever it is computed.
template <typename T>
ALWAYS_INLINE Vec<T> normalized(Vec<T> deviation, Vec<T> scale, Vec<T> offset) {
  return deviation * scale + offset;
}

}  // namespace
