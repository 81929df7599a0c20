// Rows that become columns, in the nearest cache.
#pragma once

#include "../kernels.h"

namespace {

inline void transpose(const float* from, size_t rows, size_t columns, size_t from_stride, float* to,
                      ptrdiff_t to_stride) {
  for (size_t column = 0; column < columns; column++)
    for (size_t row = 0; row < rows; row++)
      to[static_cast<ptrdiff_t>(column) * to_stride + static_cast<ptrdiff_t>(row)] =
          from[row * from_stride + column];
}

}  // namespace
