// Rows that have coefficients of their own, and columns that have weights: layer norm. Rows have no gaps.
#pragma once

#include "channels.h"
#include "loops.h"
#include "terms.h"

namespace {

using batchnorm::GateRowsWork;
using batchnorm::GradRowsWork;
using batchnorm::RowMomentsWork;
using batchnorm::RowSlopesWork;
using batchnorm::RowSumsWork;
using batchnorm::ScaleRowsWork;

/// Rows whose lanes are added at once: the sums of each in double fill a vector.
constexpr size_t kRowsAtOnce = 4;

/// Adds up the deviations of a row from its shift, and their squares: see for_each_row.
template <typename T>
struct RowDeviations {
  const T* x;
  Vec<T> shift;
  Vec<double>* totals;
  Terms<T> sums = {};
  Terms<T> held = {};

  static constexpr bool kSums = true;
  template <typename Quad>
  ALWAYS_INLINE Terms<T> terms(Quad quad) const {
    const Terms<T> sum = sum_of(quad, [&](size_t i) INLINED {
      // Filling with the shift makes inactive lanes add nothing.
      const Vec<T> deviation = quad.load(x, i, shift) - shift;
      return Terms<T>{deviation, deviation * deviation};
    });
    return sum;
  }
  template <typename Quad>
  ALWAYS_INLINE void visit(Quad quad) {
    sums = sums + terms(quad);
  }
  template <typename Quad>
  ALWAYS_INLINE void visit(Quad quad, Quad next) {
    const Terms<T> first = terms(quad);
    sums = sums + (first + terms(next));
  }
  template <typename Quad>
  ALWAYS_INLINE void hold(Quad quad) {
    held = terms(quad);
  }
  template <typename Quad>
  ALWAYS_INLINE void visit_held(Quad quad) {
    sums = sums + (held + terms(quad));
  }
  ALWAYS_INLINE void end_stretch() {
    totals[0] = totals[0] + in_double(sums.first);
    totals[1] = totals[1] + in_double(sums.second);
    sums = {};
  }
  ALWAYS_INLINE void close(bool) { end_stretch(); }
};

/// The sum of the deviations of a row from one of its values.
template <typename T>
ALWAYS_INLINE Vec<T> sum_of_deviations(const T* x, size_t columns) {
  const Vec<T> shift = Vec<T>::broadcast(*x);
  Vec<T> sum = Vec<T>::broadcast(0);
  const auto add = [&](auto quad) INLINED {
    sum = sum + sum_of(quad, [&](size_t i) INLINED { return quad.load(x, i, shift) - shift; });
  };
  constexpr size_t quad = kQuad * kLanes<T>;
  size_t column = 0;
  for (; column + quad <= columns; column += quad) add(whole_quad<T>(column));
  if (column < columns) visit_end<T>(column, columns - column, add);
  return sum;
}

/// Finds the shifts of `Rows` rows from `row` on: their means, as T finds them or near that. So no digits are
/// lost to the distance, nor of a constant, which differs from its shift by a few ulps.
template <size_t Rows, typename T>
ALWAYS_INLINE void shifts_of_some_rows(const RowMomentsWork<T>& work, size_t row) {
  const T* const x = work.x + row * work.columns;
  alignas(64) Vec<double> deviations[Rows];
  for (size_t i = 0; i < Rows; i++)
    deviations[i] = in_double(sum_of_deviations(x + i * work.columns, work.columns));
  alignas(64) double sums[kLanes<double>];
  sums_of_lanes<Rows>([&](size_t i) INLINED { return deviations[i]; }).store(sums);
  for (size_t i = 0; i < Rows; i++)
    work.shift[row + i] = static_cast<T>(sums[i] * work.share) + x[i * work.columns];
}

/// The sums of `Rows` rows from `row` on.
template <size_t Rows, typename T>
ALWAYS_INLINE void moments_of_some_rows(const RowMomentsWork<T>& work, size_t row) {
  const size_t columns = work.columns;
  const T* const x = work.x + row * columns;
  alignas(64) Vec<double> totals[Rows][2];
  for (size_t i = 0; i < Rows; i++) {
    totals[i][0] = totals[i][1] = Vec<double>::broadcast(0);
    for_each_row<T>(Tile{1, columns, columns, {0, ~size_t{0}, 0}}, true, [&](RowChannel) INLINED {
      return RowDeviations<T>{x + i * columns, Vec<T>::broadcast(work.shift[row + i]), totals[i]};
    });
  }
  alignas(64) double sums[kLanes<double>];
  sums_of_lanes<2 * Rows>([&](size_t i) INLINED { return totals[i % Rows][i / Rows]; }).store(sums);
  for (size_t i = 0; i < Rows; i++) {
    work.first[row + i] = work.centred ? sums[i] : 0;
    work.second[row + i] = sums[Rows + i];
  }
}

/// Calls visit(number of rows, first row) for `AtOnce` rows after the other, and each that is left.
template <size_t AtOnce, typename Visit>
ALWAYS_INLINE void for_some_rows(size_t rows, Visit visit) {
  size_t row = 0;
  if constexpr (AtOnce > 1)
    for (; row + AtOnce <= rows; row += AtOnce) visit(Size<AtOnce>{}, row);
  for (; row < rows; row++) visit(Size<1>{}, row);
}

/// One after the other for all rows, for each waits for its lanes.
template <typename T>
void moments_of_rows(const RowMomentsWork<T>& given) {
  const RowMomentsWork<T> work = given;
  // Changes no bit: a row has the same order of additions.
  constexpr size_t kAtOnce = kSmallCode ? 1 : kRowsAtOnce;
  for_some_rows<kAtOnce>(work.rows, [&](auto rows, size_t row) INLINED {
    if (work.centred)
      shifts_of_some_rows<decltype(rows)::value>(work, row);
    else
      for (size_t i = row; i < row + rows; i++) work.shift[i] = 0;
  });
  for_some_rows<kAtOnce>(work.rows, [&](auto rows, size_t row)
                                        INLINED { moments_of_some_rows<decltype(rows)::value>(work, row); });
}

/// y = ((x - mean) * scale + offset) * weight + bias, of a row.
template <typename T>
struct ScaledRow {
  using Work = ScaleRowsWork<T>;
  Vec<T> mean, scale, offset;

  ALWAYS_INLINE ScaledRow(const Work& work, size_t row)
      : mean(Vec<T>::broadcast(work.mean[row])),
        scale(Vec<T>::broadcast(work.scale[row])),
        offset(Vec<T>::broadcast(work.offset[row])) {}
  ALWAYS_INLINE void change(size_t count, const ScaledRow& next) {
    mean = select(count, mean, next.mean);
    scale = select(count, scale, next.scale);
    offset = select(count, offset, next.offset);
  }
  template <typename Lanes>
  ALWAYS_INLINE Vec<T> apply(const Work& work, size_t at, size_t column, Lanes lanes) const {
    const Vec<T> deviation = Vec<T>::load(work.x + at, lanes, mean) - mean;
    return normalized(normalized(deviation, scale, offset), Vec<T>::load(work.weight + column),
                      Vec<T>::load(work.bias + column));
  }
  static ALWAYS_INLINE T* target(const Work& work) { return work.y; }
  static ALWAYS_INLINE void prefetch(const Work& work, size_t at) { ::prefetch(work.x + at, work.distance); }
};

/// dy where y is above zero.
template <typename T>
struct GatedRow : ScaledRow<T> {
  using Work = GateRowsWork<T>;
  using ScaledRow<T>::ScaledRow;
  template <typename Lanes>
  ALWAYS_INLINE Vec<T> apply(const Work& work, size_t at, size_t column, Lanes lanes) const {
    return keep_positive(Vec<T>::load(work.dy + at, lanes, this->mean),
                         ScaledRow<T>::apply(work, at, column, lanes));
  }
  static ALWAYS_INLINE void prefetch(const Work& work, size_t at) {
    ScaledRow<T>::prefetch(work, at);
    ::prefetch(work.dy + at, work.distance);
  }
};

/// dx = (dy * weight - (x - mean) * slope - constant) * scale, of a row.
template <typename T>
struct RowGradient {
  using Work = GradRowsWork<T>;
  Vec<T> mean, slope, constant, scale;

  ALWAYS_INLINE RowGradient(const Work& work, size_t row)
      : mean(Vec<T>::broadcast(work.mean[row])),
        slope(Vec<T>::broadcast(work.slope[row])),
        constant(Vec<T>::broadcast(work.constant[row])),
        scale(Vec<T>::broadcast(work.scale[row])) {}
  ALWAYS_INLINE void change(size_t count, const RowGradient& next) {
    mean = select(count, mean, next.mean);
    slope = select(count, slope, next.slope);
    constant = select(count, constant, next.constant);
    scale = select(count, scale, next.scale);
  }
  template <typename Lanes>
  ALWAYS_INLINE Vec<T> apply(const Work& work, size_t at, size_t column, Lanes lanes) const {
    const Vec<T> deviation = Vec<T>::load(work.x + at, lanes, mean) - mean;
    const Vec<T> gradient = Vec<T>::load(work.dy + at, lanes, mean) * Vec<T>::load(work.weight + column);
    return ((gradient - deviation * slope) - constant) * scale;
  }
  static ALWAYS_INLINE T* target(const Work& work) { return work.dx; }
  static ALWAYS_INLINE void prefetch(const Work& work, size_t at) {
    ::prefetch(work.x + at, work.distance);
    ::prefetch(work.dy + at, work.distance);
  }
};

/// Writes rows line by line of the result: what two rows share of one gets a mix of their coefficients, and
/// the weights of columns go on beyond the last as if the next row followed.
template <bool Stream, typename Row, typename T>
ALWAYS_INLINE void write_rows(const typename Row::Work& given) {
  // A copy, which nothing that is written can change.
  const typename Row::Work work = given;
  T* const to = Row::target(work);
  const size_t columns = work.columns;
  size_t at = 0;
  size_t column = columns < kLanes<T> ? 0 : before_first_line(to, columns);
  Row map(work, 0);
  const auto write_part = [&](size_t count, size_t from) INLINED {
    map.apply(work, at, from, count).store(to + at, count);
    at += count;
  };
  const auto write_line = [&](size_t from) INLINED {
    const Vec<T> values = map.apply(work, at, from, AllLanes{});
    if constexpr (Stream)
      values.stream(to + at);
    else
      values.store(to + at);
    Row::prefetch(work, at);
    at += kLanes<T>;
  };
  if (column > 0) write_part(column, 0);
  for (size_t row = 1;; row++) {
    for (; column + kLanes<T> <= columns; column += kLanes<T>) write_line(column);
    const size_t rest = columns - column;
    if (row == work.rows) {
      if (rest > 0) write_part(rest, column);
      return;
    }
    const Row next(work, row);
    if (rest == 0) {
      column = 0;
    } else if (columns < kLanes<T>) {
      write_part(rest, column);
    } else {
      map.change(rest, next);
      write_line(column);
      column = kLanes<T> - rest;
    }
    map = next;
  }
}

template <batchnorm::Stores Stores, typename T>
void scale_rows(const ScaleRowsWork<T>& work) {
  write_rows<Stores == batchnorm::kStreamed, ScaledRow<T>, T>(work);
}
template <typename T>
void gate_rows(const GateRowsWork<T>& work) {
  write_rows<false, GatedRow<T>, T>(work);
}
template <batchnorm::Stores Stores, typename T>
void grad_rows(const GradRowsWork<T>& work) {
  write_rows<Stores == batchnorm::kStreamed, RowGradient<T>, T>(work);
}

/// The sums of `Rows` rows from `row` on: a lane of a row makes kStretch * 8 additions before it becomes a
/// double, and a column adds the rows as a tree.
template <size_t Rows, typename T>
ALWAYS_INLINE void sum_some_rows(const RowSumsWork<T>& given, size_t row) {
  const RowSumsWork<T> work = given;
  constexpr size_t stretch = batchnorm::kStretch * 8 * kLanes<T>;
  const Vec<T> zero = Vec<T>::broadcast(0);
  alignas(64) Vec<double> totals[Rows][2];
  for (size_t i = 0; i < Rows; i++) totals[i][0] = totals[i][1] = Vec<double>::broadcast(0);
  const T* const dy = work.dy + row * work.columns;
  const T* const x = work.x + row * work.columns;
  // In registers: sums of columns are written in between, and could be these for all that a compiler knows.
  Vec<T> mean[Rows], scale[Rows], offset[Rows];
  for (size_t i = 0; i < Rows; i++) {
    mean[i] = Vec<T>::broadcast(work.mean[row + i]);
    scale[i] = Vec<T>::broadcast(work.scale[row + i]);
    offset[i] = Vec<T>::broadcast(work.offset[row + i]);
  }
  for (size_t begin = 0; begin < work.columns; begin += stretch) {
    const size_t end = work.columns - begin < stretch ? work.columns : begin + stretch;
    Terms<T> sums[Rows];
    const auto visit = [&](size_t column, auto lanes) INLINED {
      // What lies beyond the row is another's.
      const Vec<T> weight = Vec<T>::load(work.weight + column, lanes, zero);
      const Terms<T> of_column = tree_of<0, Rows>([&](size_t i) INLINED {
        const Vec<T> gradient = Vec<T>::load(dy + i * work.columns + column, lanes, zero);
        const Vec<T> value = normalized(Vec<T>::load(x + i * work.columns + column, lanes, mean[i]) - mean[i],
                                        scale[i], offset[i]);
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
    // One form for all lanes and for some, where code should be small.
    if constexpr (kSmallCode)
      for (; column < end; column += kLanes<T>)
        visit(column, end - column < kLanes<T> ? end - column : kLanes<T>);
    for (; !kSmallCode && column + kLanes<T> <= end; column += kLanes<T>) {
      visit(column, AllLanes{});
      // Line by line, whichever row it is of.
      for (size_t i = 0; i < Rows; i++) {
        prefetch(dy + Rows * column + i * kLanes<T>, work.distance);
        prefetch(x + Rows * column + i * kLanes<T>, work.distance);
      }
    }
    if (!kSmallCode && column < end) visit(column, end - column);
    for (size_t i = 0; i < Rows; i++) {
      totals[i][0] = totals[i][0] + in_double(sums[i].first);
      totals[i][1] = totals[i][1] + in_double(sums[i].second);
    }
  }
  alignas(64) double sums[kLanes<double>];
  sums_of_lanes<2 * Rows>([&](size_t i) INLINED { return totals[i % Rows][i / Rows]; }).store(sums);
  for (size_t i = 0; i < Rows; i++) {
    work.dy_sum[row + i] = sums[i];
    work.product_sum[row + i] = sums[Rows + i];
  }
}

template <typename T>
void sum_rows(const RowSumsWork<T>& work) {
  for_some_rows<kRowsAtOnce>(
      work.rows, [&](auto rows, size_t row) INLINED { sum_some_rows<decltype(rows)::value>(work, row); });
}

template <typename T>
void slopes_of_rows(const RowSlopesWork<T>& work) {
  T* const __restrict slope = work.slope;
  T* const __restrict constant = work.constant;
  for (size_t row = 0; row < work.rows; row++) {
    const double mean = work.centred ? work.dy_sum[row] * work.share : 0;
    const double product = work.product_sum[row] * work.share;
    const double steep = product * static_cast<double>(work.scale[row]);
    const double most = Far<T>::kLargest;
    slope[row] = static_cast<T>(steep > most ? most : steep < -most ? -most : steep);
    constant[row] = static_cast<T>(mean + product * static_cast<double>(work.offset[row]));
  }
}

template <typename T>
void end_columns(size_t columns, T* __restrict sums, double* __restrict totals) {
  for (size_t column = 0; column < columns; column++) {
    totals[column] += static_cast<double>(sums[column]);
    sums[column] = 0;
  }
}

}  // namespace
