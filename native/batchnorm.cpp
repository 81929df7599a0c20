#include "batchnorm.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "parallel.h"
#include "partition.h"
#include "scratch.h"

namespace batchnorm {
namespace {

// ---- Blocks: the units of traversal. They follow caches and threads and change no bit. ----

/// What one task works on.
constexpr size_t kBlockBytes = size_t{256} << 10;
/// What the passes over a group of channels may reread from the cache.
constexpr size_t kCacheBytes = size_t{512} << 10;
/// A channel larger than this is not reread from any cache.
constexpr size_t kLargeChannelBytes = size_t{4} << 20;
/// Work below this is done before a second thread has joined.
constexpr size_t kBytesPerThread = size_t{64} << 10;
/// Waking a sleeping thread takes as long as this much work.
constexpr size_t kWakeBytes = size_t{1} << 20;
/// Columns whose coefficients and sums stay in the nearest cache.
constexpr size_t kBlockColumns = 4096;

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
  explicit Sweep(const Partition<T>& partition) : partition_(partition) {
    const Shape& shape = partition.shape();
    const size_t values = kBlockBytes / sizeof(T);
    if (partition.layout() == kChannelsLast) {
      whole_rows_ = shape.outer / partition.fold();
      run_ = std::max<size_t>(1, values / partition.width());
      size_ = divide_up(whole_rows_, run_) + (shape.outer % partition.fold() > 0 ? 1 : 0);
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
    const Shape& shape = partition_.shape();
    Span span;
    Range channels;
    if (partition_.layout() == kChannelsLast) {
      const size_t first = index * run_;
      span = first < whole_rows_ ? Span{first, std::min(run_, whole_rows_ - first), 0, partition_.width()}
                                 : Span{whole_rows_, 1, 0, shape.outer % partition_.fold() * shape.channels};
      channels = {0, partition_.width()};
    } else {
      const Range piece = part(shape.inner, piece_, index % pieces_);
      const size_t first = index / pieces_ / groups_ * run_;
      span = {first, std::min(run_, shape.outer - first), piece.begin, piece.end - piece.begin};
      channels = part(shape.channels, group_, index / pieces_ % groups_);
    }
    partition_.for_each_tile(span, channels.begin, channels.end,
                             [&](Tile tile, size_t offset) { visit(tile, offset, channels.begin); });
  }

 private:
  const Partition<T>& partition_;
  size_t run_ = 1;
  size_t whole_rows_ = 0;
  size_t group_ = 1;
  size_t groups_ = 1;
  size_t piece_ = 0;
  size_t pieces_ = 1;
  size_t size_ = 0;
};

// ---- Per-channel arithmetic, in double. ----

/// A per-channel array of a partition's width: the value of a channel at each of its places.
template <typename T>
void spread(const Partition<T>& partition, T* array, size_t channel, T value) {
  const size_t channels = partition.shape().channels;
  for (size_t copy = 0; copy < partition.fold(); copy++) array[copy * channels + channel] = value;
}

/// The coefficients of the normalize kernel. The mean is split into what T holds (`mean`) and the rest, which
/// goes into the offset: folding all of it there loses the digits that x - mean cancels.
template <typename T>
struct Normalization {
  T* mean;
  T* scale;
  T* offset;

  void set(const Partition<T>& partition, size_t channel, double eps, double channel_mean, double variance,
           const T* weight, const T* bias) const {
    const double inverse_deviation = 1 / std::sqrt(variance + eps);
    const double factor = (weight ? static_cast<double>(weight[channel]) : 1) * inverse_deviation;
    const T high = static_cast<T>(channel_mean);
    const double low = channel_mean - static_cast<double>(high);
    const double constant = (bias ? static_cast<double>(bias[channel]) : 0) - low * factor;
    spread(partition, mean, channel, high);
    spread(partition, scale, channel, static_cast<T>(factor));
    spread(partition, offset, channel, static_cast<T>(constant));
  }
};

template <typename T>
Normalization<T> take_normalization(Scratch& scratch, size_t width) {
  return {scratch.take<T>(width), scratch.take<T>(width), scratch.take<T>(width)};
}

/// Two sums per chunk and channel.
struct Partials {
  template <typename T>
  Partials(Scratch& scratch, const Partition<T>& partition)
      : stride(partition.width()),
        first(scratch.take<double>(stride * partition.chunks())),
        second(scratch.take<double>(stride * partition.chunks())) {}
  size_t stride;
  double* first;
  double* second;
};

/// A thread's accumulators for the channels of one task.
template <typename T>
struct Accumulators {
  T* first;
  T* second;
};

/// Accumulators for `threads` slots and `width` channels at a time.
template <typename T>
class AccumulatorsOfThreads {
 public:
  AccumulatorsOfThreads(Scratch& scratch, Layout layout, size_t width, size_t threads)
      : size_(round_up(layout == kChannelsFirst ? width * kLanes<T> : width, kLanes<T>)),
        memory_(scratch.take<T>(2 * size_ * threads)) {}
  Accumulators<T> of(size_t slot) const {
    T* first = memory_ + 2 * size_ * slot;
    return {first, first + size_};
  }

 private:
  size_t size_;
  T* memory_;
};

/// The lanes of one channel, halved until one is left.
template <typename T>
double sum_of_lanes(const T* lanes) {
  double sums[kLanes<T>];
  for (size_t i = 0; i < kLanes<T>; i++) sums[i] = static_cast<double>(lanes[i]);
  for (size_t half = kLanes<T> / 2; half > 0; half /= 2)
    for (size_t i = 0; i < half; i++) sums[i] += sums[i + half];
  return sums[0];
}

template <typename T>
double sum_of_channel(Layout layout, const T* sums, size_t channel) {
  return layout == kChannelsFirst ? sum_of_lanes(sums + channel * kLanes<T>)
                                  : static_cast<double>(sums[channel]);
}

template <typename T>
void clear(Layout layout, Accumulators<T> sums, size_t channels) {
  const size_t size = round_up(layout == kChannelsFirst ? channels * kLanes<T> : channels, kLanes<T>);
  std::fill_n(sums.first, size, T{0});
  std::fill_n(sums.second, size, T{0});
}

template <typename T>
T median(T a, T b, T c) {
  const T low = a < b ? a : b;
  const T high = a < b ? b : a;
  const T middle = high < c ? high : c;
  return low < middle ? middle : low;
}

/// A value of the data near its centre (Tukey, "The ninther, a technique for low-effort robust (resistant)
/// location in large samples", 1978). Being one of the values it lies on their grid: deviations of data with
/// few mantissa bits, and their squares, are exact, and those of a constant channel are 0.
template <typename T>
T ninther(const Partition<T>& partition, const Span& span, size_t channel, const T* x) {
  constexpr size_t kNearby = 64;
  const size_t step = std::min(kNearby, partition.values(span, channel)) / 9;
  const auto value = [&](size_t i) { return x[partition.position(span, channel, i * step)]; };
  return median(median(value(0), value(1), value(2)), median(value(3), value(4), value(5)),
                median(value(6), value(7), value(8)));
}

/// Sums of deviations from a shift near the data, per chunk.
template <typename T>
class Moments {
 public:
  Moments(Scratch& scratch, const Execution& execution, const Partition<T>& partition, const T* x)
      : kernel_(kernels_of<T>(*execution.kernels).moments[partition.layout()]),
        partition_(partition),
        x_(x),
        partials_(scratch, partition),
        // Kernels load whole vectors of it: the last chunk needs room behind it.
        shifts_(scratch.take<T>(stride() * partition.chunks())) {}

  /// For channels [begin, end) < width of one chunk.
  void sum(size_t chunk, Range channels, Accumulators<T> sums) const {
    const Span span = partition_.chunk(chunk);
    T* shift = shifts_ + chunk * stride() + channels.begin;
    const size_t end =
        partition_.layout() == kChannelsLast ? std::min(channels.end, span.length) : channels.end;
    for (size_t channel = channels.begin; channel < end; channel++)
      shift[channel - channels.begin] = ninther(partition_, span, channel, x_);
    clear(partition_.layout(), sums, channels.end - channels.begin);
    partition_.for_each_tile(span, channels.begin, channels.end, [&](Tile tile, size_t offset) {
      kernel_(tile, x_ + offset, shift, sums.first, sums.second);
    });
    double* first = partials_.first + chunk * partials_.stride;
    double* second = partials_.second + chunk * partials_.stride;
    for (size_t channel = channels.begin; channel < end; channel++) {
      first[channel] = sum_of_channel(partition_.layout(), sums.first, channel - channels.begin);
      second[channel] = sum_of_channel(partition_.layout(), sums.second, channel - channels.begin);
      if (!std::isfinite(first[channel]) || !std::isfinite(second[channel]))
        sum_in_double(span, channel, shift[channel - channels.begin], first[channel], second[channel]);
    }
  }

  /// Mean and biased variance of a channel of the tensor: the chunks in their order, all with reference to
  /// the shift of the first.
  void merge(size_t channel, double& mean, double& variance) const {
    const size_t channels = partition_.shape().channels;
    const double reference = static_cast<double>(shifts_[channel]);
    double sum = 0, sum_squares = 0;
    for (size_t chunk = 0; chunk < partition_.chunks(); chunk++) {
      const Span span = partition_.chunk(chunk);
      for (size_t copy = 0; copy < partition_.fold(); copy++) {
        const size_t place = copy * channels + channel;
        const double values = static_cast<double>(partition_.values(span, place));
        if (values == 0) break;
        const double first = partials_.first[chunk * partials_.stride + place];
        const double second = partials_.second[chunk * partials_.stride + place];
        const double distance = static_cast<double>(shifts_[chunk * stride() + place]) - reference;
        sum += first + values * distance;
        sum_squares += second + distance * (2 * first + values * distance);
      }
    }
    const double count = static_cast<double>(partition_.shape().count());
    const double offset = sum / count;
    const double biased = (sum_squares - sum * offset) / count;
    mean = reference + offset;
    variance = biased < 0 ? 0 : biased;
  }

 private:
  /// Whole vectors, so that the shifts of every chunk are aligned.
  size_t stride() const { return round_up(partition_.width(), kLanes<T>); }

  /// Where float32 sums overflow (deviations from 1e19 on) the double ones do not, and where the data is not
  /// finite the result must not depend on the order of the additions.
  void sum_in_double(const Span& span, size_t channel, T& shift, double& first, double& second) const {
    if (!std::isfinite(shift)) shift = 0;
    first = 0;
    second = 0;
    const size_t values = partition_.values(span, channel);
    for (size_t i = 0; i < values; i++) {
      const double deviation =
          static_cast<double>(x_[partition_.position(span, channel, i)]) - static_cast<double>(shift);
      first += deviation;
      second += deviation * deviation;
    }
  }

  void (*kernel_)(Tile, const T*, const T*, T*, T*);
  const Partition<T>& partition_;
  const T* x_;
  Partials partials_;
  T* shifts_;
};

/// Sums of dy and dy * (x - mean), per chunk.
template <typename T>
class GradSums {
 public:
  GradSums(Scratch& scratch, const Execution& execution, const Partition<T>& partition, const T* dy,
           const T* x, const T* mean)
      : kernel_(kernels_of<T>(*execution.kernels).grad_sums[partition.layout()]),
        partition_(partition),
        dy_(dy),
        x_(x),
        mean_(mean),
        partials_(scratch, partition) {}

  /// For channels [begin, end) < width of one chunk.
  void sum(size_t chunk, Range channels, Accumulators<T> sums) const {
    const Span span = partition_.chunk(chunk);
    clear(partition_.layout(), sums, channels.end - channels.begin);
    partition_.for_each_tile(span, channels.begin, channels.end, [&](Tile tile, size_t offset) {
      kernel_(tile, dy_ + offset, x_ + offset, mean_ + channels.begin, sums.first, sums.second);
    });
    double* first = partials_.first + chunk * partials_.stride;
    double* second = partials_.second + chunk * partials_.stride;
    for (size_t channel = channels.begin; channel < channels.end; channel++) {
      first[channel] = sum_of_channel(partition_.layout(), sums.first, channel - channels.begin);
      second[channel] = sum_of_channel(partition_.layout(), sums.second, channel - channels.begin);
    }
  }

  void merge(size_t channel, double& sum_dy, double& sum_dy_xc) const {
    sum_dy = 0;
    sum_dy_xc = 0;
    for (size_t chunk = 0; chunk < partition_.chunks(); chunk++)
      for (size_t copy = 0; copy < partition_.fold(); copy++) {
        const size_t place = chunk * partials_.stride + copy * partition_.shape().channels + channel;
        sum_dy += partials_.first[place];
        sum_dy_xc += partials_.second[place];
      }
  }

 private:
  void (*kernel_)(Tile, const T*, const T*, const T*, T*, T*);
  const Partition<T>& partition_;
  const T* dy_;
  const T* x_;
  const T* mean_;
  Partials partials_;
};

// ---- Traversals: sum every chunk, settle every channel, write every value. ----

/// Runs sums.sum(chunk, channels, accumulators) over the tensor, settle(channel) once a channel's sums are
/// complete, and write(tile, offset, first channel) over the tensor after that; or no write if `writes` is
/// false. `tensors`: how many of the tensor's size the sums read.
template <typename T, typename Sums, typename Settle, typename Write>
void sum_settle_write(Scratch& scratch, const Execution& execution, const Partition<T>& partition,
                      size_t tensors, const Sums& sums, Settle settle, bool writes, Write write) {
  const Shape& shape = partition.shape();
  const Layout layout = partition.layout();
  const size_t chunks = partition.chunks();
  const size_t width = partition.width();
  const Crew crew(execution, tensors * shape.size() * sizeof(T));

  const size_t channel_bytes = tensors * shape.count() * sizeof(T);
  if (layout == kChannelsFirst && channel_bytes <= kLargeChannelBytes &&
      (crew.threads == 1 || shape.channels >= 2 * crew.threads)) {
    // A group of channels at a time: what the sums have read, the write finds in the cache.
    const size_t cached = std::max<size_t>(1, kCacheBytes / channel_bytes);
    const size_t fair = crew.threads == 1 ? cached : divide_up(shape.channels, 4 * crew.threads);
    const size_t group = std::min({cached, fair, shape.channels});
    const AccumulatorsOfThreads<T> accumulators(scratch, layout, group, crew.threads);
    crew.work(divide_up(shape.channels, group), [&](size_t task, size_t slot) {
      const Range channels = part(shape.channels, group, task);
      for (size_t chunk = 0; chunk < chunks; chunk++) sums.sum(chunk, channels, accumulators.of(slot));
      for (size_t channel = channels.begin; channel < channels.end; channel++) settle(channel);
      if (!writes) return;
      // Backwards: the last read is the nearest.
      for (size_t chunk = chunks; chunk-- > 0;)
        partition.for_each_tile(partition.chunk(chunk), channels.begin, channels.end,
                                [&](Tile tile, size_t offset) { write(tile, offset, channels.begin); });
    });
    return;
  }

  const size_t chunk_values = partition.values(partition.chunk(0), 0);
  const size_t group = layout == kChannelsLast
                           ? std::min(width, kBlockColumns)
                           : std::clamp<size_t>(kBlockBytes / (sizeof(T) * chunk_values), 1, width);
  const size_t groups = divide_up(width, group);
  const AccumulatorsOfThreads<T> accumulators(scratch, layout, group, crew.threads);
  crew.work(chunks * groups, [&](size_t task, size_t slot) {
    sums.sum(task / groups, part(width, group, task % groups), accumulators.of(slot));
  });
  const size_t settled = std::max<size_t>(16, divide_up(shape.channels, 4 * crew.threads));
  crew.work(divide_up(shape.channels, settled), [&](size_t task, size_t) {
    const Range channels = part(shape.channels, settled, task);
    for (size_t channel = channels.begin; channel < channels.end; channel++) settle(channel);
  });
  if (!writes) return;
  const Sweep<T> sweep(partition);
  crew.work(sweep.size(), [&](size_t task, size_t) { sweep.for_each_tile(sweep.size() - 1 - task, write); });
}

template <typename T>
void normalize(const Execution& execution, const Partition<T>& partition, const T* x, T* y, const T* mean,
               const T* scale, const T* offset) {
  const auto kernel = kernels_of<T>(*execution.kernels).normalize[partition.layout()];
  const Sweep<T> sweep(partition);
  Crew(execution, partition.shape().size() * sizeof(T)).work(sweep.size(), [&](size_t task, size_t) {
    sweep.for_each_tile(task, [&](Tile tile, size_t at, size_t channel) {
      kernel(tile, x + at, y + at, mean + channel, scale + channel, offset + channel);
    });
  });
}

}  // namespace

template <typename T>
void forward_training(const Execution& execution, Shape shape, double eps, const T* x, T* y, const T* weight,
                      const T* bias, double* mean, double* variance) {
  if (shape.size() == 0) {
    std::fill_n(mean, shape.channels, std::numeric_limits<double>::quiet_NaN());
    std::fill_n(variance, shape.channels, std::numeric_limits<double>::quiet_NaN());
    return;
  }
  Scratch scratch;
  const Partition<T> partition(shape);
  const Moments<T> moments(scratch, execution, partition, x);
  const Normalization<T> coefficients = take_normalization<T>(scratch, partition.width());
  const auto kernel = kernels_of<T>(*execution.kernels).normalize[partition.layout()];
  sum_settle_write(
      scratch, execution, partition, 1, moments,
      [&](size_t channel) {
        moments.merge(channel, mean[channel], variance[channel]);
        coefficients.set(partition, channel, eps, mean[channel], variance[channel], weight, bias);
      },
      true,
      [&](Tile tile, size_t at, size_t channel) {
        kernel(tile, x + at, y + at, coefficients.mean + channel, coefficients.scale + channel,
               coefficients.offset + channel);
      });
}

template <typename T>
void forward_inference(const Execution& execution, Shape shape, double eps, const T* x, T* y,
                       const double* mean, const double* variance, const T* weight, const T* bias) {
  if (shape.size() == 0) return;
  Scratch scratch;
  const Partition<T> partition(shape);
  const Normalization<T> coefficients = take_normalization<T>(scratch, partition.width());
  for (size_t channel = 0; channel < shape.channels; channel++)
    coefficients.set(partition, channel, eps, mean[channel], variance[channel], weight, bias);
  normalize<T>(execution, partition, x, y, coefficients.mean, coefficients.scale, coefficients.offset);
}

template <typename T>
void backward(const Execution& execution, Shape shape, double eps, bool training, const T* dy, const T* x,
              const double* mean, const double* variance, const T* weight, Gradients<T> gradients) {
  if (shape.size() == 0) {
    if (gradients.weight) std::fill_n(gradients.weight, shape.channels, T{0});
    if (gradients.bias) std::fill_n(gradients.bias, shape.channels, T{0});
    return;
  }
  Scratch scratch;
  const Partition<T> partition(shape);
  const size_t width = partition.width();
  const Kernels<T>& kernels = kernels_of<T>(*execution.kernels);
  T* const high = scratch.take<T>(width);
  T* const slope = scratch.take<T>(width);
  T* const constant = scratch.take<T>(width);
  T* const scale = scratch.take<T>(width);

  const auto inverse_deviation = [&](size_t channel) { return 1 / std::sqrt(variance[channel] + eps); };
  const auto weight_of = [&](size_t channel) { return weight ? static_cast<double>(weight[channel]) : 1; };
  for (size_t channel = 0; channel < shape.channels; channel++) {
    spread(partition, high, channel, static_cast<T>(mean[channel]));
    spread(partition, scale, channel, static_cast<T>(weight_of(channel) * inverse_deviation(channel)));
  }
  const bool sums_needed = training || gradients.weight || gradients.bias;
  // Statistics that carry no gradient leave dx = dy * scale: the normalize kernel with nothing to subtract or
  // add.
  const auto write_frozen = [&] {
    std::fill_n(constant, width, T{0});
    normalize<T>(execution, partition, dy, gradients.input, constant, scale, constant);
  };
  if (!sums_needed) {
    if (gradients.input) write_frozen();
    return;
  }

  const GradSums<T> sums(scratch, execution, partition, dy, x, high);
  const auto settle = [&](size_t channel) {
    double sum_dy, sum_dy_xc;
    sums.merge(channel, sum_dy, sum_dy_xc);
    const double low = mean[channel] - static_cast<double>(high[channel]);
    const double deviation = inverse_deviation(channel);
    const double sum_dy_normalized = (sum_dy_xc - low * sum_dy) * deviation;
    if (gradients.weight) gradients.weight[channel] = static_cast<T>(sum_dy_normalized);
    if (gradients.bias) gradients.bias[channel] = static_cast<T>(sum_dy);
    if (!training) return;
    const double count = static_cast<double>(shape.count());
    const double channel_slope = deviation * (sum_dy_normalized / count);
    spread(partition, slope, channel, static_cast<T>(channel_slope));
    spread(partition, constant, channel, static_cast<T>(sum_dy / count - low * channel_slope));
  };
  sum_settle_write(scratch, execution, partition, 2, sums, settle, training && gradients.input,
                   [&](Tile tile, size_t at, size_t channel) {
                     kernels.grad_input[partition.layout()](tile, dy + at, x + at, gradients.input + at,
                                                            high + channel, slope + channel,
                                                            constant + channel, scale + channel);
                   });
  if (!training && gradients.input) write_frozen();
}

size_t update_running_stats(size_t channels, const double* mean, const double* variance, double count,
                            double decay, bool unbiased, double* running_mean, double* running_var) {
  // decay 0 replaces: 0 * NaN would keep a NaN for ever.
  const auto average = [decay](double running, double batch) {
    return decay == 0 ? batch : decay * running + (1 - decay) * batch;
  };
  const bool variance_exists = !unbiased || count > 1;
  const double correction = unbiased && variance_exists ? count / (count - 1) : 1;
  size_t rejected = 0;
  for (size_t channel = 0; channel < channels; channel++) {
    if (!std::isfinite(mean[channel]) || !std::isfinite(variance[channel])) {
      rejected++;
      continue;
    }
    running_mean[channel] = average(running_mean[channel], mean[channel]);
    if (variance_exists) running_var[channel] = average(running_var[channel], variance[channel] * correction);
  }
  return rejected;
}

template <typename T>
FrozenParameters<T>::FrozenParameters(size_t channels, double eps, const double* mean, const double* variance,
                                      const T* weight, const T* bias)
    : channels_(channels) {
  // As wide as the channels-last tables, whose beginning serves channels-first as well.
  const Partition<T> partition(Shape{1, channels, 1});
  const size_t bytes = round_up(partition.width() * sizeof(T), kAlignment);
  memory_.reset(new unsigned char[3 * bytes + kAlignment]());
  unsigned char* const start = align(memory_.get());
  const Normalization<T> coefficients = {reinterpret_cast<T*>(start), reinterpret_cast<T*>(start + bytes),
                                         reinterpret_cast<T*>(start + 2 * bytes)};
  for (size_t channel = 0; channel < channels; channel++)
    coefficients.set(partition, channel, eps, mean[channel], variance[channel], weight, bias);
  mean_ = coefficients.mean;
  scale_ = coefficients.scale;
  offset_ = coefficients.offset;
}

template <typename T>
void FrozenParameters<T>::run(const Execution& execution, Shape shape, const T* x, T* y) const {
  if (shape.size() == 0) return;
  normalize<T>(execution, Partition<T>(shape), x, y, mean_, scale_, offset_);
}

#define BATCHNORM_INSTANTIATE(T)                                                                       \
  template void forward_training<T>(const Execution&, Shape, double, const T*, T*, const T*, const T*, \
                                    double*, double*);                                                 \
  template void forward_inference<T>(const Execution&, Shape, double, const T*, T*, const double*,     \
                                     const double*, const T*, const T*);                               \
  template void backward<T>(const Execution&, Shape, double, bool, const T*, const T*, const double*,  \
                            const double*, const T*, Gradients<T>);                                    \
  template class FrozenParameters<T>;
BATCHNORM_INSTANTIATE(float)
BATCHNORM_INSTANTIATE(double)

}  // namespace batchnorm
