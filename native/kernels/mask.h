// One bit per value: what a ReLU after a residual has let through.
#pragma once

#include "loops.h"

namespace {

/// The bits of a tile.
struct MaskBits {
  unsigned char* bytes;
  size_t first;

  ALWAYS_INLINE explicit MaskBits(batchnorm::Mask mask)
      : bytes(mask.bytes ? mask.bytes + 1 : nullptr), first(mask.bytes ? mask.bytes[0] + mask.at : 0) {}

  /// Bits of the values from `place` on. Up to 3 bytes beyond them are read.
  ALWAYS_INLINE uint32_t load(size_t place) const {
    uint32_t bits;
    __builtin_memcpy(&bits, bytes + (first + place) / 8, sizeof(bits));
    return bits >> (first + place) % 8;
  }
  /// Sets those of a whole line.
  template <typename T>
  ALWAYS_INLINE void store_line(size_t place, uint32_t bits) const {
    __builtin_memcpy(bytes + (first + place) / 8, &bits, kLanes<T> / 8);
  }
  /// Adds to bits of which other threads may set the neighbours; those beyond `count` are zeros.
  ALWAYS_INLINE void add(size_t place, size_t count, uint32_t bits) const {
    const size_t begin = first + place;
    bits <<= begin % 8;
    for (size_t byte = begin / 8; byte * 8 < begin + count; byte++, bits >>= 8)
      __atomic_fetch_or(bytes + byte, static_cast<unsigned char>(bits), __ATOMIC_RELAXED);
  }
};

/// Sets the bits of `count` values from `place` on.
template <typename T>
ALWAYS_INLINE void set_mask(const T* values, size_t count, MaskBits mask, size_t place) {
  const Vec<T> zeros = Vec<T>::broadcast(0);
  const auto add = [&](size_t from, size_t to) {
    if (from < to)
      mask.add(place + from, to - from, Vec<T>::load(values + from, to - from, zeros).positive());
  };
  const size_t before = (8 - (mask.first + place) % 8) % 8;
  size_t done = before < count ? before : count;
  add(0, done);
  for (; done + kLanes<T> <= count; done += kLanes<T>)
    mask.store_line<T>(place + done, Vec<T>::load(values + done).positive());
  add(done, count);
}

/// From what has just been written, which is still near.
template <typename T>
ALWAYS_INLINE void set_mask(const batchnorm::NormalizeWork<T>& work) {
  const Tile tile = work.tile;
  const MaskBits mask(work.mask);
  if (tile.stride == tile.columns) return set_mask(work.y, tile.rows * tile.columns, mask, 0);
  for (size_t row = 0; row < tile.rows; row++)
    set_mask(work.y + row * tile.stride, tile.columns, mask, row * tile.stride);
}

template <batchnorm::Stores Stores, typename T>
void apply_mask(const batchnorm::MaskWork<T>& work) {
  const MaskBits mask(work.mask);
  const auto write_part = [&](size_t at, size_t count) {
    Vec<T>::load(work.from + at, count, Vec<T>::broadcast(0)).keep(mask.load(at)).store(work.to + at, count);
  };
  size_t at = before_first_line(work.to, work.count);
  if (at > 0) write_part(0, at);
  for (; at + kLanes<T> <= work.count; at += kLanes<T>) {
    const Vec<T> kept = Vec<T>::load(work.from + at).keep(mask.load(at));
    if constexpr (Stores == batchnorm::kStreamed)
      kept.stream(work.to + at);
    else
      kept.store(work.to + at);
  }
  if (at < work.count) write_part(at, work.count - at);
}

}  // namespace
