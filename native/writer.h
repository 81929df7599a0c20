// One tile of a result, with the stores that suit its size. Changes no bit.
#pragma once

#include <algorithm>

#include "access.h"
#include "batchnorm.h"
#include "kernels.h"
#include "scratch.h"

namespace batchnorm {

/// The part of a work that a tile at value `at` and channel `channel` of the tensor is.
template <typename S>
inline NormalizeWork<S> part_of(const NormalizeWork<S>& all, Tile tile, size_t at, size_t channel) {
  return {tile,
          all.x + at,
          all.residual ? all.residual + at : nullptr,
          {all.mask.bytes, all.mask.at + at},
          all.y + at,
          all.mean + channel,
          all.scale + channel,
          all.offset + channel};
}
template <typename S>
inline GradInputWork<S> part_of(const GradInputWork<S>& all, Tile tile, size_t at, size_t channel) {
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

/// Writes a result, a tile of the tensor at a time.
class TileWriter {
 public:
  /// The tile begins at value `at` and channel `channel`.
  virtual void write(const Tile& tile, size_t at, size_t channel) const = 0;
  /// The same beside a piece of work of the pass that sums, where the plan says so (Plan::beside).
  virtual void stream_beside(const Tile&, size_t, size_t, const void*) const {}
  /// After the last tile of a task.
  virtual void finish() const = 0;

 protected:
  ~TileWriter() = default;
};

/// Of tensors of S, with kernels that do KernelWork.
template <typename S, typename Work, typename KernelWork, typename Sums>
class Writer final : public TileWriter {
 public:
  Writer(const Execution& execution, const Access<S>& access, const WritingPass<KernelWork, Sums>& pass,
         Layout layout, Stores stores, const Work& all)
      : access_(access),
        pass_(pass),
        layout_(layout),
        stores_(stores),
        fence_(execution.kernels->fence),
        all_(all) {}
  void write(const Tile& tile, size_t at, size_t channel) const override {
    access_.write(pass_, layout_, stores_, part_of(all_, tile, at, channel));
  }
  void stream_beside([[maybe_unused]] const Tile& tile, [[maybe_unused]] size_t at,
                     [[maybe_unused]] size_t channel, [[maybe_unused]] const void* sums) const override {
    if constexpr (Access<S>::kBeside)
      pass_.stream_beside(part_of(all_, tile, at, channel), *static_cast<const Sums*>(sums));
  }
  void finish() const override {
    if (stores_ == kStreamed) fence_();
  }

 private:
  const Access<S> access_;
  const WritingPass<KernelWork, Sums>& pass_;
  Layout layout_;
  Stores stores_;
  void (*fence_)();
  Work all_;
};

/// Begins a mask for what will be written to y.
template <typename S>
void clear_mask(unsigned char* mask, const S* y, size_t size) {
  if (!mask) return;
  std::fill_n(mask, mask_bytes(size), static_cast<unsigned char>(0));
  mask[0] = static_cast<unsigned char>(reinterpret_cast<uintptr_t>(y) % kAlignment / sizeof(S));
}

}  // namespace batchnorm
