// The passes over data of which not all counts alike: weighted, padded, with values missing. Without any of
// that, those of batchnorm.h are faster.
//
// Statistics are weighted means; what gradients follow from is summed over all that is normalized, weighted
// or not: dx = scale * (dy - weight / total * (sum dy + normalized x * sum of dy * normalized x)).
#pragma once

#include "batchnorm.h"

namespace batchnorm {

/// Which values count, and how much.
struct Presence {
  /// Of outer * inner positions, which all channels share; none below 0, the sums of them and of their
  /// squares finite. nullptr: 1 everywhere.
  const double* weights;
  /// Whether a NaN in x is a missing value, of a channel and a place, which counts nothing. Where a weight is
  /// 0 it counts nothing anyway.
  bool missing;
  /// Whether y of a missing value is that of the mean: the bias. Its dy then is in the gradient of the bias
  /// and in no other sum. With `missing` only.
  bool impute;
  /// Whether y is 0 where the weight is 0, and no gradient passes there.
  bool zero;
};

/// Of channels each: sums of weights and of their squares, and with them mean and variance; all 0 where there
/// is no weight.
struct Statistics {
  double* count;
  double* squares;
  double* mean;
  double* variance;
};

/// The statistics of what counts.
template <typename T>
void moments_of_present(const Execution& execution, Shape shape, const T* x, const Presence& presence,
                        Statistics statistics);

/// forward_inference, of which only `impute` and `zero` make another pass.
template <typename T>
void infer_present(const Execution& execution, const Forward<T>& pass, const Presence& presence,
                   const double* mean, const double* variance);

/// grad_sums. `bias`: with `impute` the gradient of the bias in double, or nullptr.
template <typename T>
void grad_sums_of_present(const Execution& execution, const Backward<T>& pass, const Presence& presence,
                          T* residual, GradientSums sums, double* bias);

/// grad_input, of sums over `count` of weight per channel; 0 where mean and variance carry no gradient, as
/// all of nullptr.
template <typename T>
void grad_input_of_present(const Execution& execution, const Backward<T>& pass, const Presence& presence,
                           GradientSums sums, const double* count, T* dx, T* residual);

/// The gradients of presence.weights, which is there.
template <typename T>
void grad_weights(const Execution& execution, const Backward<T>& pass, const Presence& presence,
                  GradientSums sums, const double* count, double* dweights);

/// The place of the first NaN of x that has weight; its size where there is none.
template <typename T>
size_t find_missing(Shape shape, const T* x, const double* weights);

}  // namespace batchnorm
