// The passes of group, instance, layer and RMS norm: a row has statistics of its own, and its weight and bias
// are those of its channels. What rows share with batch norm is batch norm's: see rows_forward.cpp.
#pragma once

#include "batchnorm.h"

namespace batchnorm {

/// x[samples][outer][groups * channels][inner]. A row is what a sample has of a group: channels * outer *
/// inner values. Layer norm of the last D values is {samples, 1, 1, D, 1}, instance norm {samples, outer, C,
/// 1, inner}.
struct RowShape {
  size_t samples;
  size_t outer;
  size_t groups;
  size_t channels;  ///< of a group
  size_t inner;

  constexpr size_t rows() const { return samples * groups; }
  /// Values of weight and of bias.
  constexpr size_t parameters() const { return groups * channels; }
  /// Values per row.
  constexpr size_t count() const { return outer * channels * inner; }
  constexpr size_t of_sample() const { return outer * parameters() * inner; }
  constexpr size_t size() const { return samples * of_sample(); }
};

/// The size of a mask: where rows are not contiguous, each sample has one of its own.
constexpr size_t row_mask_bytes(const RowShape& shape) {
  return shape.outer > 1 ? shape.samples * mask_bytes(shape.of_sample()) : mask_bytes(shape.size());
}

/// A forward pass, as Forward.
template <typename S>
struct RowForward {
  RowShape shape;
  double eps;
  /// Whether rows are normalized by their deviations from the mean, or as they are: by mean 0 and their mean
  /// square (RMS norm).
  bool centred;
  const S* x;
  /// May be x; nullptr for the statistics alone.
  S* y;
  const Compute<S>* weight;
  const Compute<S>* bias;
  Epilogue<S> epilogue;
  /// row_mask_bytes, which are filled, or nullptr.
  unsigned char* mask;
};

/// A backward pass of statistics that are those of x, as Backward.
template <typename S>
struct RowBackward {
  RowShape shape;
  double eps;
  bool centred;
  const S* dy;
  const S* x;
  const double* mean;
  const double* variance;
  const Compute<S>* weight;
  const Compute<S>* bias;
  Epilogue<S> epilogue;
  const unsigned char* mask;
};

/// y, and mean and variance of each row (0 and the mean square where it is not centred; NaN where count() is
/// 0).
template <typename S>
void forward_rows(const Execution& execution, const RowForward<S>& pass, double* mean, double* variance);

/// All gradients: those of weight and bias add up over the rows that share them, and the parts of a row that
/// do.
template <typename S>
void backward_rows(const Execution& execution, const RowBackward<S>& pass, Gradients<S> gradients);

}  // namespace batchnorm
