// How a tensor is cut into chunks, the units of arithmetic: a function of shape and dtype alone, so that
// neither the number of threads nor the cache sizes can change a bit.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "batchnorm.h"
#include "scratch.h"

namespace batchnorm {

constexpr size_t divide_up(size_t value, size_t by) {
  return (value + by - 1) / by;
}

/// [0, total) in parts of `size`; part `index`.
struct Range {
  size_t begin;
  size_t end;
};
constexpr Range part(size_t total, size_t size, size_t index) {
  return {index * size, std::min(total, (index + 1) * size)};
}

/// `count` planes of a channels-first tensor from sample `first` on, of each the values [offset, offset +
/// length); or `count` rows of a channels-last tensor from row `first` on, `length` columns of each.
struct Span {
  size_t first;
  size_t count;
  size_t offset;
  size_t length;
};

/// Whether samples are so short and so many that to begin one takes longer than what is done with it.
constexpr bool has_short_samples(const Shape& shape) {
  constexpr size_t kShort = 256;
  constexpr size_t kMany = 64;
  return shape.outer >= kMany && shape.inner <= kShort && shape.channels * shape.inner <= kShort;
}

/// What is found in short planes: x[n][c][3] has the channels 0 0 0 1 1 1 2 2 2 ... side by side, so that a
/// sample can be a row whose columns each have one channel, three columns the same. To begin and end three
/// values of a channel, again and again, takes longer than all that is done with them.
///
/// For a pass that sums. Each column has sums of its own until a chunk is done, which is worth it where a
/// plane has little more than it has samples. Decides bits.
constexpr Layout layout_of_sums(const Shape& shape) {
  constexpr size_t kMostColumns = 32;
  // More samples than a stretch has would give planes totals, too.
  const size_t least_samples = shape.inner <= 8 ? 1 : shape.inner < 16 ? kStretch : kStretch + 1;
  const bool has_short_planes = shape.inner <= kMostColumns && shape.outer >= least_samples;
  return has_short_planes || has_short_samples(shape) ? kChannelsLast : kChannelsFirst;
}

/// For a pass that sums nothing: whether a line would hold more than one plane, or a few planes be a sample
/// ((31250, 1, 16): 745 us plane by plane, 35 in columns).
template <typename T>
constexpr Layout layout_of_write(const Shape& shape) {
  return shape.inner < kLanes<T> || has_short_samples(shape) ? kChannelsLast : kChannelsFirst;
}

/// Channels-last rows that are laid side by side, so that a narrow row still fills whole vectors and a loop
/// over its columns is worth entering.
template <typename T>
size_t fold_of(size_t columns) {
  constexpr size_t kWide = 256;
  if (columns >= kWide) return 1;
  // In 32 bits, and without std::gcd, whose divisions a small call would notice.
  const auto narrow = static_cast<uint32_t>(columns);
  const uint32_t common = std::min<uint32_t>(kLanes<T>, narrow & (~narrow + 1));
  const uint32_t whole = kLanes<T> / common;
  const uint32_t width = whole * narrow;
  return width >= kWide ? whole : whole * ((kWide + width - 1) / width);
}

/// Asks for what lies `distance` values beyond.
constexpr Ahead straight_ahead(size_t distance) {
  return {distance, ~size_t{0}, 0};
}

/// How a tensor is seen as tiles: which layout, and in channels-last how many rows are folded into one.
template <typename T>
class Tiling {
 public:
  explicit Tiling(Shape shape) : Tiling(shape, layout_of_write<T>(shape)) {}
  Tiling(Shape shape, Layout layout)
      : Tiling(shape, layout, layout == kChannelsLast ? fold_of<T>(shape.channels * shape.inner) : 1) {}
  /// With the fold known: divisions are what a small call spends its time on.
  Tiling(Shape shape, Layout layout, size_t fold) : shape_(shape), layout_(layout), width_(shape.channels) {
    if (layout_ == kChannelsFirst) return;
    const size_t columns = shape.channels * shape.inner;
    width_ = columns * fold;
    rows_ = shape.outer < fold ? 0 : shape.outer / fold;
    rest_ = (shape.outer - rows_ * fold) * columns;
  }

  Layout layout() const { return layout_; }
  const Shape& shape() const { return shape_; }
  /// Channels side by side: a kernel sees this many rows (channels-first) or columns (channels-last).
  size_t width() const { return width_; }
  /// How many of those are one channel: neighbours.
  size_t columns_of_channel() const { return layout_ == kChannelsFirst ? 1 : shape_.inner; }
  /// How many channels they are: in channels-last all of them come again with each row that is folded in.
  size_t width_in_channels() const {
    const size_t columns = columns_of_channel();
    return columns == 1 ? width_ : width_ / columns;
  }
  /// Channels-last: the folded rows, and the values after the last of them.
  size_t rows() const { return rows_; }
  size_t rest() const { return rest_; }

  /// The channels < width_in_channels() that a span has.
  Range channels_of(const Span& span, Range channels) const {
    if (layout_ == kChannelsFirst) return channels;
    const size_t columns = columns_of_channel();
    return {channels.begin, std::min(channels.end, columns == 1 ? span.length : span.length / columns)};
  }

  /// Values of each of its channels in a span.
  size_t values(const Span& span) const { return span.count * run_of(span); }

  /// `Count` places in the tensor from all over what a channel < width_in_channels() has in a span: of its
  /// values 0, step, 2 * step, ...; or, where it has fewer, of each of them, some more than once.
  template <size_t Count>
  void find_places(const Span& span, size_t channel, size_t (&places)[Count]) const {
    const size_t row = layout_ == kChannelsFirst ? shape_.channels * shape_.inner : width_;
    const size_t length = run_of(span);
    const size_t values = span.count * length;
    size_t place = span.first * row + channel * shape_.inner + span.offset;
    size_t column = 0;
    if (values < Count) {
      for (size_t i = 0, share = 0; i < Count; i++) {
        places[i] = place;
        share += values;
        if (share < Count) continue;
        share -= Count;
        place++;
        if (++column < length) continue;
        column = 0;
        place += row - length;
      }
      return;
    }
    // Odd, so that it does not keep to one column of an image.
    const size_t step = (values / Count - 1) | 1;
    const size_t rows = length == 1 ? step : step / length;
    const size_t columns = step - rows * length;
    for (size_t i = 0; i < Count; i++) {
      places[i] = place;
      column += columns;
      place += rows * row + columns;
      if (column < length) continue;
      column -= length;
      place += row - length;
    }
  }

  /// Calls visit(tile, offset of its first value) for the tiles that make up rows (channels-first) or columns
  /// (channels-last) [begin, end) of a span.
  template <typename Visit>
  void for_each_tile(const Span& span, size_t begin, size_t end, Ahead ahead, Visit visit) const {
    if (layout_ == kChannelsLast) {
      end = std::min(end, span.length);
      if (begin < end) visit(Tile{span.count, end - begin, width(), ahead}, span.first * width() + begin);
      return;
    }
    const Tile tile{end - begin, span.length, shape_.inner, ahead};
    size_t at = (span.first * shape_.channels + begin) * shape_.inner + span.offset;
    for (size_t sample = 0; sample < span.count; sample++, at += shape_.channels * shape_.inner)
      visit(tile, at);
  }

  /// The same for the whole tensor.
  template <typename Visit>
  void for_each_tile(Ahead ahead, Visit visit) const {
    if (layout_ == kChannelsFirst)
      return for_each_tile(Span{0, shape_.outer, 0, shape_.inner}, 0, shape_.channels, ahead, visit);
    if (rows_ > 0) for_each_tile(Span{0, rows_, 0, width()}, 0, width(), ahead, visit);
    if (rest_ > 0) for_each_tile(Span{rows_, 1, 0, rest_}, 0, width(), ahead, visit);
  }

 private:
  /// Values of a channel that lie side by side in a span.
  size_t run_of(const Span& span) const { return layout_ == kChannelsFirst ? span.length : shape_.inner; }

  Shape shape_;
  Layout layout_;
  size_t width_;
  size_t rows_ = 0;
  size_t rest_ = 0;
};

/// A tiling with its chunks.
template <typename T>
class Partition : public Tiling<T> {
 public:
  explicit Partition(Shape shape) : Partition(Tiling<T>(shape, layout_of_sums(shape))) {}
  explicit Partition(const Tiling<T>& tiling) : Tiling<T>(tiling) {
    const Shape& shape = tiling.shape();
    if (this->layout() == kChannelsFirst) {
      constexpr size_t quad = 4 * kLanes<T>;
      const size_t quads = divide_up(shape.inner, quad);
      piece_ = divide_up(quads, divide_up(quads, kChunkQuads)) * quad;
      pieces_ = divide_up(shape.inner, piece_);
      extent_ = std::max<size_t>(1, kChunkQuads / quads);
      const size_t additions = divide_up(quads, 2);
      samples_ = std::max<size_t>(1, kStretch / additions);
      one_stretch_ = additions * std::min(extent_, shape.outer) <= kStretch;
      chunks_ = divide_up(shape.outer, extent_) * pieces_;
    } else {
      extent_ = kChunkRows;
      one_stretch_ = this->rows() <= kStretch * 8;
      chunks_ = divide_up(this->rows(), extent_) + (this->rest() > 0 ? 1 : 0);
    }
  }

  /// Rows of a channels-last chunk. Fewer values than in channels-first, for a lane is a column, whose errors
  /// no other lane averages out.
  static constexpr size_t kChunkRows = 128;

  size_t chunks() const { return chunks_; }
  /// Channels-first: into how many pieces chunks cut a plane, and where one lies in it.
  size_t pieces() const { return pieces_; }
  struct Piece {
    size_t offset;
    size_t length;
  };
  Piece piece(size_t index) const {
    return {index * piece_, std::min(piece_, this->shape().inner - index * piece_)};
  }

  /// Whether a stretch ends with the tile that comes after `before` others of a span.
  bool ends_stretch(const Span& span, size_t before) const {
    if (one_stretch_) return false;
    return this->layout() == kChannelsLast || (before + 1) % samples_ == 0 || before + 1 == span.count;
  }
  /// Whether no chunk is longer than a stretch.
  bool is_one_stretch() const { return one_stretch_; }

  Span chunk(size_t index) const {
    if (this->layout() == kChannelsFirst) {
      const Shape& shape = this->shape();
      const size_t first = index / pieces_ * extent_;
      const Piece of = piece(index % pieces_);
      return {first, std::min(extent_, shape.outer - first), of.offset, of.length};
    }
    const size_t first = index * extent_;
    if (first >= this->rows()) return {this->rows(), 1, 0, this->rest()};
    return {first, std::min(extent_, this->rows() - first), 0, this->width()};
  }

 private:
  /// Quads: four values of every lane. So many amortise a chunk's fixed cost, and the values of all of it
  /// have one shift.
  static constexpr size_t kChunkQuads = 128;

  /// Samples (channels-first) or rows (channels-last) of a chunk.
  size_t extent_ = 1;
  /// Channels-first: samples that make up a stretch.
  size_t samples_ = 1;
  bool one_stretch_ = false;
  size_t pieces_ = 1;
  size_t piece_ = 0;
  size_t chunks_ = 0;
};

/// How a pass that sums writes its result: where sums are of columns, a plane may yet fill a line.
template <typename T>
Tiling<T> tiling_of_write(const Partition<T>& partition) {
  const bool has_columns = partition.columns_of_channel() > 1;
  if (has_columns && layout_of_write<T>(partition.shape()) == kChannelsFirst)
    return Tiling<T>(partition.shape());
  return partition;
}

}  // namespace batchnorm
