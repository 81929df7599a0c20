// In which order a tile is walked, and with which tail. Knows the two layouts; knows nothing of the ISA or of
// batch norm.
//
// A quad is up to four vectors that belong to the same channels: four neighbours in a row (channels-first) or
// the same columns of four rows (channels-last). Three things of a pass meet here:
//
// An opener is called once for each row, or vector of columns: open(RowChannel) or open(ColumnChannels), and
// returns a channel, which holds its coefficients and sums in registers. `kSums` says of which kind it is.
//
// A channel of a pass that writes has visit(quad) and close(ends_stretch). One of a pass that sums has
//
//   visit(quad, quad)    adds the sum of both, of which each is summed as a tree
//   visit(quad)          adds one
//   hold(quad)           keeps the sum of one for the next visit_held
//   visit_held(quad)     adds the sum of both, or of one where none is held
//   end_stretch()         turns what has been added so far into doubles
//   close(ends_stretch)   after the last one
//   close_some(count)     the same of a channel's first lanes
//
// so that a pair is one addition wherever it is cut; quads start at multiples of four, so the order depends
// on the tile alone.
//
// A map gives one vector of the result: map.coefficients(row or columns) are those of its channels,
// map.apply( coefficients, quad, index) the vector `index` of a quad, map.prefetch(quad, distance) asks for
// what it reads.
#pragma once

#include <type_traits>

#include "../simd/vec.h"
#include "words.h"

namespace {

using batchnorm::Ahead;
using batchnorm::Tile;

constexpr size_t kQuad = 4;

/// A number of vectors that is known when kernels are compiled.
template <size_t Count>
using Size = std::integral_constant<size_t, Count>;

/// Asks memory for the line `distance` values beyond `from`, or before it where that wraps around. It need
/// not exist, which is why this is not arithmetic with pointers.
template <typename T>
ALWAYS_INLINE void prefetch(const T* from, size_t distance) {
  __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(from) + distance * sizeof(T)));
}

/// The same for a line that will be written.
template <typename T>
ALWAYS_INLINE void prefetch_to_write(const T* at) {
  __builtin_prefetch(at, 1);
}

/// `Size` vectors, `distance` values apart; all but the last have `lanes` active lanes, the last has
/// `last_lanes`. `line` is what memory is asked for from: the quads of a tile ask for one line after the
/// other in the order of memory, whatever they read. Of four rows of 32 columns the first quad reads columns
/// 0 to 15 of each, and asks for the lines that hold row 0 and row 1; the second reads columns 16 to 31 and
/// asks for those of rows 2 and 3.
template <size_t Size, typename Lanes, typename LastLanes>
struct Quad {
  size_t at;
  size_t distance;
  size_t line;
  Lanes lanes;
  LastLanes last_lanes;

  /// 0 where only a call knows it.
  static constexpr size_t kSize = Size;
  /// How many vectors it has at most.
  static constexpr size_t kMost = Size;
  static constexpr size_t size() { return Size; }
  /// Whether all lanes of all vectors are active.
  static constexpr bool kWhole = std::is_same_v<LastLanes, AllLanes>;
  ALWAYS_INLINE size_t place(size_t index) const { return at + index * distance; }
  template <typename S>
  ALWAYS_INLINE void prefetch(const S* from, size_t distance) const {
    for (size_t i = 0; i * kLanes<S> < size() * kLanes<Compute<S>>; i++)
      ::prefetch(from, line + distance + i * kLanes<S>);
  }
  template <typename T>
  ALWAYS_INLINE void prefetch(const T* from, Ahead ahead) const {
    const bool skips = line + ahead.distance >= ahead.end;
    prefetch(from, skips ? ahead.distance + static_cast<size_t>(ahead.skip) : ahead.distance);
  }
  /// With store(), where what lies in memory becomes what is computed with, and back.
  template <typename S>
  ALWAYS_INLINE Vec<Compute<S>> load(const S* from, size_t index, Vec<Compute<S>> fill) const {
    const S* p = from + place(index);
    return index + 1 == size() ? load_values(p, last_lanes, fill) : load_values(p, lanes, fill);
  }
  template <typename S>
  ALWAYS_INLINE void store(S* to, size_t index, Vec<Compute<S>> values) const {
    S* p = to + place(index);
    if (index + 1 == size())
      store_values(values, p, last_lanes);
    else
      store_values(values, p, lanes);
  }
};

/// The same with a number of vectors that only a call knows, for ISAs whose code should be small
/// (kSmallCode): one form for all tails.
template <>
struct Quad<0, size_t, size_t> {
  size_t at;
  size_t distance;
  size_t line;
  size_t lanes;
  size_t last_lanes;
  size_t vectors;

  static constexpr size_t kSize = 0;
  static constexpr size_t kMost = kQuad;
  ALWAYS_INLINE size_t size() const { return vectors; }
  static constexpr bool kWhole = false;
  ALWAYS_INLINE size_t place(size_t index) const { return at + index * distance; }
  /// A tail asks memory for nothing.
  template <typename T, typename Distance>
  ALWAYS_INLINE void prefetch(const T*, Distance) const {}
  template <typename S>
  ALWAYS_INLINE Vec<Compute<S>> load(const S* from, size_t index, Vec<Compute<S>> fill) const {
    return load_values(from + place(index), index + 1 == size() ? last_lanes : lanes, fill);
  }
  template <typename S>
  ALWAYS_INLINE void store(S* to, size_t index, Vec<Compute<S>> values) const {
    store_values(values, to + place(index), index + 1 == size() ? last_lanes : lanes);
  }
};
using AnyQuad = Quad<0, size_t, size_t>;

/// Per-channel arrays seen from one row of a channels-first tile.
struct RowChannel {
  size_t row;
  template <typename T>
  ALWAYS_INLINE Vec<T> coefficient(const T* array) const {
    return Vec<T>::broadcast(array[row]);
  }
  /// Where its sums begin.
  template <typename T>
  ALWAYS_INLINE size_t sums() const {
    return row * kLanes<T>;
  }
};

/// Per-channel arrays seen from one vector of columns of a channels-last tile.
struct ColumnChannels {
  size_t column;
  template <typename T>
  ALWAYS_INLINE Vec<T> coefficient(const T* array) const {
    return Vec<T>::load(array + column);
  }
  template <typename T>
  ALWAYS_INLINE size_t sums() const {
    return column;
  }
};

/// Calls visit(quad) for the end of a row, of which `count` values are left: at least one, and at most a
/// quad.
template <typename T, typename Visit>
ALWAYS_INLINE void visit_end(size_t at, size_t count, Visit visit) {
  constexpr size_t lanes = kLanes<T>;
  const size_t before_last = (count - 1) / lanes;
  const size_t last_lanes = count - before_last * lanes;
  if constexpr (kSmallCode) {
    visit(AnyQuad{at, lanes, at, lanes, last_lanes, before_last + 1});
  } else {
    const auto end = [&](auto vectors) INLINED {
      visit(Quad<decltype(vectors)::value, AllLanes, size_t>{at, lanes, at, {}, last_lanes});
    };
    switch (before_last) {
      case 0:
        return end(Size<1>{});
      case 1:
        return end(Size<2>{});
      case 2:
        return end(Size<3>{});
      default:
        return end(Size<4>{});
    }
  }
}

/// A quad of one row.
template <typename T>
ALWAYS_INLINE Quad<kQuad, AllLanes, AllLanes> whole_quad(size_t at) {
  return {at, kLanes<T>, at, {}, {}};
}

/// Channels-first: calls open(RowChannel) once per row, and the channel that it returns for the quads of the
/// row.
template <typename T, typename Open>
ALWAYS_INLINE void for_each_row(Tile tile, bool ends_stretch, Open open) {
  using Channel = decltype(open(RowChannel{0}));
  constexpr size_t quad = kQuad * kLanes<T>;
  const auto each_row = [&](auto visit) INLINED {
    for (size_t row = 0; row < tile.rows; row++) {
      Channel channel = open(RowChannel{row});
      visit(channel, row * tile.stride, row * tile.stride + tile.columns);
      channel.close(ends_stretch);
    }
  };
  if constexpr (!Channel::kSums) {
    return each_row([](Channel& channel, size_t at, size_t to) INLINED {
      for (; at + quad <= to; at += quad) channel.visit(whole_quad<T>(at));
      if (at < to) visit_end<T>(at, to - at, [&](auto end) INLINED { channel.visit(end); });
    });
  } else {
    if (!kSmallCode && tile.columns <= quad) {
      // What kind of quad a short row is decided once.
      return visit_end<T>(0, tile.columns, [&](auto end) INLINED {
        each_row([&](Channel& channel, size_t at, size_t) INLINED {
          end.at = end.line = at;
          channel.visit(end);
        });
      });
    }
    each_row([](Channel& channel, size_t at, size_t to) INLINED {
      size_t left = batchnorm::kStretch;
      const auto add = [&]() INLINED {
        if (left-- > 0) return;
        channel.end_stretch();
        left = batchnorm::kStretch - 1;
      };
      for (; at + 2 * quad <= to; at += 2 * quad) {
        add();
        channel.visit(whole_quad<T>(at), whole_quad<T>(at + quad));
      }
      if (at == to) return;
      add();
      if (to - at > quad) {
        channel.hold(whole_quad<T>(at));
        at += quad;
      }
      visit_end<T>(at, to - at, [&](auto end) INLINED { channel.visit_held(end); });
    });
  }
}

/// The columns of `Rows` rows from `row` on, in vectors of all their lanes or of the last.
template <size_t Rows, typename Lanes>
ALWAYS_INLINE Quad<Rows, Lanes, Lanes> quad_of_rows(Tile tile, size_t row, size_t column, Lanes lanes) {
  const size_t from = row * tile.stride;
  return {from + column, tile.stride, from + Rows * column, lanes, lanes};
}
ALWAYS_INLINE AnyQuad any_rows(Tile tile, size_t row, size_t column, size_t lanes, size_t rows) {
  const size_t from = row * tile.stride;
  return {from + column, tile.stride, from + rows * column, lanes, lanes, rows};
}

/// Calls visit(quad) for columns of `rows` rows from `row` on, at most a quad.
template <typename Lanes, typename Visit>
ALWAYS_INLINE void visit_rows(Tile tile, size_t row, size_t rows, size_t column, Lanes lanes, Visit visit) {
  switch (rows) {
    case 1:
      return visit(quad_of_rows<1>(tile, row, column, lanes));
    case 2:
      return visit(quad_of_rows<2>(tile, row, column, lanes));
    case 3:
      return visit(quad_of_rows<3>(tile, row, column, lanes));
    case 4:
      return visit(quad_of_rows<4>(tile, row, column, lanes));
  }
}

/// Calls visit(column, lanes) for each vector of columns from `column` on.
template <typename T, typename Visit>
ALWAYS_INLINE void for_each_vector(Tile tile, size_t column, Visit visit) {
  for (; column + kLanes<T> <= tile.columns; column += kLanes<T>) visit(column, AllLanes{});
  if (column < tile.columns) visit(column, tile.columns - column);
}

/// Calls open(ColumnChannels) for each vector of columns from `column` on of some rows of [row, end) at a
/// time, and the channel that it returns for them. Two rows: with four, reads and writes are so many streams
/// that caches lose them ((1024, 1024) with AVX2: 109 us, so 87).
template <typename T, typename Open>
ALWAYS_INLINE void write_columns(Tile tile, size_t row, size_t end, size_t column, Open open) {
  for (; row < end; row += 2) {
    for_each_vector<T>(tile, column, [&](size_t column, auto lanes) INLINED {
      const auto channel = open(ColumnChannels{column});
      if (row + 2 <= end)
        channel.visit(quad_of_rows<2>(tile, row, column, lanes));
      else
        channel.visit(quad_of_rows<1>(tile, row, column, lanes));
    });
  }
}

/// Channels-last, for passes that write. Rows begin `before` columns late, and end as many columns into the
/// next one, but for what is left at both ends of the tile.
template <typename T, typename Open>
ALWAYS_INLINE void for_each_column_written(Tile tile, size_t before, Open open) {
  if (before == 0) return write_columns<T>(tile, 0, tile.rows, 0, open);
  const struct {
    size_t row, end, column, columns;
  } parts[] = {{0, 1, 0, before},
               {0, tile.rows - 1, before, tile.columns + before},
               {tile.rows - 1, tile.rows, before, tile.columns}};
  // In a loop, for one copy of the code.
  for (const auto& part : parts) {
    Tile of = tile;
    of.columns = part.columns;
    write_columns<T>(of, part.row, part.end, part.column, open);
  }
}

/// The same for passes that sum, for every eight rows: coefficients and sums are loaded once for both quads.
/// The first vector has `before` columns, so that the others begin where lines do.
template <typename T, typename Open>
ALWAYS_INLINE void for_each_column_summed(Tile tile, size_t before, bool ends_stretch, Open open) {
  using Channel = decltype(open(ColumnChannels{0}));
  constexpr size_t step = 2 * kQuad;
  constexpr size_t stretch = batchnorm::kStretch * step;
  for (size_t row = 0; row < tile.rows; row += step) {
    const size_t rows = tile.rows - row < step ? tile.rows - row : step;
    size_t done = before;
    // What nearly all of a tile is, in a loop of its own.
    if (rows == step) {
      for (; done + kLanes<T> <= tile.columns; done += kLanes<T>) {
        Channel channel = open(ColumnChannels{done});
        channel.visit(quad_of_rows<kQuad>(tile, row, done, AllLanes{}),
                      quad_of_rows<kQuad>(tile, row + kQuad, done, AllLanes{}));
        channel.close(false);
      }
    }
    const auto visit_vector = [&](size_t column, auto lanes) INLINED {
      Channel channel = open(ColumnChannels{column});
      const auto add = [&](auto hold, auto visit_held) INLINED {
        if (rows > kQuad) {
          hold();
          visit_held(row + kQuad, rows - kQuad);
        } else {
          visit_held(row, rows);
        }
      };
      if constexpr (!kSmallCode) {
        add([&]() INLINED { channel.hold(quad_of_rows<kQuad>(tile, row, column, lanes)); },
            [&](size_t from, size_t count) INLINED {
              visit_rows(tile, from, count, column, lanes,
                         [&](auto quad) INLINED { channel.visit_held(quad); });
            });
      } else {
        add([&]() INLINED { channel.hold(any_rows(tile, row, column, lanes, kQuad)); },
            [&](size_t from, size_t count)
                INLINED { channel.visit_held(any_rows(tile, from, column, lanes, count)); });
      }
      if constexpr (std::is_same_v<decltype(lanes), AllLanes>)
        channel.close(false);
      else
        channel.close_some(lanes);
    };
    const struct {
      size_t column, columns;
    } parts[] = {{0, before}, {done, tile.columns}};
    // In a loop, for one copy of the code.
    for (const auto& part : parts) {
      Tile of = tile;
      of.columns = part.columns;
      if constexpr (!kSmallCode)
        for_each_vector<T>(of, part.column, visit_vector);
      else
        for (size_t column = part.column; column < of.columns; column += kLanes<T>)
          visit_vector(column, of.columns - column < kLanes<T> ? of.columns - column : kLanes<T>);
    }
    // Vectors of columns that overlap have sums in common: a stretch ends when all are done.
    if (ends_stretch && ((row + rows) % stretch == 0 || row + rows == tile.rows))
      for (size_t column = 0; column < tile.columns; column += kLanes<T>)
        open(ColumnChannels{column}).close(true);
  }
}

/// Values before the first line (of 64 bytes) of `to`, at most `total`.
template <typename S>
ALWAYS_INLINE size_t before_first_line(const S* to, size_t total) {
  const size_t misaligned = reinterpret_cast<size_t>(to) % 64 / sizeof(S);
  const size_t before = misaligned == 0 ? 0 : kLanes<S> - misaligned;
  return before < total ? before : total;
}

/// The same of columns that are read: 0 where rows lie differently, are a part of what others sum, or are so
/// short that one vector more costs as much as loads that straddle lines.
template <typename S>
ALWAYS_INLINE size_t columns_before_line_read(Tile tile, const S* from) {
  constexpr size_t kWide = 32;
  constexpr size_t lanes = kLanes<Compute<S>>;
  const bool alike = tile.columns >= kWide * lanes && tile.stride == tile.columns && tile.stride % lanes == 0;
  return alike ? before_first_line(from, tile.columns) : 0;
}

/// How late the rows of for_each_column_written begin, for stores that straddle lines cost two.
template <typename T>
ALWAYS_INLINE size_t columns_before_line(Tile tile, const T* to) {
  const bool lines = tile.stride == tile.columns && batchnorm::goes_by_lines<T>(tile.rows, tile.columns);
  return lines ? before_first_line(to, tile.columns) : 0;
}

/// Maps a channels-first tile without gaps line by line of the output, some lines at a time. A line that
/// channels share gets a mix of their coefficients: writing its parts one after the other would cost a read
/// of the line. Rows hold at least a Vec of values.
template <bool Stream, typename S, typename Map>
class LinesOfRows {
  using T = Compute<S>;
  using OfChannel = typename Map::OfChannel;

 public:
  static constexpr size_t kVectors = kVectorsOfLine<S>;

  ALWAYS_INLINE LinesOfRows(Tile tile, S* to, const Map& map)
      : map_(map),
        to_(to),
        distance_(tile.ahead.distance),
        columns_(tile.columns),
        total_(tile.rows * tile.columns),
        at_(before_first_line(to, total_)),
        end_(tile.columns),
        coefficients_(map.coefficients(RowChannel{0})) {
    // A store that waits for its line holds up those after it: parts of lines are asked for in time.
    if (Stream) prefetch_to_write(to + total_ - 1);
    if (at_ == 0) return;
    write_parts(0, at_);
    // Of words a row may be shorter than a line.
    if (kVectors > 1 && at_ > end_) begin_row(at_ / columns_);
  }

  /// Writes the next Count lines, or what there is; asks memory for nothing.
  template <size_t Count>
  ALWAYS_INLINE void write() {
    if (end_ < at_ + Count * kLanes<S>) return write_across(Count);
    for (size_t i = 0; i < Count; i++) write_line(coefficients_, at_ + i * kLanes<S>);
    at_ += Count * kLanes<S>;
  }

  /// Writes what is left.
  ALWAYS_INLINE void finish() {
    const size_t distance = distance_;
    auto of_row = coefficients_;
    size_t at = at_;
    size_t end = end_;
    for (size_t row = row_;;) {
      for (; at + kLanes<S> <= end; at += kLanes<S>) {
        write_line(of_row, at);
        map_.prefetch(line(at), distance);
      }
      if (at + kLanes < S >> total_) break;
      write_mixed(of_row, row, end, at);
      map_.prefetch(line(at), distance);
      at += kLanes<S>;
    }
    if (at < total_) write_parts(at, total_);
  }

 private:
  void begin_row(size_t row) {
    row_ = row;
    end_ = (row + 1) * columns_;
    coefficients_ = map_.coefficients(RowChannel{row});
  }
  /// Out of line: it would take registers from the loops that come here once per row.
  __attribute__((noinline)) void write_across(size_t count) {
    for (; count > 0 && at_ + kLanes<S> <= total_; count--, at_ += kLanes<S>) {
      if (at_ + kLanes<S> <= end_)
        write_line(coefficients_, at_);
      else
        write_mixed(coefficients_, row_, end_, at_);
    }
  }
  ALWAYS_INLINE void write_line(const OfChannel& of_line, size_t at) const {
    write_whole_line<Stream>(
        to_ + at, [&](size_t i) INLINED { return map_.apply(of_line, vector(at + i * kLanes<T>), 0); });
  }
  /// A line that goes beyond the end of a row, which becomes the one that it ends in.
  ALWAYS_INLINE void write_mixed(OfChannel& of_row, size_t& row, size_t& end, size_t at) const {
    write_whole_line<Stream>(to_ + at, [&](size_t i) INLINED {
      const size_t first = at + i * kLanes<T>;
      if (first + kLanes<T> <= end) return map_.apply(of_row, vector(first), 0);
      row++;
      const OfChannel of_next = map_.coefficients(RowChannel{row});
      const OfChannel mixed = first < end ? select(end - first, of_row, of_next) : of_next;
      of_row = of_next;
      end += columns_;
      return map_.apply(mixed, vector(first), 0);
    });
  }
  /// Values [at, end), which are no whole line.
  __attribute__((noinline)) void write_parts(size_t at, size_t end) const {
    while (at < end) {
      const size_t row = at / columns_;
      const size_t of_row = (row + 1) * columns_ - at;
      size_t count = end - at < kLanes<T> ? end - at : kLanes<T>;
      if (of_row < count) count = of_row;
      store_values(
          map_.apply(map_.coefficients(RowChannel{row}), Quad<1, size_t, size_t>{at, 0, at, count, count}, 0),
          to_ + at, count);
      at += count;
    }
  }
  static ALWAYS_INLINE Quad<1, AllLanes, AllLanes> vector(size_t at) { return {at, 0, at, {}, {}}; }
  /// What is read of a line.
  static ALWAYS_INLINE Quad<kVectors, AllLanes, AllLanes> line(size_t at) {
    return {at, kLanes<T>, at, {}, {}};
  }

  const Map map_;
  S* const to_;
  const size_t distance_;
  const size_t columns_;
  const size_t total_;
  size_t row_ = 0;
  size_t at_;
  size_t end_;
  OfChannel coefficients_;
};

/// Columns that are written at once where rows are wide: the nearest cache holds five arrays of their
/// coefficients. Past the caches memory likes longer rows.
constexpr size_t kColumnsAtOnce = 1024;
template <bool Stream>
constexpr size_t kWideRow = Stream ? 2 * kColumnsAtOnce : kColumnsAtOnce;

/// Maps a channels-last tile without gaps line by line of the output. A line may begin at any column and
/// reach into the next row, which is why the coefficients go on beyond the last column. Of wide rows some
/// columns at a time: dx of (512, 4096) takes 460 us otherwise, so 265.
template <bool Stream, typename S, typename Map>
ALWAYS_INLINE void write_lines_of_columns(Tile tile, S* to, const Map& map) {
  using T = Compute<S>;
  constexpr size_t lanes = kLanes<T>;
  constexpr size_t vectors = kVectorsOfLine<S>;
  const size_t columns = tile.columns;
  const size_t total = tile.rows * columns;
  const auto next = [=](size_t column) INLINED {
    column += lanes;
    return column >= columns ? column - columns : column;
  };
  const auto of_columns = [&](size_t column) INLINED { return map.coefficients(ColumnChannels{column}); };
  /// Values [at, end), which are no whole line.
  const auto write_parts = [&](size_t at, size_t end, size_t column) INLINED {
    for (; at < end; at += lanes, column = next(column)) {
      const size_t count = end - at < lanes ? end - at : lanes;
      store_values(map.apply(of_columns(column), Quad<1, size_t, size_t>{at, 0, at, count, count}, 0),
                   to + at, count);
    }
  };
  const auto write_line = [&](size_t at, const auto& of_vector) INLINED {
    write_whole_line<Stream>(to + at, [&](size_t i) INLINED {
      return map.apply(of_vector(i), Quad<1, AllLanes, AllLanes>{at + i * lanes, 0, at, {}, {}}, 0);
    });
  };
  const auto ask_ahead = [&](size_t line, size_t distance) INLINED {
    map.prefetch(Quad<vectors, AllLanes, AllLanes>{line, lanes, line, {}, {}}, distance);
  };
  // Writes lines from `at`, which lies in column `column`, up to `end`.
  const auto write_lines = [&](size_t at, size_t end, size_t column, size_t distance) INLINED {
    // Row by row: to ask of each column whether it is the last takes longer than all that is done with a
    // line.
    for (; at < end; column -= columns) {
      const size_t row_end = end - at < columns - column ? end : at + (columns - column);
      for (; at < row_end; at += kLanes<S>, column += kLanes<S>) {
        const size_t last = vectors > 1 ? next(column) : column;
        write_line(at, [&](size_t i) INLINED { return of_columns(i == 0 ? column : last); });
        ask_ahead(at, distance);
      }
    }
  };
  const size_t before = before_first_line(to, total);
  if (before > 0) write_parts(0, before, 0);
  const size_t lines_end = before + (total - before) / kLanes<S> * kLanes<S>;
  const bool alike = columns % kLanes<S> == 0;
  size_t begin = before;
  if constexpr (vectors > 1 && !Stream) {
    // Some rows at a time, which share coefficients: to load those of each line takes as long as the rest.
    constexpr size_t kRows = kQuad;
    for (; alike && lines_end - begin >= kRows * columns; begin += kRows * columns)
      for (size_t done = 0; done < columns; done += kLanes<S>) {
        const size_t column = before + done;
        const size_t wrapped = column >= columns ? column - columns : column;
        const auto first = of_columns(wrapped), last = of_columns(next(wrapped));
        for (size_t row = 0; row < kRows; row++) {
          write_line(begin + row * columns + done, [&](size_t i) INLINED { return i == 0 ? first : last; });
          ask_ahead(begin + kRows * done + row * kLanes<S>, tile.ahead.distance);
        }
      }
  }
  if (kSmallCode || columns <= kWideRow<Stream> || !alike) {
    write_lines(begin, lines_end, begin % columns, tile.ahead.distance);
  } else {
    // What is asked for lies in a row to come, under these columns.
    const size_t distance = (tile.ahead.distance / (4 * kColumnsAtOnce) + 1) * columns;
    for (size_t column = 0; column < columns; column += kColumnsAtOnce) {
      const size_t some = columns - column < kColumnsAtOnce ? columns - column : kColumnsAtOnce;
      for (size_t at = begin + column; at < lines_end; at += columns)
        write_lines(at, at + some < lines_end ? at + some : lines_end, before + column, distance);
    }
  }
  if (lines_end < total) write_parts(lines_end, total, lines_end % columns);
}

}  // namespace
