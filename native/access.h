// How kernels, which compute in T, reach tensors that lie in memory as S. Changes no bit: what is computed of
// a tensor of Half is what would be of the same values in float, rounded once where it is written.
#pragma once

#include <cmath>

#include "batchnorm.h"
#include "kernels.h"

namespace batchnorm {

/// Of float and double: kernels read and write them where they lie.
template <typename S>
class Access {
 public:
  explicit Access(const Execution&) {}

  /// Whether a pass can write beside one that sums.
  static constexpr bool kBeside = true;
  /// The gate of the kernels that sum and write where this is what a pass has.
  static constexpr Gate gate_of(Gate gate) { return gate; }

  S value(const S* at) const { return *at; }
  bool is_nan(const S* at) const { return std::isnan(*at); }

  void centres(const Kernels<S>& kernels, const S* const (&from)[9], size_t stride, size_t channels,
               S* to) const {
    kernels.centres(from, stride, channels, to);
  }
  void add_in_double(const Kernels<S>& kernels, const S* values, size_t count, double shift, double* sums,
                     double* squares) const {
    kernels.add_in_double(values, count, shift, sums, squares);
  }
  template <typename Work>
  void sum(void (*kernel)(const Work&), Layout, const Work& work) const {
    kernel(work);
  }
  template <typename Work, typename Sums>
  void write(const WritingPass<Work, Sums>& pass, Layout layout, Stores stores, const Work& work) const {
    pass.alone[stores][layout](work);
  }
  /// As the work says, past the caches or not.
  template <typename Work>
  void write(void (*kernel)(const Work&), Layout, const Work& work) const {
    kernel(work);
  }
  void apply_mask(const Kernels<S>& kernels, Stores stores, const MaskWork<S>& work) const {
    kernels.apply_mask[stores](work);
  }
};

/// Of 16-bit values: a small piece of a tile is widened to a place in the nearest cache, where the kernel of
/// float computes, and what it has written is narrowed on the way out. Pieces end where the kernel would have
/// come to the end of a stretch, or of a number of rows, so that it adds in the order in which it would have.
///
/// The gradients that a mask lets through are all that kernels get to see: they are told of no mask.
template <>
class Access<Half> {
 public:
  explicit Access(const Execution& execution)
      : conversion_(execution.kernels->conversions[execution.storage]),
        wide_(execution.kernels->f32),
        half_(execution.kernels->half[execution.storage == kFloat16]),
        infinity_(execution.storage == kBfloat16 ? 0x7f80 : 0x7c00) {}

  static constexpr bool kBeside = false;
  static constexpr Gate gate_of(Gate gate) { return gate == kMasked ? kOpen : gate; }

  float value(const Half* at) const {
    float value;
    conversion_.widen(at, 1, &value);
    return value;
  }
  bool is_nan(const Half* at) const { return (at->bits & 0x7fff) > infinity_; }

  void centres(const Kernels<float>& kernels, const Half* const (&from)[9], size_t stride, size_t channels,
               float* to) const;
  void add_in_double(const Kernels<float>& kernels, const Half* values, size_t count, double shift,
                     double* sums, double* squares) const;

  void sum(void (*kernel)(const MomentsWork<float>&), Layout layout, const MomentsWork<Half>& work) const;
  void sum(void (*kernel)(const GradSumsWork<float>&), Layout layout, const GradSumsWork<Half>& work) const;
  void sum(void (*kernel)(const PresentMomentsWork<float>&), Layout layout,
           const PresentMomentsWork<Half>& work) const;
  void sum(void (*kernel)(const PresentGradSumsWork<float>&), Layout layout,
           const PresentGradSumsWork<Half>& work) const;
  void sum(void (*kernel)(const GradWeightsWork<float>&), Layout layout,
           const GradWeightsWork<Half>& work) const;

  void write(const WritingPass<NormalizeWork<float>, MomentsWork<float>>& pass, Layout layout, Stores stores,
             const NormalizeWork<Half>& work) const;
  void write(const WritingPass<GradInputWork<float>, GradSumsWork<float>>& pass, Layout layout, Stores stores,
             const GradInputWork<Half>& work) const;
  void write(void (*kernel)(const PresentNormalizeWork<float>&), Layout layout,
             const PresentNormalizeWork<Half>& work) const;
  void write(void (*kernel)(const PresentGradInputWork<float>&), Layout layout,
             const PresentGradInputWork<Half>& work) const;
  void apply_mask(const Kernels<float>& kernels, Stores stores, const MaskWork<Half>& work) const;

 private:
  const Conversion& conversion_;
  const Kernels<float>& wide_;
  const HalfKernels& half_;
  /// What is above it, but for the sign, is NaN.
  const uint16_t infinity_;
};

}  // namespace batchnorm
