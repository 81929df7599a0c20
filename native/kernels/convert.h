// Conversions of any number of values, made of lines (StoredLine<S>, of simd/), the last of which is made up.
#pragma once

#include "../simd/vec.h"

namespace {

template <batchnorm::Storage S>
void widen(const void* from, size_t count, float* to) {
  const auto* const values = static_cast<const Stored<S>*>(from);
  constexpr size_t line = StoredLine<S>::kValues;
  size_t at = 0;
  for (; at + line <= count; at += line) StoredLine<S>::template widen<false>(values + at, to + at);
  if (at == count) return;
  Stored<S> last[line] = {};
  float floats[line];
  __builtin_memcpy(last, values + at, (count - at) * sizeof(last[0]));
  StoredLine<S>::template widen<false>(last, floats);
  __builtin_memcpy(to + at, floats, (count - at) * sizeof(floats[0]));
}

template <batchnorm::Storage S>
ALWAYS_INLINE void narrow_part(const float* from, size_t count, Stored<S>* to) {
  constexpr size_t line = StoredLine<S>::kValues;
  float floats[line] = {};
  Stored<S> last[line];
  __builtin_memcpy(floats, from, count * sizeof(floats[0]));
  StoredLine<S>::template narrow<false>(floats, last);
  __builtin_memcpy(to, last, count * sizeof(last[0]));
}

template <batchnorm::Storage S>
void narrow(const float* from, size_t count, void* to) {
  auto* const values = static_cast<Stored<S>*>(to);
  constexpr size_t line = StoredLine<S>::kValues;
  size_t at = 0;
  for (; at + line <= count; at += line) StoredLine<S>::template narrow<false>(from + at, values + at);
  if (at < count) narrow_part<S>(from + at, count - at, values + at);
}

/// Bytes between what is read and what memory is asked for.
constexpr size_t kAskedAhead = 16 << 10;

/// Asks memory for `lines` lines of what is read. They need not exist.
ALWAYS_INLINE void ask_ahead(const void* from, size_t lines) {
  for (size_t i = 0; i < lines; i++)
    __builtin_prefetch(
        reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(from) + kAskedAhead + i * 64));
}

/// Values before the first line of `to`.
template <typename Value>
ALWAYS_INLINE size_t values_before_line(const Value* to, size_t count) {
  const size_t misaligned = reinterpret_cast<uintptr_t>(to) % 64 / sizeof(Value);
  const size_t before = misaligned == 0 ? 0 : 64 / sizeof(Value) - misaligned;
  return before < count ? before : count;
}

template <batchnorm::Storage S>
void stream(const float* from, size_t count, void* to) {
  auto* const values = static_cast<Stored<S>*>(to);
  constexpr size_t line = StoredLine<S>::kValues;
  size_t at = values_before_line(values, count);
  if (at > 0) narrow_part<S>(from, at, values);
  for (; at + line <= count; at += line) {
    ask_ahead(from + at, line * sizeof(float) / 64);
    StoredLine<S>::template narrow<true>(from + at, values + at);
  }
  if (at < count) narrow_part<S>(from + at, count - at, values + at);
}

template <batchnorm::Storage S>
void stream_wide(const void* from, size_t count, float* to) {
  const auto* const values = static_cast<const Stored<S>*>(from);
  constexpr size_t line = StoredLine<S>::kValues;
  size_t at = values_before_line(to, count);
  if (at > 0) widen<S>(values, at, to);
  for (; at + line <= count; at += line) {
    ask_ahead(values + at, 1);
    StoredLine<S>::template widen<true>(values + at, to + at);
  }
  if (at < count) widen<S>(values + at, count - at, to + at);
}

inline void copy(const void* from, size_t count, float* to) {
  __builtin_memcpy(to, from, count * sizeof(float));
}
inline void copy_out(const float* from, size_t count, void* to) {
  __builtin_memcpy(to, from, count * sizeof(float));
}

/// What goes past the caches where the ISA has a way to do so.
template <batchnorm::Storage S>
constexpr batchnorm::Conversion conversion() {
  constexpr auto past = stream<S>;
  if constexpr (S == batchnorm::kFloat32)
    return {copy, copy_out, copy, kStreamsPastCaches ? past : copy_out};
  else if constexpr (kStreamsPastCaches)
    return {widen<S>, narrow<S>, stream_wide<S>, past};
  else
    return {widen<S>, narrow<S>, widen<S>, narrow<S>};
}

}  // namespace
