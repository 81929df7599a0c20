// What freeze() leaves in memory.
#pragma once

#include <cstddef>

#include "partition.h"
#include "scratch.h"
#include "settle.h"

namespace batchnorm {
namespace {

/// What lies at the first line of the memory of a frozen inference; three arrays of coefficients follow, each
/// as long as in channels-last, the beginning of which serves channels-first as well.
struct alignas(kAlignment) Frozen {
  size_t channels;
  /// Kept, for a division more would be noticed in a small call.
  size_t fold;
  Activation activation;
  size_t array_bytes;

  template <typename T>
  static Frozen of(size_t channels, Activation activation) {
    const size_t fold = fold_of<T>(channels);
    const size_t length = channels * fold + kLanes<T>;
    return {channels, fold, activation, round_up(length * sizeof(T), kAlignment)};
  }
  size_t bytes() const { return sizeof(Frozen) + 3 * array_bytes + kAlignment; }
  template <typename T>
  Normalization<T> coefficients() const {
    const auto array = [&](size_t index) {
      const auto* const first = reinterpret_cast<const unsigned char*>(this + 1);
      return reinterpret_cast<T*>(const_cast<unsigned char*>(first) + index * array_bytes);
    };
    return {array(0), array(1), array(2)};
  }
};

inline const Frozen& frozen_at(const unsigned char* memory) {
  return *reinterpret_cast<const Frozen*>(align(memory));
}

}  // namespace
}  // namespace batchnorm
