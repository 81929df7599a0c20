#include "stored.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "frozen.h"
#include "traversal.h"

namespace batchnorm {
namespace {

/// Values of a piece: with what it is made of it stays in the nearest cache, and on a small stack.
constexpr size_t kPiece = 4096;
/// The same where pixels become rows of the result at once, so that nothing has to stay anywhere.
constexpr size_t kPieceOfRows = kBlockBytes / sizeof(float);
/// Channels of a piece where they lie side by side in x and apart in y.
constexpr size_t kChannelsAbreast = 64;
/// Pieces end where lines of y do, if y begins where one does.
constexpr size_t kWholeLines = 64;

/// Part of y: `samples`, of each `channels` of a row of `places`.
struct Piece {
  size_t sample, samples;
  size_t channel, channels;
  size_t place, places;
  size_t size() const { return samples * channels * places; }
};

const unsigned char* value_at(const void* base, Storage storage, ptrdiff_t index) {
  return static_cast<const unsigned char*>(base) + index * static_cast<ptrdiff_t>(bytes_of(storage));
}

bool lies_sample_alike(const Shape& shape, const Source& x) {
  return x.inner.is_one_run() && (shape.inner == 1 || x.inner.stride() == 1) &&
         (shape.channels == 1 || x.channel_stride == static_cast<ptrdiff_t>(shape.inner));
}

/// Copies values that lie anywhere.
template <typename Value>
void collect(const unsigned char* from, size_t count, ptrdiff_t stride, unsigned char* to) {
  for (size_t i = 0; i < count; i++)
    std::memcpy(to + i * sizeof(Value), from + static_cast<ptrdiff_t>(i) * stride, sizeof(Value));
}

/// Reads pieces of x as float32, as they lie in y: [sample][channel][place].
class Reader {
 public:
  Reader(const KernelTable& kernels, Shape shape, const Source& x)
      : kernels_(kernels),
        widen_(kernels.conversions[x.storage].widen),
        shape_(shape),
        x_(x),
        sample_alike_(lies_sample_alike(shape, x)),
        all_alike_(lies_alike(shape, x)) {}

  /// Whether channels lie side by side in x, and not in y.
  bool moves_channels() const { return shape_.inner > 1 && shape_.channels > 1 && is_abreast(); }

  /// Which of the kernels that take pixels apart reads x; -1 where none does.
  int taking() const {
    const ptrdiff_t stride = x_.inner.stride();
    if (!moves_channels()) return -1;
    if (stride == 3 && shape_.channels == 3) return 1;
    if (stride == 4 && shape_.channels == 3) return 2;
    if (stride == 2 && shape_.channels == 2) return 0;
    return stride == 4 && shape_.channels == 4 ? 3 : -1;
  }
  /// Which of those that put them together; -1 where none does.
  int putting() const {
    const bool rows = shape_.inner == 1 && x_.outer.stride() == 1 && !is_abreast();
    return rows && shape_.channels >= 2 && shape_.channels <= 4 ? static_cast<int>(shape_.channels) - 2 : -1;
  }

  /// Reads with the kernel taking(), which normalizes: rows `apart` values apart, those of the channels in
  /// the order of `work`.
  void take(const Piece& piece, PixelsWork work, float* to, size_t apart, float* room) const {
    const auto of_bytes = x_.storage == kUint8 ? kernels_.take_bytes[taking()] : nullptr;
    const auto kernel = of_bytes ? of_bytes : kernels_.take_pixels[taking()];
    const bool backwards = x_.channel_stride < 0;
    const size_t channels = shape_.channels, stride = static_cast<size_t>(x_.inner.stride());
    if (backwards)
      for (float* coefficients : {work.mean, work.scale, work.offset})
        std::reverse(coefficients, coefficients + channels);
    work.pixels = room;
    for (size_t sample = 0; sample < piece.samples; sample++) {
      const ptrdiff_t offset =
          x_.outer.offset_of(piece.sample + sample) - (backwards ? static_cast<ptrdiff_t>(channels) - 1 : 0);
      float* const rows = to + sample * channels * apart;
      for_each_run(x_.inner, piece.place, piece.places, [&](ptrdiff_t run, size_t first, size_t count) {
        // Bytes need no room.
        const size_t most = of_bytes ? count : kPiece / stride - kPiece / stride % kWholeLines;
        for (size_t done = 0; done < count; done += most) {
          work.count = std::min(most, count - done);
          work.bytes = at(offset + run + static_cast<ptrdiff_t>(done * stride));
          // To the last value of the last pixel, behind which there may be nothing.
          if (!of_bytes) widen_(work.bytes, (work.count - 1) * stride + channels, room);
          for (size_t channel = 0; channel < channels; channel++)
            work.rows[backwards ? channels - 1 - channel : channel] = rows + channel * apart + first + done;
          kernel(work);
        }
      });
    }
  }

  /// Reads with the kernel putting(), which normalizes.
  void put(const Piece& piece, PixelsWork work, float* to, float* room) const {
    const auto kernel = kernels_.put_pixels[putting()];
    const size_t channels = shape_.channels;
    for_each_run(x_.outer, piece.sample, piece.samples, [&](ptrdiff_t run, size_t first, size_t count) {
      const size_t most = kPiece / channels;
      for (size_t done = 0; done < count; done += most) {
        work.count = std::min(most, count - done);
        for (size_t channel = 0; channel < channels; channel++) {
          const ptrdiff_t row =
              run + static_cast<ptrdiff_t>(done) + static_cast<ptrdiff_t>(channel) * x_.channel_stride;
          // What is float32 already is read where it lies.
          work.rows[channel] = room + channel * work.count;
          if (x_.storage == kFloat32)
            work.rows[channel] = const_cast<float*>(static_cast<const float*>(x_.at)) + row;
          else
            widen_(at(row), work.count, work.rows[channel]);
        }
        work.pixels = to + (first + done) * channels;
        kernel(work);
      }
    });
  }

  /// `room` is as large as `to`.
  void read(const Piece& piece, float* to, float* room) const {
    if (piece.samples > 1 && all_alike_) {
      // More than one sample is all channels of it.
      return widen_(at(static_cast<ptrdiff_t>(piece.sample * shape_.channels * shape_.inner)), piece.size(),
                    to);
    }
    if (shape_.inner == 1) return read_columns(piece, to, room);
    const size_t size = piece.channels * piece.places;
    for (size_t sample = 0; sample < piece.samples; sample++) {
      const ptrdiff_t offset = x_.outer.offset_of(piece.sample + sample) +
                               static_cast<ptrdiff_t>(piece.channel) * x_.channel_stride;
      read_sample(piece, offset, to + sample * size, room);
    }
  }

 private:
  const unsigned char* at(ptrdiff_t offset) const { return value_at(x_.at, x_.storage, offset); }
  bool is_abreast() const { return x_.channel_stride == 1 || x_.channel_stride == -1; }

  /// Channels of one sample, a row of each.
  void read_sample(const Piece& piece, ptrdiff_t offset, float* to, float* room) const {
    if (sample_alike_ && piece.places == shape_.inner)
      return widen_(at(offset), piece.channels * piece.places, to);
    for_each_run(x_.inner, piece.place, piece.places, [&](ptrdiff_t run, size_t first, size_t count) {
      read_rows(piece.channels, offset + run, x_.inner.stride(), count, to + first, piece.places, room);
    });
  }

  /// `count` neighbours of each channel, `stride` apart, into rows.
  void read_rows(size_t channels, ptrdiff_t offset, ptrdiff_t stride, size_t count, float* to,
                 size_t to_stride, float* room) const {
    if (stride != 1 && channels > 1 && is_abreast()) {
      return for_each_group(channels, offset, stride, count, room,
                            [&](size_t first, size_t some, const float* pixels, size_t apart) {
                              turn(pixels, some, channels, apart, to + first, to_stride);
                            });
    }
    for (size_t channel = 0; channel < channels; channel++) {
      const ptrdiff_t row = offset + static_cast<ptrdiff_t>(channel) * x_.channel_stride;
      read_row(row, stride, count, to + channel * to_stride);
    }
  }

  /// Channels side by side, of one place per sample.
  void read_columns(const Piece& piece, float* to, float* room) const {
    const size_t channels = piece.channels;
    for_each_run(x_.outer, piece.sample, piece.samples, [&](ptrdiff_t run, size_t first, size_t count) {
      const ptrdiff_t offset = run + static_cast<ptrdiff_t>(piece.channel) * x_.channel_stride;
      read_pixels(channels, offset, x_.outer.stride(), count, to + first * channels, room);
    });
  }

  void read_pixels(size_t channels, ptrdiff_t offset, ptrdiff_t stride, size_t count, float* to,
                   float* room) const {
    const bool follow = stride == static_cast<ptrdiff_t>(channels) || count == 1;
    if (channels == 1) return read_row(offset, stride, count, to);
    if (x_.channel_stride == 1 && follow) return widen_(at(offset), count * channels, to);
    if (is_abreast()) {
      return for_each_group(channels, offset, stride, count, room,
                            [&](size_t first, size_t some, const float* pixels, size_t apart) {
                              for (size_t i = 0; i < some; i++)
                                put_pixel(pixels + i * apart, channels, to + (first + i) * channels);
                            });
    }
    const size_t most = kPiece / channels;
    for (size_t done = 0; done < count;) {
      const size_t some = std::min(most, count - done);
      for (size_t channel = 0; channel < channels; channel++)
        read_row(offset + static_cast<ptrdiff_t>(done) * stride +
                     static_cast<ptrdiff_t>(channel) * x_.channel_stride,
                 stride, some, room + channel * some);
      kernels_.transpose(room, channels, some, some, to + done * channels, static_cast<ptrdiff_t>(channels));
      done += some;
    }
  }

  void put_pixel(const float* pixel, size_t channels, float* to) const {
    if (x_.channel_stride == 1) {
      std::copy_n(pixel, channels, to);
    } else {
      std::reverse_copy(pixel, pixel + channels, to);
    }
  }

  /// Values of one channel.
  void read_row(ptrdiff_t offset, ptrdiff_t stride, size_t count, float* to) const {
    if (stride == 1 || count == 1) return widen_(at(offset), count, to);
    const ptrdiff_t bytes = stride * static_cast<ptrdiff_t>(bytes_of(x_.storage));
    alignas(kAlignment) unsigned char values[4 * kScattered];
    for (size_t done = 0; done < count; done += kScattered) {
      const size_t some = std::min(kScattered, count - done);
      const unsigned char* const from = at(offset + static_cast<ptrdiff_t>(done) * stride);
      switch (bytes_of(x_.storage)) {
        case 1:
          collect<uint8_t>(from, some, bytes, values);
          break;
        case 2:
          collect<uint16_t>(from, some, bytes, values);
          break;
        default:
          collect<uint32_t>(from, some, bytes, values);
      }
      widen_(values, some, to + done);
    }
  }

  /// Calls visit(first, count, pixels, apart) for groups of pixels, whose channels lie side by side: widened,
  /// with the values between them where those are few.
  template <typename Visit>
  void for_each_group(size_t channels, ptrdiff_t offset, ptrdiff_t stride, size_t count, float* room,
                      Visit visit) const {
    if (x_.channel_stride < 0) offset -= static_cast<ptrdiff_t>(channels) - 1;
    const bool through = stride >= static_cast<ptrdiff_t>(channels) &&
                         stride <= static_cast<ptrdiff_t>(std::min(2 * channels + kBetween, kPiece));
    const size_t apart = through ? static_cast<size_t>(stride) : channels;
    const size_t most = kPiece / apart;
    for (size_t done = 0; done < count;) {
      const size_t some = std::min(most, count - done);
      const ptrdiff_t first = offset + static_cast<ptrdiff_t>(done) * stride;
      if (through) {
        // To the last value of the last pixel, behind which there may be nothing.
        widen_(at(first), (some - 1) * apart + channels, room);
      } else {
        for (size_t i = 0; i < some; i++)
          widen_(at(first + static_cast<ptrdiff_t>(i) * stride), channels, room + i * channels);
      }
      visit(done, some, static_cast<const float*>(room), apart);
      done += some;
    }
  }

  /// Pixels to rows, of which the last comes first where channels go backwards.
  void turn(const float* pixels, size_t count, size_t channels, size_t apart, float* to,
            size_t to_stride) const {
    if (x_.channel_stride == 1)
      return kernels_.transpose(pixels, count, channels, apart, to, static_cast<ptrdiff_t>(to_stride));
    kernels_.transpose(pixels, count, channels, apart, to + (channels - 1) * to_stride,
                       -static_cast<ptrdiff_t>(to_stride));
  }

  /// Calls visit(offset, first, count) for the runs that places [begin, begin + count) are made of.
  template <typename Visit>
  static void for_each_run(const Steps& steps, size_t begin, size_t count, Visit visit) {
    for (size_t done = 0; done < count;) {
      const size_t place = begin + done;
      const size_t some = std::min(count - done, steps.run() - place % steps.run());
      visit(steps.offset_of(place), done, some);
      done += some;
    }
  }

  static constexpr size_t kScattered = 256;
  /// Values between pixels that are worth widening, beside as many as a pixel has.
  static constexpr size_t kBetween = 4;

  const KernelTable& kernels_;
  void (*const widen_)(const void*, size_t, float*);
  const Shape shape_;
  const Source& x_;
  /// Whether a sample, and whether all samples, lie in x as in y.
  const bool sample_alike_, all_alike_;
};

/// How y is cut into pieces.
class Cut {
 public:
  /// `most`: values of a piece. `lead`: places of a plane before its first whole line, where pieces end with
  /// lines after those.
  Cut(const Tiling<float>& tiling, bool moves_channels, size_t most = kPiece, size_t lead = 0)
      : shape_(tiling.shape()) {
    const size_t sample = shape_.channels * shape_.inner;
    channels_ = shape_.channels;
    places_ = shape_.inner;
    samples_ = 1;
    if (sample <= most) {
      samples_ = std::min(shape_.outer, most / sample);
      if (tiling.layout() == kChannelsLast && tiling.rows() > 0) {
        // Of whole rows.
        const size_t fold = tiling.width() / sample;
        if (samples_ > fold) samples_ -= samples_ % fold;
      }
    } else if (moves_channels) {
      channels_ = std::min(shape_.channels, kChannelsAbreast);
      places_ = std::min(shape_.inner, whole(most / channels_));
    } else {
      places_ = std::min(shape_.inner, kPiece);
      channels_ = std::min(shape_.channels, whole(most / places_));
    }
    channel_parts_ = divide_up(shape_.channels, channels_);
    lead_ = places_ < shape_.inner ? lead : 0;
    place_parts_ = divide_up(shape_.inner - lead_, places_) + (lead_ > 0 ? 1 : 0);
  }

  size_t size() const { return divide_up(shape_.outer, samples_) * channel_parts_ * place_parts_; }
  Piece piece(size_t index) const {
    // Channels first: they lie near each other in x where they are cut apart.
    const Range channels = part(shape_.channels, channels_, index % channel_parts_);
    index /= channel_parts_;
    const Range places = place_part(index % place_parts_);
    const Range samples = part(shape_.outer, samples_, index / place_parts_);
    return {samples.begin, samples.end - samples.begin, channels.begin, channels.end - channels.begin,
            places.begin,  places.end - places.begin};
  }

 private:
  Range place_part(size_t index) const {
    if (lead_ == 0) return part(shape_.inner, places_, index);
    if (index == 0) return {0, lead_};
    const Range range = part(shape_.inner - lead_, places_, index - 1);
    return {lead_ + range.begin, lead_ + range.end};
  }
  static size_t whole(size_t values) { return values > kWholeLines ? values - values % kWholeLines : values; }

  Shape shape_;
  size_t samples_, channels_, places_, lead_;
  size_t channel_parts_, place_parts_;
};

/// What becomes of a piece between its being read and its being written.
class Normalizer {
 public:
  /// `bias`: what missing values become, or nullptr.
  Normalizer(const Kernels<float>& kernels, const Tiling<float>& tiling, Activation activation,
             Normalization<const float> coefficients, const float* bias)
      : kernels_(kernels),
        tiling_(tiling),
        activation_(activation),
        coefficients_(coefficients),
        bias_(bias) {}

  /// In place.
  void normalize(const Piece& piece, float* values, const float* residual) const {
    if (tiling_.layout() == kChannelsFirst) {
      const size_t sample = piece.channels * piece.places;
      for (size_t i = 0; i < piece.samples; i++)
        write({piece.channels, piece.places, piece.places, straight_ahead(0)}, piece.channel,
              values + i * sample, residual ? residual + i * sample : nullptr);
      return;
    }
    const size_t width = tiling_.width();
    const size_t size = piece.size();
    const size_t rows = size < width ? 0 : size / width;
    const size_t whole = rows * width;
    // More than a row is of all channels.
    if (rows > 0) write({rows, width, width, straight_ahead(0)}, 0, values, residual);
    if (whole < size)
      write({1, size - whole, size - whole, straight_ahead(0)}, piece.channel * tiling_.columns_of_channel(),
            values + whole, residual ? residual + whole : nullptr);
  }

 private:
  void write(const Tile& tile, size_t first, float* values, const float* residual) const {
    const NormalizeWork<float> work = {tile,
                                       values,
                                       residual,
                                       {nullptr, 0},
                                       values,
                                       coefficients_.mean + first,
                                       coefficients_.scale + first,
                                       coefficients_.offset + first};
    if (!bias_)
      return kernels_.normalize[residual != nullptr][activation_].alone[kCached][tiling_.layout()](work);
    const PresentWork<float> present = {nullptr, nullptr, true, true, false};
    kernels_.present_normalize[tiling_.layout()]({work, bias_ + first, activation_, present, false});
  }

  const Kernels<float>& kernels_;
  const Tiling<float>& tiling_;
  Activation activation_;
  Normalization<const float> coefficients_;
  const float* bias_;
};

/// Calls visit(at, count, in_piece) for what of a piece lies side by side in y: `count` values from place
/// `at` on.
template <typename Visit>
void for_each_part(const Shape& shape, const Piece& piece, Visit visit) {
  const size_t at = (piece.sample * shape.channels + piece.channel) * shape.inner + piece.place;
  if (piece.places == shape.inner) return visit(at, piece.size(), size_t{0});
  for (size_t channel = 0; channel < piece.channels; channel++)
    visit(at + channel * shape.inner, piece.places, channel * piece.places);
}

/// Calls convert(first, count) for blocks of `count` values.
template <typename Convert>
void convert_all(const Execution& execution, size_t count, bool streamed, Convert convert) {
  constexpr size_t block = kBlockBytes / sizeof(float);
  work(Crew(execution, count * sizeof(float)), divide_up(count, block), [&](size_t task, size_t) {
    const Range range = part(count, block, task);
    convert(range.begin, range.end - range.begin);
    if (streamed) execution.kernels->fence();
  });
}

}  // namespace

void widen(const Execution& execution, Storage storage, const void* from, size_t count, float* to) {
  const bool streamed = count * sizeof(float) >= execution.stream_bytes;
  const Conversion& conversion = execution.kernels->conversions[storage];
  convert_all(execution, count, streamed, [&](size_t first, size_t many) {
    const void* const part = value_at(from, storage, static_cast<ptrdiff_t>(first));
    (streamed ? conversion.stream_wide : conversion.widen)(part, many, to + first);
  });
}

void narrow(const Execution& execution, const float* from, Storage storage, size_t count, void* to) {
  const bool streamed = count * bytes_of(storage) >= execution.stream_bytes;
  const Conversion& conversion = execution.kernels->conversions[storage];
  convert_all(execution, count, streamed, [&](size_t first, size_t many) {
    void* const part = static_cast<unsigned char*>(to) + first * bytes_of(storage);
    (streamed ? conversion.stream : conversion.narrow)(from + first, many, part);
  });
}

Shape arrange(const double* shape, const double* strides, size_t rank, size_t axis, size_t out_axis,
              Source& source) {
  Shape of_y = {1, static_cast<size_t>(shape[axis]), 1};
  source.channel_stride = static_cast<ptrdiff_t>(strides[axis]);
  for (size_t dimension = 0, other = 0; dimension < rank; dimension++) {
    if (dimension == axis) continue;
    const bool before = other++ < out_axis;
    const auto extent = static_cast<size_t>(shape[dimension]);
    (before ? of_y.outer : of_y.inner) *= extent;
    (before ? source.outer : source.inner).add(extent, static_cast<ptrdiff_t>(strides[dimension]));
  }
  return of_y;
}

bool lies_alike(const Shape& shape, const Source& x) {
  return lies_sample_alike(shape, x) && x.outer.is_one_run() &&
         (shape.outer == 1 || x.outer.stride() == static_cast<ptrdiff_t>(shape.channels * shape.inner));
}

void run_stored(const Execution& execution, const StoredPass& pass) {
  const Shape& shape = pass.shape;
  if (shape.size() == 0) return;
  const KernelTable& kernels = *execution.kernels;
  const Frozen& frozen = frozen_at(pass.frozen);
  const Tiling<float> tiling =
      shape.inner == 1 ? Tiling<float>(shape, kChannelsLast, frozen.fold) : Tiling<float>(shape);
  Scratch scratch;
  Normalization<const float> coefficients = frozen.coefficients<const float>();
  const bool has_columns = tiling.columns_of_channel() > 1;
  const auto spread_out = [&](const float* array) {
    float* const to = scratch.take<float>(padded_width(tiling));
    if (has_columns) {
      spread(kernels.f32, tiling, {0, shape.channels}, array, to);
    } else {
      std::copy_n(array, shape.channels, to);
      repeat(tiling, {0, shape.channels}, to);
    }
    return static_cast<const float*>(to);
  };
  if (has_columns)
    coefficients = {spread_out(coefficients.mean), spread_out(coefficients.scale),
                    spread_out(coefficients.offset)};
  const float* const bias = pass.bias ? spread_out(pass.bias) : nullptr;
  const Reader reader(kernels, shape, pass.x);
  const Normalizer normalizer(kernels.f32, tiling, frozen.activation, coefficients, bias);
  const size_t x_bytes = bytes_of(pass.x.storage), y_bytes = bytes_of(pass.y_storage);
  // What is small beside the result leaves it more of the caches, and what reads it next finds it there.
  const size_t stream_bytes = x_bytes < y_bytes
                                  ? std::max(execution.stream_bytes, execution.most_stream_bytes)
                                  : execution.stream_bytes;
  const bool streamed = pass.x.at != pass.y && shape.size() * y_bytes >= stream_bytes;
  const Conversion& conversion = kernels.conversions[pass.y_storage];
  const auto put = streamed ? conversion.stream : conversion.narrow;
  const auto widen_residual = kernels.conversions[pass.residual_storage].widen;

  const bool in_registers = !pass.residual && !pass.bias;
  const bool takes = in_registers && reader.taking() >= 0;
  const bool puts = in_registers && reader.putting() >= 0;
  PixelsWork pixels = {};
  if (takes || puts) {
    const Normalization<const float> of = frozen.coefficients<const float>();
    std::copy_n(of.mean, shape.channels, pixels.mean);
    std::copy_n(of.scale, shape.channels, pixels.scale);
    std::copy_n(of.offset, shape.channels, pixels.offset);
    pixels.relu = frozen.activation == kRelu;
  }
  // Rows need not be written twice: through the caches, or where all begin at lines, or as far behind one.
  const size_t misaligned = reinterpret_cast<uintptr_t>(pass.y) % kAlignment / sizeof(float);
  const bool alike = takes && shape.inner % kLanes<float> == 0 && pass.x.inner.is_one_run() &&
                     (misaligned == 0 || shape.channels * shape.inner > kPieceOfRows);
  const bool to_rows = takes && pass.y_storage == kFloat32 && (alike || !streamed);
  const size_t lead = to_rows && alike && misaligned > 0 ? kLanes<float> - misaligned : 0;
  const size_t most = to_rows ? kPieceOfRows : kPiece;
  const Cut cut(tiling, reader.moves_channels(), most, lead);
  const size_t pieces = cut.size();
  const size_t block = kBlockBytes / (most * sizeof(float));
  work(Crew(execution, shape.size() * (x_bytes + y_bytes)), divide_up(pieces, block),
       [&](size_t task, size_t) {
         alignas(kAlignment) float values[kPiece], room[kPiece];
         const Range range = part(pieces, block, task);
         for (size_t index = range.begin; index < range.end; index++) {
           const Piece piece = cut.piece(index);
           if (to_rows) {
             float* const rows = static_cast<float*>(pass.y) + piece.sample * shape.channels * shape.inner;
             PixelsWork rows_of_y = pixels;
             rows_of_y.streams = streamed && (piece.place + misaligned) % kLanes<float> == 0;
             reader.take(piece, rows_of_y, rows + piece.place, shape.inner, room);
             continue;
           }
           if (takes)
             reader.take(piece, pixels, values, piece.places, room);
           else if (puts)
             reader.put(piece, pixels, values, room);
           else
             reader.read(piece, values, room);
           if (pass.residual) {
             for_each_part(shape, piece, [&](size_t at, size_t count, size_t in_piece) {
               widen_residual(value_at(pass.residual, pass.residual_storage, static_cast<ptrdiff_t>(at)),
                              count, room + in_piece);
             });
           }
           if (!takes && !puts) normalizer.normalize(piece, values, pass.residual ? room : nullptr);
           for_each_part(shape, piece, [&](size_t at, size_t count, size_t in_piece) {
             put(values + in_piece, count, static_cast<unsigned char*>(pass.y) + at * y_bytes);
           });
         }
         if (streamed) kernels.fence();
       });
}

size_t find_missing_stored(const Execution& execution, Shape shape, const Source& x) {
  const size_t size = shape.size();
  if (size == 0) return size;
  const Reader reader(*execution.kernels, shape, x);
  const Cut cut(Tiling<float>(shape), reader.moves_channels());
  alignas(kAlignment) float values[kPiece], room[kPiece];
  size_t found = size;
  for (size_t index = 0; index < cut.size(); index++) {
    const Piece piece = cut.piece(index);
    reader.read(piece, values, room);
    for_each_part(shape, piece, [&](size_t at, size_t count, size_t in_piece) {
      for (size_t i = 0; i < count && at + i < found; i++)
        if (std::isnan(values[in_piece + i])) found = at + i;
    });
  }
  return found;
}

}  // namespace batchnorm
