#include "access.h"

#include <algorithm>

#include "ahead.h"

namespace batchnorm {
namespace {

/// Values of a piece at most: three arrays of them leave room in the nearest cache, and on the smallest stack
/// that threads have.
constexpr size_t kPiece = 2048;
/// Of a tile, what lies at rows [row, row + rows) and columns [column, column + columns).
struct Piece {
  size_t row;
  size_t rows;
  size_t column;
  size_t columns;

  /// The place of its first value in the tile.
  size_t place(const Tile& tile) const { return row * tile.stride + column; }
  size_t size() const { return rows * columns; }
  /// The first of its channels, and of its positions.
  size_t channel(Layout layout) const { return layout == kChannelsFirst ? row : column; }
  size_t position(Layout layout) const { return layout == kChannelsFirst ? column : row; }
  /// As a tile of its own, without gaps.
  Tile tile() const { return {rows, columns, columns, straight_ahead(0)}; }
};

/// Where kernels would have come to the end of something: pieces begin at multiples of so many rows, and of
/// so many columns.
struct Steps {
  size_t rows;
  size_t columns;
  size_t stretch;  ///< rows at which one ends, so that it ends with a piece; 0: no number of rows ends one
  bool gathers;    ///< whether several rows with gaps between them may be a piece
};
/// Of a pass whose values do not depend on each other: whole lines of 16-bit values.
constexpr Steps kLines = {1, kLanes<Half>, 0, false};
/// Of one that sums, by Layout: a stretch, or the rows of which two trees are one addition. A row longer than
/// a stretch ends one in each of its tiles (Partition::ends_stretch).
constexpr Steps kSummed[] = {{1, kStretch * 8 * kLanes<float>, 0, true},
                             {8, kLanes<Half>, kStretch * 8, true}};
static_assert(kPiece % kSummed[kChannelsFirst].columns == 0);
static_assert(kSummed[kChannelsLast].stretch == 4 * kSummed[kChannelsLast].rows);

/// Calls visit(piece) for pieces that cover a tile, row by row.
template <typename Visit>
void for_each_piece(const Tile& tile, Steps steps, Visit visit) {
  size_t rows = steps.rows;
  size_t columns = tile.columns;
  if (columns * rows > kPiece) {
    const size_t parts = divide_up(columns, kPiece / rows);
    columns = round_up(divide_up(columns, parts), steps.columns);
  } else if (columns == tile.stride || steps.gathers) {
    rows = kPiece / columns / rows * rows;
    // Whole stretches, or the half or the quarter of one.
    if (steps.stretch > 0) {
      size_t unit = steps.stretch;
      while (unit > rows) unit /= 2;
      rows = rows / unit * unit;
    }
  }
  for (size_t row = 0; row < tile.rows; row += rows)
    for (size_t column = 0; column < tile.columns; column += columns)
      visit(Piece{row, std::min(rows, tile.rows - row), column, std::min(columns, tile.columns - column)});
}

/// Room for a piece, which may begin anywhere in a line, and for a line behind it (see simd/wasm.h).
struct alignas(kAlignment) Room {
  float values[kPiece + 2 * kLanes<float>];
};

template <typename T>
T* advance(T* array, size_t by) {
  return array ? array + by : nullptr;
}

Mask advance(Mask mask, size_t by) {
  return {mask.bytes, mask.at + by};
}

PresentWork<float> advance(PresentWork<float> present, size_t by) {
  present.weights += by;
  present.shares = advance(present.shares, by);
  return present;
}

/// Widens a piece, and asks memory for what its tile says.
void load(const Conversion& conversion, const Half* from, const Tile& tile, const Piece& piece, float* to) {
  const size_t place = piece.place(tile);
  const bool runs = piece.rows == 1 || piece.columns == tile.stride;
  const size_t rows = runs ? 1 : piece.rows;
  const size_t columns = runs ? piece.size() : piece.columns;
  const size_t distance = tile.ahead.distance;
  // What lies between the places that are asked for and those that are read may all be on its way.
  constexpr size_t kAtOnce = 512;
  for (size_t row = 0; row < rows; row++) {
    const size_t first = place + row * tile.stride;
    for (size_t column = 0; column < columns; column += kAtOnce) {
      const size_t at = first + column;
      const size_t count = std::min(kAtOnce, columns - column);
      if (distance > 0) {
        const bool skips = at + distance >= tile.ahead.end;
        const size_t beyond = skips ? distance + static_cast<size_t>(tile.ahead.skip) : distance;
        const uintptr_t asked = reinterpret_cast<uintptr_t>(from) + (at + beyond) * sizeof(Half);
        for (size_t i = 0; i < count * sizeof(Half); i += kAlignment)
          prefetch(reinterpret_cast<const void*>(asked + i));
      }
      conversion.widen(from + at, count, to + row * piece.columns + column);
    }
  }
}

/// Widens what the mask, where there is one, lets through of a piece, else 0.
void load_gradient(const Conversion& conversion, void (*apply)(const MaskWork<float>&), const Half* from,
                   const Mask& mask, const Tile& tile, const Piece& piece, float* to) {
  load(conversion, from, tile, piece, to);
  if (!mask.bytes) return;
  const bool runs = piece.columns == tile.stride;
  const size_t rows = runs ? 1 : piece.rows;
  const size_t columns = runs ? piece.size() : piece.columns;
  for (size_t row = 0; row < rows; row++) {
    float* const values = to + row * columns;
    apply({columns, values, advance(mask, piece.place(tile) + row * tile.stride), values});
  }
}

/// Narrows a piece without gaps to where it belongs.
void store(const Conversion& conversion, Stores stores, const float* from, const Piece& piece, Half* to) {
  (stores == kStreamed ? conversion.stream : conversion.narrow)(from, piece.size(), to);
}

/// Where a piece begins in its room, so that lines there are whole bytes of a mask.
size_t lead_of(const Mask& mask) {
  return mask.bytes ? (mask.bytes[0] + mask.at) % kLanes<float> : 0;
}

}  // namespace

void Access<Half>::centres(const Kernels<float>& kernels, const Half* const (&from)[9], size_t stride,
                           size_t channels, float* to) const {
  constexpr size_t kTogether = 64;
  Half near[9 * kTogether];
  float wide[9 * kTogether];
  for (size_t begin = 0; begin < channels; begin += kTogether) {
    const size_t count = std::min(kTogether, channels - begin);
    const float* rows[9];
    for (size_t i = 0; i < 9; i++) {
      const Half* const first = from[i] + begin * stride;
      rows[i] = wide + i * count;
      if (stride == 1) conversion_.widen(first, count, wide + i * count);
      for (size_t channel = 0; channel < count && stride > 1; channel++)
        near[i * count + channel] = first[channel * stride];
    }
    // One call for all: for each value by itself it took a seventh of a training pass.
    if (stride > 1) conversion_.widen(near, 9 * count, wide);
    kernels.centres(rows, 1, count, to + begin);
  }
}

void Access<Half>::add_in_double(const Kernels<float>& kernels, const Half* values, size_t count,
                                 double shift, double* sums, double* squares) const {
  constexpr size_t kTogether = 32 * kLanes<float>;
  float wide[kTogether];
  for (size_t begin = 0; begin < count; begin += kTogether) {
    const size_t some = std::min(kTogether, count - begin);
    conversion_.widen(values + begin, some, wide);
    kernels.add_in_double(wide, some, shift, sums, squares);
  }
}

namespace {

LaneSums<float> part_of(const LaneSums<float>& sums, Layout layout, const Piece& piece) {
  const size_t at = layout == kChannelsFirst ? piece.row * kLanes<float> : piece.column;
  return {sums.first + at, sums.second + at, advance(sums.first_total, at), advance(sums.second_total, at)};
}

/// A piece of a tile, where it lies.
Tile part_of(const Tile& tile, const Piece& piece) {
  const size_t place = piece.place(tile);
  Ahead ahead = tile.ahead;
  ahead.end -= std::min(ahead.end, place);
  return {piece.rows, piece.columns, tile.stride, ahead};
}

MomentsWork<Half> part_of(const MomentsWork<Half>& work, Layout layout, const Piece& piece, bool ends) {
  return {part_of(work.tile, piece), work.x + piece.place(work.tile), work.shift + piece.channel(layout),
          part_of(work.sums, layout, piece), ends};
}

GradSumsWork<Half> part_of(const GradSumsWork<Half>& work, Layout layout, const Piece& piece, bool ends) {
  const size_t place = piece.place(work.tile);
  const size_t channel = piece.channel(layout);
  return {part_of(work.tile, piece),
          work.dy + place,
          work.x + place,
          advance(work.mask, place),
          work.mean + channel,
          work.scale + channel,
          work.offset + channel,
          part_of(work.sums, layout, piece),
          ends};
}

/// Whether a stretch ends with a piece of a tile with which one does.
bool ends_stretch(bool with_tile, Layout layout, const Tile& tile, const Piece& piece) {
  const size_t end = piece.row + piece.rows;
  const size_t stretch = kSummed[layout].stretch;
  return with_tile && (stretch == 0 || end == tile.rows || end % stretch == 0);
}

/// Calls sum_whole(part) for the parts of a work that kernels of Half can sum, sum_rest(part) for the others.
template <typename Work, typename Whole, typename Rest>
void for_each_part(Layout layout, const Work& work, Whole sum_whole, Rest sum_rest) {
  if (layout == kChannelsFirst) return sum_whole(work);
  const Tile& tile = work.tile;
  const auto with = [&](auto sum, const Piece& piece, bool ends) {
    if (piece.rows > 0 && piece.columns > 0) sum(part_of(work, layout, piece, ends));
  };
  const size_t columns = tile.columns - tile.columns % kLanes<float>;
  const size_t rows = tile.rows - tile.rows % 8;
  const size_t stretches = rows == tile.rows ? rows : rows - rows % kSummed[layout].stretch;
  with(sum_whole, {0, stretches, 0, columns}, work.ends_stretch);
  with(sum_whole, {stretches, rows - stretches, 0, columns}, false);
  with(sum_rest, {rows, tile.rows - rows, 0, columns}, work.ends_stretch);
  with(sum_rest, {0, tile.rows, columns, tile.columns - columns}, work.ends_stretch);
}

/// Whether kernels of Half can write a tile.
bool has_lines(Layout layout, const Tile& tile) {
  return tile.columns == tile.stride && (layout == kChannelsLast || tile.columns >= kLanes<float>);
}

}  // namespace

void Access<Half>::sum(void (*kernel)(const MomentsWork<float>&), Layout layout,
                       const MomentsWork<Half>& work) const {
  const auto stage = [&](const MomentsWork<Half>& part) {
    Room x;
    for_each_piece(part.tile, kSummed[layout], [&](const Piece& piece) {
      load(conversion_, part.x, part.tile, piece, x.values);
      kernel({piece.tile(), x.values, part.shift + piece.channel(layout), part_of(part.sums, layout, piece),
              ends_stretch(part.ends_stretch, layout, part.tile, piece)});
    });
  };
  const auto half = half_.moments[layout];
  half ? for_each_part(layout, work, half, stage) : stage(work);
}

void Access<Half>::sum(void (*kernel)(const GradSumsWork<float>&), Layout layout,
                       const GradSumsWork<Half>& work) const {
  const auto stage = [&](const GradSumsWork<Half>& part) {
    Room dy, x;
    for_each_piece(part.tile, kSummed[layout], [&](const Piece& piece) {
      load_gradient(conversion_, wide_.apply_mask[kCached], part.dy, part.mask, part.tile, piece, dy.values);
      load(conversion_, part.x, part.tile, piece, x.values);
      const size_t channel = piece.channel(layout);
      kernel({piece.tile(),
              dy.values,
              x.values,
              {nullptr, 0},
              part.mean + channel,
              part.scale + channel,
              part.offset + channel,
              part_of(part.sums, layout, piece),
              ends_stretch(part.ends_stretch, layout, part.tile, piece)});
    });
  };
  const auto half = half_.grad_sums[kernel == wide_.grad_sums[kRecomputed][layout]][layout];
  half && !work.mask.bytes ? for_each_part(layout, work, half, stage) : stage(work);
}

void Access<Half>::sum(void (*kernel)(const PresentMomentsWork<float>&), Layout layout,
                       const PresentMomentsWork<Half>& work) const {
  Room x;
  for_each_piece(work.tile, kLines, [&](const Piece& piece) {
    load(conversion_, work.x, work.tile, piece, x.values);
    const size_t at = layout == kChannelsFirst ? piece.row * kLanes<float> : piece.column;
    const PresentSums& sums = work.sums;
    kernel({piece.tile(),
            x.values,
            work.shift + piece.channel(layout),
            advance(work.present, piece.position(layout)),
            {advance(sums.weight, at), advance(sums.squares, at), sums.first + at, sums.second + at}});
  });
}

void Access<Half>::sum(void (*kernel)(const PresentGradSumsWork<float>&), Layout layout,
                       const PresentGradSumsWork<Half>& work) const {
  Room dy, x;
  for_each_piece(work.tile, kLines, [&](const Piece& piece) {
    load_gradient(conversion_, wide_.apply_mask[kCached], work.dy, work.mask, work.tile, piece, dy.values);
    load(conversion_, work.x, work.tile, piece, x.values);
    const size_t channel = piece.channel(layout);
    const size_t at = layout == kChannelsFirst ? piece.row * kLanes<float> : piece.column;
    kernel({piece.tile(),
            dy.values,
            x.values,
            {nullptr, 0},
            gate_of(work.gate),
            work.mean + channel,
            work.scale + channel,
            work.offset + channel,
            work.bias + channel,
            work.centre + channel,
            advance(work.present, piece.position(layout)),
            work.dy_sum + at,
            work.dy_xc + at,
            advance(work.all, at)});
  });
}

void Access<Half>::sum(void (*kernel)(const GradWeightsWork<float>&), Layout layout,
                       const GradWeightsWork<Half>& work) const {
  Room x;
  for_each_piece(work.tile, kLines, [&](const Piece& piece) {
    load(conversion_, work.x, work.tile, piece, x.values);
    const size_t channel = piece.channel(layout);
    kernel({piece.tile(), x.values, work.mean + channel, work.inverse + channel, work.linear + channel,
            work.square + channel, work.least + channel, work.dweights + piece.position(layout)});
  });
}

void Access<Half>::write(const WritingPass<NormalizeWork<float>, MomentsWork<float>>& pass, Layout layout,
                         Stores stores, const NormalizeWork<Half>& work) const {
  if (half_.moments[layout] && !work.residual && has_lines(layout, work.tile))
    return half_.normalize[&pass == &wide_.normalize[0][kRelu]].kernels[stores][layout](work);
  const auto kernel = pass.alone[kCached][layout];
  Room values, residual;
  for_each_piece(work.tile, kLines, [&](const Piece& piece) {
    const size_t place = piece.place(work.tile);
    const size_t channel = piece.channel(layout);
    const Mask mask = advance(work.mask, place);
    float* const x = values.values + lead_of(mask);
    float* const added = work.residual ? residual.values + lead_of(mask) : nullptr;
    load(conversion_, work.x, work.tile, piece, x);
    if (added) load(conversion_, work.residual, work.tile, piece, added);
    kernel(
        {piece.tile(), x, added, mask, x, work.mean + channel, work.scale + channel, work.offset + channel});
    store(conversion_, stores, x, piece, work.y + place);
  });
}

void Access<Half>::write(const WritingPass<GradInputWork<float>, GradSumsWork<float>>& pass, Layout layout,
                         Stores stores, const GradInputWork<Half>& work) const {
  if (half_.moments[layout] && !work.mask.bytes && &pass != &wide_.frozen_grad_input &&
      has_lines(layout, work.tile))
    return half_.grad_input[&pass == &wide_.grad_input[kRecomputed]].kernels[stores][layout](work);
  const auto kernel = pass.alone[kCached][layout];
  Room dy, x;
  for_each_piece(work.tile, kLines, [&](const Piece& piece) {
    const size_t place = piece.place(work.tile);
    const size_t channel = piece.channel(layout);
    load_gradient(conversion_, wide_.apply_mask[kCached], work.dy, work.mask, work.tile, piece, dy.values);
    if (work.mask.bytes) store(conversion_, stores, dy.values, piece, work.dresidual + place);
    load(conversion_, work.x, work.tile, piece, x.values);
    kernel({piece.tile(),
            dy.values,
            x.values,
            {nullptr, 0},
            dy.values,
            nullptr,
            work.mean + channel,
            work.slope + channel,
            work.constant + channel,
            work.scale + channel,
            work.offset + channel});
    store(conversion_, stores, dy.values, piece, work.dx + place);
  });
}

void Access<Half>::write(void (*kernel)(const PresentNormalizeWork<float>&), Layout layout,
                         const PresentNormalizeWork<Half>& work) const {
  Room values, residual;
  for_each_piece(work.tile, kLines, [&](const Piece& piece) {
    const size_t place = piece.place(work.tile);
    const size_t channel = piece.channel(layout);
    const Mask mask = advance(work.mask, place);
    float* const x = values.values + lead_of(mask);
    float* const added = work.residual ? residual.values + lead_of(mask) : nullptr;
    load(conversion_, work.x, work.tile, piece, x);
    if (added) load(conversion_, work.residual, work.tile, piece, added);
    kernel(
        {{piece.tile(), x, added, mask, x, work.mean + channel, work.scale + channel, work.offset + channel},
         work.bias + channel,
         work.activation,
         advance(work.present, piece.position(layout)),
         false});
    store(conversion_, work.streams ? kStreamed : kCached, x, piece, work.y + place);
  });
}

void Access<Half>::write(void (*kernel)(const PresentGradInputWork<float>&), Layout layout,
                         const PresentGradInputWork<Half>& work) const {
  const Stores stores = work.streams ? kStreamed : kCached;
  Room dy, x, dresidual;
  for_each_piece(work.tile, kLines, [&](const Piece& piece) {
    const size_t place = piece.place(work.tile);
    const size_t channel = piece.channel(layout);
    load_gradient(conversion_, wide_.apply_mask[kCached], work.dy, work.mask, work.tile, piece, dy.values);
    load(conversion_, work.x, work.tile, piece, x.values);
    kernel({{piece.tile(),
             dy.values,
             x.values,
             {nullptr, 0},
             work.dx ? dy.values : nullptr,
             work.dresidual ? dresidual.values : nullptr,
             work.mean + channel,
             work.slope + channel,
             work.constant + channel,
             work.scale + channel,
             work.offset + channel},
            work.bias + channel,
            gate_of(work.gate),
            advance(work.present, piece.position(layout)),
            false,
            work.flows,
            work.fixed});
    if (work.dresidual) store(conversion_, stores, dresidual.values, piece, work.dresidual + place);
    if (work.dx) store(conversion_, stores, dy.values, piece, work.dx + place);
  });
}

void Access<Half>::apply_mask(const Kernels<float>&, Stores stores, const MaskWork<Half>& work) const {
  Room values;
  const Tile tile = {1, work.count, work.count, straight_ahead(0)};
  for_each_piece(tile, kLines, [&](const Piece& piece) {
    load_gradient(conversion_, wide_.apply_mask[kCached], work.from, work.mask, tile, piece, values.values);
    store(conversion_, stores, values.values, piece, work.to + piece.column);
  });
}

}  // namespace batchnorm
