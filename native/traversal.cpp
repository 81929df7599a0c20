#include "traversal.h"

#include <new>

namespace batchnorm {
namespace {

/// Spans of about `values` values that cover a tensor, for the passes that sum nothing.
template <typename S>
class Sweep {
  using T = Compute<S>;

 public:
  Sweep(const Tiling<T>& tiling, size_t values)
      : tiling_(tiling), ahead_(ahead_bytes(tiling.shape().size() * sizeof(S)) / sizeof(S)) {
    const Shape& shape = tiling.shape();
    if (tiling.layout() == kChannelsLast) {
      rows_ = std::max<size_t>(1, values / tiling.width());
      size_ = divide_up(tiling.rows(), rows_) + (tiling.rest() > 0 ? 1 : 0);
    } else {
      piece_ = std::min(shape.inner, values);
      pieces_ = divide_up(shape.inner, piece_);
      channels_ = std::clamp<size_t>(values / shape.inner, 1, shape.channels);
      stacks_ = divide_up(shape.channels, channels_);
      rows_ = std::max<size_t>(1, values / (shape.channels * shape.inner));
      size_ = divide_up(shape.outer, rows_) * stacks_ * pieces_;
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
      const size_t first = index * rows_;
      const size_t rows = tiling_.rows();
      span = first < rows ? Span{first, std::min(rows_, rows - first), 0, tiling_.width()}
                          : Span{rows, 1, 0, tiling_.rest()};
      channels = {0, tiling_.width()};
    } else {
      const Range piece = part(shape.inner, piece_, index % pieces_);
      const size_t first = index / pieces_ / stacks_ * rows_;
      span = {first, std::min(rows_, shape.outer - first), piece.begin, piece.end - piece.begin};
      channels = part(shape.channels, channels_, index / pieces_ % stacks_);
    }
    tiling_.for_each_tile(span, channels.begin, channels.end, straight_ahead(ahead_),
                          [&](Tile tile, size_t offset) { visit(tile, offset, channels.begin); });
  }

 private:
  const Tiling<T>& tiling_;
  const size_t ahead_;
  /// Of a span: samples (channels-first) or rows (channels-last).
  size_t rows_ = 1;
  /// Channels-first: channels of a span, and in how many such stacks they lie in a sample.
  size_t channels_ = 1;
  size_t stacks_ = 1;
  size_t piece_ = 0;
  size_t pieces_ = 1;
  size_t size_ = 0;
};

}  // namespace

template <typename S>
void sweep(const Crew& crew, const Tiling<Compute<S>>& tiling, const TileWriter& writer, bool backwards) {
  const size_t size = tiling.shape().size();
  const size_t share = crew.threads == 1 ? size : divide_up(size, 2 * crew.threads);
  const size_t block = std::min(share, kBlockBytes / sizeof(S));
  if (size <= block) {
    // What the nearest cache holds is near.
    tiling.for_each_tile(straight_ahead(size <= kNearBytes / sizeof(S) ? 0 : kAheadInCaches / sizeof(S)),
                         [&](Tile tile, size_t at) { writer.write(tile, at, 0); });
    return writer.finish();
  }
  const Sweep<S> blocks(tiling, block);
  const auto write = [&](size_t task, size_t) {
    blocks.for_each_tile(task,
                         [&](Tile tile, size_t at, size_t channel) { writer.write(tile, at, channel); });
    writer.finish();
  };
  work(crew, blocks.size(), write, backwards);
}

namespace {

/// sum_settle_write a group of channels at a time: what the sums have read, the write finds in the cache. The
/// write of a group waits for the sums of the thread's next one, and goes beside them: they wait for memory,
/// it does not.
template <typename S, typename Sums>
void write_groups(Scratch& scratch, const Kernels<Compute<S>>& kernels, const Plan& plan,
                  const Partition<Compute<S>>& partition, const Sums& sums, Settle<Compute<S>> settle,
                  const TileWriter* writer) {
  using T = Compute<S>;
  const Shape& shape = partition.shape();
  const size_t chunks = partition.chunks();
  const Crew& crew = plan.crew;
  const size_t group = plan.group;
  /// What a thread works with.
  struct Worker {
    Accumulators<T> accumulators;
    Partials<T> partials;
    Range unwritten;
  };
  Worker* const workers = scratch.take<Worker>(crew.threads);
  for (size_t worker = 0; worker < crew.threads; worker++)
    new (workers + worker) Worker{{scratch, partition, chunks, group}, {scratch, chunks, group}, {0, 0}};

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
  work(crew, divide_up(shape.channels, group), [&](size_t task, size_t worker) {
    const Range channels = part(shape.channels, group, task);
    const size_t count = channels.end - channels.begin;
    Worker& own = workers[worker];
    own.partials.origin = channels.begin;
    own.partials.stride = count;
    Place place = {shape.outer, 0};
    for (size_t chunk = 0; chunk < chunks; chunk++) {
      if (chunk + 1 < chunks)
        sums.ask_for(chunk + 1, channels);
      else if (channels.end + count <= shape.channels)
        sums.ask_for(0, {channels.end, channels.end + count});
      const LaneSums<T> lanes = own.accumulators.begin(chunk, chunk, channels, own.partials);
      sums.sum(chunk, channels, lanes, own.accumulators.columns(), own.partials, [&](const auto& work) {
        if constexpr (Access<S>::kBeside)
          if (own.unwritten.end > 0)
            return visit_next(place, own.unwritten, straight_ahead(0),
                              [&](Tile tile, size_t at, size_t channel) {
                                writer->stream_beside(tile, at, channel, &work);
                              });
        sums.add(work);
      });
    }
    own.accumulators.collect(kernels, {0, chunks}, channels, own.partials);
    sums.check({0, chunks}, channels, own.partials);
    settle(channels, own.partials);
    if (!writer) return;
    if (plan.beside) {
      own.unwritten = channels;
      return writer->finish();
    }
    // Reading from the cache leaves memory idle but for the writes: time to ask for this thread's next group.
    // Two inputs of two groups would push each other out: there, what is to come of this group is kept near.
    const size_t next_group = channels.end + group <= shape.channels ? group * shape.inner : 0;
    const size_t sample_before = size_t{0} - shape.channels * shape.inner;
    write(channels, straight_ahead(plan.crowded ? sample_before : next_group));
  });
  if (!plan.beside) return;
  work(crew, crew.threads, [&](size_t worker, size_t) {
    if (workers[worker].unwritten.end > 0) write(workers[worker].unwritten, straight_ahead(0));
  });
}

/// sum_settle_write in three steps, each over the whole tensor.
template <typename S, typename Sums>
void write_after_all(Scratch& scratch, const Kernels<Compute<S>>& kernels, const Plan& plan,
                     const Partition<Compute<S>>& partition, const Sums& sums, Settle<Compute<S>> settle,
                     const Tiling<Compute<S>>& written, const TileWriter* writer) {
  using T = Compute<S>;
  const size_t chunks = partition.chunks();
  const size_t width = partition.width_in_channels();
  const size_t channels_of_all = partition.shape().channels;
  const Crew& crew = plan.crew;
  const size_t groups = divide_up(width, plan.group);
  // Vectors that begin in the middle of one read beyond the last channel: not what another thread writes
  // there.
  const Partials<T> partials(scratch, chunks, round_up(width, kLanes<T>) + kLanes<T>);
  auto* const workers = scratch.take<Accumulators<T>>(crew.threads);
  for (size_t worker = 0; worker < crew.threads; worker++)
    new (workers + worker) Accumulators<T>(scratch, partition, 1, plan.group);
  // Neighbours go to one thread: memory goes on where it was, and what is asked for ahead is its own.
  const size_t run = plan.run;
  work(crew, divide_up(chunks, run) * groups, [&](size_t task, size_t worker) {
    const Range run_chunks = part(chunks, run, task / groups);
    const Range channels = part(width, plan.group, task % groups);
    const Accumulators<T>& accumulators = workers[worker];
    for (size_t chunk = run_chunks.begin; chunk < run_chunks.end; chunk++) {
      if (chunk + 1 < run_chunks.end) sums.ask_for(chunk + 1, channels);
      const LaneSums<T> lanes = accumulators.begin(0, chunk, channels, partials);
      sums.sum(chunk, channels, lanes, accumulators.columns(), partials,
               [&](const auto& work) { sums.add(work); });
      accumulators.collect(kernels, {chunk, chunk + 1}, channels, partials);
      sums.check({chunk, chunk + 1}, channels, partials);
    }
  });
  work(crew, divide_up(channels_of_all, plan.settled),
       [&](size_t task, size_t) { settle(part(channels_of_all, plan.settled, task), partials); });
  if (writer) sweep<S>(crew, written, *writer, plan.backwards);
}

}  // namespace

template <typename S, typename Sums>
void sum_settle_write(Scratch& scratch, const Kernels<Compute<S>>& kernels, const Plan& plan,
                      const Partition<Compute<S>>& partition, const Sums& sums, Settle<Compute<S>> settle,
                      const Tiling<Compute<S>>& written, const TileWriter* writer) {
  if (plan.steps == Plan::kGroups)
    return write_groups<S>(scratch, kernels, plan, partition, sums, settle, writer);
  write_after_all<S>(scratch, kernels, plan, partition, sums, settle, written, writer);
}

#define BATCHNORM_INSTANTIATE(S)                                                                            \
  template void sweep<S>(const Crew&, const Tiling<Compute<S>>&, const TileWriter&, bool);                  \
  template void sum_settle_write<S>(Scratch&, const Kernels<Compute<S>>&, const Plan&,                      \
                                    const Partition<Compute<S>>&, const MomentSums<S>&, Settle<Compute<S>>, \
                                    const Tiling<Compute<S>>&, const TileWriter*);                          \
  template void sum_settle_write<S>(Scratch&, const Kernels<Compute<S>>&, const Plan&,                      \
                                    const Partition<Compute<S>>&, const GradSums<S>&, Settle<Compute<S>>,   \
                                    const Tiling<Compute<S>>&, const TileWriter*);
BATCHNORM_INSTANTIATE(float)
BATCHNORM_INSTANTIATE(double)
BATCHNORM_INSTANTIATE(Half)

}  // namespace batchnorm
