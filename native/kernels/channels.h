// What happens per channel between the passes: plain loops over channels, which the compiler turns into the
// ISA's instructions. All that is not written in T is in double.
#pragma once

#include <type_traits>

#include "../kernels.h"

namespace {

using batchnorm::kLanes;

inline float absolute(float value) {
  return __builtin_fabsf(value);
}
inline double absolute(double value) {
  return __builtin_fabs(value);
}

/// Of nine values the one nearest to their mean: nearer to that of all than their median is.
template <typename T>
inline void centres_at(const T* const (&from)[9], size_t stride, size_t channels, T* to) {
  for (size_t channel = 0; channel < channels; channel++) {
    const size_t at = channel * stride;
    T sum = from[0][at];
    for (size_t i = 1; i < 9; i++) sum += from[i][at];
    const T mean = sum * static_cast<T>(1.0 / 9);
    const auto distance = [=](T value) { return absolute(value - mean); };
    T nearest = from[0][at];
    T shortest = distance(nearest);
    for (size_t i = 1; i < 9; i++) {
      const T value = from[i][at];
      const T other = distance(value);
      nearest = other < shortest ? value : nearest;
      shortest = other < shortest ? other : shortest;
    }
    to[channel] = nearest;
  }
}

template <typename T>
void centres(const T* const (&from)[9], size_t stride, size_t channels, T* to) {
  // A constant lets the compiler work on neighbouring columns at once.
  if (stride == 1)
    centres_at(from, 1, channels, to);
  else
    centres_at(from, stride, channels, to);
}

/// The sum of Count values and of the Count after them, as a tree of halves.
template <size_t Count, typename T>
inline double sum_of_halves(const T* values) {
  double sums[Count];
  for (size_t i = 0; i < Count; i++)
    sums[i] = static_cast<double>(values[i]) + static_cast<double>(values[i + Count]);
  if constexpr (Count == 1)
    return sums[0];
  else
    return sum_of_halves<Count / 2>(sums);
}

/// `Lanes` of From make up a channel.
template <size_t Lanes, typename From>
void collect_lanes(const From* sums, size_t channels, size_t, double* to) {
  for (size_t channel = 0; channel < channels; channel++)
    to[channel] = sum_of_halves<Lanes / 2>(sums + channel * Lanes);
}

/// Calls with<columns>() for numbers of columns that many planes have, else with<0>().
template <typename With>
inline void with_columns(size_t columns, With with) {
  switch (columns) {
    case 2:
      return with(std::integral_constant<size_t, 2>{});
    case 4:
      return with(std::integral_constant<size_t, 4>{});
    case 8:
      return with(std::integral_constant<size_t, 8>{});
    case 16:
      return with(std::integral_constant<size_t, 16>{});
    default:
      return with(std::integral_constant<size_t, 0>{});
  }
}

/// Columns are added to eight lanes, one group after the other, and those in halves, which of a number that
/// is known are only its own.
template <size_t Columns, typename From>
inline void collect_columns_as(const From* sums, size_t channels, size_t columns, double* to) {
  constexpr size_t kGroup = 8;
  for (size_t channel = 0; channel < channels; channel++)
    if constexpr (Columns > 0) {
      to[channel] = sum_of_halves<Columns / 2>(sums + channel * Columns);
    } else {
      const From* const of = sums + channel * columns;
      double lanes[kGroup] = {};
      size_t column = 0;
      for (; column + kGroup <= columns; column += kGroup)
        for (size_t lane = 0; lane < kGroup; lane++) lanes[lane] += static_cast<double>(of[column + lane]);
      const size_t left = columns - column;
      for (size_t lane = 0; lane < kGroup; lane++)
        lanes[lane] += lane < left ? static_cast<double>(of[column + lane]) : 0;
      to[channel] = sum_of_halves<kGroup / 2>(lanes);
    }
}

template <typename From>
void collect_columns(const From* sums, size_t channels, size_t columns, double* to) {
  if (columns > 1)
    return with_columns(columns,
                        [=](auto known) { collect_columns_as<known.value>(sums, channels, columns, to); });
  for (size_t channel = 0; channel < channels; channel++) to[channel] = static_cast<double>(sums[channel]);
}

template <size_t Columns, typename T>
inline void spread_as(const T* __restrict from, size_t channels, size_t columns, T* __restrict to) {
  if constexpr (Columns > 0) {
    for (size_t channel = 0; channel < channels; channel++)
      for (size_t column = 0; column < Columns; column++) to[channel * Columns + column] = from[channel];
  } else {
    // Whole vectors, of which each covers what the one before has written too much.
    T* const end = to + channels * columns;
    for (; to + columns + kLanes<T> <= end; to += columns, from++)
      for (size_t column = 0; column < columns; column += kLanes<T>)
        for (size_t lane = 0; lane < kLanes<T>; lane++) to[column + lane] = *from;
    for (; to < end; to += columns, from++)
      for (size_t column = 0; column < columns; column++) to[column] = *from;
  }
}

template <typename T>
void spread(const T* from, size_t channels, size_t columns, T* to) {
  with_columns(columns, [=](auto known) { spread_as<known.value>(from, channels, columns, to); });
}

template <typename T>
void merge(size_t channels, double values, const double* chunk_sum, const double* chunk_squares,
           const T* shift, const T* reference, double* __restrict sum, double* __restrict sum_squares) {
  for (size_t channel = 0; channel < channels; channel++) {
    const double distance = static_cast<double>(shift[channel]) - static_cast<double>(reference[channel]);
    sum[channel] += chunk_sum[channel] + values * distance;
    sum_squares[channel] += chunk_squares[channel] + distance * (2 * chunk_sum[channel] + values * distance);
  }
}

/// How much of the squares may be due to the distance between shift and mean. With A = 1 / (1 -
/// kMostDistant), an error of the squares is A times as large a share of the variance, and one of the first
/// sum 2 (A - 1) times. What a search finds worst for a stretch is 3.7 u (u = 2^-24) for the squares and 2.7
/// u for the first sum: equal terms are all rounded the same way, in the square, in the tree of eight and in
/// each of four additions (128 additions: 33 u; Higham, "The accuracy of floating point summation", 1993, has
/// the bounds). With 2 u for x - shift that makes 16 u = 9.5e-7. Below 1/2 it could not be: of two values
/// that are as frequent, neither is nearer to the mean. Of nine normal values the one taken is too far off
/// once in 300 chunks.
constexpr double kMostDistant = 0.53;

/// Squares in float32 below 2^-126 have lost digits, each up to 2^-150. From this mean square on that is
/// 2^-30 of it at most.
constexpr double kLeastSquare = 0x1p-120;

/// Whether sums are not finite, or in float32 the shift too far from the mean, or the squares too small.
/// `lost`: whether there may have been squares where there are none left.
template <typename T>
inline bool is_bad(bool lost, double values, double first, double second) {
  constexpr bool is_float32 = sizeof(T) == sizeof(float);
  // Infinite and NaN differ from themselves by NaN.
  const bool finite = (first - first) + (second - second) == 0;
  const bool far = is_float32 && first * first > kMostDistant * (second * values);
  // Of a constant there are none, but neither of deviations that cancel and whose squares have all become 0.
  const bool none = first == 0 && second == 0;
  const bool tiny = is_float32 && second < kLeastSquare * values && (lost || !none);
  return !finite || far || tiny;
}

template <typename T>
size_t find_bad(size_t channels, bool lost, double values, const double* sum, const double* sum_squares) {
  constexpr size_t kBlock = 64;
  for (size_t begin = 0; begin < channels; begin += kBlock) {
    const size_t end = begin + kBlock < channels ? begin + kBlock : channels;
    size_t bad = 0;
    for (size_t channel = begin; channel < end; channel++)
      bad += is_bad<T>(lost, values, sum[channel], sum_squares[channel]) ? 1 : 0;
    if (bad == 0) continue;
    size_t channel = begin;
    while (!is_bad<T>(lost, values, sum[channel], sum_squares[channel])) channel++;
    return channel;
  }
  return channels;
}

template <typename T>
void statistics(size_t channels, double count, const T* reference, const double* sum,
                const double* sum_squares, double* __restrict mean, double* __restrict variance) {
  for (size_t channel = 0; channel < channels; channel++) {
    const double offset = sum[channel] / count;
    const double biased = (sum_squares[channel] - sum[channel] * offset) / count;
    mean[channel] = static_cast<double>(reference[channel]) + offset;
    // 0, but of an overflow NaN.
    variance[channel] = biased < 0 ? biased - biased : biased;
  }
}

/// Two lots of weighted values are as one: weights W and n, means a distance delta apart; their deviations
/// add up, and delta * delta * W * n / (W + n) (Chan, Golub and LeVeque, 1979).
inline void merge_present(size_t channels, const double* shift, batchnorm::PresentSums chunk,
                          batchnorm::PresentStatistics to) {
  double* const __restrict weight = to.weight;
  double* const __restrict squares = to.squares;
  double* const __restrict reference = to.reference;
  double* const __restrict mean = to.mean;
  double* const __restrict deviations = to.deviations;
  for (size_t channel = 0; channel < channels; channel++) {
    const double added = chunk.weight[channel];
    const bool adds = added > 0;
    const double before = weight[channel];
    // Means are distances from a shift that all share, so that equal ones differ by 0: that of what weighs
    // most, for beside a distant one of no weight they would lose their digits.
    const bool rebases = added > before;
    const double from = rebases ? shift[channel] : reference[channel];
    const double known = before > 0 ? mean[channel] + (reference[channel] - from) : 0;
    const double first = chunk.first[channel];
    const double second = chunk.second[channel];
    const double offset = adds ? first / added : 0;
    // Squares that overflow are a variance of infinity.
    const double least = second <= __DBL_MAX__ ? second - first * offset : second;
    const double own = least < 0 ? 0 : least;
    const double after = before + added;
    const double share = adds ? added / after : 0;
    const double own_mean = (shift[channel] - from) + offset;
    const double delta = own_mean - known;
    // From the heavier of both.
    const double together = rebases ? own_mean - delta * (before / after) : known + delta * share;
    const double apart = before > 0 ? delta * delta * (before * share) : 0;
    reference[channel] = adds ? from : reference[channel];
    mean[channel] = adds ? together : mean[channel];
    deviations[channel] += adds ? own + apart : 0;
    weight[channel] = after;
    squares[channel] += chunk.squares[channel];
  }
}

/// Out of its loops, and each case a loop of its own: only so, and with restrict, the compiler selects per
/// vector (256 channels with AVX-512: 440 ns, so 90).
template <bool Cumulative, bool HasVariance>
inline size_t average_as(size_t channels, double decay, double correction, const double* mean,
                         const double* variance, double* __restrict running_mean,
                         double* __restrict running_var, double* __restrict accepted) {
  size_t rejected = 0;
  for (size_t channel = 0; channel < channels; channel++) {
    const double keep = Cumulative ? 1 - 1 / (accepted[channel] + 1) : decay;
    const double share = 1 - keep;
    // decay 0 replaces: 0 * NaN would keep a NaN for ever.
    const bool replaces = keep == 0;
    const auto averaged = [=](double running, double batch) {
      const double average = keep * running + share * batch;
      return replaces ? batch : average;
    };
    const double old_mean = running_mean[channel];
    const double new_mean = averaged(old_mean, mean[channel]);
    const double old_var = HasVariance ? running_var[channel] : 0;
    const double new_var =
        HasVariance ? averaged(old_var, variance[channel] * correction) : variance[channel];
    // Of a batch that is not finite they are not either.
    const bool finite = (new_mean - new_mean) + (new_var - new_var) == 0;
    rejected += finite ? 0 : 1;
    running_mean[channel] = finite ? new_mean : old_mean;
    if (HasVariance) running_var[channel] = finite ? new_var : old_var;
    if (Cumulative) accepted[channel] += finite ? 1 : 0;
  }
  return rejected;
}

inline size_t average(size_t channels, double decay, double correction, const double* mean,
                      const double* variance, double* running_mean, double* running_var, double* accepted) {
  const auto run = accepted ? (running_var ? average_as<true, true> : average_as<true, false>)
                            : (running_var ? average_as<false, true> : average_as<false, false>);
  return run(channels, decay, correction, mean, variance, running_mean, running_var, accepted);
}

/// The range of T, and what is far for a mean of it.
template <typename T>
struct Far;
template <>
struct Far<float> {
  /// From here on the largest x, subtracted, can overflow: half the distance between the largest values.
  static constexpr double kReach = 0x1p103;
  /// From here on T holds infinity instead.
  static constexpr double kBeyond = 0x1.ffffffp127;
  static constexpr double kLargest = 0x1.fffffep127;
};
template <>
struct Far<double> {
  static constexpr double kReach = 0x1p970;
  static constexpr double kBeyond = __builtin_inf();
  static constexpr double kLargest = __DBL_MAX__;
};

inline double inverse_deviation(double variance, double eps) {
  return 1 / __builtin_sqrt(variance + eps);
}

/// What T holds of it. A larger one counts as this, in y and in gradients: its square would make gradients of
/// what rounding leaves in the sums.
template <typename T>
inline double held_of(double inverse) {
  return inverse > Far<T>::kLargest ? Far<T>::kLargest : inverse;
}

/// A coefficient that T holds where it does not hold 1 / deviation: of deviations so small all that T can
/// tell is where they are 0, and there y must not be 0 * infinity.
template <typename T>
inline double bounded(double coefficient, double inverse) {
  const double most = inverse > Far<T>::kLargest ? Far<T>::kLargest : __builtin_inf();
  return coefficient > most ? most : coefficient < -most ? -most : coefficient;
}

/// How many deviations a far mean may have to be left to the offset altogether. Scale, x * scale and offset
/// each round by u * |mean| / deviation more than with x - high, u being half an ulp of 1: by 3 * 8 * u =
/// 1.5e-6 in float32, for a weight of 1, when the largest y of a batch is 1 at least. Another 3 * u of the
/// largest y are those roundings as ever: less than 2e-6 of it in all.
constexpr double kFewDeviations = 8;

/// Whether x - mean may overflow where (x - mean) / deviation does not: then the offset carries all of the
/// mean. One that T does not hold has no other place.
template <typename T>
inline bool is_left_to_offset(double mean, double inverse) {
  const double size = __builtin_fabs(mean);
  const bool far = (size >= Far<T>::kReach) & (size <= __DBL_MAX__);
  return far & ((size * inverse <= kFewDeviations) | (size >= Far<T>::kBeyond));
}

/// The mean is split into what T holds (`high`) and the rest, which goes into the offset: folding all of it
/// there loses the digits that x - mean cancels. Each case is a loop of its own, for the compiler would load
/// what is absent with a mask that is empty, which not every emulator of a CPU suffers.
template <bool HasWeight, bool HasBias, typename T>
inline void normalization_as(const batchnorm::NormalizationWork<T>& work) {
  // Copies, which nothing that is written can change: else each is loaded again for every channel.
  const auto [channels, eps, mean, variance, weight, bias, to_high, to_scale, to_offset] = work;
  T* const __restrict high = to_high;
  T* const __restrict scale = to_scale;
  T* const __restrict offset = to_offset;
  for (size_t channel = 0; channel < channels; channel++) {
    const double inverse = inverse_deviation(variance[channel], eps);
    const double factor =
        bounded<T>((HasWeight ? static_cast<double>(weight[channel]) : 1) * held_of<T>(inverse), inverse);
    high[channel] = static_cast<T>(is_left_to_offset<T>(mean[channel], inverse) ? 0 : mean[channel]);
    const double low = mean[channel] - static_cast<double>(high[channel]);
    scale[channel] = static_cast<T>(factor);
    offset[channel] = static_cast<T>((HasBias ? static_cast<double>(bias[channel]) : 0) - low * factor);
  }
}

template <typename T>
void normalization(const batchnorm::NormalizationWork<T>& work) {
  const auto run = work.weight
                       ? (work.bias ? normalization_as<true, true, T> : normalization_as<true, false, T>)
                       : (work.bias ? normalization_as<false, true, T> : normalization_as<false, false, T>);
  run(work);
}

/// A constant lets every compiler work on neighbouring channels at once, where a condition does not.
template <bool HasWeight, typename T>
void gradients_as(const batchnorm::GradientsWork<T>& work) {
  const auto [channels, eps, count, mean, variance, high, sum_dy, sum_dy_xc, to_slope, to_constant,
              to_dweight, dbias] = work;
  T* const __restrict slope = to_slope;
  T* const __restrict constant = to_constant;
  T* const __restrict dweight = to_dweight;
  for (size_t channel = 0; channel < channels; channel++) {
    const double low = mean[channel] - static_cast<double>(high[channel]);
    const double inverse = inverse_deviation(variance[channel], eps);
    const double held = held_of<T>(inverse);
    const double sum_dy_normalized = (sum_dy_xc[channel] - low * sum_dy[channel]) * held;
    const double channel_slope = bounded<T>(held * (sum_dy_normalized / count), inverse);
    slope[channel] = static_cast<T>(channel_slope);
    constant[channel] = static_cast<T>(sum_dy[channel] / count - low * channel_slope);
    if constexpr (HasWeight) dweight[channel] = static_cast<T>(sum_dy_normalized);
  }
}

template <typename T>
void gradients(const batchnorm::GradientsWork<T>& work) {
  if (work.dbias)
    for (size_t channel = 0; channel < work.channels; channel++)
      work.dbias[channel] = static_cast<T>(work.sum_dy[channel]);
  if (work.dweight)
    gradients_as<true>(work);
  else
    gradients_as<false>(work);
}

}  // namespace
