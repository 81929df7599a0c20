// What memory is asked for before it is needed. Changes no bit.
#pragma once

#include "partition.h"

namespace batchnorm {

/// How far ahead memory is asked for where reading goes straight on: memory has answered, and the caches
/// still hold the answer.
constexpr size_t kAheadBytes = size_t{16} << 10;
/// The same for the sums of channels-first, which take turns with other readers of the nearest cache.
constexpr size_t kSumsAheadBytes = size_t{8} << 10;

inline void prefetch(const void* at) {
#if defined(__GNUC__)
  __builtin_prefetch(at);
#endif
}

/// What the sums of channels [begin, end) of a span ask memory for: what follows, and where a sample has no
/// more of these channels what the next one has.
template <typename S>
Ahead ahead(const Partition<Compute<S>>& partition, const Span& span, Range channels) {
  const Shape& shape = partition.shape();
  if (partition.layout() == kChannelsLast) return straight_ahead(kAheadBytes / sizeof(S));
  const size_t length = (channels.end - channels.begin - 1) * shape.inner + span.length;
  const bool goes_on = span.offset + span.length < shape.inner;
  const size_t skip = goes_on ? 0 : (shape.channels - (channels.end - channels.begin)) * shape.inner;
  return {std::min(kSumsAheadBytes / sizeof(S), length), length, static_cast<ptrdiff_t>(skip)};
}

}  // namespace batchnorm
