// The seam: everything above this line of the project is portable, everything below it is compiled once per
// ISA. A kernel touches nothing but its tile, allocates nothing and throws nothing.
#pragma once

#include <cstddef>
#include <cstdint>

/// Clang's way to ask for what GCC says with macros.
#if !defined(__has_feature)
#define __has_feature(feature) 0
#endif

/// Kernels are made of small functions that must dissolve: what is passed between them are registers. With
/// sanitizers they need not, and compilers take minutes over what would come of it.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || __has_feature(address_sanitizer) || \
    __has_feature(thread_sanitizer) || __has_feature(undefined_behavior_sanitizer) ||                    \
    __has_feature(coverage_sanitizer)
#define ALWAYS_INLINE inline
#define INLINED
#else
#define ALWAYS_INLINE inline __attribute__((always_inline))
/// The same for a lambda: it stands after the parameters.
#define INLINED __attribute__((always_inline))
#endif

namespace batchnorm {

/// Which side of a tile the channels lie on.
enum Layout {
  kChannelsFirst,  ///< one channel per row
  kChannelsLast,   ///< one channel per column
};

/// What follows the normalization. Its gradient passes where the result is above zero (or NaN).
enum Activation {
  kIdentity,
  kRelu,  ///< v above zero, NaN for NaN, else +0
};

/// What a kernel asks memory for while it reads: what lies `distance` values beyond the place where it reads.
/// Where that is `end` or more values from the beginning of the tile, a pass that sums asks for what lies
/// another `skip` values on: of a tile of 1000 values of a sample of 8000, {200, 1000, 7000} asks 200 values
/// ahead in the same tile, and towards its end for the first 200 values of the same channels in the next
/// sample.
struct Ahead {
  size_t distance;
  size_t end;
  ptrdiff_t skip;
};

/// rows x columns values; consecutive rows start `stride` values apart.
struct Tile {
  size_t rows;
  size_t columns;
  size_t stride;
  Ahead ahead;
};

/// How values lie in memory. All arithmetic on them is float32's.
enum Storage {
  kFloat32,
  kBfloat16,  ///< the upper half of a float32
  kFloat16,   ///< IEEE 754's binary16
  kUint8,
  kInt8,
  kInt16,
};
constexpr size_t kStorages = 6;

/// The bytes of a value.
constexpr size_t bytes_of(Storage storage) {
  return storage == kFloat32 ? 4 : storage == kUint8 || storage == kInt8 ? 1 : 2;
}

/// Between a storage type and float32, `count` neighbouring values: the same bits on every ISA.
///
/// What is narrowed goes to the nearest, of two to the even one. In 16-bit floats what lies beyond the range
/// is infinity, and NaN stays NaN, quiet, with the upper bits of its mantissa; integers saturate, and NaN and
/// -0 are 0.
struct Conversion {
  void (*widen)(const void* from, size_t count, float* to);
  void (*narrow)(const float* from, size_t count, void* to);
  /// The same, with the whole lines of `to` past the caches; they ask memory for what follows. Need the
  /// fence.
  void (*stream_wide)(const void* from, size_t count, float* to);
  void (*stream)(const float* from, size_t count, void* to);
};

/// How a pass writes: the first index of its kernels.
enum Stores {
  kCached,    ///< through the caches, for a reader that comes soon
  kStreamed,  ///< past them
};

/// A value of 16 bits in memory, which is computed with in float: bfloat16 or float16, as Execution says.
struct Half {
  uint16_t bits;
};

/// What values that lie in memory as S are computed in: float and double in themselves.
template <typename S>
struct ComputeOf {
  using Type = S;
};
template <>
struct ComputeOf<Half> {
  using Type = float;
};
template <typename S>
using Compute = typename ComputeOf<S>::Type;

/// Values in 64 bytes, the unit of arithmetic on every ISA.
template <typename T>
constexpr size_t kLanes = 64 / sizeof(T);

/// From so many channels-last rows on the parts of lines at both ends are worth it to write from line to
/// line.
constexpr size_t kLineRows = 16;

/// Whether channels-last rows without gaps are written from line to line of the result, and all lie alike.
template <typename T>
ALWAYS_INLINE constexpr bool goes_by_lines(size_t rows, size_t columns) {
  return rows >= kLineRows && columns % kLanes<T> == 0;
}

/// Additions, of up to eight vectors each, that a lane makes in T before it becomes a double: kMostDistant
/// says why so few.
constexpr size_t kStretch = 4;

/// Two sums per lane (channels-first) or column (channels-last): what this stretch has added up, 0 before and
/// after, and the totals of those before.
template <typename T>
struct LaneSums {
  T* first;
  T* second;
  double* first_total;
  double* second_total;
};

/// sums += x - shift, (x - shift)^2
template <typename S>
struct MomentsWork {
  Tile tile;
  const S* x;
  const Compute<S>* shift;
  LaneSums<Compute<S>> sums;
  bool ends_stretch;  ///< with every row of a channels-first tile, with the last of a channels-last one
};

/// A mask has one bit per value: whether a ReLU lets it through. The first byte says at which bit after it
/// those begin, which is where the lines of y do: as far as it can be, no two lines share a byte.
struct Mask {
  unsigned char* bytes;
  size_t at;  ///< the place of the first value in the tensor
};

/// y = activation((x - mean) * scale + offset + residual). A ReLU after a residual also fills a mask of
/// zeros, where there is one (bytes is nullptr for none).
template <typename S>
struct NormalizeWork {
  Tile tile;
  const S* x;
  const S* residual;  ///< of the passes that add one
  Mask mask;          ///< of the one that adds it before a ReLU
  S* y;
  const Compute<S>* mean;
  const Compute<S>* scale;
  const Compute<S>* offset;
};

/// How a pass finds out which dy an activation has let through.
enum Gate {
  kOpen,        ///< all of them: there is none
  kRecomputed,  ///< by normalizing x again
  kMasked,      ///< from a mask
};

/// sums += dy, dy * (x - mean), of the dy that have been let through
template <typename S>
struct GradSumsWork {
  Tile tile;
  const S* dy;
  const S* x;
  Mask mask;
  const Compute<S>* mean;
  const Compute<S>* scale;
  const Compute<S>* offset;
  LaneSums<Compute<S>> sums;
  bool ends_stretch;  ///< as for the moments
};

/// dx = (dy - (x - mean) * slope - constant) * scale, likewise. What a mask lets through is written to
/// dresidual.
template <typename S>
struct GradInputWork {
  Tile tile;
  const S* dy;
  const S* x;
  Mask mask;
  S* dx;
  S* dresidual;
  const Compute<S>* mean;
  const Compute<S>* slope;
  const Compute<S>* constant;
  const Compute<S>* scale;
  const Compute<S>* offset;
};

/// dx = (dy * weight - (x - mean) * slope - constant) * scale, with coefficients of channels all, of the dy
/// that an activation lets through: where (x - mean) * y_scale + y_offset is above zero. Tiles and
/// coefficients are as for kStreamed.
template <typename T>
struct WeightedGradInputWork {
  Tile tile;
  const T* dy;
  const T* x;
  T* dx;
  const T* mean;
  const T* slope;
  const T* constant;
  const T* scale;
  const T* weight;
  const T* y_scale;
  const T* y_offset;
};

/// to = from where the mask has a bit, else +0: `count` neighbouring values.
template <typename S>
struct MaskWork {
  size_t count;
  const S* from;
  Mask mask;
  S* to;
};

/// Which values of a tile count, and how much. Weights are those of positions: one per row in channels-last,
/// where all columns share it, and one per column in channels-first, where all rows do. None is below 0.
///
/// `shares` are the same in T, as parts of the largest of them; above 0 where the weight is.
template <typename T>
struct PresentWork {
  const double* weights;
  const T* shares;
  bool missing;  ///< whether a NaN in x is a value that is missing
  bool impute;   ///< whether such a value is taken for the mean of its channel
  bool zero;     ///< whether what has weight 0 is 0 in y, and lets no gradient through
};

/// Per channel, as PresentMoments holds them: kLanes<T> in channels-first, one in channels-last.
struct PresentSums {
  double* weight;   ///< only with `missing`, as the next one
  double* squares;  ///< of weights
  double* first;
  double* second;
};

/// weight * (x - shift) and its product with x - shift are added up, of what is present.
template <typename S>
struct PresentMomentsWork {
  Tile tile;
  const S* x;
  const double* shift;
  PresentWork<Compute<S>> present;
  PresentSums sums;
};

/// The sums of what is there as one: see merge_present.
struct PresentStatistics {
  double* weight;
  double* squares;
  double* reference;  ///< what mean is the distance from
  double* mean;
  double* deviations;  ///< weighted squares of the distances from the mean
};

/// normalize, for what takes missing values for the mean or writes zeros; with the activation, and a residual
/// that may be absent.
template <typename S>
struct PresentNormalizeWork : NormalizeWork<S> {
  using Plain = NormalizeWork<S>;
  const Compute<S>* bias;  ///< what the mean becomes
  Activation activation;
  PresentWork<Compute<S>> present;
  bool streams;  ///< whether whole lines are written past the caches
};

/// grad_sums: of the dy that the activation lets through, and whose x is present or outside. `all` are the
/// sums with imputed values, which count in the gradient of the bias alone; nullptr where there are none.
template <typename S>
struct PresentGradSumsWork {
  Tile tile;
  const S* dy;
  const S* x;
  Mask mask;
  Gate gate;
  const Compute<S>* mean;
  const Compute<S>* scale;
  const Compute<S>* offset;
  const Compute<S>* bias;
  const double* centre;  ///< all of the mean
  PresentWork<Compute<S>> present;
  double* dy_sum;
  double* dy_xc;
  double* all;
};

/// grad_input, of which share * (deviation * slope + constant) is taken away. dx and dresidual may be absent.
template <typename S>
struct PresentGradInputWork : GradInputWork<S> {
  using Plain = GradInputWork<S>;
  const Compute<S>* bias;
  Gate gate;
  PresentWork<Compute<S>> present;
  bool streams;
  bool flows;  ///< whether all shares are the same
  bool fixed;  ///< whether statistics are constants, so that nothing is taken away
};

/// dweights += linear * n + square * (n * n - least), where n = (x - mean) * inverse, over the channels of a
/// position.
template <typename S>
struct GradWeightsWork {
  Tile tile;
  const S* x;
  const double* mean;
  const double* inverse;
  const double* linear;
  const double* square;
  const double* least;
  double* dweights;
};

/// The sums of deviations from shift, which is found on the way and near the mean of the row, and of their
/// squares, of rows without gaps; or of what is not centred the squares about 0.
template <typename T>
struct RowMomentsWork {
  size_t rows;
  size_t columns;
  double share;  ///< 1 / columns
  bool centred;
  const T* x;
  T* shift;
  double* first;
  double* second;
};

/// y = ((x - mean) * scale + offset) * weight + bias, of rows without gaps: mean, scale and offset are those
/// of rows, weight and bias of columns, as per-channel arrays of channels-last.
template <typename T>
struct ScaleRowsWork {
  size_t rows;
  size_t columns;
  size_t distance;  ///< how far ahead memory is asked for
  const T* x;
  T* y;
  const T* mean;
  const T* scale;
  const T* offset;
  const T* weight;
  const T* bias;
};

/// y = dy where that is above zero, else 0.
template <typename T>
struct GateRowsWork : ScaleRowsWork<T> {
  const T* dy;
};

/// Of rows normalized like that before they are scaled, n = (x - mean) * scale + offset: column sums += dy,
/// dy * n, of at most kStretch * 8 rows; row sums = dy * weight, dy * weight * n.
template <typename T>
struct RowSumsWork {
  size_t rows;
  size_t columns;
  size_t distance;
  const T* dy;
  const T* x;
  const T* mean;
  const T* scale;
  const T* offset;
  const T* weight;
  T* column_dy;
  T* column_product;
  double* dy_sum;
  double* product_sum;
};

/// What such sums become: slope and constant of the gradient of x.
template <typename T>
struct RowSlopesWork {
  size_t rows;
  double share;  ///< 1 / columns
  bool centred;
  const double* dy_sum;
  const double* product_sum;
  const T* scale;
  const T* offset;
  T* slope;
  T* constant;
};

/// dx = (dy * weight - (x - mean) * slope - constant) * scale, likewise.
template <typename T>
struct GradRowsWork {
  size_t rows;
  size_t columns;
  size_t distance;
  const T* dy;
  const T* x;
  T* dx;
  const T* mean;
  const T* slope;
  const T* constant;
  const T* scale;
  const T* weight;
};

/// What normalize takes, of the statistics of channels. An absent (nullptr) weight is 1, an absent bias 0.
template <typename T>
struct NormalizationWork {
  size_t channels;
  double eps;
  const double* mean;
  const double* variance;
  const T* weight;
  const T* bias;
  T* high;  ///< what T holds of the mean, or 0
  T* scale;
  T* offset;
};

/// What grad_input takes beside that, and the gradients of weight and bias where they are not nullptr, of the
/// sums of channels.
template <typename T>
struct GradientsWork {
  size_t channels;
  double eps;
  double count;
  const double* mean;
  const double* variance;
  const T* high;
  const double* sum_dy;
  const double* sum_dy_xc;
  T* slope;
  T* constant;
  T* dweight;
  T* dbias;
};

/// A pass that writes, for each kind of Stores and Layout.
///
/// kStreamed wants rows without gaps (stride == columns), of at least kLanes<T> values in kChannelsFirst. In
/// kChannelsLast per-channel arrays go on for another kLanes<T> values, as if the next row followed. Each
/// thread must call fence() after its last streamed work.
///
/// stream_beside is the streamed form in kChannelsFirst that does work of the pass that sums as well, line by
/// line in turns: what memory sends for the one comes in while the other works in the caches. nullptr where
/// the ISA has no way past the caches, and for passes with so much to do themselves that it only holds up
/// both (a residual, a gate).
template <typename Work, typename Sums>
struct WritingPass {
  void (*alone[2][2])(const Work& work);
  void (*stream_beside)(const Work& work, const Sums& sums);
};

/// One function per pass and Layout.
///
/// Per-channel inputs and sums are 64-byte aligned arrays of ours, padded to whole vectors of kLanes.
/// Sums hold kLanes<T> partial sums per channel in kChannelsFirst and one sum per channel in kChannelsLast;
/// a kernel adds to what is there. The order of the additions is part of the contract (see kernels/passes.h).
template <typename T>
struct Kernels {
  /// to[channel] = a value near the centre of the nine values from[i][channel * stride]
  void (*centres)(const T* const (&from)[9], size_t stride, size_t channels, T* to);
  /// to[place] = from[channel] for the `columns` places of each channel, one channel after the other
  void (*spread)(const T* from, size_t channels, size_t columns, T* to);
  /// to[channel] = the sum of the channel's sums: in kChannelsFirst halved until one is left, in
  /// kChannelsLast of so many columns
  void (*collect[2])(const T* sums, size_t channels, size_t columns, double* to);
  /// The same of totals.
  void (*collect_totals[2])(const double* totals, size_t channels, size_t columns, double* to);
  /// The first channel whose sums are not finite, or in float32 owe more than kMostDistant of the squares to
  /// the distance between shift and mean, or have squares below kLeastSquare, so that rounding the squares
  /// has cost digits of the variance; or `channels`. `lost`: whether that may have left none of them.
  size_t (*find_bad)(size_t channels, bool lost, double values, const double* sum, const double* sum_squares);
  /// Adds deviations of `count` consecutive values of a channel from shift, and their squares, to kLanes sums
  /// in double.
  void (*add_in_double)(const T* values, size_t count, double shift, double* sums, double* squares);
  /// Adds the sums of a chunk of `values` values per channel, which refer to shift, to those that refer to
  /// reference.
  void (*merge)(size_t channels, double values, const double* chunk_sum, const double* chunk_squares,
                const T* shift, const T* reference, double* sum, double* sum_squares);
  /// mean and biased variance from sums of `count` values that refer to reference; not finite where a step in
  /// between is not
  void (*statistics)(size_t channels, double count, const T* reference, const double* sum,
                     const double* sum_squares, double* mean, double* variance);
  void (*normalization)(const NormalizationWork<T>& work);
  void (*gradients)(const GradientsWork<T>& work);
  void (*moments[2])(const MomentsWork<T>& work);
  /// [whether it adds a residual][Activation]
  WritingPass<NormalizeWork<T>, MomentsWork<T>> normalize[2][2];
  /// [Gate][Layout]
  void (*grad_sums[3][2])(const GradSumsWork<T>& work);
  /// [Gate]
  WritingPass<GradInputWork<T>, GradSumsWork<T>> grad_input[3];
  /// dx = scale * what a ReLU lets through of dy, for statistics that carry no gradient. Without one
  /// normalize does that.
  WritingPass<GradInputWork<T>, GradSumsWork<T>> frozen_grad_input;
  /// [Stores][Layout]; kStreamed needs the fence as well.
  void (*weighted_grad_input[2][2])(const WeightedGradInputWork<T>& work);
  /// [Stores], likewise.
  void (*apply_mask[2])(const MaskWork<T>& work);
  /// The passes over values of which not all count alike, all [Layout]. Their sums are in double.
  void (*present_moments[2])(const PresentMomentsWork<T>& work);
  void (*present_normalize[2])(const PresentNormalizeWork<T>& work);
  void (*present_grad_sums[2])(const PresentGradSumsWork<T>& work);
  void (*present_grad_input[2])(const PresentGradInputWork<T>& work);
  void (*grad_weights[2])(const GradWeightsWork<T>& work);
  void (*moments_of_rows)(const RowMomentsWork<T>& work);
  /// [Stores], where kStreamed needs the fence
  void (*scale_rows[2])(const ScaleRowsWork<T>& work);
  void (*gate_rows)(const GateRowsWork<T>& work);
  void (*sum_rows)(const RowSumsWork<T>& work);
  void (*slopes_of_rows)(const RowSlopesWork<T>& work);
  /// totals += sums, which become 0
  void (*end_columns)(size_t columns, T* sums, double* totals);
  void (*grad_rows[2])(const GradRowsWork<T>& work);
};

/// Kernels that read and write 16 bits themselves, of the passes that move the most; all nullptr where the
/// ISA has none. Those that write want rows without gaps, of at least kLanes<float> values in kChannelsFirst,
/// and coefficients as for kStreamed. Those that sum want whole additions in kChannelsLast: a multiple of 8
/// rows and of kLanes<float> columns. None knows a mask.
struct HalfKernels {
  template <template <typename> class Work>
  struct Written {
    void (*kernels[2][2])(const Work<Half>& work);  ///< [Stores][Layout]
  };
  void (*moments[2])(const MomentsWork<Half>& work);
  /// [Gate][Layout]
  void (*grad_sums[2][2])(const GradSumsWork<Half>& work);
  /// Without a residual: [Activation]
  Written<NormalizeWork> normalize[2];
  /// [Gate]
  Written<GradInputWork> grad_input[2];
};

/// Pixels of two to four channels, and rows of one channel each. What is normalized on the way lies as the
/// other when it is done.
struct PixelsWork {
  size_t count;  ///< pixels
  float* pixels;
  const unsigned char* bytes;  ///< of take_bytes, in the place of `pixels`
  float* rows[4];
  float mean[4], scale[4], offset[4];  ///< of the channels, in the order of the rows
  bool relu;
  bool streams;  ///< whether rows, which begin at lines then, are written past the caches
};

/// All kernels of one instruction set.
struct KernelTable {
  const char* name;  ///< as in BATCHNORM_ISA: generic, neon, avx2, avx512
  void (*fence)();   ///< makes what the calling thread has streamed visible to the others
  /// running = decay * running + (1 - decay) * batch, of the variance times correction and unless running_var
  /// is nullptr, for the channels where both come out finite; returns the number of the others. Where
  /// `accepted` is not nullptr it takes the place of decay and is counted up, see update_running_stats.
  size_t (*average)(size_t channels, double decay, double correction, const double* mean,
                    const double* variance, double* running_mean, double* running_var, double* accepted);
  /// Adds sums of chunks, which refer to shift, to statistics. What has no weight adds nothing.
  void (*merge_present)(size_t channels, const double* shift, PresentSums chunk, PresentStatistics to);
  Conversion conversions[kStorages];
  /// to[column * to_stride + row] = from[row * from_stride + column]
  void (*transpose)(const float* from, size_t rows, size_t columns, size_t from_stride, float* to,
                    ptrdiff_t to_stride);
  /// Pixels to rows: of 2 channels, of 3, of 3 of 4, and of 4
  void (*take_pixels[4])(const PixelsWork& work);
  /// The same of pixels of uint8; nullptr where the ISA has none. Reads no further than the last pixel's last
  /// channel.
  void (*take_bytes[4])(const PixelsWork& work);
  /// Rows to pixels: of 2 channels, of 3, of 4
  void (*put_pixels[3])(const PixelsWork& work);
  Kernels<float> f32;
  Kernels<double> f64;
  HalfKernels half[2];  ///< bfloat16, float16
};

template <typename T>
const Kernels<T>& kernels_of(const KernelTable& table);
template <>
inline const Kernels<float>& kernels_of<float>(const KernelTable& table) {
  return table.f32;
}
template <>
inline const Kernels<double>& kernels_of<double>(const KernelTable& table) {
  return table.f64;
}

}  // namespace batchnorm
