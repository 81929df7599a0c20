// What is decided about a pass before it begins: how many threads, which stores, in which blocks. Pure
// functions of shape, machine and traffic; change no bit.
#pragma once

#include <algorithm>
#include <numeric>
#include <string>

#include "batchnorm.h"
#include "partition.h"

namespace batchnorm {

/// What one task works on.
constexpr size_t kBlockBytes = size_t{256} << 10;
/// A channel larger than this is not reread from any cache.
constexpr size_t kLargeChannelBytes = size_t{4} << 20;
/// Work below this is done before a second thread has joined.
constexpr size_t kBytesPerThread = size_t{64} << 10;
/// So many values take as long as bringing the coefficients of their channel to another thread: backward of
/// (1, 7, 7, 2048) last takes 25 us, with two threads 30; of (2, 14, 14, 256) last 19 and 13.
constexpr size_t kValuesBesideCoefficients = 512;
/// What a group has of a tensor in a sample at least, by how many tensors the sums read. Less is a walk from
/// page to page, once for each group, on which threads wait for each other's lines: backward of (512, 512, 7,
/// 7) took 27 ms, and takes 9; of (1000, 32, 7, 7) 5.3 and 0.6, with two threads 2.1 and 0.3.
constexpr size_t kLeastRunBytes[] = {size_t{4} << 10, size_t{2} << 10};
/// Columns whose coefficients and sums stay in the nearest cache.
constexpr size_t kBlockColumns = 4096;
/// The same where a channel has several, whose sums are collected and whose shifts are spread beside that
/// ((8, 512, 25), training: 39 us with blocks of 4096, so 36).
constexpr size_t kBlockOfSeveral = 1024;

/// Two passes take turns line by line where a row has so many lines, by how many tensors the sums read: at a
/// row's end both wait. A forward pass wants 32 (a plane of 28 x 28 float32 has 49 lines, one of 14 x 14 has
/// 13), a backward pass 8, for with two tensors to read there is more to wait for anyway.
constexpr size_t kLinesBeside[] = {32, 8};

/// The threads worth using for work that moves `bytes`.
struct Crew {
  Crew(const Execution& execution, size_t bytes)
      : threads(std::clamp<size_t>(bytes / kBytesPerThread, 1, execution.threads)), bytes(bytes) {}
  /// In channels-last all threads need the coefficients of all channels, which one of them has in its cache.
  template <typename T>
  Crew(const Execution& execution, size_t bytes, const Tiling<T>& tiling) : Crew(execution, bytes) {
    if (threads == 1 || tiling.layout() == kChannelsFirst) return;
    *this = Crew(execution, bytes / (1 + kValuesBesideCoefficients / tiling.shape().count()));
  }
  size_t threads;
  size_t bytes;
};

/// What a pass moves, in tensors of the size of x.
struct Traffic {
  /// By its sums: 1 in a forward, 2 in a backward pass, 0 where nothing is summed.
  size_t summed;
  bool written;
  /// Whether it writes over what it reads.
  bool in_place;
  /// Whether its kernels can write beside those that sum (WritingPass::stream_beside).
  bool has_beside;
};

/// Of a pass that sums nothing: small, for small calls notice.
struct WritePlan {
  Crew crew;
  Stores stores;
};

/// Of a pass that sums.
struct Plan : WritePlan {
  enum Steps {
    kGroups,  ///< a group of channels is summed, settled and written before the next
    kWhole,   ///< the tensor is summed, then settled, then written
  };
  Steps steps;
  /// Channels that a task sums, and in kGroups settles and writes.
  size_t group;
  /// kGroups: whether a group is written beside the sums of the next one.
  bool beside;
  /// kGroups: whether two groups are too much for a cache, so that what is asked for while a group is written
  /// is more of it, and not the next.
  bool crowded;
  /// kWhole: chunks that a task sums.
  size_t run;
  /// kWhole: channels that a task settles.
  size_t settled;
  /// kWhole: whether the write begins with what was read last.
  bool backwards;
};

/// Which stores a result gets: not in place, where its lines are in the cache already.
template <typename S>
Stores stores_of(const Execution& execution, const Tiling<Compute<S>>& tiling, bool in_place) {
  const Shape& shape = tiling.shape();
  const bool streamed = !in_place && shape.size() * sizeof(S) >= execution.stream_bytes &&
                        (tiling.layout() == kChannelsLast || shape.inner >= kLanes<Compute<S>>);
  return streamed ? kStreamed : kCached;
}

/// Of a pass that sums nothing.
template <typename S>
WritePlan plan_of_write(const Execution& execution, const Tiling<Compute<S>>& tiling, bool in_place) {
  return {Crew(execution, tiling.shape().size() * sizeof(S), tiling),
          stores_of<S>(execution, tiling, in_place)};
}

/// Channels-first: groups that a cache holds.
template <typename S>
Plan plan_of_groups(const Execution& execution, const Partition<Compute<S>>& partition,
                    const Traffic& traffic, const Crew& crew, Stores stores) {
  const Shape& shape = partition.shape();
  const size_t channel_bytes = traffic.summed * shape.count() * sizeof(S);
  // Side by side two groups share the cache.
  const size_t shared_bytes = execution.cache_bytes * 3 / 4;
  const bool has_lines = shape.inner >= kLinesBeside[traffic.summed - 1] * kLanes<S>;
  const bool beside = traffic.written && traffic.has_beside && stores == kStreamed &&
                      channel_bytes <= shared_bytes && has_lines;
  const size_t cached = std::max<size_t>(1, (beside ? shared_bytes : execution.cache_bytes) / channel_bytes);
  const size_t fair = crew.threads == 1 ? cached : divide_up(shape.channels, 4 * crew.threads);
  const size_t fitting = std::min({cached, fair, shape.channels});
  // A tile should end where a line does: what two groups share of a line costs a read of it. And its rows
  // must have no gaps between them.
  const size_t whole_lines = kLanes<S> / std::gcd(kLanes<S>, shape.inner);
  const size_t group = partition.pieces() > 1  ? 1
                       : fitting > whole_lines ? fitting - fitting % whole_lines
                                               : fitting;
  // Short rows are over before what is asked for a sample ahead has come (backward of (32, 2048, 7, 7): 1.24
  // ms, so 1.10).
  const bool crowded = traffic.summed > 1 && channel_bytes <= 2 * execution.cache_bytes && has_lines;
  return {{crew, stores}, Plan::kGroups, group, beside, crowded, 0, 0, false};
}

/// The whole tensor, step by step.
template <typename S>
Plan plan_of_whole(const Execution& execution, const Partition<Compute<S>>& partition, const Crew& crew,
                   Stores stores) {
  const Shape& shape = partition.shape();
  const size_t chunk_values = partition.values(partition.chunk(0));
  const size_t width = partition.width_in_channels();
  // In channels-last their columns begin where vectors do.
  const size_t columns = partition.columns_of_channel();
  const size_t block = columns == 1 ? kBlockColumns : kBlockOfSeveral / columns;
  const size_t fitting = std::max<size_t>(1, kBlockBytes / (sizeof(S) * chunk_values));
  const size_t step = kLanes<Compute<S>> / std::min(kLanes<Compute<S>>, columns & (~columns + 1));
  const size_t most = partition.layout() == kChannelsLast ? std::max(step, block - block % step) : fitting;
  size_t group = std::min(width, most);
  // Of few chunks the columns are shared.
  const size_t chunks = partition.chunks();
  if (crew.threads > 1 && chunks < 2 * crew.threads)
    group = std::min(group, round_up(divide_up(width * chunks, 2 * crew.threads), kLanes<Compute<S>>));
  const size_t run = chunks == 1 ? 1
                                 : std::clamp<size_t>(kBlockBytes / (sizeof(S) * group * chunk_values), 1,
                                                      divide_up(chunks, 4 * crew.threads));
  const size_t settled = std::max<size_t>(64, divide_up(shape.channels, 4 * crew.threads));
  // What was read last is the nearest; in a tensor that no cache holds memory rather goes on as it went.
  const bool backwards = shape.size() * sizeof(S) < execution.stream_bytes;
  return {{crew, stores}, Plan::kWhole, group, false, false, run, settled, backwards};
}

/// Of a pass that sums.
template <typename S>
Plan plan_of(const Execution& execution, const Partition<Compute<S>>& partition, const Traffic& traffic) {
  const Shape& shape = partition.shape();
  const Crew crew(execution, traffic.summed * shape.size() * sizeof(S), partition);
  const Stores stores = stores_of<S>(execution, partition, traffic.in_place);
  const size_t channel_bytes = traffic.summed * shape.count() * sizeof(S);
  if (partition.layout() == kChannelsFirst && channel_bytes <= kLargeChannelBytes &&
      (crew.threads == 1 || shape.channels >= 2 * crew.threads)) {
    const Plan plan = plan_of_groups<S>(execution, partition, traffic, crew, stores);
    const size_t run_bytes = plan.group * shape.inner * sizeof(S);
    if (plan.group == shape.channels || run_bytes >= kLeastRunBytes[traffic.summed - 1]) return plan;
  }
  return plan_of_whole<S>(execution, partition, crew, stores);
}

/// For people: `streamed, 2 threads`.
inline std::string describe(const WritePlan& plan) {
  const std::string stores = plan.stores == kStreamed ? "streamed" : "cached";
  return plan.crew.threads > 1 ? stores + ", " + std::to_string(plan.crew.threads) + " threads" : stores;
}

/// `groups of 12, beside, streamed, 2 threads`
inline std::string describe(const Plan& plan) {
  const std::string steps = plan.steps == Plan::kGroups ? "groups of " : "whole, blocks of ";
  return steps + std::to_string(plan.group) + (plan.beside ? ", beside" : "") +
         (plan.backwards ? ", backwards" : "") + ", " + describe(static_cast<const WritePlan&>(plan));
}

}  // namespace batchnorm
