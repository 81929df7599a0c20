#include "presence.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <type_traits>

#include "traversal.h"

namespace batchnorm {
namespace {

/// A position has all its channels in a row, or a plane of them. Weights are those of rows or of columns, so
/// that neither may be folded.
template <typename T>
Tiling<T> tiling_of(const Shape& shape, const Presence& presence) {
  const Layout layout = shape.inner == 1 ? kChannelsLast : kChannelsFirst;
  return presence.weights ? Tiling<T>(shape, layout, 1) : Tiling<T>(shape, layout);
}

/// What kernels take of a presence, and of which part of it at a place in the tensor.
template <typename T>
class Weights {
 public:
  Weights(Scratch& scratch, const Tiling<T>& tiling, const Presence& presence, bool shares)
      : tiling_(tiling), presence_(presence) {
    const Shape& shape = tiling.shape();
    if (!presence.weights) {
      // All rows, and all samples, have the same ones.
      const size_t count = tiling.layout() == kChannelsFirst ? shape.inner : tiling.rows() + 1;
      double* const ones = scratch.take<double>(count + kLanes<T>);
      std::fill_n(ones, count + kLanes<T>, 1.0);
      weights_ = ones;
      if (!shares) return;
      T* const same = scratch.take<T>(count + kLanes<T>);
      std::fill_n(same, count + kLanes<T>, T{1});
      shares_ = same;
      return;
    }
    weights_ = presence.weights;
    if (!shares) return;
    if constexpr (std::is_same_v<T, double>) {
      shares_ = weights_;
      return;
    }
    // In float32 as parts of the largest, so that none of them is too large; nor too small to be told from 0.
    const size_t positions = shape.outer * shape.inner;
    const double most = *std::max_element(weights_, weights_ + positions);
    largest_ = most >= std::numeric_limits<double>::min() ? most : 1;
    const double scale = 1 / largest_;
    own_shares_.reset(new T[positions]);
    for (size_t i = 0; i < positions; i++) {
      const T share = static_cast<T>(weights_[i] * scale);
      own_shares_[i] = weights_[i] > 0 ? std::max(share, std::numeric_limits<T>::denorm_min()) : T{0};
    }
    shares_ = own_shares_.get();
  }

  bool are_given() const { return presence_.weights != nullptr; }
  /// What shares are parts of.
  double largest() const { return largest_; }

  /// The position of a value of the tensor among the weights.
  size_t position(size_t at) const {
    const Shape& shape = tiling_.shape();
    if (tiling_.layout() == kChannelsLast) return presence_.weights ? at / tiling_.width() : 0;
    const size_t column = at % shape.inner;
    return presence_.weights ? at / (shape.channels * shape.inner) * shape.inner + column : column;
  }

  /// Of the tile whose first value lies there.
  PresentWork<T> work(size_t at) const {
    const size_t first = position(at);
    return {weights_ + first, shares_ ? shares_ + first : nullptr, presence_.missing, presence_.impute,
            presence_.zero};
  }

 private:
  const Tiling<T>& tiling_;
  const Presence& presence_;
  const double* weights_;
  const T* shares_ = nullptr;
  double largest_ = 1;
  std::unique_ptr<T[]> own_shares_;
};

/// Partial sums of chunks in double, up to four kinds.
struct PresentPartials {
  PresentPartials(Scratch& scratch, size_t chunks, size_t channels)
      : stride(channels), shifts(scratch.take<double>(chunks * channels)) {
    for (double*& kind : sums) kind = scratch.take<double>(chunks * channels);
  }
  size_t at(size_t chunk, size_t channel) const { return chunk * stride + channel; }

  size_t stride;
  double* shifts;
  double* sums[4];
};

/// Channels of which channels-first kernels keep the lanes of all sums together.
constexpr size_t kTogether = 16;

/// Adds up some kinds of sums of channels of a span: add(tile, at, first channel, to) does each tile.
template <size_t Kinds, typename T, typename Add>
void sum_span(const Kernels<T>& kernels, const Partition<T>& partition, const Span& span, Range channels,
              double* const (&to)[Kinds], Add add) {
  const size_t count = channels.end - channels.begin;
  if (partition.layout() == kChannelsLast) {
    for (double* kind : to)
      if (kind) std::fill_n(kind, round_up(count, kLanes<T>), 0.0);
    partition.for_each_tile(span, channels.begin, channels.end, straight_ahead(0),
                            [&](Tile tile, size_t at) { add(tile, at, channels.begin, to); });
    return;
  }
  for (size_t begin = 0; begin < count; begin += kTogether) {
    const size_t together = std::min(kTogether, count - begin);
    alignas(kAlignment) double lanes[Kinds][kTogether * kLanes<T>] = {};
    double* sums[Kinds];
    for (size_t kind = 0; kind < Kinds; kind++) sums[kind] = to[kind] ? lanes[kind] : nullptr;
    const size_t first = channels.begin + begin;
    partition.for_each_tile(span, first, first + together, straight_ahead(0),
                            [&](Tile tile, size_t at) { add(tile, at, first, sums); });
    for (size_t kind = 0; kind < Kinds; kind++)
      if (to[kind]) kernels.collect_totals[kChannelsFirst](lanes[kind], together, 1, to[kind] + begin);
  }
}

/// Weighted sums of deviations from a shift near the data, per chunk.
template <typename S>
class PresentMomentSums {
  using T = Compute<S>;

 public:
  PresentMomentSums(Scratch& scratch, const Execution& execution, const Partition<T>& partition,
                    const Weights<T>& weights, const S* x, bool missing, Statistics to)
      : access_(execution),
        table_(*execution.kernels),
        kernels_(kernels_of<T>(*execution.kernels)),
        partition_(partition),
        weights_(weights),
        chunks_(take_chunks(scratch, partition)),
        x_(x),
        missing_(missing),
        to_(to) {
    for (double*& kind : merged_) kind = scratch.take<double>(partition.shape().channels);
    if (weights.are_given()) {
      heaviest_ = scratch.take<size_t>(partition.chunks());
      for (size_t chunk = 0; chunk < partition.chunks(); chunk++)
        if (!find_heaviest(chunks_[chunk], 0, false, heaviest_[chunk])) heaviest_[chunk] = kNone;
    }
    if (missing) return;
    for (double*& kind : totals_) kind = scratch.take<double>(partition.chunks());
    for (size_t chunk = 0; chunk < partition.chunks(); chunk++) add_weights(chunk);
  }

  void sum(size_t chunk, Range channels, const PresentPartials& partials) const {
    const Span& span = chunks_[chunk];
    channels = partition_.channels_of(span, channels);
    if (channels.begin >= channels.end) return;
    const size_t at = partials.at(chunk, channels.begin);
    double* const shifts = partials.shifts + at;
    const bool has_weight = find_shifts(chunk, channels, shifts);
    if (!has_weight) {
      for (double* kind : partials.sums) std::fill_n(kind + at, channels.end - channels.begin, 0.0);
      return;
    }
    double* const to[] = {partials.sums[0] + at, partials.sums[1] + at,
                          missing_ ? partials.sums[2] + at : nullptr,
                          missing_ ? partials.sums[3] + at : nullptr};
    sum_span(kernels_, partition_, span, channels, to,
             [&](Tile tile, size_t first, size_t channel, double* const(&sums)[4]) {
               access_.sum(kernels_.present_moments[partition_.layout()], partition_.layout(),
                           PresentMomentsWork<S>{tile,
                                                 x_ + first,
                                                 shifts + (channel - channels.begin),
                                                 weights_.work(first),
                                                 {sums[2], sums[3], sums[0], sums[1]}});
             });
    if (missing_) return;
    std::fill_n(partials.sums[2] + at, channels.end - channels.begin, totals_[0][chunk]);
    std::fill_n(partials.sums[3] + at, channels.end - channels.begin, totals_[1][chunk]);
  }

  /// Of channels [begin, end) of the tensor, the chunks in their order.
  void merge(Range channels, const PresentPartials& partials) const {
    for (double* kind : merged_) std::fill(kind + channels.begin, kind + channels.end, 0.0);
    for (size_t chunk = 0; chunk < partition_.chunks(); chunk++)
      for_each_copy(partition_, chunks_[chunk], channels, [&](size_t in_chunk, size_t first, size_t count) {
        const size_t at = partials.at(chunk, in_chunk);
        table_.merge_present(
            count, partials.shifts + at,
            {partials.sums[2] + at, partials.sums[3] + at, partials.sums[0] + at, partials.sums[1] + at},
            merged(first));
      });
    for (size_t channel = channels.begin; channel < channels.end; channel++) {
      const PresentStatistics of = merged(channel);
      const bool counts = *of.weight > 0;
      to_.count[channel] = *of.weight;
      to_.squares[channel] = *of.squares;
      to_.mean[channel] = counts ? *of.reference + *of.mean : 0;
      to_.variance[channel] = counts ? *of.deviations / *of.weight : 0;
    }
  }

 private:
  static constexpr size_t kNone = ~size_t{0};

  PresentStatistics merged(size_t place) const {
    return {merged_[0] + place, merged_[1] + place, merged_[2] + place, merged_[3] + place,
            merged_[4] + place};
  }

  /// Sums of the weights of a chunk and of their squares, which all channels share where no value is missing.
  void add_weights(size_t chunk) {
    double total = 0;
    double squares = 0;
    const bool is_last = partition_.layout() == kChannelsLast;
    partition_.for_each_tile(chunks_[chunk], 0, 1, straight_ahead(0), [&](Tile tile, size_t at) {
      const double* const weights = weights_.work(at).weights;
      const size_t count = is_last ? tile.rows : tile.columns;
      for (size_t i = 0; i < count; i++) {
        total += weights[i];
        squares += weights[i] * weights[i];
      }
    });
    totals_[0][chunk] = total;
    totals_[1][chunk] = squares;
  }

  /// Finds a value of each channel that counts: being one of the data, a channel of equal values has no
  /// variance. With weights the heaviest, for beside a distant one of little weight those that have more
  /// would lose their digits. Returns whether anything has weight.
  bool find_shifts(size_t chunk, Range channels, double* shifts) const {
    const Span& span = chunks_[chunk];
    const size_t channel_stride = partition_.layout() == kChannelsFirst ? partition_.shape().inner : 1;
    size_t places[9];
    size_t known = 1;
    if (heaviest_) {
      if (heaviest_[chunk] == kNone) return false;
      places[0] = heaviest_[chunk] + channels.begin * channel_stride;
    } else {
      // From all over the span, the middle one first.
      partition_.find_places(span, channels.begin, places);
      std::swap(places[0], places[4]);
      known = 9;
    }
    for (size_t channel = channels.begin; channel < channels.end; channel++) {
      const size_t beyond = (channel - channels.begin) * channel_stride;
      size_t i = 0;
      while (i < known && missing_ && access_.is_nan(x_ + places[i] + beyond)) i++;
      size_t place = 0;
      const bool counts = i < known || find_heaviest(span, channel, missing_, place);
      if (i < known) place = places[i] + beyond;
      shifts[channel - channels.begin] = counts ? static_cast<double>(access_.value(x_ + place)) : 0;
    }
    return true;
  }

  /// The first of the heaviest places of a channel in a span, and with `looks` of those that have a value.
  bool find_heaviest(const Span& span, size_t channel, bool looks, size_t& found) const {
    double most = 0;
    const bool is_last = partition_.layout() == kChannelsLast;
    partition_.for_each_tile(span, channel, channel + 1, straight_ahead(0), [&](Tile tile, size_t at) {
      const double* const weights = weights_.work(at).weights;
      for (size_t i = 0; i < tile.rows * tile.columns; i++) {
        const size_t place = at + (is_last ? i * tile.stride : i);
        if (weights[i] <= most || (looks && access_.is_nan(x_ + place))) continue;
        most = weights[i];
        found = place;
      }
    });
    return most > 0;
  }

  const Access<S> access_;
  const KernelTable& table_;
  const Kernels<T>& kernels_;
  const Partition<T>& partition_;
  const Weights<T>& weights_;
  const Span* chunks_;
  const S* x_;
  bool missing_;
  Statistics to_;
  /// Weights, their squares, references, means, deviations.
  double* merged_[5];
  /// Of chunks.
  double* totals_[2] = {};
  /// Of chunks, where there are weights: the place of the heaviest in the first channel, or kNone.
  size_t* heaviest_ = nullptr;
};

/// An array per channel, at all places of the channels of a tiling.
template <typename T>
void place(const Tiling<T>& tiling, const T* from, T* to) {
  const size_t channels = tiling.shape().channels;
  for (size_t channel = 0; channel < channels; channel++) to[channel] = from ? from[channel] : T{0};
  repeat(tiling, {0, channels}, to);
}

/// Writes tiles of a work.
template <typename S, typename Work, typename KernelWork>
class PresentWriter final : public TileWriter {
  using T = Compute<S>;

 public:
  PresentWriter(const Execution& execution, void (*const (&kernel)[2])(const KernelWork&),
                const Tiling<T>& tiling, const Weights<T>& weights, const Work& all)
      : access_(execution),
        layout_(tiling.layout()),
        kernel_(kernel[layout_]),
        fence_(execution.kernels->fence),
        weights_(weights),
        all_(all) {}
  void write(const Tile& tile, size_t at, size_t channel) const override {
    Work work = all_;
    static_cast<typename Work::Plain&>(work) =
        part_of(static_cast<const typename Work::Plain&>(all_), tile, at, channel);
    work.bias += channel;
    work.present = weights_.work(at);
    access_.write(kernel_, layout_, work);
  }
  void finish() const override {
    if (all_.streams) fence_();
  }

 private:
  const Access<S> access_;
  const Layout layout_;
  void (*kernel_)(const KernelWork&);
  void (*fence_)();
  const Weights<T>& weights_;
  const Work all_;
};

bool writes_plain(const Presence& presence) {
  return !presence.impute && !presence.zero;
}

/// Sums of all chunks, then merge(channels).
template <typename S, typename Sums>
void sum_all(Scratch& scratch, const Execution& execution, const Partition<Compute<S>>& partition,
             size_t summed, const Sums& sums) {
  const size_t width = partition.width();
  const size_t channels = partition.shape().channels;
  const Plan plan = plan_of_whole<S>(execution, partition,
                                     Crew(execution, summed * partition.shape().size() * sizeof(S)), kCached);
  const PresentPartials partials(scratch, partition.chunks(), round_up(width, kLanes<Compute<S>>));
  const size_t groups = divide_up(width, plan.group);
  work(plan.crew, partition.chunks() * groups, [&](size_t task, size_t) {
    sums.sum(task / groups, part(width, plan.group, task % groups), partials);
  });
  work(plan.crew, divide_up(channels, plan.settled),
       [&](size_t task, size_t) { sums.merge(part(channels, plan.settled, task), partials); });
}

void clear(size_t channels, const Statistics& statistics) {
  for (double* array : {statistics.count, statistics.squares, statistics.mean, statistics.variance})
    std::fill_n(array, channels, 0.0);
}

/// What a backward pass reads: coefficients, and what the activation lets through.
template <typename S>
class PresentBackward {
  using T = Compute<S>;

 public:
  PresentBackward(const Execution& execution, const Tiling<T>& tiling, const Backward<S>& pass,
                  const Presence& presence, S* room)
      : kernels_(kernels_of<T>(*execution.kernels)),
        pass_(pass),
        mask_(const_cast<unsigned char*>(find_mask(execution, presence, room))),
        weights_(scratch, tiling, presence, true),
        normalization_{take(tiling), take(tiling), take(tiling)},
        bias_(take(tiling)) {
    SettleNormalization<T>{kernels_,      tiling,      pass.eps,  pass.mean,
                           pass.variance, pass.weight, pass.bias, normalization_}({0, pass.shape.channels});
    place(tiling, pass.bias, bias_);
  }

  Gate gate() const { return pass_.epilogue.activation == kIdentity ? kOpen : mask_ ? kMasked : kRecomputed; }
  T* take(const Tiling<T>& tiling) { return scratch.take<T>(padded_width(tiling)); }
  const Weights<T>& weights() const { return weights_; }
  const Normalization<T>& normalization() const { return normalization_; }
  const T* bias() const { return bias_; }
  unsigned char* mask() const { return mask_; }

 private:
  const unsigned char* find_mask(const Execution& execution, const Presence& presence, S* room) {
    if (pass_.epilogue.activation == kIdentity) return nullptr;
    if (pass_.mask || !pass_.epilogue.residual) return pass_.mask;
    own_mask_.reset(new unsigned char[mask_bytes(pass_.shape.size())]);
    infer_present<S>(
        execution,
        {pass_.shape, pass_.eps, pass_.x, room, pass_.weight, pass_.bias, pass_.epilogue, own_mask_.get()},
        presence, pass_.mean, pass_.variance);
    return own_mask_.get();
  }

  const Kernels<T>& kernels_;
  const Backward<S>& pass_;
  std::unique_ptr<unsigned char[]> own_mask_;
  unsigned char* const mask_;

 public:
  // Behind find_mask(), which is a pass of its own: calls do not nest.
  Scratch scratch;

 private:
  const Weights<T> weights_;
  const Normalization<T> normalization_;
  T* const bias_;
};

/// Sums of the dy that the activation lets through and that belong to a value, per chunk.
template <typename S>
class PresentGradSums {
  using T = Compute<S>;

 public:
  PresentGradSums(const Execution& execution, PresentBackward<S>& backward, const Partition<T>& partition,
                  const Backward<S>& pass, GradientSums to, double* bias)
      : access_(execution),
        kernels_(kernels_of<T>(*execution.kernels)),
        backward_(backward),
        partition_(partition),
        chunks_(take_chunks(backward.scratch, partition)),
        pass_(pass),
        to_{to.dy, to.dy_xc, bias} {
    const size_t width = padded_width(partition);
    double* const centre = backward.scratch.template take<double>(width + kLanes<T>);
    std::copy_n(backward.normalization().mean, width, centre);
    centre_ = centre;
  }

  void sum(size_t chunk, Range channels, const PresentPartials& partials) const {
    const Span& span = chunks_[chunk];
    channels = partition_.channels_of(span, channels);
    if (channels.begin >= channels.end) return;
    const size_t at = partials.at(chunk, channels.begin);
    double* const to[] = {partials.sums[0] + at, partials.sums[1] + at,
                          to_[2] ? partials.sums[2] + at : nullptr};
    sum_span(kernels_, partition_, span, channels, to,
             [&](Tile tile, size_t first, size_t channel, double* const(&sums)[3]) {
               const Normalization<T>& c = backward_.normalization();
               access_.sum(kernels_.present_grad_sums[partition_.layout()], partition_.layout(),
                           PresentGradSumsWork<S>{tile,
                                                  pass_.dy + first,
                                                  pass_.x + first,
                                                  {backward_.mask(), first},
                                                  backward_.gate(),
                                                  c.mean + channel,
                                                  c.scale + channel,
                                                  c.offset + channel,
                                                  backward_.bias() + channel,
                                                  centre_ + channel,
                                                  backward_.weights().work(first),
                                                  sums[0],
                                                  sums[1],
                                                  sums[2]});
             });
  }

  void merge(Range channels, const PresentPartials& partials) const {
    for (size_t kind = 0; kind < 3; kind++) {
      double* const to = to_[kind];
      if (!to) continue;
      std::fill(to + channels.begin, to + channels.end, 0.0);
      for (size_t chunk = 0; chunk < partition_.chunks(); chunk++)
        for_each_copy(partition_, chunks_[chunk], channels, [&](size_t in_chunk, size_t first, size_t count) {
          const double* const from = partials.sums[kind] + partials.at(chunk, in_chunk);
          for (size_t i = 0; i < count; i++) to[first + i] += from[i];
        });
    }
  }

 private:
  const Access<S> access_;
  const Kernels<T>& kernels_;
  const PresentBackward<S>& backward_;
  const Partition<T>& partition_;
  const Span* chunks_;
  const Backward<S>& pass_;
  double* const to_[3];
  const double* centre_;
};

}  // namespace

template <typename S>
void moments_of_present(const Execution& execution, Shape shape, const S* x, const Presence& presence,
                        Statistics statistics) {
  using T = Compute<S>;
  if (shape.size() == 0) return clear(shape.channels, statistics);
  Scratch scratch;
  const Partition<T> partition(tiling_of<T>(shape, presence));
  const Weights<T> weights(scratch, partition, presence, false);
  const PresentMomentSums<S> sums(scratch, execution, partition, weights, x, presence.missing, statistics);
  sum_all<S>(scratch, execution, partition, 1, sums);
}

template <typename S>
void infer_present(const Execution& execution, const Forward<S>& pass, const Presence& presence,
                   const double* mean, const double* variance) {
  using T = Compute<S>;
  if (writes_plain(presence)) return forward_inference<S>(execution, pass, mean, variance);
  const Shape& shape = pass.shape;
  if (shape.size() == 0) return;
  Scratch scratch;
  const Tiling<T> tiling = tiling_of<T>(shape, presence);
  const WritePlan plan = plan_of_write<S>(execution, tiling, pass.x == pass.y);
  const Kernels<T>& kernels = kernels_of<T>(*execution.kernels);
  const Weights<T> weights(scratch, tiling, presence, true);
  const auto take = [&] { return scratch.take<T>(padded_width(tiling)); };
  const Normalization<T> c = {take(), take(), take()};
  SettleNormalization<T>{
      kernels, tiling, pass.eps, mean, variance, pass.weight, pass.bias, c}({0, shape.channels});
  T* const bias = take();
  place(tiling, pass.bias, bias);
  // A mask is made of y.
  const bool streams = plan.stores == kStreamed && !pass.mask;
  const PresentWriter<S, PresentNormalizeWork<S>, PresentNormalizeWork<T>> writer(
      execution, kernels.present_normalize, tiling, weights,
      {{{}, pass.x, pass.epilogue.residual, {pass.mask, 0}, pass.y, c.mean, c.scale, c.offset},
       bias,
       pass.epilogue.activation,
       {},
       streams});
  clear_mask(pass.mask, pass.y, shape.size());
  sweep<S>(plan.crew, tiling, writer, false);
}

template <typename S>
void grad_sums_of_present(const Execution& execution, const Backward<S>& pass, const Presence& presence,
                          S* residual, GradientSums sums, double* bias) {
  const size_t channels = pass.shape.channels;
  if (pass.shape.size() == 0) {
    for (double* array : {sums.dy, sums.dy_xc, bias})
      if (array) std::fill_n(array, channels, 0.0);
    return;
  }
  using T = Compute<S>;
  const Partition<T> partition(tiling_of<T>(pass.shape, presence));
  PresentBackward<S> backward(execution, partition, pass, presence, residual);
  const PresentGradSums<S> all(execution, backward, partition, pass, sums, presence.impute ? bias : nullptr);
  sum_all<S>(backward.scratch, execution, partition, 2, all);
}

template <typename S>
void grad_input_of_present(const Execution& execution, const Backward<S>& pass, const Presence& presence,
                           GradientSums sums, const double* count, S* dx, S* residual) {
  using T = Compute<S>;
  const Shape& shape = pass.shape;
  if (shape.size() == 0) return;
  const Kernels<T>& kernels = kernels_of<T>(*execution.kernels);
  const Tiling<T> tiling = tiling_of<T>(shape, presence);
  const WritePlan plan = plan_of_write<S>(execution, tiling, pass.dy == dx);
  PresentBackward<S> backward(execution, tiling, pass, presence, residual);
  const auto take = [&] { return backward.scratch.template take<double>(shape.channels); };
  // Kernels multiply by shares of the largest weight.
  const GradientSums means = {take(), take()};
  for (size_t channel = 0; channel < shape.channels; channel++) {
    const bool counts = count && count[channel] > 0;
    const double part = counts ? backward.weights().largest() / count[channel] : 0;
    means.dy[channel] = counts ? sums.dy[channel] * part : 0;
    means.dy_xc[channel] = counts ? sums.dy_xc[channel] * part : 0;
  }
  T* const slope = backward.take(tiling);
  T* const constant = backward.take(tiling);
  const Normalization<T>& c = backward.normalization();
  SettleGradients<T>{kernels, tiling, pass.eps, 1,        pass.mean, pass.variance,
                     c.mean,  means,  slope,    constant, nullptr,   nullptr}({0, shape.channels});
  const PresentWriter<S, PresentGradInputWork<S>, PresentGradInputWork<T>> writer(
      execution, kernels.present_grad_input, tiling, backward.weights(),
      {{{}, pass.dy, pass.x, {backward.mask(), 0}, dx, residual, c.mean, slope, constant, c.scale, c.offset},
       backward.bias(),
       backward.gate(),
       {},
       plan.stores == kStreamed && dx != nullptr,
       presence.weights == nullptr,
       count == nullptr});
  sweep<S>(plan.crew, tiling, writer, false);
}

template <typename S>
void grad_weights(const Execution& execution, const Backward<S>& pass, const Presence& presence,
                  GradientSums sums, const double* count, double* dweights) {
  using T = Compute<S>;
  const Shape& shape = pass.shape;
  std::fill_n(dweights, shape.outer * shape.inner, 0.0);
  if (shape.size() == 0) return;
  Scratch scratch;
  const Tiling<T> tiling = tiling_of<T>(shape, presence);
  const auto take = [&] { return scratch.take<double>(padded_width(tiling) + kLanes<T>); };
  double* const mean = take();
  double* const inverse = take();
  double* const linear = take();
  double* const square = take();
  double* const least = take();
  const auto take_narrow = [&] { return scratch.take<T>(shape.channels); };
  const Normalization<T> c = {take_narrow(), take_narrow(), take_narrow()};
  kernels_of<T>(*execution.kernels)
      .normalization(
          {shape.channels, pass.eps, pass.mean, pass.variance, nullptr, nullptr, c.mean, c.scale, c.offset});
  for (size_t channel = 0; channel < shape.channels; channel++) {
    mean[channel] = pass.mean[channel];
    inverse[channel] = 1 / std::sqrt(pass.variance[channel] + pass.eps);
    const double low = mean[channel] - static_cast<double>(c.mean[channel]);
    const double weight = pass.weight ? static_cast<double>(pass.weight[channel]) : 1;
    const double part = count[channel] > 0 ? -weight / count[channel] : 0;
    const double dy_normalized = (sums.dy_xc[channel] - low * sums.dy[channel]) * inverse[channel];
    linear[channel] = part * sums.dy[channel];
    square[channel] = part / 2 * dy_normalized;
    least[channel] = pass.variance[channel] * inverse[channel] * inverse[channel];
    if (count[channel] > 0) continue;
    // Of what does not count.
    for (double* const array : {inverse, linear, square, least}) array[channel] = 0;
  }
  // A row of channels-last, or a sample, is a task's at a time.
  const size_t columns = tiling.layout() == kChannelsLast ? tiling.width() : shape.channels * shape.inner;
  const size_t rows = std::max<size_t>(1, kBlockBytes / sizeof(S) / columns);
  const auto add = kernels_of<T>(*execution.kernels).grad_weights[tiling.layout()];
  const Access<S> access(execution);
  work(Crew(execution, shape.size() * sizeof(S)), divide_up(shape.outer, rows), [&](size_t task, size_t) {
    const Range some = part(shape.outer, rows, task);
    const Span span = {some.begin, some.end - some.begin, 0,
                       tiling.layout() == kChannelsLast ? tiling.width() : shape.inner};
    tiling.for_each_tile(span, 0, tiling.width(), straight_ahead(0), [&](Tile tile, size_t at) {
      double* const to = dweights + at / (shape.channels * shape.inner) * shape.inner;
      access.sum(add, tiling.layout(),
                 GradWeightsWork<S>{tile, pass.x + at, mean, inverse, linear, square, least, to});
    });
  });
}

template <typename S>
size_t find_missing(const Execution& execution, Shape shape, const S* x, const double* weights) {
  const Access<S> access(execution);
  const size_t row = shape.channels * shape.inner;
  for (size_t at = 0; at < shape.size(); at++)
    if (access.is_nan(x + at) && (!weights || weights[at / row * shape.inner + at % shape.inner] > 0))
      return at;
  return shape.size();
}

#define INSTANCES(S)                                                                                   \
  template void moments_of_present<S>(const Execution&, Shape, const S*, const Presence&, Statistics); \
  template void infer_present<S>(const Execution&, const Forward<S>&, const Presence&, const double*,  \
                                 const double*);                                                       \
  template void grad_sums_of_present<S>(const Execution&, const Backward<S>&, const Presence&, S*,     \
                                        GradientSums, double*);                                        \
  template void grad_input_of_present<S>(const Execution&, const Backward<S>&, const Presence&,        \
                                         GradientSums, const double*, S*, S*);                         \
  template void grad_weights<S>(const Execution&, const Backward<S>&, const Presence&, GradientSums,   \
                                const double*, double*);                                               \
  template size_t find_missing<S>(const Execution&, Shape, const S*, const double*);
INSTANCES(float)
INSTANCES(double)
INSTANCES(Half)

}  // namespace batchnorm
