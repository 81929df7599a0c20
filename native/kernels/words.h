// Values of 16 bits, read and written as the floats that are computed with: the forms of load, store and
// stream that kernels ask for by the type of a pointer.
#pragma once

#include "../simd/vec.h"

namespace {

/// A value that lies in memory as S, of 16 bits.
template <batchnorm::Storage S>
struct Word {
  uint16_t bits;
};

template <typename T>
ALWAYS_INLINE Vec<T> load_values(const T* from, AllLanes = {}) {
  return Vec<T>::load(from);
}
template <typename T, typename Lanes>
ALWAYS_INLINE Vec<T> load_values(const T* from, Lanes lanes, Vec<T> fill) {
  return Vec<T>::load(from, lanes, fill);
}
template <typename T, typename Lanes>
ALWAYS_INLINE void store_values(Vec<T> values, T* to, Lanes lanes) {
  values.store(to, lanes);
}
template <typename T>
ALWAYS_INLINE void stream_values(Vec<T> values, T* to) {
  values.stream(to);
}

#if BATCHNORM_WORDS
template <batchnorm::Storage S>
ALWAYS_INLINE Vec<float> load_values(const Word<S>* from, AllLanes = {}) {
  return widened_words<S>(&from->bits);
}
template <batchnorm::Storage S>
ALWAYS_INLINE Vec<float> load_values(const Word<S>* from, AllLanes, Vec<float>) {
  return load_values(from);
}
template <batchnorm::Storage S>
ALWAYS_INLINE Vec<float> load_values(const Word<S>* from, size_t count, Vec<float> fill) {
  if (count == kLanes<float>) return load_values(from);
  Word<S> some[kLanes<float>] = {};
  for (size_t i = 0; i < count; i++) some[i] = from[i];
  return select(count, load_values(some), fill);
}
template <batchnorm::Storage S>
ALWAYS_INLINE void store_values(Vec<float> values, Word<S>* to, AllLanes) {
  narrow_words<S, false>(values, &to->bits);
}
template <batchnorm::Storage S>
ALWAYS_INLINE void store_values(Vec<float> values, Word<S>* to, size_t count) {
  Word<S> all[kLanes<float>];
  store_values(values, all, AllLanes{});
  for (size_t i = 0; i < count; i++) to[i] = all[i];
}
template <batchnorm::Storage S>
ALWAYS_INLINE void stream_values(Vec<float> values, Word<S>* to) {
  narrow_words<S, true>(values, &to->bits);
}
#endif

}  // namespace

namespace batchnorm {
template <Storage S>
struct ComputeOf<Word<S>> {
  using Type = float;
};
}  // namespace batchnorm
