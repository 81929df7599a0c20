// Batch normalization over x[outer][channels][inner]: the passes, without any knowledge of JavaScript.
//
// Statistics and per-channel arithmetic are in double; tensors lie in memory as S, and weight, bias and their
// gradients are in what those are computed in: float of Half, else S itself. An absent weight is 1, an absent
// bias 0 (nullptr). variance + eps > 0. All functions may throw std::bad_alloc, and only before they have
// written anything but masks and gradients of residuals.
#pragma once

#include <cstddef>

#include "kernels.h"

namespace batchnorm {

struct Shape {
  size_t outer;
  size_t channels;
  size_t inner;

  /// Values per channel.
  size_t count() const { return outer * inner; }
  size_t size() const { return outer * channels * inner; }
};

/// How to compute. Changes no bit of any result, but for what 16 bits stand for.
struct Execution {
  const KernelTable* kernels;
  size_t threads;
  /// What the passes over a group of channels may reread from a cache of this thread's own.
  size_t cache_bytes;
  /// Results from this size on are written past the caches: whoever reads one next will not find it there
  /// anyway.
  size_t stream_bytes;
  /// What tensors of Half hold: the only thing here that a result depends on.
  Storage storage = kBfloat16;
  /// The most that stream_bytes is with any number of threads, for passes that read less than they write: 0
  /// for the same.
  size_t most_stream_bytes = 0;
};

/// What follows the normalization: y = activation(normalized x + residual).
template <typename S>
struct Epilogue {
  Activation activation = kIdentity;
  /// As large as x; nullptr for none.
  const S* residual = nullptr;
};

/// The size of a mask (see kernels.h), with what a kernel may read beyond the last bit.
constexpr size_t mask_bytes(size_t size) {
  return size / 8 + 8;
}

/// A forward pass. y = activation((x - mean) / sqrt(variance + eps) * weight + bias + residual).
template <typename S>
struct Forward {
  Shape shape;
  double eps;
  const S* x;
  /// May be x.
  S* y;
  const Compute<S>* weight;
  const Compute<S>* bias;
  Epilogue<S> epilogue;
  /// mask_bytes, which are filled, or nullptr.
  unsigned char* mask;
};

/// A backward pass: of dy through the forward pass of this x, mean, variance, weight, bias, eps and epilogue.
template <typename S>
struct Backward {
  Shape shape;
  double eps;
  const S* dy;
  const S* x;
  const double* mean;
  const double* variance;
  const Compute<S>* weight;
  const Compute<S>* bias;
  Epilogue<S> epilogue;
  /// Of a residual and an activation: what the forward pass has filled. nullptr computes it from the
  /// residual.
  const unsigned char* mask;
};

/// Gradients that were asked for; the others are nullptr.
template <typename S>
struct Gradients {
  /// May be dy.
  S* input;
  Compute<S>* weight;
  Compute<S>* bias;
  /// Of the residual: dy as the activation lets it through. Must be given with the input's where there are
  /// both a residual and an activation, and where there is no mask.
  S* residual;
};

/// What gradients follow from, one value per channel each: the sums of dy and of dy * (x - mean), of the dy
/// that the activation lets through. Those of parts of a batch add up to those of the whole.
struct GradientSums {
  double* dy;
  double* dy_xc;
};

/// Normalizes x with its own mean and biased variance, which it returns (channels values each; NaN where
/// count() is 0; of finite x a mean that is finite, and a variance that is or is infinity).
template <typename S>
void forward_training(const Execution& execution, const Forward<S>& pass, double* mean, double* variance);

/// Its statistics alone: what forward_training returns.
template <typename S>
void moments(const Execution& execution, Shape shape, const S* x, double* mean, double* variance);

/// The same with the given statistics.
template <typename S>
void forward_inference(const Execution& execution, const Forward<S>& pass, const double* mean,
                       const double* variance);

/// All gradients. training: mean and variance are those of x and carry gradient; otherwise they are
/// constants.
template <typename S>
void backward(const Execution& execution, const Backward<S>& pass, bool training, Gradients<S> gradients);

/// One half of backward in training: the sums. `residual` is room, as Gradients has it.
template <typename S>
void grad_sums(const Execution& execution, const Backward<S>& pass, S* residual, GradientSums sums);

/// The other half: dx and the gradient of the residual (or nullptr), of sums over `count` values per channel,
/// which are those of this pass or of a larger batch. The same bits as backward gives.
template <typename S>
void grad_input(const Execution& execution, const Backward<S>& pass, GradientSums sums, double count, S* dx,
                S* residual);

/// The gradients of weight and bias (or nullptr) that follow from sums: those that backward gives.
template <typename T>
void grad_parameters(const Execution& execution, size_t channels, double eps, const double* mean,
                     const double* variance, GradientSums sums, T* dweight, T* dbias);

/// running = decay * running + (1 - decay) * batch, for the channels where both come out finite; returns the
/// number of the others, which stay as they are. `unbiased` stores variance * count / (count - 1), and
/// nothing where count is 1. `accepted`, unless it is nullptr, takes the place of decay: how many batches
/// each channel is the mean of, to which those that come in are added.
size_t update_running_stats(const KernelTable& kernels, size_t channels, const double* mean,
                            const double* variance, double count, double decay, bool unbiased,
                            double* running_mean, double* running_var, double* accepted);

/// What an inference with fixed statistics needs to know.
template <typename T>
struct Fixed {
  size_t channels;
  double eps;
  const double* mean;
  const double* variance;
  const T* weight;
  const T* bias;
  Activation activation;
};

/// The size of what freeze() leaves. channels >= 1.
template <typename T>
size_t frozen_bytes(size_t channels);

/// Prepares an inference with fixed statistics in frozen_bytes(channels) bytes of memory, which must stay
/// where they are.
template <typename T>
void freeze(const Execution& execution, const Fixed<T>& fixed, unsigned char* memory);

/// For how many channels freeze() has prepared these bytes; 0 where it has not.
template <typename T>
size_t frozen_channels(const unsigned char* memory, size_t bytes);

/// forward_inference with what freeze() has prepared for shape.channels; residual may be nullptr.
template <typename S>
void run_frozen(const Execution& execution, Shape shape, const unsigned char* memory, const S* x,
                const S* residual, S* y);

}  // namespace batchnorm
