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

  /// to[channel] = the sum of the kLanes<T> partial sums of each channel, halved until one is left
  void (*sum_lanes)(const T* sums, size_t channels, double* to);
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
