// Rows that become columns, in the nearest cache. Pixels of a few values have loops of their own, of which
// compilers make shuffles.
#pragma once

#include "../kernels.h"

namespace {

/// Pixels `Stride` values apart, of which the first `Columns` are wanted, to as many rows.
template <size_t Columns, size_t Stride>
ALWAYS_INLINE void take_pixels_apart(const float* __restrict from, size_t pixels, float* __restrict to,
                                     ptrdiff_t to_stride) {
  float* __restrict const second = to + to_stride;
  float* __restrict const third = second + to_stride;
  float* __restrict const fourth = third + to_stride;
  for (size_t pixel = 0; pixel < pixels; pixel++) {
    to[pixel] = from[pixel * Stride];
    second[pixel] = from[pixel * Stride + 1];
    if constexpr (Columns > 2) third[pixel] = from[pixel * Stride + 2];
    if constexpr (Columns > 3) fourth[pixel] = from[pixel * Stride + 3];
  }
}

/// The other way round, without gaps.
template <size_t Rows>
ALWAYS_INLINE void put_pixels_together(const float* __restrict from, size_t pixels, size_t from_stride,
                                       float* __restrict to) {
  const float* __restrict const second = from + from_stride;
  const float* __restrict const third = second + from_stride;
  const float* __restrict const fourth = third + from_stride;
  for (size_t pixel = 0; pixel < pixels; pixel++) {
    to[pixel * Rows] = from[pixel];
    to[pixel * Rows + 1] = second[pixel];
    if constexpr (Rows > 2) to[pixel * Rows + 2] = third[pixel];
    if constexpr (Rows > 3) to[pixel * Rows + 3] = fourth[pixel];
  }
}

inline void transpose(const float* from, size_t rows, size_t columns, size_t from_stride, float* to,
                      ptrdiff_t to_stride) {
  if (columns == 2 && from_stride == 2) return take_pixels_apart<2, 2>(from, rows, to, to_stride);
  if (columns == 3 && from_stride == 3) return take_pixels_apart<3, 3>(from, rows, to, to_stride);
  if (columns == 3 && from_stride == 4) return take_pixels_apart<3, 4>(from, rows, to, to_stride);
  if (columns == 4 && from_stride == 4) return take_pixels_apart<4, 4>(from, rows, to, to_stride);
  if (rows == 2 && to_stride == 2) return put_pixels_together<2>(from, columns, from_stride, to);
  if (rows == 3 && to_stride == 3) return put_pixels_together<3>(from, columns, from_stride, to);
  if (rows == 4 && to_stride == 4) return put_pixels_together<4>(from, columns, from_stride, to);
  for (size_t column = 0; column < columns; column++)
    for (size_t row = 0; row < rows; row++)
      to[static_cast<ptrdiff_t>(column) * to_stride + static_cast<ptrdiff_t>(row)] =
          from[row * from_stride + column];
}

}  // namespace
