// One tile of a result, with the stores that suit its size. Changes no bit.
#pragma once

#include <algorithm>

#include "batchnorm.h"
#include "kernels.h"
#include "scratch.h"

namespace batchnorm {
namespace {

/// The part of a work that a tile at value `at` and channel `channel` of the tensor is.
template <typename T>
NormalizeWork<T> part_of(const NormalizeWork<T>& all, Tile tile, size_t at, size_t channel) {
  return {tile,
          all.x + at,
          all.residual ? all.residual + at : nullptr,
          {all.mask.bytes, all.mask.at + at},
          all.y + at,
          all.mean + channel,
          all.scale + channel,
          all.offset + channel};
}
template <typename T>
GradInputWork<T> part_of(const GradInputWork<T>& all, Tile tile, size_t at, size_t channel) {
  return {tile,
          all.dy + at,
          all.x + at,
          {all.mask.bytes, all.mask.at + at},
          all.dx ? all.dx + at : nullptr,
          all.dresidual ? all.dresidual + at : nullptr,
          all.mean + channel,
          all.slope + channel,
          all.constant + channel,
          all.scale + channel,
          all.offset + channel};
}

template <typename Work, typename Sums>
class Writer {
 public:
  Writer(const Execution& execution, const WritingPass<Work, Sums>& pass, Layout layout, Stores stores,
         const Work& all)
      : pass_(pass), layout_(layout), stores_(stores), fence_(execution.kernels->fence), all_(all) {}
  void write(Tile tile, size_t at, size_t channel) const {
    pass_.alone[stores_][layout_](part_of(all_, tile, at, channel));
  }
  void stream_beside(Tile tile, size_t at, size_t channel, const Sums& sums) const {
    pass_.stream_beside(part_of(all_, tile, at, channel), sums);
  }
  /// After the last tile of a task.
  void finish() const {
    if (stores_ == kStreamed) fence_();
  }

 private:
  const WritingPass<Work, Sums>& pass_;
  Layout layout_;
  Stores stores_;
  void (*fence_)();
  Work all_;
};

/// Begins a mask for what will be written to y.
template <typename T>
void clear_mask(unsigned char* mask, const T* y, size_t size) {
  if (!mask) return;
  std::fill_n(mask, mask_bytes(size), static_cast<unsigned char>(0));
  mask[0] = static_cast<unsigned char>(reinterpret_cast<uintptr_t>(y) % kAlignment / sizeof(T));
}

}  // namespace
}  // namespace batchnorm
