// What the passes of rows share: how rows are seen as channels, how values and weights of columns are
// reached.
#pragma once

#include <algorithm>
#include <type_traits>
#include <vector>

#include "rows.h"
#include "traversal.h"

namespace batchnorm {

/// From so many values on a channel of a row is a row of kernels with coefficients of its own; else it is a
/// column, or several.
constexpr size_t kLeastPlane = 16;
/// Values of a piece of rows that are normalized before their columns are scaled.
constexpr size_t kPiece = 2048;

/// Values of a row up to which it stays in the nearest cache from its sums to its result, and of the rows
/// that are taken at once.
template <typename S>
constexpr size_t kMostOfRow = 32768 / sizeof(Compute<S>);
constexpr size_t kValuesOfSome = 4096;
/// How many those are: kernels take four together.
constexpr size_t some_rows(size_t length, size_t least) {
  return std::max<size_t>(least, kValuesOfSome / length / 4 * 4);
}

/// The view in which rows are channels.
inline Shape rows_of(const RowShape& shape) {
  return {1, shape.rows(), shape.count()};
}
/// The view in which all channels of all samples are.
inline Shape planes_of(const RowShape& shape) {
  return {1, shape.samples * shape.parameters(), shape.inner};
}
/// A sample as batch norm has it.
inline Shape sample_of(const RowShape& shape) {
  return {shape.outer, shape.parameters(), shape.inner};
}

inline bool has_planes(const RowShape& shape) {
  return shape.outer == 1 && shape.inner >= kLeastPlane;
}

/// to[channel] = from[row of the channel], for the channels of `rows`, which begin at to[0].
template <typename T>
void spread_rows(Range rows, size_t channels, const T* from, T* to) {
  for (size_t row = rows.begin; row < rows.end; row++) to = std::fill_n(to, channels, from[row]);
}

/// Values in T, of those that lie in memory as S: what is read is widened to `room` where it must be.
template <typename S>
class Values {
  using T = Compute<S>;

 public:
  explicit Values(const Execution& execution)
      : conversion_(execution.kernels->conversions[execution.storage]) {}
  /// Whether they lie as they are computed with.
  static constexpr bool kPlain = std::is_same_v<S, T>;

  const T* read(const S* from, size_t count, [[maybe_unused]] T* room) const {
    if constexpr (kPlain) {
      return from;
    } else {
      conversion_.widen(from, count, room);
      return room;
    }
  }
  /// Where a kernel is to write what belongs to `to`.
  T* target(S* to, [[maybe_unused]] T* room) const {
    if constexpr (kPlain)
      return to;
    else
      return room;
  }
  /// What a kernel has written there.
  void wrote([[maybe_unused]] Stores stores, [[maybe_unused]] const T* from, [[maybe_unused]] size_t count,
             [[maybe_unused]] S* to) const {
    if constexpr (!kPlain) (stores == kStreamed ? conversion_.stream : conversion_.narrow)(from, count, to);
  }
  /// How the kernel stores that writes to a target.
  static constexpr Stores stores_of(Stores stores) { return kPlain ? stores : kCached; }

 private:
  const Conversion& conversion_;
};

/// Where lines of what kernels write begin: of Half they write to a room.
template <typename S>
const void* values_of_lines(const S* written) {
  return Values<S>::kPlain ? written : nullptr;
}

/// Room for a piece, which begins where the lines of a mask do, and for what is read behind it.
template <typename T>
struct alignas(kAlignment) Room {
  T values[kPiece + 2 * kLanes<T>];
};

/// Weight and bias of the columns of a sample, each as often as its channel has values, of as many samples as
/// are laid side by side. The mean that columns have is 0.
template <typename T>
class Columns {
 public:
  /// `folds`: whether tiles of several samples are asked for. `written`: where what is written begins, for
  /// then what is read of columns lies in whole lines as well.
  Columns(Scratch& scratch, const RowShape& shape, const T* weight, const T* bias, bool folds,
          const void* written)
      : values_(shape.of_sample()), fold_(folds ? fold_of<T>(values_) : 1) {
    const size_t width = values_ * fold_ + kLanes<T>;
    const size_t shift =
        values_ % kLanes<T> == 0 ? reinterpret_cast<uintptr_t>(written) % kAlignment / sizeof(T) : 0;
    const auto take = [&](const T* from, T otherwise) {
      T* const to = scratch.template take<T>(width + shift) + shift;
      if (!from) {
        std::fill_n(to, width, otherwise);
        return static_cast<const T*>(to);
      }
      if (shape.inner == 1)
        std::copy_n(from, values_, to);
      else
        for (size_t channel = 0; channel < shape.parameters(); channel++)
          std::fill_n(to + channel * shape.inner, shape.inner, from[channel]);
      for (size_t at = values_; at < width; at += values_)
        std::copy_n(to, std::min(values_, width - at), to + at);
      return static_cast<const T*>(to);
    };
    none_ = take(nullptr, T{0});
    weight_ = take(weight, T{1});
    bias_ = bias ? take(bias, T{0}) : none_;
  }

  /// Values of a sample, and columns side by side.
  size_t values() const { return values_; }
  size_t width() const { return values_ * fold_; }
  Normalization<const T> from(size_t column) const {
    return {none_ + column, weight_ + column, bias_ + column};
  }

  /// Calls visit(tile, first value, first column) for `count` values that begin at column `column` of a
  /// sample: whole samples, or a part of one.
  template <typename Visit>
  void for_each_tile(size_t count, size_t column, Visit visit) const {
    if (column > 0 || count < values_) return visit(Tile{1, count, count, straight_ahead(0)}, 0, column);
    const Tiling<T> tiling(Shape{count / values_, values_, 1}, kChannelsLast, fold_);
    tiling.for_each_tile(straight_ahead(0), [&](Tile tile, size_t at) { visit(tile, at, size_t{0}); });
  }

 private:
  size_t values_;
  size_t fold_;
  const T* none_;
  const T* weight_;
  const T* bias_;
};

/// The mask of a sample, which has one of its own.
template <typename Byte>
Byte* mask_of(const RowShape& shape, Byte* mask, size_t sample) {
  return mask ? mask + sample * mask_bytes(shape.of_sample()) : nullptr;
}

/// How the parts of a tensor are written: as the whole would be.
inline Execution for_a_part(Execution execution, size_t bytes_of_all) {
  execution.stream_bytes = bytes_of_all >= execution.stream_bytes ? 0 : ~size_t{0};
  return execution;
}

/// Rows that are planes: batch norm of as many channels, whose parameters come again with each sample.
template <typename S>
bool is_batch_norm(const RowShape& shape, bool centred) {
  return has_planes(shape) && shape.channels == 1 && centred;
}

/// from[channel % parameters], of each plane; empty for nullptr.
template <typename T>
std::vector<T> repeated(const RowShape& shape, const T* from) {
  std::vector<T> to;
  if (!from) return to;
  to.reserve(shape.samples * shape.parameters());
  for (size_t sample = 0; sample < shape.samples; sample++)
    to.insert(to.end(), from, from + shape.parameters());
  return to;
}
template <typename T>
const T* data_of(const std::vector<T>& values) {
  return values.empty() ? nullptr : values.data();
}

}  // namespace batchnorm
