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

}  // namespace

namespace batchnorm {
template <Storage S>
struct ComputeOf<Word<S>> {
  using Type = float;
};
}  // namespace batchnorm

namespace {

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

/// Vectors whose values are a line of S in memory.
template <typename S>
constexpr size_t kVectorsOfLine = kLanes<S> / kLanes<Compute<S>>;

/// Writes a line, of which vector_of(i) is vector i.
template <bool Stream, typename T, typename VectorOf>
ALWAYS_INLINE void write_whole_line(T* to, const VectorOf& vector_of) {
  const Vec<T> values = vector_of(0);
  if constexpr (Stream)
    stream_values(values, to);
  else
    store_values(values, to, AllLanes{});
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
  return select(count, widened_words<S>(&from->bits, count), fill);
}
template <batchnorm::Storage S>
ALWAYS_INLINE void store_values(Vec<float> values, Word<S>* to, AllLanes) {
  narrow_words<S>(values, &to->bits);
}
template <batchnorm::Storage S>
ALWAYS_INLINE void store_values(Vec<float> values, Word<S>* to, size_t count) {
  Word<S> all[kLanes<float>];
  store_values(values, all, AllLanes{});
  for (size_t i = 0; i < count; i++) to[i] = all[i];
}
template <bool Stream, batchnorm::Storage S, typename VectorOf>
ALWAYS_INLINE void write_whole_line(Word<S>* to, const VectorOf& vector_of) {
  const Vec<float> first = vector_of(0);
  narrow_words<S, Stream>(first, vector_of(1), &to->bits);
}
#endif

}  // namespace
