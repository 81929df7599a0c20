#include "batchnorm.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <new>
#include <numeric>
#include <type_traits>

#include "parallel.h"
#include "partition.h"
#include "scratch.h"

namespace batchnorm {
namespace {

// ---- Blocks: the units of traversal. They follow caches and threads and change no bit. ----

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

/// How far ahead of a long run memory is asked for: memory has answered, and the caches still hold the
/// answer.
constexpr size_t kAheadBytes = size_t{16} << 10;
/// The same for the sums of channels-first, which take turns with other readers of the nearest cache.
constexpr size_t kSumsAheadBytes = size_t{8} << 10;

inline void prefetch(const void* at) {
#if defined(__GNUC__)
  __builtin_prefetch(at);
#endif
}

/// [0, total) in parts of `size`; part `index`.
struct Range {
  size_t begin;
  size_t end;
};
constexpr Range part(size_t total, size_t size, size_t index) {
  return {index * size, std::min(total, (index + 1) * size)};
}

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

// ---- Per-channel arithmetic, in double. ----

/// The length of a per-channel array that kernels read: a partition's width, and in channels-last what the
/// streaming ones read of the next row.
template <typename T>
size_t padded_width(const Tiling<T>& tiling) {
  return tiling.layout() == kChannelsFirst ? tiling.width() : tiling.width() + kLanes<T>;
}

/// Copies the values of channels [begin, end) to all their other places in such arrays.
template <typename T, typename... Arrays>
void repeat(const Tiling<T>& tiling, Range channels, Arrays*... arrays) {
  const size_t width = tiling.shape().channels;
  const size_t end = padded_width(tiling);
  for (size_t copy = width; copy + channels.begin < end; copy += width) {
    const size_t count = std::min(channels.end, end - copy) - channels.begin;
    (std::copy_n(arrays + channels.begin, count, arrays + copy + channels.begin), ...);
  }
}

/// The per-channel arrays of the normalize kernel.
template <typename T>
struct Normalization {
  T* mean;
  T* scale;
  T* offset;
  operator Normalization<const T>() const { return {mean, scale, offset}; }
  /// Of channels from `channel` on.
  Normalization from(size_t channel) const { return {mean + channel, scale + channel, offset + channel}; }
};

template <typename T>
void set_normalization(const Normalization<T>& coefficients, const Kernels<T>& kernels,
                       const Tiling<T>& tiling, Range channels, double eps, const double* mean,
                       const double* variance, const T* weight, const T* bias) {
  const size_t at = channels.begin;
  kernels.normalization(channels.end - at, eps, mean + at, variance + at, weight ? weight + at : nullptr,
                        bias ? bias + at : nullptr, coefficients.mean + at, coefficients.scale + at,
                        coefficients.offset + at);
  repeat(tiling, channels, coefficients.mean, coefficients.scale, coefficients.offset);
}

/// Whether a result goes past the caches: not in place, where its lines are in the cache already.
template <typename T>
bool is_streamed(const Execution& execution, const Tiling<T>& tiling, const T* from, const T* to) {
  const Shape& shape = tiling.shape();
  return from != to && shape.size() * sizeof(T) >= execution.stream_bytes &&
         (tiling.layout() == kChannelsLast || shape.inner >= kLanes<T>);
}

/// Takes a per-channel array that kernels read while they write `to`. Where they stream channels-last rows
/// they load it where lines of `to` begin: it begins as far behind a line as `to`, for a load that straddles
/// two lines costs two.
template <typename T>
T* take_coefficients(Scratch& scratch, const Tiling<T>& tiling, bool streamed, const T* to) {
  const size_t shift = streamed && tiling.layout() == kChannelsLast
                           ? reinterpret_cast<uintptr_t>(to) % kAlignment / sizeof(T)
                           : 0;
  return scratch.take<T>(padded_width(tiling) + shift) + shift;
}

/// What becomes of them: sums of chunks and channels, and the shifts they refer to.
template <typename T>
struct Partials {
  Partials() = default;
  Partials(Scratch& scratch, size_t chunks, size_t channels)
      : stride(channels),
        shifts(scratch.take<T>(chunks * channels)),
        first(scratch.take<double>(chunks * channels)),
        second(scratch.take<double>(chunks * channels)) {}

  size_t at(size_t chunk, size_t channel) const { return chunk * stride + channel - origin; }

  /// The channel that comes first in a chunk, and how many there are.
  size_t origin = 0;
  size_t stride;
  T* shifts;
  double* first;
  double* second;
};

/// Calls add(first place, first channel, count) for the runs of places that channels [begin, end) have in a
/// chunk, in the order of the copies.
template <typename T, typename Add>
void for_each_run(const Partition<T>& partition, const Span& span, Range channels, Add add) {
  const size_t width = partition.shape().channels;
  const size_t places = partition.layout() == kChannelsFirst ? width : span.length;
  for (size_t copy = 0; copy + channels.begin < places; copy += width)
    add(copy + channels.begin, channels.begin, std::min(copy + channels.end, places) - copy - channels.begin);
}

/// What kernels add to. Chunks of one stretch have sums of their own and no totals; else the sums, which
/// every chunk leaves at 0, are those of all, and the totals each chunk's: in channels-last they are its
/// partials.
template <typename T>
class Accumulators {
 public:
  /// For so many chunks of so many channels, to be collected together.
  Accumulators(Scratch& scratch, const Partition<T>& partition, size_t chunks, size_t channels)
      : layout_(partition.layout()), one_stretch_(partition.is_one_stretch()) {
    const size_t each = size(channels);
    first_ = scratch.take<T>(one_stretch_ ? chunks * each : each);
    second_ = scratch.take<T>(one_stretch_ ? chunks * each : each);
    if (one_stretch_) return;
    std::fill_n(first_, each, T{0});
    std::fill_n(second_, each, T{0});
    if (layout_ == kChannelsLast) return;
    first_totals_ = scratch.take<double>(chunks * each);
    second_totals_ = scratch.take<double>(chunks * each);
  }

  /// Where the sums of chunk `index` begin; those of all before it have been asked for.
  LaneSums<T> begin(size_t index, size_t chunk, Range channels, const Partials<T>& partials) const {
    const size_t count = size(channels.end - channels.begin);
    if (one_stretch_) {
      LaneSums<T> sums = {first_ + index * count, second_ + index * count, nullptr, nullptr};
      std::fill_n(sums.first, count, T{0});
      std::fill_n(sums.second, count, T{0});
      return sums;
    }
    const bool last = layout_ == kChannelsLast;
    const size_t at = last ? partials.at(chunk, channels.begin) : index * count;
    LaneSums<T> sums = {first_, second_, (last ? partials.first : first_totals_) + at,
                        (last ? partials.second : second_totals_) + at};
    std::fill_n(sums.first_total, count, 0.0);
    std::fill_n(sums.second_total, count, 0.0);
    return sums;
  }

  /// Turns what channels of some chunks have added up into partials, which hold these channels alone if there
  /// are several chunks.
  void collect(const Kernels<T>& kernels, Range chunks, Range channels, const Partials<T>& partials) const {
    const size_t count = (chunks.end - chunks.begin) * (channels.end - channels.begin);
    const size_t at = partials.at(chunks.begin, channels.begin);
    if (one_stretch_) {
      kernels.collect[layout_](first_, count, partials.first + at);
      kernels.collect[layout_](second_, count, partials.second + at);
    } else if (layout_ == kChannelsFirst) {
      kernels.collect_totals(first_totals_, count, partials.first + at);
      kernels.collect_totals(second_totals_, count, partials.second + at);
    }
  }

 private:
  size_t size(size_t channels) const {
    return round_up(layout_ == kChannelsFirst ? channels * kLanes<T> : channels, kLanes<T>);
  }

  Layout layout_;
  bool one_stretch_;
  T* first_;
  T* second_;
  double* first_totals_ = nullptr;
  double* second_totals_ = nullptr;
};

/// Nine values of channel `channel` from all over a span: images begin with borders.
template <typename T>
void find_nine(const Partition<T>& partition, const Span& span, size_t channel, const T* x,
               const T* (&nine)[9]) {
  const size_t ninth = partition.values(span, channel) / 9;
  size_t places[9];
  // Odd, so that it does not keep to one column of an image.
  partition.find_places(span, channel, ninth == 0 ? 0 : (ninth - 1) | 1, places);
  for (size_t i = 0; i < 9; i++) nine[i] = x + places[i];
}

/// All chunks in their order.
template <typename T>
const Span* take_chunks(Scratch& scratch, const Partition<T>& partition) {
  Span* const chunks = scratch.take<Span>(partition.chunks());
  for (size_t chunk = 0; chunk < partition.chunks(); chunk++) chunks[chunk] = partition.chunk(chunk);
  return chunks;
}

/// What the sums of channels [begin, end) of a span ask memory for: what follows, and where a sample has no
/// more of these channels what the next one has.
template <typename T>
Ahead ahead(const Partition<T>& partition, const Span& span, Range channels) {
  const Shape& shape = partition.shape();
  if (partition.layout() == kChannelsLast) return straight_ahead(kAheadBytes / sizeof(T));
  const size_t run = (channels.end - channels.begin - 1) * shape.inner + span.length;
  const bool goes_on = span.offset + span.length < shape.inner;
  const size_t skip = goes_on ? 0 : (shape.channels - (channels.end - channels.begin)) * shape.inner;
  return {std::min(kSumsAheadBytes / sizeof(T), run), run, static_cast<ptrdiff_t>(skip)};
}

/// A sum in double, and beside it what its roundings have lost (Neumaier, 1974).
class CompensatedSum {
 public:
  void add(double value) {
    const double total = sum_ + value;
    lost_ += std::fabs(sum_) >= std::fabs(value) ? (sum_ - total) + value : (value - total) + sum_;
    sum_ = total;
  }
  double value() const { return sum_ + lost_; }

 private:
  double sum_ = 0;
  double lost_ = 0;
};

/// Sums of deviations from a shift near the data, per chunk.
template <typename T>
class Moments {
 public:
  Moments(Scratch& scratch, const Execution& execution, const Partition<T>& partition, const T* x)
      : kernels_(kernels_of<T>(*execution.kernels)),
        partition_(partition),
        chunks_(take_chunks(scratch, partition)),
        x_(x),
        reference_sums_(scratch.take<double>(partition.shape().channels)),
        reference_squares_(scratch.take<double>(partition.shape().channels)) {}

  /// Asks memory for what sum() will want first, from many places at once.
  void expect(size_t chunk, Range channels) const {
    const T* nine[9];
    find_nine(partition_, chunks_[chunk], channels.begin, x_, nine);
    for (size_t channel = channels.begin; channel < channels.end; channel++)
      for (const T*& at : nine) {
        prefetch(at);
        at += partition_.channel_stride();
      }
  }

  /// Adds up channels [begin, end) < width of one chunk: run(work) does each tile.
  template <typename Run>
  void sum(size_t chunk, Range channels, const LaneSums<T>& sums, const Partials<T>& partials,
           Run run) const {
    const Span& span = chunks_[chunk];
    if (partition_.layout() == kChannelsLast) channels.end = std::min(channels.end, span.length);
    if (channels.begin >= channels.end) return;
    // Being values of the data, shifts lie on their grid: deviations of data with few mantissa bits, and
    // their squares, are exact, and those of a constant channel are 0.
    T* const shifts = partials.shifts + partials.at(chunk, channels.begin);
    const T* nine[9];
    find_nine(partition_, span, channels.begin, x_, nine);
    kernels_.centres(nine, partition_.channel_stride(), channels.end - channels.begin, shifts);
    size_t before = 0;
    partition_.for_each_tile(
        span, channels.begin, channels.end, ahead(partition_, span, channels), [&](Tile tile, size_t at) {
          run(MomentsWork<T>{tile, x_ + at, shifts, sums, partition_.ends_stretch(span, before++)});
        });
  }

  /// What is to be done when the partials of channels of some chunks are there.
  void check(Range chunks, Range channels, const Partials<T>& partials) const {
    for (size_t chunk = chunks.begin; chunk < chunks.end; chunk++) {
      const Span& span = chunks_[chunk];
      Range summed = channels;
      if (partition_.layout() == kChannelsLast) summed.end = std::min(channels.end, span.length);
      if (summed.begin >= summed.end) return;
      const double values = static_cast<double>(partition_.values(span, summed.begin));
      while (true) {
        const size_t at = partials.at(chunk, summed.begin);
        summed.begin +=
            kernels_.find_bad(summed.end - summed.begin, values, partials.first + at, partials.second + at);
        if (summed.begin == summed.end) break;
        const size_t bad = partials.at(chunk, summed.begin);
        sum_in_double(span, summed.begin, partials.shifts[bad], partials.first[bad], partials.second[bad]);
        summed.begin++;
      }
    }
  }

  void run(const MomentsWork<T>& work) const { kernels_.moments[partition_.layout()](work); }

  /// Mean and biased variance of channels [begin, end) of the tensor: the chunks in their order, all with
  /// reference to the shift of the first.
  void merge(Range channels, const Partials<T>& partials, double* mean, double* variance) const {
    for (size_t channel = channels.begin; channel < channels.end; channel++) {
      reference_sums_[channel] = 0;
      reference_squares_[channel] = 0;
    }
    const T* const reference = partials.shifts + partials.at(0, channels.begin);
    for (size_t chunk = 0; chunk < partition_.chunks(); chunk++) {
      const Span& span = chunks_[chunk];
      const double values = static_cast<double>(partition_.values(span, 0));
      for_each_run(partition_, span, channels, [&](size_t place, size_t channel, size_t run) {
        const size_t at = partials.at(chunk, place);
        kernels_.merge(run, values, partials.first + at, partials.second + at, partials.shifts + at,
                       reference + (channel - channels.begin), reference_sums_ + channel,
                       reference_squares_ + channel);
      });
    }
    const size_t at = channels.begin;
    kernels_.statistics(channels.end - at, static_cast<double>(partition_.shape().count()), reference,
                        reference_sums_ + at, reference_squares_ + at, mean + at, variance + at);
    // Squares of float32 do not overflow in double.
    if constexpr (std::is_same_v<T, double>)
      if (const size_t count = channels.end - at;
          kernels_.find_bad(count, 1, mean + at, variance + at) < count)
        mend(channels, mean, variance);
  }

 private:
  /// Statistics that are not finite though the data is, once more.
  void mend(Range channels, double* mean, double* variance) const {
    const size_t end = channels.end;
    for (Range block = channels; block.begin < end; block.begin = block.end) {
      block.end = std::min(end, block.begin + kMended);
      bool open[kMended];
      for (size_t channel = block.begin; channel < block.end; channel++)
        open[channel - block.begin] = !std::isfinite(mean[channel]) || !std::isfinite(variance[channel]);
      keep_finite(block, open);
      for (size_t channel = block.begin; channel < block.end; channel++)
        if (open[channel - block.begin]) find_scaled(channel, mean[channel], variance[channel]);
    }
  }

  /// Channels looked at together: a few lines of a row.
  static constexpr size_t kMended = 64;

  /// Closes the channels of a block that have a value which is not finite, at the first of them or soon
  /// after.
  void keep_finite(Range block, bool (&open)[kMended]) const {
    const Shape& shape = partition_.shape();
    const size_t count = block.end - block.begin;
    if (shape.inner > 1) {
      for (size_t i = 0; i < count; i++)
        for (size_t sample = 0; sample < shape.outer && open[i]; sample++) {
          const T* const values = x_ + (sample * shape.channels + block.begin + i) * shape.inner;
          open[i] = std::all_of(values, values + shape.inner, [](T value) { return std::isfinite(value); });
        }
      return;
    }
    // Of x - x, which is 0 or NaN: a loop over columns that the compiler does several at a time.
    T nothing[kMended] = {};
    constexpr size_t kRows = 32;
    for (size_t row = 0; row < shape.outer; row++) {
      const T* const values = x_ + row * shape.channels + block.begin;
      for (size_t i = 0; i < count; i++) nothing[i] += values[i] - values[i];
      if ((row + 1) % kRows != 0 && row + 1 < shape.outer) continue;
      for (size_t i = 0; i < count; i++) open[i] = open[i] && nothing[i] == 0;
      if (std::none_of(open, open + count, [](bool is_open) { return is_open; })) return;
    }
  }

  /// In two passes over values so small that no square of them overflows: only what is found may.
  void find_scaled(size_t channel, double& mean, double& variance) const {
    // Where squares have overflowed, what such a scale takes below the smallest double is no matter.
    constexpr double kDown = 0x1p-600;
    constexpr double kUp = 0x1p600;
    const Shape& shape = partition_.shape();
    const auto mean_of = [&](auto term) {
      CompensatedSum sum;
      for (size_t sample = 0; sample < shape.outer; sample++) {
        const T* const values = x_ + (sample * shape.channels + channel) * shape.inner;
        for (size_t i = 0; i < shape.inner; i++) sum.add(term(values[i] * kDown));
      }
      return sum.value() / static_cast<double>(shape.count());
    };
    const double centre = mean_of([](double value) { return value; });
    const double rest = mean_of([=](double value) { return value - centre; });
    const double squares = mean_of([=](double value) { return (value - centre) * (value - centre); });
    mean = (centre + rest) * kUp;
    variance = (squares - rest * rest) * kUp * kUp;
  }

  /// In double, where float32 sums overflow (deviations from 1e19 on), where the shift is far from the mean,
  /// and where the data is not finite, for then the result must not depend on the order of the additions.
  void sum_in_double(const Span& span, size_t channel, T& shift, double& first, double& second) const {
    if (!std::isfinite(shift)) shift = 0;
    double sums[kLanes<T>] = {};
    double squares[kLanes<T>] = {};
    partition_.for_each_tile(span, channel, channel + 1, straight_ahead(0), [&](Tile tile, size_t at) {
      const T* values = x_ + at;
      size_t count = tile.columns;
      T column[Partition<T>::kChunkRows];
      if (partition_.layout() == kChannelsLast) {
        count = tile.rows;
        for (size_t row = 0; row < count; row++) column[row] = values[row * tile.stride];
        values = column;
      }
      kernels_.add_in_double(values, count, static_cast<double>(shift), sums, squares);
    });
    for (size_t half = kLanes<T> / 2; half > 0; half /= 2)
      for (size_t lane = 0; lane < half; lane++) {
        sums[lane] += sums[lane + half];
        squares[lane] += squares[lane + half];
      }
    first = sums[0];
    second = squares[0];
  }

  const Kernels<T>& kernels_;
  const Partition<T>& partition_;
  const Span* chunks_;
  const T* x_;
  double* reference_sums_;
  double* reference_squares_;
};

/// Sums of dy and dy * (x - mean), per chunk, of the dy that the activation lets through.
template <typename T>
class GradSums {
 public:
  GradSums(Scratch& scratch, const Execution& execution, const Partition<T>& partition, const T* dy,
           const T* x, Gate gate, unsigned char* mask, Normalization<const T> coefficients)
      : kernels_(kernels_of<T>(*execution.kernels)),
        pass_(kernels_.grad_sums[gate][partition.layout()]),
        partition_(partition),
        chunks_(take_chunks(scratch, partition)),
        dy_(dy),
        x_(x),
        mask_(mask),
        coefficients_(coefficients),
        sums_dy_(scratch.take<double>(partition.shape().channels)),
        sums_dy_xc_(scratch.take<double>(partition.shape().channels)) {}

  /// sum() begins where it goes on.
  void expect(size_t, Range) const {}

  /// Adds up channels [begin, end) < width of one chunk: run(work) does each tile.
  template <typename Run>
  void sum(size_t chunk, Range channels, const LaneSums<T>& sums, const Partials<T>&, Run run) const {
    const Span& span = chunks_[chunk];
    const Normalization<const T> c = coefficients_.from(channels.begin);
    size_t before = 0;
    partition_.for_each_tile(span, channels.begin, channels.end, ahead(partition_, span, channels),
                             [&](Tile tile, size_t at) {
                               run(GradSumsWork<T>{tile,
                                                   dy_ + at,
                                                   x_ + at,
                                                   {mask_, at},
                                                   c.mean,
                                                   c.scale,
                                                   c.offset,
                                                   sums,
                                                   partition_.ends_stretch(span, before++)});
                             });
  }

  void check(Range, Range, const Partials<T>&) const {}

  void run(const GradSumsWork<T>& work) const { pass_(work); }

  /// The sums of channels [begin, end) of the tensor, the chunks in their order.
  void merge(Range channels, const Partials<T>& partials) const {
    for (size_t channel = channels.begin; channel < channels.end; channel++) {
      sums_dy_[channel] = 0;
      sums_dy_xc_[channel] = 0;
    }
    for (size_t chunk = 0; chunk < partition_.chunks(); chunk++)
      for_each_run(partition_, chunks_[chunk], channels, [&](size_t place, size_t channel, size_t run) {
        const size_t at = partials.at(chunk, place);
        for (size_t i = 0; i < run; i++) {
          sums_dy_[channel + i] += partials.first[at + i];
          sums_dy_xc_[channel + i] += partials.second[at + i];
        }
      });
  }
  const double* sums_dy() const { return sums_dy_; }
  const double* sums_dy_xc() const { return sums_dy_xc_; }

 private:
  const Kernels<T>& kernels_;
  void (*pass_)(const GradSumsWork<T>&);
  const Partition<T>& partition_;
  const Span* chunks_;
  const T* dy_;
  const T* x_;
  unsigned char* mask_;
  Normalization<const T> coefficients_;
  double* sums_dy_;
  double* sums_dy_xc_;
};

// ---- Writers: one tile of a result, with the stores that suit its size. ----

/// The part of a work that a tile at value `at` and channel `channel` of the tensor is.
template <typename T>
NormalizeWork<T> part_of(const NormalizeWork<T>& all, Tile tile, size_t at, size_t channel) {
  return {tile,
          all.x + at,
          all.residual ? all.residual + at : nullptr,
          {all.mask.bytes, all.mask.at + at},
          all.y + at,
          all.mean + channel,
          all.scale + channel,
          all.offset + channel};
}
template <typename T>
GradInputWork<T> part_of(const GradInputWork<T>& all, Tile tile, size_t at, size_t channel) {
  return {tile,
          all.dy + at,
          all.x + at,
          {all.mask.bytes, all.mask.at + at},
          all.dx + at,
          all.dresidual ? all.dresidual + at : nullptr,
          all.mean + channel,
          all.slope + channel,
          all.constant + channel,
          all.scale + channel,
          all.offset + channel};
}

template <typename Work, typename Sums>
class Writer {
 public:
  Writer(const Execution& execution, const WritingPass<Work, Sums>& pass, Layout layout, bool streamed,
         const Work& all)
      : pass_(pass),
        layout_(layout),
        stores_(streamed ? kStreamed : kCached),
        fence_(execution.kernels->fence),
        all_(all) {}
  void write(Tile tile, size_t at, size_t channel) const {
    pass_.alone[stores_][layout_](part_of(all_, tile, at, channel));
  }
  bool can_stream_beside() const { return stores_ == kStreamed && pass_.stream_beside; }
  void stream_beside(Tile tile, size_t at, size_t channel, const Sums& sums) const {
    pass_.stream_beside(part_of(all_, tile, at, channel), sums);
  }
  /// After the last tile of a task.
  void finish() const {
    if (stores_ == kStreamed) fence_();
  }

 private:
  const WritingPass<Work, Sums>& pass_;
  Layout layout_;
  Stores stores_;
  void (*fence_)();
  Work all_;
};

// ---- Traversals: sum every chunk, settle every channel, write every value. ----

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

/// Begins a mask for what will be written to y.
template <typename T>
void clear_mask(unsigned char* mask, const T* y, size_t size) {
  if (!mask) return;
  std::fill_n(mask, mask_bytes(size), static_cast<unsigned char>(0));
  mask[0] = static_cast<unsigned char>(reinterpret_cast<uintptr_t>(y) % kAlignment / sizeof(T));
}

/// The pass that normalizes with an epilogue.
template <typename T>
auto normalizer(const Execution& execution, const Tiling<T>& tiling, bool streamed, const T* x, T* y,
                const Normalization<const T>& coefficients, Epilogue<T> epilogue, unsigned char* mask) {
  return Writer(
      execution,
      kernels_of<T>(*execution.kernels).normalize[epilogue.residual != nullptr][epilogue.activation],
      tiling.layout(), streamed,
      NormalizeWork<T>{{},
                       x,
                       epilogue.residual,
                       {mask, 0},
                       y,
                       coefficients.mean,
                       coefficients.scale,
                       coefficients.offset});
}

/// Writes a whole tensor, forwards.
template <typename T, typename Writer>
void write_all(const Execution& execution, const Tiling<T>& tiling, const Writer& writer) {
  sweep(Crew(execution, tiling.shape().size() * sizeof(T)), tiling, writer, false);
}

/// to = from where the mask has a bit, else 0; a copy where there is none.
template <typename T>
void apply_mask(const Execution& execution, size_t size, const T* from, const unsigned char* mask, T* to) {
  const bool streamed = size * sizeof(T) >= execution.stream_bytes;
  constexpr size_t block = kBlockBytes / sizeof(T);
  const auto apply = kernels_of<T>(*execution.kernels).apply_mask[streamed];
  Crew(execution, size * sizeof(T)).work(divide_up(size, block), [&](size_t task, size_t) {
    const Range range = part(size, block, task);
    const size_t count = range.end - range.begin;
    if (!mask) {
      std::copy_n(from + range.begin, count, to + range.begin);
      return;
    }
    apply({count, from + range.begin, {const_cast<unsigned char*>(mask), range.begin}, to + range.begin});
    if (streamed) execution.kernels->fence();
  });
}

}  // namespace

template <typename T>
void forward_training(const Execution& execution, Shape shape, double eps, const T* x, T* y, const T* weight,
                      const T* bias, double* mean, double* variance, Epilogue<T> epilogue,
                      unsigned char* mask) {
  if (shape.size() == 0) {
    std::fill_n(mean, shape.channels, std::numeric_limits<double>::quiet_NaN());
    std::fill_n(variance, shape.channels, std::numeric_limits<double>::quiet_NaN());
    return;
  }
  Scratch scratch;
  const Partition<T> partition(shape);
  const Moments<T> moments(scratch, execution, partition, x);
  const bool streamed = is_streamed(execution, partition, x, y);
  const auto take = [&] { return take_coefficients(scratch, partition, streamed, y); };
  const Normalization<T> coefficients = {take(), take(), take()};
  const Kernels<T>& kernels = kernels_of<T>(*execution.kernels);
  const auto writer = normalizer<T>(execution, partition, streamed, x, y, coefficients, epilogue, mask);
  clear_mask(mask, y, shape.size());
  const auto settle = [&](Range channels, const Partials<T>& partials) {
    moments.merge(channels, partials, mean, variance);
    set_normalization(coefficients, kernels, partition, channels, eps, mean, variance, weight, bias);
  };
  sum_settle_write(scratch, execution, partition, 1, moments, settle, &writer);
}

template <typename T>
void forward_inference(const Execution& execution, Shape shape, double eps, const T* x, T* y, const T* weight,
                       const T* bias, const double* mean, const double* variance, Epilogue<T> epilogue,
                       unsigned char* mask) {
  if (shape.size() == 0) return;
  Scratch scratch;
  const Tiling<T> tiling(shape);
  const bool streamed = is_streamed(execution, tiling, x, y);
  const auto take = [&] { return take_coefficients(scratch, tiling, streamed, y); };
  const Normalization<T> coefficients = {take(), take(), take()};
  set_normalization(coefficients, kernels_of<T>(*execution.kernels), tiling, {0, shape.channels}, eps, mean,
                    variance, weight, bias);
  clear_mask(mask, y, shape.size());
  write_all(execution, tiling,
            normalizer<T>(execution, tiling, streamed, x, y, coefficients, epilogue, mask));
}

template <typename T>
void backward(const Execution& execution, Shape shape, double eps, bool training, const T* dy, const T* x,
              const double* mean, const double* variance, const T* weight, const T* bias,
              Epilogue<T> epilogue, const unsigned char* mask, Gradients<T> gradients) {
  if (shape.size() == 0) {
    if (gradients.weight) std::fill_n(gradients.weight, shape.channels, T{0});
    if (gradients.bias) std::fill_n(gradients.bias, shape.channels, T{0});
    return;
  }
  std::unique_ptr<unsigned char[]> own;
  if (epilogue.activation != kIdentity && epilogue.residual && !mask) {
    own.reset(new unsigned char[mask_bytes(shape.size())]);
    forward_inference<T>(execution, shape, eps, x, gradients.residual, weight, bias, mean, variance, epilogue,
                         own.get());
    mask = own.get();
  }
  const Gate gate = epilogue.activation == kIdentity ? kOpen : mask ? kMasked : kRecomputed;
  // Where dx follows from sums, the pass that writes it writes what the mask has let through as well.
  if (gradients.residual && (gate != kMasked || !training))
    apply_mask(execution, shape.size(), dy, mask, gradients.residual);
  Scratch scratch;
  const Partition<T> partition(shape);
  const bool streamed = is_streamed<T>(execution, partition, dy, gradients.input);
  const auto take = [&] { return take_coefficients<T>(scratch, partition, streamed, gradients.input); };
  T* const slope = take();
  T* const constant = take();
  // Only an activation asks for the offset of y.
  const Normalization<T> coefficients = {take(), take(), gate == kRecomputed ? take() : constant};
  const Kernels<T>& kernels = kernels_of<T>(*execution.kernels);
  set_normalization(coefficients, kernels, partition, {0, shape.channels}, eps, mean, variance, weight, bias);

  auto* const bits = const_cast<unsigned char*>(mask);
  const GradInputWork<T> work{{},
                              dy,
                              x,
                              {bits, 0},
                              gradients.input,
                              gradients.residual,
                              coefficients.mean,
                              slope,
                              constant,
                              coefficients.scale,
                              coefficients.offset};
  if (training || gradients.weight || gradients.bias) {
    const GradSums<T> sums(scratch, execution, partition, dy, x, gate, bits, coefficients);
    const Writer writer(execution, kernels.grad_input[gate], partition.layout(), streamed, work);
    const double count = static_cast<double>(shape.count());
    const auto settle = [&](Range channels, const Partials<T>& partials) {
      sums.merge(channels, partials);
      const size_t at = channels.begin;
      kernels.gradients(channels.end - at, eps, count, mean + at, variance + at, coefficients.mean + at,
                        sums.sums_dy() + at, sums.sums_dy_xc() + at, slope + at, constant + at,
                        gradients.weight ? gradients.weight + at : nullptr,
                        gradients.bias ? gradients.bias + at : nullptr);
      repeat(partition, channels, slope, constant);
    };
    sum_settle_write(scratch, execution, partition, 2, sums, settle,
                     training && gradients.input ? &writer : nullptr);
  }
  if (training || !gradients.input) return;
  if (gate == kRecomputed)
    return write_all(execution, partition,
                     Writer(execution, kernels.frozen_grad_input, partition.layout(), streamed, work));
  // Statistics that carry no gradient leave dx = dy * scale: nothing to subtract, nothing to add.
  std::fill_n(constant, padded_width(partition), T{0});
  write_all(execution, partition,
            normalizer<T>(execution, partition, streamed, gate == kMasked ? gradients.residual : dy,
                          gradients.input, {constant, coefficients.scale, constant}, {}, nullptr));
}

size_t update_running_stats(const KernelTable& kernels, size_t channels, const double* mean,
                            const double* variance, double count, double decay, bool unbiased,
                            double* running_mean, double* running_var, double* accepted) {
  const bool variance_exists = !unbiased || count > 1;
  const double correction = unbiased && variance_exists ? count / (count - 1) : 1;
  return kernels.average(channels, decay, correction, mean, variance, running_mean,
                         variance_exists ? running_var : nullptr, accepted);
}

namespace {

/// What lies at the first line of the memory of a frozen inference; three arrays of coefficients follow, each
/// as long as in channels-last, the beginning of which serves channels-first as well.
struct alignas(kAlignment) Frozen {
  size_t channels;
  /// Kept, for a division more would be noticed in a small call.
  size_t fold;
  Activation activation;
  size_t array_bytes;

  template <typename T>
  static Frozen of(size_t channels, Activation activation) {
    const size_t fold = fold_of<T>(channels);
    const size_t length = channels * fold + kLanes<T>;
    return {channels, fold, activation, round_up(length * sizeof(T), kAlignment)};
  }
  size_t bytes() const { return sizeof(Frozen) + 3 * array_bytes + kAlignment; }
  template <typename T>
  Normalization<T> coefficients() const {
    const auto array = [&](size_t index) {
      const auto* const first = reinterpret_cast<const unsigned char*>(this + 1);
      return reinterpret_cast<T*>(const_cast<unsigned char*>(first) + index * array_bytes);
    };
    return {array(0), array(1), array(2)};
  }
};

const Frozen& frozen_at(const unsigned char* memory) {
  return *reinterpret_cast<const Frozen*>(align(memory));
}

}  // namespace

template <typename T>
size_t frozen_bytes(size_t channels) {
  return Frozen::of<T>(channels, kIdentity).bytes();
}

template <typename T>
size_t frozen_channels(const unsigned char* memory, size_t bytes) {
  if (bytes < sizeof(Frozen) + kAlignment) return 0;
  const Frozen& frozen = frozen_at(memory);
  // The memory of a tensor bounds what can be right, so that nothing overflows.
  if (frozen.channels == 0 || frozen.channels > bytes) return 0;
  const Frozen right = Frozen::of<T>(frozen.channels, kIdentity);
  const bool is_right =
      frozen.fold == right.fold && frozen.array_bytes == right.array_bytes && bytes == right.bytes();
  return is_right ? frozen.channels : 0;
}

template <typename T>
void freeze(const Execution& execution, size_t channels, double eps, const double* mean,
            const double* variance, const T* weight, const T* bias, Activation activation,
            unsigned char* memory) {
  const auto* const frozen = new (align(memory)) Frozen(Frozen::of<T>(channels, activation));
  const Normalization<T> coefficients = frozen->coefficients<T>();
  std::fill_n(coefficients.mean, 3 * frozen->array_bytes / sizeof(T), T{0});
  set_normalization(coefficients, kernels_of<T>(*execution.kernels), Tiling<T>(Shape{1, channels, 1}),
                    {0, channels}, eps, mean, variance, weight, bias);
}

template <typename T>
void run_frozen(const Execution& execution, Shape shape, const unsigned char* memory, const T* x,
                const T* residual, T* y) {
  if (shape.size() == 0) return;
  const Frozen& frozen = frozen_at(memory);
  const Normalization<const T> coefficients = frozen.coefficients<const T>();
  const Tiling<T> tiling(shape, shape.inner == 1 ? frozen.fold : 1);
  const bool streamed = is_streamed(execution, tiling, x, y);
  const auto infer = [&](const Normalization<const T>& c) {
    write_all(execution, tiling,
              normalizer<T>(execution, tiling, streamed, x, y, c, {frozen.activation, residual}, nullptr));
  };
  if (!streamed) return infer(coefficients);
  Scratch scratch;
  const auto copy = [&](const T* array) {
    T* copied = take_coefficients(scratch, tiling, streamed, y);
    std::copy_n(array, padded_width(tiling), copied);
    return static_cast<const T*>(copied);
  };
  infer({copy(coefficients.mean), copy(coefficients.scale), copy(coefficients.offset)});
}

#define BATCHNORM_INSTANTIATE(T)                                                                        \
  template void forward_training<T>(const Execution&, Shape, double, const T*, T*, const T*, const T*,  \
                                    double*, double*, Epilogue<T>, unsigned char*);                     \
  template void forward_inference<T>(const Execution&, Shape, double, const T*, T*, const T*, const T*, \
                                     const double*, const double*, Epilogue<T>, unsigned char*);        \
  template void backward<T>(const Execution&, Shape, double, bool, const T*, const T*, const double*,   \
                            const double*, const T*, const T*, Epilogue<T>, const unsigned char*,       \
                            Gradients<T>);                                                              \
  template size_t frozen_bytes<T>(size_t);                                                              \
  template void freeze<T>(const Execution&, size_t, double, const double*, const double*, const T*,     \
                          const T*, Activation, unsigned char*);                                        \
  template size_t frozen_channels<T>(const unsigned char*, size_t);                                     \
  template void run_frozen<T>(const Execution&, Shape, const unsigned char*, const T*, const T*, T*);
BATCHNORM_INSTANTIATE(float)
BATCHNORM_INSTANTIATE(double)

}  // namespace batchnorm
