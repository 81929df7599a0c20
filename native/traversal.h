// In which order a tensor is summed, settled and written, in blocks that follow caches and threads. Changes
// no bit. There is one traversal for all passes of a kind: what they sum is a type, how they settle and write
// a call, for its code is large and its calls are few.
#pragma once

#include <algorithm>

#include "parallel.h"
#include "plan.h"
#include "sums.h"
#include "writer.h"

namespace batchnorm {

/// Shares tasks among a crew.
template <typename Body>
void work(const Crew& crew, size_t tasks, const Body& body, bool backwards = false) {
  parallel_for(crew.threads, tasks, crew.bytes, backwards, body);
}

/// A call of an object that outlives it.
template <typename... Arguments>
class Call {
 public:
  template <typename Function>
  Call(const Function& function)  // NOLINT: what takes a call takes a lambda.
      : object_(&function), call_([](const void* object, Arguments... arguments) {
          (*static_cast<const Function*>(object))(arguments...);
        }) {}
  void operator()(Arguments... arguments) const { call_(object_, arguments...); }

 private:
  const void* object_;
  void (*call_)(const void* object, Arguments... arguments);
};

/// Writes a whole tensor block by block.
template <typename S>
void sweep(const Crew& crew, const Tiling<Compute<S>>& tiling, const TileWriter& writer, bool backwards);

/// to = from where the mask has a bit, else 0; a copy where there is none.
template <typename S>
void apply_mask(const Execution& execution, size_t size, const S* from, const unsigned char* mask, S* to) {
  const Stores stores = size * sizeof(S) >= execution.stream_bytes ? kStreamed : kCached;
  constexpr size_t block = kBlockBytes / sizeof(S);
  const auto& kernels = kernels_of<Compute<S>>(*execution.kernels);
  const Access<S> access(execution);
  work(Crew(execution, size * sizeof(S)), divide_up(size, block), [&](size_t task, size_t) {
    const Range range = part(size, block, task);
    const size_t count = range.end - range.begin;
    if (!mask) {
      std::copy_n(from + range.begin, count, to + range.begin);
      return;
    }
    access.apply_mask(
        kernels, stores,
        {count, from + range.begin, {const_cast<unsigned char*>(mask), range.begin}, to + range.begin});
    if (stores == kStreamed) execution.kernels->fence();
  });
}

/// What is done for channels whose sums are complete.
template <typename T>
using Settle = Call<Range, const Partials<T>&>;

/// Calls sums.sum(chunk, channels, sums, columns, partials, add) over the tensor, settle(channels, partials)
/// once the sums of channels are complete, and writer over the tensor, in tiles of `written`, after that; or
/// no writer where it is nullptr. Sums: MomentSums<S> or GradSums<S>.
template <typename S, typename Sums>
void sum_settle_write(Scratch& scratch, const Kernels<Compute<S>>& kernels, const Plan& plan,
                      const Partition<Compute<S>>& partition, const Sums& sums, Settle<Compute<S>> settle,
                      const Tiling<Compute<S>>& written, const TileWriter* writer);

}  // namespace batchnorm
