// The seam: everything above this line of the project is portable, everything below it is compiled once per
// ISA. A kernel touches nothing but its tile, allocates nothing and throws nothing.
#pragma once

#include <cstddef>

namespace batchnorm {

/// Which side of a tile the channels lie on.
enum Layout {
  kChannelsFirst,  ///< one channel per row: x[outer][channels][inner] with inner > 1
  kChannelsLast,   ///< one channel per column: inner == 1
};

/// rows x columns values; consecutive rows start `stride` values apart.
struct Tile {
  size_t rows;
  size_t columns;
  size_t stride;
  /// How many values behind what it is reading a kernel asks memory for; 0 asks for nothing new.
  ptrdiff_t ahead;
};

/// Values in 64 bytes, the unit of arithmetic on every ISA.
template <typename T>
constexpr size_t kLanes = 64 / sizeof(T);

/// One function per pass and Layout.
///
/// Per-channel inputs and sums are 64-byte aligned arrays of ours, padded to whole vectors of kLanes.
/// Sums hold kLanes<T> partial sums per channel in kChannelsFirst and one sum per channel in kChannelsLast;
/// a kernel adds to what is there. The order of the additions is part of the contract (see kernels/passes.h).
///
/// The stream_ forms write past the caches, want rows without gaps (stride == columns), of at least kLanes<T>
/// values in kChannelsFirst, and per-channel arrays that go on for another kLanes<T> values in kChannelsLast,
/// as if the next row followed. Each thread must call fence() after its last one.
template <typename T>
struct Kernels {
  using MomentsKernel = void(Tile tile, const T* x, const T* shift, T* sum, T* sum_squares);
  using NormalizeKernel = void(Tile tile, const T* x, T* y, const T* mean, const T* scale, const T* offset);
  using GradSumsKernel = void(Tile tile, const T* dy, const T* x, const T* mean, T* sum_dy, T* sum_dy_xc);
  using GradInputKernel = void(Tile tile, const T* dy, const T* x, T* dx, const T* mean, const T* slope,
                               const T* constant, const T* scale);

  /// to[channel] = a value near the centre of the nine values from[i][channel * stride]
  void (*centres)(const T* const (&from)[9], size_t stride, size_t channels, T* to);
  /// to[channel] = the sum of the channel's partial sums, halved until one is left
  void (*collect[2])(const T* sums, size_t channels, double* to);
  /// Whether all sums are finite, and in float32 less than 15/16 of the squares are due to the distance
  /// between shift and mean: else rounding the squares has cost digits of the variance.
  bool (*are_good)(size_t channels, double values, const double* sum, const double* sum_squares);
  /// Adds the sums of a chunk of `values` values per channel, which refer to shift, to those that refer to
  /// reference.
  void (*merge)(size_t channels, double values, const double* chunk_sum, const double* chunk_squares,
                const T* shift, const T* reference, double* sum, double* sum_squares);
  /// mean and biased variance from sums of `count` values that refer to reference
  void (*statistics)(size_t channels, double count, const T* reference, const double* sum,
                     const double* sum_squares, double* mean, double* variance);
  /// What normalize takes. An absent (nullptr) weight is 1, an absent bias 0.
  void (*normalization)(size_t channels, double eps, const double* mean, const double* variance,
                        const T* weight, const T* bias, T* high, T* scale, T* offset);
  /// What grad_input takes beside that, and the gradients of weight and bias where they are not nullptr.
  void (*gradients)(size_t channels, double eps, double count, const double* mean, const double* variance,
                    const T* high, const double* sum_dy, const double* sum_dy_xc, T* slope, T* constant,
                    T* dweight, T* dbias);
  /// sum += x - shift, sum_squares += (x - shift)^2
  MomentsKernel* moments[2];
  /// y = (x - mean) * scale + offset
  NormalizeKernel* normalize[2];
  NormalizeKernel* stream_normalize[2];
  /// sum_dy += dy, sum_dy_xc += dy * (x - mean)
  GradSumsKernel* grad_sums[2];
  /// dx = (dy - (x - mean) * slope - constant) * scale
  GradInputKernel* grad_input[2];
  GradInputKernel* stream_grad_input[2];
};

/// All kernels of one instruction set.
struct KernelTable {
  const char* name;  ///< as in BATCHNORM_ISA: generic, neon, avx2, avx512
  void (*fence)();   ///< makes what the calling thread has streamed visible to the others
  Kernels<float> f32;
  Kernels<double> f64;
};

template <typename T>
const Kernels<T>& kernels_of(const KernelTable& table);
template <>
inline const Kernels<float>& kernels_of<float>(const KernelTable& table) {
  return table.f32;
}
template <>
inline const Kernels<double>& kernels_of<double>(const KernelTable& table) {
  return table.f64;
}

}  // namespace batchnorm
