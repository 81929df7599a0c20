// Inference with fixed statistics from any storage type to any other: what lies in memory is widened to
// float32 in small parts, normalized and narrowed, so that a result is that of float32, rounded once. On the
// way the channel axis may move. x is read where it lies, whatever its strides.
#pragma once

#include <cstddef>
#include <cstdint>

#include "batchnorm.h"

namespace batchnorm {

/// to = from, widened: `count` values.
void widen(const Execution& execution, Storage storage, const void* from, size_t count, float* to);
/// to = from, narrowed.
void narrow(const Execution& execution, const float* from, Storage storage, size_t count, void* to);

/// Nested loops, the last of which is the innermost, that go to places in memory.
class Steps {
 public:
  static constexpr size_t kMost = 64;

  /// One more loop inside the others: `extent` times, `stride` values apart. Loops that go on in one another
  /// become one.
  void add(size_t extent, ptrdiff_t stride) {
    if (extent == 1) return;
    if (count_ > 0 && strides_[count_ - 1] == static_cast<ptrdiff_t>(extent) * stride) {
      extents_[count_ - 1] *= extent;
      strides_[count_ - 1] = stride;
      return;
    }
    extents_[count_] = extent;
    strides_[count_++] = stride;
  }
  /// Places in a row, from one that begins such a row on.
  size_t run() const { return count_ == 0 ? 1 : extents_[count_ - 1]; }
  /// How far apart they are.
  ptrdiff_t stride() const { return count_ == 0 ? 1 : strides_[count_ - 1]; }
  bool is_one_run() const { return count_ <= 1; }
  /// Where place `index` is.
  ptrdiff_t offset_of(size_t index) const {
    ptrdiff_t offset = 0;
    for (size_t step = count_; step-- > 1; index /= extents_[step])
      offset += static_cast<ptrdiff_t>(index % extents_[step]) * strides_[step];
    return count_ == 0 ? 0 : offset + static_cast<ptrdiff_t>(index) * strides_[0];
  }

 private:
  size_t count_ = 0;
  size_t extents_[kMost];
  ptrdiff_t strides_[kMost];
};

/// What is read: x[outer][channels][inner], as the result has them.
struct Source {
  Storage storage;
  const void* at;  ///< its first value
  Steps outer;
  ptrdiff_t channel_stride;
  Steps inner;
};

/// y = activation(normalized x + residual), of a tensor of `shape`. y and the residual lie without gaps.
struct StoredPass {
  Shape shape;
  const unsigned char* frozen;  ///< what freeze<float>() has prepared
  Source x;
  Storage residual_storage;
  const void* residual;  ///< or nullptr
  const float* bias;     ///< with which NaN in x is as if it were the mean; nullptr where NaN stays NaN
  Storage y_storage;
  /// May be x, where that lies as y does and its values are as large.
  void* y;
};

/// The parts of a tensor of `rank` dimensions, from 1 to Steps::kMost, whose channel axis becomes
/// `out_axis` of y. Returns the shape of y.
Shape arrange(const double* shape, const double* strides, size_t rank, size_t axis, size_t out_axis,
              Source& source);

/// Whether a tensor lies as y does: without gaps, in its order.
bool lies_alike(const Shape& shape, const Source& x);

void run_stored(const Execution& execution, const StoredPass& pass);

/// The place in y of the first NaN in x; its size where there is none.
size_t find_missing_stored(const Execution& execution, Shape shape, const Source& x);

}  // namespace batchnorm
