// Rows that have coefficients of their own, and columns that have weights: layer norm. Rows have no gaps.
#pragma once

#include "channels.h"
#include "loops.h"
#include "terms.h"

namespace {

using batchnorm::GradRowsWork;
using batchnorm::RowSumsWork;
using batchnorm::ScaleRowsWork;

/// y = ((x - mean) * scale + offset) * weight + bias, of a row.
template <typename T>
struct ScaledRow {
  const T* x;
  const T* weight;
  const T* bias;
  Vec<T> mean, scale, offset;

  ALWAYS_INLINE ScaledRow(const ScaleRowsWork<T>& work, size_t row)
      : x(work.x + row * work.columns),
        weight(work.weight),
        bias(work.bias),
        mean(Vec<T>::broadcast(work.mean[row])),
        scale(Vec<T>::broadcast(work.scale[row])),
        offset(Vec<T>::broadcast(work.offset[row])) {}
  template <typename Lanes>
  ALWAYS_INLINE Vec<T> apply(size_t column, Lanes lanes) const {
    const Vec<T> deviation = Vec<T>::load(x + column, lanes, mean) - mean;
    return normalized(normalized(deviation, scale, offset), Vec<T>::load(weight + column),
                      Vec<T>::load(bias + column));
  }
  ALWAYS_INLINE void prefetch(size_t column, size_t distance) const { ::prefetch(x + column, distance); }
};

/// dx = (dy * weight - (x - mean) * slope - constant) * scale, of a row.
template <typename T>
struct RowGradient {
  const T* dy;
  const T* x;
  const T* weight;
  Vec<T> mean, slope, constant, scale;

  ALWAYS_INLINE RowGradient(const GradRowsWork<T>& work, size_t row)
      : dy(work.dy + row * work.columns),
        x(work.x + row * work.columns),
        weight(work.weight),
        mean(Vec<T>::broadcast(work.mean[row])),
        slope(Vec<T>::broadcast(work.slope[row])),
        constant(Vec<T>::broadcast(work.constant[row])),
        scale(Vec<T>::broadcast(work.scale[row])) {}
  template <typename Lanes>
  ALWAYS_INLINE Vec<T> apply(size_t column, Lanes lanes) const {
    const Vec<T> deviation = Vec<T>::load(x + column, lanes, mean) - mean;
    const Vec<T> gradient = Vec<T>::load(dy + column, lanes, mean) * Vec<T>::load(weight + column);
    return ((gradient - deviation * slope) - constant) * scale;
  }
  ALWAYS_INLINE void prefetch(size_t, size_t) const {}
};

/// Lines from which on a row is written line by line.
constexpr size_t kLongRow = 16;

/// Writes rows.
template <bool Stream, typename Row, typename Work, typename T>
ALWAYS_INLINE void write_rows(const Work& work, T* to) {
  for (size_t row = 0; row < work.rows; row++, to += work.columns) {
    const Row map(work, row);
    // In a short row the parts at both ends cost more than lines that straddle.
    const bool lines = Stream || work.columns >= kLongRow * kLanes<T>;
    size_t column = lines ? before_first_line(to, work.columns) : 0;
    if (column > 0) map.apply(0, column).store(to, column);
    for (; column + kLanes<T> <= work.columns; column += kLanes<T>) {
      const Vec<T> values = map.apply(column, AllLanes{});
      if constexpr (Stream)
        values.stream(to + column);
      else
        values.store(to + column);
      map.prefetch(column, work.distance);
    }
    const size_t rest = work.columns - column;
    if (rest > 0) map.apply(column, rest).store(to + column, rest);
  }
}

template <batchnorm::Stores Stores, typename T>
void scale_rows(const ScaleRowsWork<T>& work) {
  write_rows<Stores == batchnorm::kStreamed, ScaledRow<T>>(work, work.y);
}
template <batchnorm::Stores Stores, typename T>
void grad_rows(const GradRowsWork<T>& work) {
  write_rows<Stores == batchnorm::kStreamed, RowGradient<T>>(work, work.dx);
}

/// The sums of `Rows` rows from `row` on: a lane of a row makes kStretch * 8 additions before it becomes a
/// double, and a column adds the rows as a tree.
template <size_t Rows, typename T>
ALWAYS_INLINE void sum_some_rows(const RowSumsWork<T>& work, size_t row) {
  constexpr size_t stretch = batchnorm::kStretch * 8 * kLanes<T>;
  double totals[Rows][2][kLanes<T>] = {};
  const Vec<T> zero = Vec<T>::broadcast(0);
  const T* const dy = work.dy + row * work.columns;
  const T* const x = work.x + row * work.columns;
  for (size_t begin = 0; begin < work.columns; begin += stretch) {
    const size_t end = work.columns - begin < stretch ? work.columns : begin + stretch;
    Terms<T> sums[Rows];
    const auto visit = [&](size_t column, auto lanes) INLINED {
      // What lies beyond the row is another's.
      const Vec<T> weight = Vec<T>::load(work.weight + column, lanes, zero);
      const Terms<T> of_column = tree_of<0, Rows>([&](size_t i) INLINED {
        const Vec<T> mean = Vec<T>::broadcast(work.mean[row + i]);
        const Vec<T> gradient = Vec<T>::load(dy + i * work.columns + column, lanes, zero);
        const Vec<T> value =
            normalized(Vec<T>::load(x + i * work.columns + column, lanes, mean) - mean,
                       Vec<T>::broadcast(work.scale[row + i]), Vec<T>::broadcast(work.offset[row + i]));
        const Vec<T> scaled = gradient * weight;
        sums[i] = sums[i] + Terms<T>{scaled, scaled * value};
        return Terms<T>{gradient, gradient * value};
      });
      T* const first = work.column_dy + column;
      T* const second = work.column_product + column;
      (Vec<T>::load(first, lanes, zero) + of_column.first).store(first, lanes);
      (Vec<T>::load(second, lanes, zero) + of_column.second).store(second, lanes);
    };
    size_t column = begin;
    for (; column + kLanes<T> <= end; column += kLanes<T>) {
      visit(column, AllLanes{});
      for (size_t i = 0; i < Rows; i++) {
        prefetch(dy + i * work.columns + column, work.distance);
        prefetch(x + i * work.columns + column, work.distance);
      }
    }
    if (column < end) visit(column, end - column);
    for (size_t i = 0; i < Rows; i++) {
      add_lanes(sums[i].first, totals[i][0]);
      add_lanes(sums[i].second, totals[i][1]);
    }
  }
  for (size_t i = 0; i < Rows; i++) {
    work.dy_sum[row + i] = sum_of_halves<kLanes<T> / 2>(totals[i][0]);
    work.product_sum[row + i] = sum_of_halves<kLanes<T> / 2>(totals[i][1]);
  }
}

template <typename T>
void end_columns(size_t columns, T* __restrict sums, double* __restrict totals) {
  for (size_t column = 0; column < columns; column++) {
    totals[column] += static_cast<double>(sums[column]);
    sums[column] = 0;
  }
}

template <typename T>
void sum_rows(const RowSumsWork<T>& work) {
  size_t row = 0;
  for (; row + 4 <= work.rows; row += 4) sum_some_rows<4>(work, row);
  for (; row < work.rows; row++) sum_some_rows<1>(work, row);
}

}  // namespace
