#include "batchnorm.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <new>

#include "traversal.h"

namespace batchnorm {
namespace {

/// Begins a mask for what will be written to y.
template <typename T>
void clear_mask(unsigned char* mask, const T* y, size_t size) {
  if (!mask) return;
  std::fill_n(mask, mask_bytes(size), static_cast<unsigned char>(0));
  mask[0] = static_cast<unsigned char>(reinterpret_cast<uintptr_t>(y) % kAlignment / sizeof(T));
}

/// The pass that normalizes with an epilogue.
template <typename T>
auto normalizer(const Execution& execution, const Tiling<T>& tiling, bool streamed, const T* x, T* y,
                const Normalization<const T>& coefficients, Epilogue<T> epilogue, unsigned char* mask) {
  return Writer(
      execution,
      kernels_of<T>(*execution.kernels).normalize[epilogue.residual != nullptr][epilogue.activation],
      tiling.layout(), streamed,
      NormalizeWork<T>{{},
                       x,
                       epilogue.residual,
                       {mask, 0},
                       y,
                       coefficients.mean,
                       coefficients.scale,
                       coefficients.offset});
}

/// Writes a whole tensor, forwards.
template <typename T, typename Writer>
void write_all(const Execution& execution, const Tiling<T>& tiling, const Writer& writer) {
  sweep(Crew(execution, tiling.shape().size() * sizeof(T)), tiling, writer, false);
}

/// to = from where the mask has a bit, else 0; a copy where there is none.
template <typename T>
void apply_mask(const Execution& execution, size_t size, const T* from, const unsigned char* mask, T* to) {
  const bool streamed = size * sizeof(T) >= execution.stream_bytes;
  constexpr size_t block = kBlockBytes / sizeof(T);
  const auto apply = kernels_of<T>(*execution.kernels).apply_mask[streamed];
  Crew(execution, size * sizeof(T)).work(divide_up(size, block), [&](size_t task, size_t) {
    const Range range = part(size, block, task);
    const size_t count = range.end - range.begin;
    if (!mask) {
      std::copy_n(from + range.begin, count, to + range.begin);
      return;
    }
    apply({count, from + range.begin, {const_cast<unsigned char*>(mask), range.begin}, to + range.begin});
    if (streamed) execution.kernels->fence();
  });
}

}  // namespace

template <typename T>
void forward_training(const Execution& execution, Shape shape, double eps, const T* x, T* y, const T* weight,
                      const T* bias, double* mean, double* variance, Epilogue<T> epilogue,
                      unsigned char* mask) {
  if (shape.size() == 0) {
    std::fill_n(mean, shape.channels, std::numeric_limits<double>::quiet_NaN());
    std::fill_n(variance, shape.channels, std::numeric_limits<double>::quiet_NaN());
    return;
  }
  Scratch scratch;
  const Partition<T> partition(shape);
  const Moments<T> moments(scratch, execution, partition, x);
  const bool streamed = is_streamed(execution, partition, x, y);
  const auto take = [&] { return take_coefficients(scratch, partition, streamed, y); };
  const Normalization<T> coefficients = {take(), take(), take()};
  const Kernels<T>& kernels = kernels_of<T>(*execution.kernels);
  const auto writer = normalizer<T>(execution, partition, streamed, x, y, coefficients, epilogue, mask);
  clear_mask(mask, y, shape.size());
  const auto settle = [&](Range channels, const Partials<T>& partials) {
    moments.merge(channels, partials, mean, variance);
    set_normalization(coefficients, kernels, partition, channels, eps, mean, variance, weight, bias);
  };
  sum_settle_write(scratch, execution, partition, 1, moments, settle, &writer);
}

template <typename T>
void forward_inference(const Execution& execution, Shape shape, double eps, const T* x, T* y, const T* weight,
                       const T* bias, const double* mean, const double* variance, Epilogue<T> epilogue,
                       unsigned char* mask) {
  if (shape.size() == 0) return;
  Scratch scratch;
  const Tiling<T> tiling(shape);
  const bool streamed = is_streamed(execution, tiling, x, y);
  const auto take = [&] { return take_coefficients(scratch, tiling, streamed, y); };
  const Normalization<T> coefficients = {take(), take(), take()};
  set_normalization(coefficients, kernels_of<T>(*execution.kernels), tiling, {0, shape.channels}, eps, mean,
                    variance, weight, bias);
  clear_mask(mask, y, shape.size());
  write_all(execution, tiling,
            normalizer<T>(execution, tiling, streamed, x, y, coefficients, epilogue, mask));
}

template <typename T>
void backward(const Execution& execution, Shape shape, double eps, bool training, const T* dy, const T* x,
              const double* mean, const double* variance, const T* weight, const T* bias,
              Epilogue<T> epilogue, const unsigned char* mask, Gradients<T> gradients) {
  if (shape.size() == 0) {
    if (gradients.weight) std::fill_n(gradients.weight, shape.channels, T{0});
    if (gradients.bias) std::fill_n(gradients.bias, shape.channels, T{0});
    return;
  }
  std::unique_ptr<unsigned char[]> own;
  if (epilogue.activation != kIdentity && epilogue.residual && !mask) {
    own.reset(new unsigned char[mask_bytes(shape.size())]);
    forward_inference<T>(execution, shape, eps, x, gradients.residual, weight, bias, mean, variance, epilogue,
                         own.get());
    mask = own.get();
  }
  const Gate gate = epilogue.activation == kIdentity ? kOpen : mask ? kMasked : kRecomputed;
  // Where dx follows from sums, the pass that writes it writes what the mask has let through as well.
  if (gradients.residual && (gate != kMasked || !training))
    apply_mask(execution, shape.size(), dy, mask, gradients.residual);
  Scratch scratch;
  const Partition<T> partition(shape);
  const bool streamed = is_streamed<T>(execution, partition, dy, gradients.input);
  const auto take = [&] { return take_coefficients<T>(scratch, partition, streamed, gradients.input); };
  T* const slope = take();
  T* const constant = take();
  // Only an activation asks for the offset of y.
  const Normalization<T> coefficients = {take(), take(), gate == kRecomputed ? take() : constant};
  const Kernels<T>& kernels = kernels_of<T>(*execution.kernels);
  set_normalization(coefficients, kernels, partition, {0, shape.channels}, eps, mean, variance, weight, bias);

  auto* const bits = const_cast<unsigned char*>(mask);
  const GradInputWork<T> work{{},
                              dy,
                              x,
                              {bits, 0},
                              gradients.input,
                              gradients.residual,
                              coefficients.mean,
                              slope,
                              constant,
                              coefficients.scale,
                              coefficients.offset};
  if (training || gradients.weight || gradients.bias) {
    const GradSums<T> sums(scratch, execution, partition, dy, x, gate, bits, coefficients);
    const Writer writer(execution, kernels.grad_input[gate], partition.layout(), streamed, work);
    const double count = static_cast<double>(shape.count());
    const auto settle = [&](Range channels, const Partials<T>& partials) {
      sums.merge(channels, partials);
      const size_t at = channels.begin;
      kernels.gradients(channels.end - at, eps, count, mean + at, variance + at, coefficients.mean + at,
                        sums.sums_dy() + at, sums.sums_dy_xc() + at, slope + at, constant + at,
                        gradients.weight ? gradients.weight + at : nullptr,
                        gradients.bias ? gradients.bias + at : nullptr);
      repeat(partition, channels, slope, constant);
    };
    sum_settle_write(scratch, execution, partition, 2, sums, settle,
                     training && gradients.input ? &writer : nullptr);
  }
  if (training || !gradients.input) return;
  if (gate == kRecomputed)
    return write_all(execution, partition,
                     Writer(execution, kernels.frozen_grad_input, partition.layout(), streamed, work));
  // Statistics that carry no gradient leave dx = dy * scale: nothing to subtract, nothing to add.
  std::fill_n(constant, padded_width(partition), T{0});
  write_all(execution, partition,
            normalizer<T>(execution, partition, streamed, gate == kMasked ? gradients.residual : dy,
                          gradients.input, {constant, coefficients.scale, constant}, {}, nullptr));
}

size_t update_running_stats(const KernelTable& kernels, size_t channels, const double* mean,
                            const double* variance, double count, double decay, bool unbiased,
                            double* running_mean, double* running_var, double* accepted) {
  const bool variance_exists = !unbiased || count > 1;
  const double correction = unbiased && variance_exists ? count / (count - 1) : 1;
  return kernels.average(channels, decay, correction, mean, variance, running_mean,
                         variance_exists ? running_var : nullptr, accepted);
}

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

const Frozen& frozen_at(const unsigned char* memory) {
  return *reinterpret_cast<const Frozen*>(align(memory));
}

}  // namespace

template <typename T>
size_t frozen_bytes(size_t channels) {
  return Frozen::of<T>(channels, kIdentity).bytes();
}

template <typename T>
size_t frozen_channels(const unsigned char* memory, size_t bytes) {
  if (bytes < sizeof(Frozen) + kAlignment) return 0;
  const Frozen& frozen = frozen_at(memory);
  // The memory of a tensor bounds what can be right, so that nothing overflows.
  if (frozen.channels == 0 || frozen.channels > bytes) return 0;
  const Frozen right = Frozen::of<T>(frozen.channels, kIdentity);
  const bool is_right =
      frozen.fold == right.fold && frozen.array_bytes == right.array_bytes && bytes == right.bytes();
  return is_right ? frozen.channels : 0;
}

template <typename T>
void freeze(const Execution& execution, size_t channels, double eps, const double* mean,
            const double* variance, const T* weight, const T* bias, Activation activation,
            unsigned char* memory) {
  const auto* const frozen = new (align(memory)) Frozen(Frozen::of<T>(channels, activation));
  const Normalization<T> coefficients = frozen->coefficients<T>();
  std::fill_n(coefficients.mean, 3 * frozen->array_bytes / sizeof(T), T{0});
  set_normalization(coefficients, kernels_of<T>(*execution.kernels), Tiling<T>(Shape{1, channels, 1}),
                    {0, channels}, eps, mean, variance, weight, bias);
}

template <typename T>
void run_frozen(const Execution& execution, Shape shape, const unsigned char* memory, const T* x,
                const T* residual, T* y) {
  if (shape.size() == 0) return;
  const Frozen& frozen = frozen_at(memory);
  const Normalization<const T> coefficients = frozen.coefficients<const T>();
  const Tiling<T> tiling(shape, shape.inner == 1 ? frozen.fold : 1);
  const bool streamed = is_streamed(execution, tiling, x, y);
  const auto infer = [&](const Normalization<const T>& c) {
    write_all(execution, tiling,
              normalizer<T>(execution, tiling, streamed, x, y, c, {frozen.activation, residual}, nullptr));
  };
  if (!streamed) return infer(coefficients);
  Scratch scratch;
  const auto copy = [&](const T* array) {
    T* copied = take_coefficients(scratch, tiling, streamed, y);
    std::copy_n(array, padded_width(tiling), copied);
    return static_cast<const T*>(copied);
  };
  infer({copy(coefficients.mean), copy(coefficients.scale), copy(coefficients.offset)});
}

#define BATCHNORM_INSTANTIATE(T)                                                                        \
  template void forward_training<T>(const Execution&, Shape, double, const T*, T*, const T*, const T*,  \
                                    double*, double*, Epilogue<T>, unsigned char*);                     \
  template void forward_inference<T>(const Execution&, Shape, double, const T*, T*, const T*, const T*, \
                                     const double*, const double*, Epilogue<T>, unsigned char*);        \
  template void backward<T>(const Execution&, Shape, double, bool, const T*, const T*, const double*,   \
                            const double*, const T*, const T*, Epilogue<T>, const unsigned char*,       \
                            Gradients<T>);                                                              \
  template size_t frozen_bytes<T>(size_t);                                                              \
  template void freeze<T>(const Execution&, size_t, double, const double*, const double*, const T*,     \
                          const T*, Activation, unsigned char*);                                        \
  template size_t frozen_channels<T>(const unsigned char*, size_t);                                     \
  template void run_frozen<T>(const Execution&, Shape, const unsigned char*, const T*, const T*, T*);
BATCHNORM_INSTANTIATE(float)
BATCHNORM_INSTANTIATE(double)

}  // namespace batchnorm
