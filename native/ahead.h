// What memory is asked for before it is needed. Changes no bit.
#pragma once

#include "partition.h"

namespace batchnorm {

/// How far ahead memory is asked for where reading goes straight on. A cache answers soon, and what comes too
/// early pushes out what is needed first; memory answers late. On AMD Zen 5 with 8, 16 and 32 KB: sums of
/// backward of (1, 112, 112, 64) last 89, 98 and 107 us, of (32, 112, 112, 64) last 8.6 (16) and 7.4 (32) ms.
constexpr size_t kAheadInCaches = size_t{8} << 10;
constexpr size_t kAheadBytes = size_t{32} << 10;
/// The same for sums of x alone, eight rows at a time ((32, 56, 56, 256) last with 8, 12, 16 and 32
/// KB: 4.0, 4.1, 4.5 and 4.6 ms; 512 columns: 2.4, 2.1, 2.0 and 2.2).
constexpr size_t kMomentsAheadBytes = size_t{12} << 10;
/// The same for the sums of channels-first, which take turns with other readers of the nearest cache.
constexpr size_t kSumsAheadBytes = size_t{16} << 10;
/// What the nearest cache of any CPU holds.
constexpr size_t kNearBytes = size_t{32} << 10;
/// From this size on a tensor is rather in memory than in a cache.
constexpr size_t kMemoryBytes = size_t{8} << 20;

/// Of tensors of so many bytes; `in_memory`: the distance for those that no cache holds.
constexpr size_t ahead_bytes(size_t bytes, size_t in_memory = kAheadBytes) {
  return bytes < kMemoryBytes ? kAheadInCaches : in_memory;
}

inline void prefetch(const void* at) {
#if defined(__GNUC__)
  __builtin_prefetch(at);
#endif
}

/// What the sums of channels [begin, end) of a span ask memory for: what follows, and where a sample has no
/// more of these channels what the next one has. `in_memory`: the distance of channels-last for tensors that
/// no cache holds.
template <typename S>
Ahead ahead(const Partition<Compute<S>>& partition, const Span& span, Range channels, size_t in_memory) {
  const Shape& shape = partition.shape();
  const size_t bytes = shape.size() * sizeof(S);
  if (partition.layout() == kChannelsLast) return straight_ahead(ahead_bytes(bytes, in_memory) / sizeof(S));
  const size_t length = (channels.end - channels.begin - 1) * shape.inner + span.length;
  const bool goes_on = span.offset + span.length < shape.inner;
  const size_t skip = goes_on ? 0 : (shape.channels - (channels.end - channels.begin)) * shape.inner;
  return {std::min(ahead_bytes(bytes, kSumsAheadBytes) / sizeof(S), length), length,
          static_cast<ptrdiff_t>(skip)};
}

}  // namespace batchnorm
