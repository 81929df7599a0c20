// In which order a tensor is summed, settled and written, in blocks that follow caches and threads. Changes
// no bit.
#pragma once

#include <algorithm>
#include <new>
#include <numeric>

#include "batchnorm.h"
#include "parallel.h"
#include "sums.h"
#include "writer.h"

namespace batchnorm {
namespace {

/// What one task works on.
constexpr size_t kBlockBytes = size_t{256} << 10;
/// A channel larger than this is not reread from any cache.
constexpr size_t kLargeChannelBytes = size_t{4} << 20;
/// Work below this is done before a second thread has joined.
constexpr size_t kBytesPerThread = size_t{64} << 10;
/// Waking a sleeping thread takes as long as this much work.
constexpr size_t kWakeBytes = size_t{1} << 20;
/// Columns whose coefficients and sums stay in the nearest cache.
constexpr size_t kBlockColumns = 4096;

/// Rows of so many lines, by how many tensors are read, are long enough for two passes to take turns: a row's
/// end holds up both, and weighs less where there is more to wait for.
constexpr size_t kLinesBeside[] = {32, 8};

/// The threads worth using for work that moves `bytes`.
struct Crew {
  Crew(const Execution& execution, size_t bytes)
      : threads(std::clamp<size_t>(bytes / kBytesPerThread, 1, execution.threads)),
        wake(bytes >= kWakeBytes) {}
  template <typename Body>
  void work(size_t tasks, const Body& body) const {
    parallel_for(threads, tasks, wake, body);
  }
  size_t threads;
  bool wake;
};

/// Spans of about kBlockBytes that cover a tensor, for the passes that sum nothing.
template <typename T>
class Sweep {
 public:
  explicit Sweep(const Tiling<T>& tiling) : tiling_(tiling) {
    const Shape& shape = tiling.shape();
    const size_t values = kBlockBytes / sizeof(T);
    if (tiling.layout() == kChannelsLast) {
      run_ = std::max<size_t>(1, values / tiling.width());
      size_ = divide_up(tiling.rows(), run_) + (tiling.rest() > 0 ? 1 : 0);
    } else {
      piece_ = std::min(shape.inner, values);
      pieces_ = divide_up(shape.inner, piece_);
      group_ = std::clamp<size_t>(values / shape.inner, 1, shape.channels);
      groups_ = divide_up(shape.channels, group_);
      run_ = std::max<size_t>(1, values / (shape.channels * shape.inner));
      size_ = divide_up(shape.outer, run_) * groups_ * pieces_;
    }
  }

  size_t size() const { return size_; }

  /// Calls visit(tile, offset, first channel) for the tiles of block `index`.
  template <typename Visit>
  void for_each_tile(size_t index, Visit visit) const {
    const Shape& shape = tiling_.shape();
    Span span;
    Range channels;
    if (tiling_.layout() == kChannelsLast) {
      const size_t first = index * run_;
      const size_t rows = tiling_.rows();
      span = first < rows ? Span{first, std::min(run_, rows - first), 0, tiling_.width()}
                          : Span{rows, 1, 0, tiling_.rest()};
      channels = {0, tiling_.width()};
    } else {
      const Range piece = part(shape.inner, piece_, index % pieces_);
      const size_t first = index / pieces_ / groups_ * run_;
      span = {first, std::min(run_, shape.outer - first), piece.begin, piece.end - piece.begin};
      channels = part(shape.channels, group_, index / pieces_ % groups_);
    }
    tiling_.for_each_tile(span, channels.begin, channels.end, straight_ahead(kAheadBytes / sizeof(T)),
                          [&](Tile tile, size_t offset) { visit(tile, offset, channels.begin); });
  }

 private:
  const Tiling<T>& tiling_;
  size_t run_ = 1;
  size_t group_ = 1;
  size_t groups_ = 1;
  size_t piece_ = 0;
  size_t pieces_ = 1;
  size_t size_ = 0;
};

/// Writes a whole tensor block by block.
template <typename T, typename Writer>
void sweep(const Crew& crew, const Tiling<T>& tiling, const Writer& writer, bool backwards) {
  constexpr size_t kAhead = kAheadBytes / sizeof(T);
  const size_t size = tiling.shape().size();
  if (size <= kBlockBytes / sizeof(T)) {
    tiling.for_each_tile(straight_ahead(size <= kAhead ? 0 : kAhead),
                         [&](Tile tile, size_t at) { writer.write(tile, at, 0); });
    return writer.finish();
  }
  const Sweep<T> blocks(tiling);
  crew.work(blocks.size(), [&](size_t task, size_t) {
    blocks.for_each_tile(backwards ? blocks.size() - 1 - task : task,
                         [&](Tile tile, size_t at, size_t channel) { writer.write(tile, at, channel); });
    writer.finish();
  });
}

/// sum_settle_write a group of channels at a time: what the sums have read, the write finds in the cache. The
/// write of a group waits for the sums of the thread's next one, and goes side by side with them: they wait
/// for memory, it does not.
template <typename T, typename Sums, typename Settle, typename Writer>
void write_groups(Scratch& scratch, const Execution& execution, const Crew& crew,
                  const Partition<T>& partition, size_t tensors, const Sums& sums, Settle settle,
                  const Writer* writer) {
  const Kernels<T>& kernels = kernels_of<T>(*execution.kernels);
  const Shape& shape = partition.shape();
  const size_t chunks = partition.chunks();
  const size_t channel_bytes = tensors * shape.count() * sizeof(T);
  // Side by side two groups share the cache.
  const size_t shared_bytes = execution.cache_bytes * 3 / 4;
  const bool beside = writer && writer->can_stream_beside() && channel_bytes <= shared_bytes &&
                      shape.inner >= kLinesBeside[tensors - 1] * kLanes<T>;
  const size_t cached = std::max<size_t>(1, (beside ? shared_bytes : execution.cache_bytes) / channel_bytes);
  const size_t fair = crew.threads == 1 ? cached : divide_up(shape.channels, 4 * crew.threads);
  const size_t fitting = std::min({cached, fair, shape.channels});
  // A tile should end where a line does: what two groups share of a line costs a read of it. And its rows
  // must have no gaps between them.
  const size_t whole_lines = kLanes<T> / std::gcd(kLanes<T>, shape.inner);
  const bool in_pieces = partition.pieces() > 1;
  const size_t group = in_pieces ? 1 : fitting > whole_lines ? fitting - fitting % whole_lines : fitting;
  struct Slot {
    Accumulators<T> accumulators;
    Partials<T> partials;
    Range unwritten;
  };
  Slot* const slots = scratch.take<Slot>(crew.threads);
  for (size_t slot = 0; slot < crew.threads; slot++)
    new (slots + slot) Slot{{scratch, partition, chunks, group}, {scratch, chunks, group}, {0, 0}};

  // The tiles of a group from the last sample on: what was read last is the nearest.
  struct Place {
    size_t samples_left;
    size_t piece;
  };
  const auto visit_next = [&](Place& place, Range channels, Ahead ahead, auto visit) {
    const auto piece = partition.piece(place.piece);
    partition.for_each_tile(Span{place.samples_left - 1, 1, piece.offset, piece.length}, channels.begin,
                            channels.end, ahead,
                            [&](Tile tile, size_t at) { visit(tile, at, channels.begin); });
    if (++place.piece < partition.pieces()) return;
    place.piece = 0;
    place.samples_left--;
  };
  const auto write = [&](Range channels, Ahead ahead) {
    for (Place place{shape.outer, 0}; place.samples_left > 0;)
      visit_next(place, channels, ahead,
                 [&](Tile tile, size_t at, size_t channel) { writer->write(tile, at, channel); });
    writer->finish();
  };
  crew.work(divide_up(shape.channels, group), [&](size_t task, size_t index_of_slot) {
    const Range channels = part(shape.channels, group, task);
    const size_t count = channels.end - channels.begin;
    Slot& slot = slots[index_of_slot];
    slot.partials.origin = channels.begin;
    slot.partials.stride = count;
    Place place = {shape.outer, 0};
    for (size_t chunk = 0; chunk < chunks; chunk++) {
      if (chunk + 1 < chunks)
        sums.expect(chunk + 1, channels);
      else if (channels.end + count <= shape.channels)
        sums.expect(0, {channels.end, channels.end + count});
      const LaneSums<T> lanes = slot.accumulators.begin(chunk, chunk, channels, slot.partials);
      sums.sum(chunk, channels, lanes, slot.partials, [&](const auto& work) {
        if (slot.unwritten.end == 0) return sums.run(work);
        visit_next(place, slot.unwritten, straight_ahead(0), [&](Tile tile, size_t at, size_t channel) {
          writer->stream_beside(tile, at, channel, work);
        });
      });
    }
    slot.accumulators.collect(kernels, {0, chunks}, channels, slot.partials);
    sums.check({0, chunks}, channels, slot.partials);
    settle(channels, slot.partials);
    if (!writer) return;
    if (beside) {
      slot.unwritten = channels;
      return writer->finish();
    }
    // Reading from the cache leaves memory idle but for the writes: time to ask for this thread's next group.
    // Two inputs of two groups would push each other out: there, what is to come of this group is kept near.
    const size_t next = crew.threads * group;
    const size_t next_group = channels.end + next <= shape.channels ? next * shape.inner : 0;
    const size_t sample_before = size_t{0} - shape.channels * shape.inner;
    const bool crowded = tensors > 1 && channel_bytes <= 2 * execution.cache_bytes;
    write(channels, straight_ahead(crowded ? sample_before : next_group));
  });
  crew.work(crew.threads, [&](size_t slot, size_t) {
    if (slots[slot].unwritten.end > 0) write(slots[slot].unwritten, straight_ahead(0));
  });
}

/// Runs sums.sum(chunk, channels, sums, partials, run) over the tensor, settle(channels) once the sums of
/// channels are complete, and writer over the tensor after that; or no writer where it is nullptr. `tensors`:
/// how many of the tensor's size the sums read.
template <typename T, typename Sums, typename Settle, typename Writer>
void sum_settle_write(Scratch& scratch, const Execution& execution, const Partition<T>& partition,
                      size_t tensors, const Sums& sums, Settle settle, const Writer* writer) {
  const Kernels<T>& kernels = kernels_of<T>(*execution.kernels);
  const Shape& shape = partition.shape();
  const Layout layout = partition.layout();
  const size_t chunks = partition.chunks();
  const size_t width = partition.width();
  const Crew crew(execution, tensors * shape.size() * sizeof(T));

  const size_t channel_bytes = tensors * shape.count() * sizeof(T);
  if (layout == kChannelsFirst && channel_bytes <= kLargeChannelBytes &&
      (crew.threads == 1 || shape.channels >= 2 * crew.threads))
    return write_groups(scratch, execution, crew, partition, tensors, sums, settle, writer);

  const size_t chunk_values = partition.values(partition.chunk(0), 0);
  const size_t group = layout == kChannelsLast
                           ? std::min(width, kBlockColumns)
                           : std::clamp<size_t>(kBlockBytes / (sizeof(T) * chunk_values), 1, width);
  const size_t groups = divide_up(width, group);
  const Partials<T> partials(scratch, chunks, round_up(width, kLanes<T>));
  auto* const slots = scratch.take<Accumulators<T>>(crew.threads);
  for (size_t slot = 0; slot < crew.threads; slot++)
    new (slots + slot) Accumulators<T>(scratch, partition, 1, group);
  crew.work(chunks * groups, [&](size_t task, size_t slot) {
    const size_t chunk = task / groups;
    const Range channels = part(width, group, task % groups);
    const Accumulators<T>& accumulators = slots[slot];
    const LaneSums<T> lanes = accumulators.begin(0, chunk, channels, partials);
    sums.sum(chunk, channels, lanes, partials, [&](const auto& work) { sums.run(work); });
    accumulators.collect(kernels, {chunk, chunk + 1}, channels, partials);
    sums.check({chunk, chunk + 1}, channels, partials);
  });
  const size_t settled = std::max<size_t>(64, divide_up(shape.channels, 4 * crew.threads));
  crew.work(divide_up(shape.channels, settled),
            [&](size_t task, size_t) { settle(part(shape.channels, settled, task), partials); });
  // Backwards, the last read is the nearest; in a tensor that no cache holds memory rather goes on as it
  // went.
  if (writer) sweep(crew, partition, *writer, shape.size() * sizeof(T) < execution.stream_bytes);
}

}  // namespace
}  // namespace batchnorm
