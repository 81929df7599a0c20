// In which order a tile is walked, and with which tail. Knows the two layouts; knows nothing of the ISA or of
// batch norm.
//
// Both layouts hand a pass groups of up to four vectors that belong to the same channels: four neighbours in
// a row (channels-first) or the same columns of four rows (channels-last). A pass that sums does it as a tree
// within a group and adds the group to its accumulator; groups start at multiples of four, so the order
// depends on the tile alone.
#pragma once

#include <type_traits>

#include "../simd/vec.h"

namespace {

using batchnorm::Ahead;
using batchnorm::Tile;

constexpr size_t kGroup = 4;

/// Asks memory for the line `distance` values behind `from`, or before it where that wraps around. It need
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
/// `last_lanes`. From `line` on lie as many lines of the tile in the order of memory: what the groups of a
/// tile ask memory for follows that order, whatever their own.
template <size_t Size, typename Lanes, typename LastLanes>
struct Group {
  size_t at;
  size_t distance;
  size_t line;
  Lanes lanes;
  LastLanes last_lanes;

  static constexpr size_t size() { return Size; }
  /// Whether all lanes of all vectors are active.
  static constexpr bool kWhole = std::is_same_v<LastLanes, AllLanes>;
  ALWAYS_INLINE size_t place(size_t index) const { return at + index * distance; }
  template <typename T>
  ALWAYS_INLINE void prefetch(const T* from, size_t distance) const {
    for (size_t i = 0; i < Size; i++) ::prefetch(from, line + distance + i * kLanes<T>);
  }
  template <typename T>
  ALWAYS_INLINE void prefetch(const T* from, Ahead ahead) const {
    const bool skips = line + ahead.distance >= ahead.end;
    prefetch(from, skips ? ahead.distance + static_cast<size_t>(ahead.skip) : ahead.distance);
  }
  template <typename T>
  ALWAYS_INLINE Vec<T> load(const T* from, size_t index, Vec<T> fill) const {
    const T* p = from + at + index * distance;
    return index + 1 == Size ? Vec<T>::load(p, last_lanes, fill) : Vec<T>::load(p, lanes, fill);
  }
  template <typename T>
  ALWAYS_INLINE void store(T* to, size_t index, Vec<T> values) const {
    T* p = to + at + index * distance;
    if (index + 1 == Size)
      values.store(p, last_lanes);
    else
      values.store(p, lanes);
  }
};

/// Per-channel arrays seen from one row of a channels-first tile.
struct RowChannel {
  size_t row;
  template <typename T>
  ALWAYS_INLINE Vec<T> coefficient(const T* array) const {
    return Vec<T>::broadcast(array[row]);
  }
  template <typename T>
  ALWAYS_INLINE T* sums(T* array) const {
    return array + row * kLanes<T>;
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
  ALWAYS_INLINE T* sums(T* array) const {
    return array + column;
  }
};

/// Calls visit(Group<1..4>) for the values [from, to) of one row.
template <typename T, typename Visit>
ALWAYS_INLINE void visit_row(size_t from, size_t to, Visit visit) {
  constexpr size_t lanes = kLanes<T>;
  for (; from + kGroup * lanes <= to; from += kGroup * lanes)
    visit(Group<4, AllLanes, AllLanes>{from, lanes, from, {}, {}});
  if (from == to) return;
  const size_t before_last = (to - from - 1) / lanes;
  const size_t last_lanes = to - from - before_last * lanes;
  switch (before_last) {
    case 0:
      return visit(Group<1, AllLanes, size_t>{from, lanes, from, {}, last_lanes});
    case 1:
      return visit(Group<2, AllLanes, size_t>{from, lanes, from, {}, last_lanes});
    case 2:
      return visit(Group<3, AllLanes, size_t>{from, lanes, from, {}, last_lanes});
    default:
      return visit(Group<4, AllLanes, size_t>{from, lanes, from, {}, last_lanes});
  }
}

template <size_t Size, typename T, typename Visit>
ALWAYS_INLINE void visit_columns(Tile tile, size_t row, Visit visit) {
  constexpr size_t lanes = kLanes<T>;
  const size_t at = row * tile.stride;
  size_t column = 0;
  for (; column + lanes <= tile.columns; column += lanes)
    visit(ColumnChannels{column},
          Group<Size, AllLanes, AllLanes>{at + column, tile.stride, at + Size * column, {}, {}});
  if (column < tile.columns) {
    const size_t rest = tile.columns - column;
    visit(ColumnChannels{column},
          Group<Size, size_t, size_t>{at + column, tile.stride, at + Size * column, rest, rest});
  }
}

/// Channels-first: calls open(RowChannel) once per row, and the visitor it returns for each group of the row.
template <typename T, typename Open>
ALWAYS_INLINE void for_each_row(Tile tile, Open open) {
  for (size_t row = 0; row < tile.rows; row++) {
    auto channel = open(RowChannel{row});
    visit_row<T>(row * tile.stride, row * tile.stride + tile.columns,
                 [&](auto group) { channel.visit(group); });
    channel.close();
  }
}

/// Channels-last: the same with ColumnChannels, for each vector of columns of every four rows.
template <typename T, typename Open>
ALWAYS_INLINE void for_each_column(Tile tile, Open open) {
  const auto visit = [&](ColumnChannels columns, auto group) {
    auto channel = open(columns);
    channel.visit(group);
    channel.close();
  };
  size_t row = 0;
  for (; row + kGroup <= tile.rows; row += kGroup) visit_columns<4, T>(tile, row, visit);
  switch (tile.rows - row) {
    case 1:
      return visit_columns<1, T>(tile, row, visit);
    case 2:
      return visit_columns<2, T>(tile, row, visit);
    case 3:
      return visit_columns<3, T>(tile, row, visit);
  }
}

/// Values before the first 64-byte line of `to`, at most `total`.
template <typename T>
ALWAYS_INLINE size_t before_first_line(const T* to, size_t total) {
  const size_t misaligned = reinterpret_cast<size_t>(to) % 64 / sizeof(T);
  const size_t before = misaligned == 0 ? 0 : kLanes<T> - misaligned;
  return before < total ? before : total;
}

/// Maps a channels-first tile without gaps line by line of the output, some lines at a time. A line that two
/// channels share gets a mix of their coefficients: writing its parts one after the other would cost a read
/// of the line. Rows hold at least kLanes<T> values.
template <bool Stream, typename T, typename Map>
class LinesOfRows {
 public:
  ALWAYS_INLINE LinesOfRows(Tile tile, T* to, const Map& map)
      : map_(map),
        to_(to),
        distance_(tile.ahead.distance),
        columns_(tile.columns),
        total_(tile.rows * tile.columns),
        at_(before_first_line(to, total_)),
        end_(tile.columns),
        coefficients_(map.coefficients(RowChannel{0})) {
    // A store that waits for its line holds up those behind it: parts of lines are asked for in time.
    if (Stream) prefetch_to_write(to + total_ - 1);
    if (at_ > 0) write_part(coefficients_, {0, 0, 0, at_, at_});
  }

  /// Writes the next Count lines, or what there is; asks memory for nothing.
  template <size_t Count>
  ALWAYS_INLINE void write() {
    if (end_ < at_ + Count * kLanes<T>) return write_across(Count);
    for (size_t i = 0; i < Count; i++) write_line(coefficients_, at_ + i * kLanes<T>);
    at_ += Count * kLanes<T>;
  }

  /// Writes what is left.
  ALWAYS_INLINE void finish() {
    const size_t distance = distance_;
    auto of_row = coefficients_;
    size_t at = at_;
    size_t end = end_;
    for (size_t row = row_;;) {
      for (; at + kLanes<T> <= end; at += kLanes<T>) {
        write_line(of_row, at);
        map_.prefetch(line(at), distance);
      }
      if (end == total_) break;
      row++;
      const auto of_next = map_.coefficients(RowChannel{row});
      if (at < end) {
        write_line(select(end - at, of_row, of_next), at);
        map_.prefetch(line(at), distance);
        at += kLanes<T>;
      }
      of_row = of_next;
      end += columns_;
    }
    if (at < total_) write_part(of_row, {at, 0, at, total_ - at, total_ - at});
  }

 private:
  /// Out of line: it would take registers from the loops that come here once per row.
  __attribute__((noinline)) void write_across(size_t count) {
    for (; count > 0; count--) {
      if (end_ < at_ + kLanes<T>) {
        if (!cross()) return;
      } else {
        write_line(coefficients_, at_);
        at_ += kLanes<T>;
      }
    }
  }
  /// Goes on to the next row, where there is one, and writes the line that both share, where there is one.
  ALWAYS_INLINE bool cross() {
    if (end_ == total_) return false;
    row_++;
    const auto next = map_.coefficients(RowChannel{row_});
    if (at_ < end_) {
      write_line(select(end_ - at_, coefficients_, next), at_);
      at_ += kLanes<T>;
    }
    coefficients_ = next;
    end_ += columns_;
    return true;
  }
  ALWAYS_INLINE void write_line(const typename Map::OfChannel& of_line, size_t at) const {
    const Vec<T> values = map_.apply(of_line, line(at), 0);
    if constexpr (Stream)
      values.stream(to_ + at);
    else
      values.store(to_ + at);
  }
  ALWAYS_INLINE void write_part(const typename Map::OfChannel& of_part, Group<1, size_t, size_t> part) const {
    map_.apply(of_part, part, 0).store(to_ + part.at, part.lanes);
  }
  static ALWAYS_INLINE Group<1, AllLanes, AllLanes> line(size_t at) { return {at, 0, at, {}, {}}; }

  const Map map_;
  T* const to_;
  const size_t distance_;
  const size_t columns_;
  const size_t total_;
  size_t row_ = 0;
  size_t at_;
  size_t end_;
  typename Map::OfChannel coefficients_;
};

/// Maps a channels-last tile without gaps line by line of the output. A line may begin at any column and
/// reach into the next row, which is why the coefficients go on behind the last column.
template <typename T, typename Map>
ALWAYS_INLINE void stream_columns(Tile tile, T* to, const Map& map) {
  constexpr size_t lanes = kLanes<T>;
  const size_t total = tile.rows * tile.columns;
  size_t at = before_first_line(to, total);
  if (at > 0)
    map.apply(map.coefficients(ColumnChannels{0}), Group<1, size_t, size_t>{0, 0, 0, at, at}, 0)
        .store(to, at);
  size_t column = at % tile.columns;
  for (; at + lanes <= total; at += lanes) {
    const Group<1, AllLanes, AllLanes> line{at, 0, at, {}, {}};
    map.apply(map.coefficients(ColumnChannels{column}), line, 0).stream(to + at);
    map.prefetch(line, tile.ahead.distance);
    column += lanes;
    if (column >= tile.columns) column -= tile.columns;
  }
  if (at < total)
    map.apply(map.coefficients(ColumnChannels{column}),
              Group<1, size_t, size_t>{at, 0, at, total - at, total - at}, 0)
        .store(to + at, total - at);
}

}  // namespace
