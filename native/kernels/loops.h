// In which order a tile is walked, and with which tail. Knows the two layouts; knows nothing of the ISA or of
// batch norm.
//
// Both layouts hand a pass groups of up to four vectors that belong to the same channels: four neighbours in
// a row (channels-first) or the same columns of four rows (channels-last), and two groups at once where there
// are two. A pass that sums does it as a tree within what it is handed and adds that to its accumulator;
// groups start at multiples of four, so the order depends on the tile alone. After a stretch of such
// additions the accumulator becomes doubles.
#pragma once

#include <type_traits>

#include "../simd/vec.h"

namespace {

using batchnorm::Ahead;
using batchnorm::Tile;

constexpr size_t kGroup = 4;

/// A number of vectors that is known when kernels are compiled.
template <size_t Count>
using Size = std::integral_constant<size_t, Count>;

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
  ALWAYS_INLINE batchnorm::LaneSums<T> sums(const batchnorm::LaneSums<T>& all) const {
    const size_t at = row * kLanes<T>;
    return {all.first + at, all.second + at, all.first_total + at, all.second_total + at};
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
  ALWAYS_INLINE batchnorm::LaneSums<T> sums(const batchnorm::LaneSums<T>& all) const {
    return {all.first + column, all.second + column, all.first_total + column, all.second_total + column};
  }
};

/// Calls visit(Size<1..4>, lanes of the last) for the vectors that hold `count` values, at least one and at
/// most a group.
template <typename T, typename Visit>
ALWAYS_INLINE void with_vectors(size_t count, Visit visit) {
  const size_t before_last = (count - 1) / kLanes<T>;
  const size_t last_lanes = count - before_last * kLanes<T>;
  switch (before_last) {
    case 0:
      return visit(Size<1>{}, last_lanes);
    case 1:
      return visit(Size<2>{}, last_lanes);
    case 2:
      return visit(Size<3>{}, last_lanes);
    default:
      return visit(Size<4>{}, last_lanes);
  }
}

/// The end of a row: vectors that are whole but for the last.
template <size_t Count>
using EndOfRow = Group<Count, AllLanes, size_t>;

/// Calls visit(Group<4>) for the values [from, to) of one row, and visit(Group<1..4>) for what is left.
template <typename T, typename Visit>
ALWAYS_INLINE void visit_groups(size_t from, size_t to, Visit visit) {
  constexpr size_t lanes = kLanes<T>;
  for (; from + kGroup * lanes <= to; from += kGroup * lanes)
    visit(Group<kGroup, AllLanes, AllLanes>{from, lanes, from, {}, {}});
  if (from == to) return;
  with_vectors<T>(to - from, [&](auto size, size_t last_lanes) {
    visit(EndOfRow<decltype(size)::value>{from, lanes, from, {}, last_lanes});
  });
}

/// The same for two groups at once as long as there are two.
template <typename T, typename Visit>
ALWAYS_INLINE void visit_pairs(size_t from, size_t to, Visit visit) {
  constexpr size_t lanes = kLanes<T>;
  constexpr size_t group = kGroup * lanes;
  using Whole = Group<kGroup, AllLanes, AllLanes>;
  for (; from + 2 * group <= to; from += 2 * group)
    visit(Whole{from, lanes, from, {}, {}}, Whole{from + group, lanes, from + group, {}, {}});
  if (from == to) return;
  if (to - from <= group)
    return with_vectors<T>(to - from, [&](auto size, size_t last_lanes) {
      visit(EndOfRow<decltype(size)::value>{from, lanes, from, {}, last_lanes});
    });
  const size_t last = from + group;
  with_vectors<T>(to - last, [&](auto size, size_t last_lanes) {
    visit(Whole{from, lanes, from, {}, {}},
          EndOfRow<decltype(size)::value>{last, lanes, last, {}, last_lanes});
  });
}

/// `Count` rows of a tile from `first` on.
template <size_t Count>
struct Rows {
  size_t first;
  template <typename Lanes>
  ALWAYS_INLINE Group<Count, Lanes, Lanes> at(size_t column, size_t stride, Lanes lanes) const {
    const size_t from = first * stride;
    return {from + column, stride, from + Count * column, lanes, lanes};
  }
};

/// Calls visit(ColumnChannels, Group, ...) for every vector of columns, with a group for each of `rows`.
template <typename T, typename Visit, typename... Rows>
ALWAYS_INLINE void visit_columns(Tile tile, Visit visit, Rows... rows) {
  constexpr size_t lanes = kLanes<T>;
  size_t column = 0;
  for (; column + lanes <= tile.columns; column += lanes)
    visit(ColumnChannels{column}, rows.at(column, tile.stride, AllLanes{})...);
  if (column < tile.columns)
    visit(ColumnChannels{column}, rows.at(column, tile.stride, tile.columns - column)...);
}

/// Channels-first: calls open(RowChannel) once per row, and the visitor it returns for each group of the row.
template <typename T, typename Open>
ALWAYS_INLINE void for_each_row(Tile tile, bool ends_stretch, Open open) {
  constexpr size_t stretch = batchnorm::kStretch * 2 * kGroup * kLanes<T>;
  const auto each_row = [&](auto visit) {
    for (size_t row = 0; row < tile.rows; row++) {
      auto channel = open(RowChannel{row});
      visit(channel, row * tile.stride);
      channel.close(ends_stretch);
    }
  };
  if constexpr (decltype(open(RowChannel{0}))::kSums) {
    // What kind of group a short row is is decided once.
    if (tile.columns <= kGroup * kLanes<T>)
      return with_vectors<T>(tile.columns, [&](auto size, size_t last_lanes) {
        each_row([&](auto& channel, size_t from) {
          channel.visit(EndOfRow<decltype(size)::value>{from, kLanes<T>, from, {}, last_lanes});
        });
      });
    each_row([&](auto& channel, size_t from) {
      const size_t to = from + tile.columns;
      const auto visit = [&](auto... groups) { channel.visit(groups...); };
      for (; from + stretch < to; from += stretch) {
        visit_pairs<T>(from, from + stretch, visit);
        channel.end_stretch();
      }
      visit_pairs<T>(from, to, visit);
    });
  } else {
    each_row([&](auto& channel, size_t from) {
      visit_groups<T>(from, from + tile.columns, [&](auto group) { channel.visit(group); });
    });
  }
}

/// Channels-last: the same with ColumnChannels, for each vector of columns of every eight rows, for which
/// coefficients and sums are loaded once.
template <typename T, typename Open>
ALWAYS_INLINE void for_each_column(Tile tile, bool ends_stretch, Open open) {
  constexpr size_t step = 2 * kGroup;
  constexpr size_t stretch = batchnorm::kStretch * step;
  bool ends = false;
  const auto visit = [&](ColumnChannels columns, auto... groups) {
    auto channel = open(columns);
    channel.visit(groups...);
    channel.close(ends);
  };
  size_t row = 0;
  for (; row + step <= tile.rows; row += step) {
    ends = ends_stretch && ((row + step) % stretch == 0 || row + step == tile.rows);
    visit_columns<T>(tile, visit, Rows<kGroup>{row}, Rows<kGroup>{row + kGroup});
  }
  ends = ends_stretch;
  const Rows<kGroup> group{row};
  size_t rest = tile.rows - row;
  if constexpr (!decltype(open(ColumnChannels{0}))::kSums)
    if (rest >= kGroup) {
      visit_columns<T>(tile, visit, group);
      row += kGroup;
      rest -= kGroup;
    }
  switch (rest) {
    case 1:
      return visit_columns<T>(tile, visit, Rows<1>{row});
    case 2:
      return visit_columns<T>(tile, visit, Rows<2>{row});
    case 3:
      return visit_columns<T>(tile, visit, Rows<3>{row});
  }
  if constexpr (decltype(open(ColumnChannels{0}))::kSums) switch (rest) {
      case 4:
        return visit_columns<T>(tile, visit, group);
      case 5:
        return visit_columns<T>(tile, visit, group, Rows<1>{row + kGroup});
      case 6:
        return visit_columns<T>(tile, visit, group, Rows<2>{row + kGroup});
      case 7:
        return visit_columns<T>(tile, visit, group, Rows<3>{row + kGroup});
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
