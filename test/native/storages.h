// Inference from any storage type to any other, with any strides and the channel axis moved, against float32
// inference of the same values, gathered, widened, moved and narrowed one by one.
#pragma once

#include <algorithm>
#include <memory>
#include <numeric>

#include "conversions.h"
#include "passes.h"
#include "stored.h"

namespace storages {

using batchnorm::Storage;
using conversions::pattern_at;

constexpr Storage kAll[] = {batchnorm::kFloat32, batchnorm::kBfloat16, batchnorm::kFloat16,
                            batchnorm::kUint8,   batchnorm::kInt8,     batchnorm::kInt16};

/// How x lies in memory.
enum Lying {
  kWithoutGaps,
  kPadded,       ///< one more value at the end of the last dimension: RGB of RGBA
  kBackwards,    ///< the same, the last dimension from its end: BGR
  kWindow,       ///< a part of each dimension
  kMirrored,     ///< every dimension from its end
  kPermuted,     ///< dimensions in another order
  kEverySecond,  ///< of the last dimension
  kRepeated,     ///< the same values along the first dimension
  kLyings,
};

struct Case {
  std::vector<size_t> shape;
  size_t axis, out_axis;
  Lying lying;
  Storage x, y, residual;
  bool adds, imputes, relu;
  uint32_t seed;
};

struct View {
  std::vector<double> shape, strides;
  size_t offset, length;
};

inline View view_of(const Case& c) {
  const size_t rank = c.shape.size();
  std::vector<ptrdiff_t> strides(rank);
  std::vector<size_t> order(rank);
  std::iota(order.begin(), order.end(), size_t{0});
  if (c.lying == kPermuted) std::rotate(order.begin(), order.begin() + 1, order.end());
  ptrdiff_t next = 1;
  for (size_t i = rank; i-- > 0;) {
    const size_t dimension = order[i];
    auto extent = static_cast<ptrdiff_t>(c.shape[dimension]);
    if ((c.lying == kPadded || c.lying == kBackwards) && i + 1 == rank) extent++;
    if (c.lying == kWindow) extent += 3;
    if (c.lying == kEverySecond && i + 1 == rank) next = 2;
    strides[dimension] = next;
    next *= std::max<ptrdiff_t>(1, extent);
  }
  if (c.lying == kBackwards) strides[rank - 1] *= -1;
  if (c.lying == kMirrored)
    for (ptrdiff_t& stride : strides) stride *= -1;
  if (c.lying == kRepeated) strides[0] = 0;
  View view = {{}, {}, 0, 1};
  for (size_t i = 0; i < rank; i++) {
    view.shape.push_back(static_cast<double>(c.shape[i]));
    view.strides.push_back(static_cast<double>(strides[i]));
    const ptrdiff_t reach = (static_cast<ptrdiff_t>(c.shape[i]) - 1) * strides[i];
    if (reach < 0) view.offset += static_cast<size_t>(-reach);
    view.length += static_cast<size_t>(std::abs(reach));
  }
  return view;
}

/// Any bits, but for float32 values that integers and 16 bits can tell apart.
inline std::vector<unsigned char> values_of(Storage storage, size_t count, passes::Random& random) {
  std::vector<unsigned char> bytes(count * batchnorm::bytes_of(storage));
  if (storage != batchnorm::kFloat32) {
    for (unsigned char& byte : bytes) byte = static_cast<unsigned char>(random.next());
    return bytes;
  }
  for (size_t i = 0; i < count; i++) {
    const float value = random.next() % 50 ? static_cast<float>(300 * random.uniform())
                                           : std::numeric_limits<float>::quiet_NaN();
    std::memcpy(bytes.data() + 4 * i, &value, sizeof(value));
  }
  return bytes;
}

struct Layer {
  std::vector<double> mean, variance;
  std::vector<float> weight, bias;
};

/// Whether patterns are the same, but for those of NaN.
inline bool same(Storage storage, uint32_t a, uint32_t b) {
  if (a == b || conversions::is_integer(storage)) return a == b;
  const auto is_nan = [&](uint32_t pattern) {
    return storage == batchnorm::kFloat32
               ? std::isnan(conversions::float_of(pattern))
               : std::isnan(conversions::meaning(storage, static_cast<uint16_t>(pattern)));
  };
  return is_nan(a) && is_nan(b);
}

inline float wide_at(Storage storage, const unsigned char* values, size_t index) {
  const uint32_t pattern = pattern_at(values, batchnorm::bytes_of(storage), index);
  return conversions::float_of(storage == batchnorm::kFloat32 ? pattern
                                                              : conversions::expected_wide(storage, pattern));
}

/// Where the values of y come from, in its order.
inline std::vector<size_t> places_of(const Case& c, const View& view) {
  const size_t rank = c.shape.size();
  std::vector<size_t> order;
  for (size_t i = 0; i < rank; i++)
    if (i != c.axis) order.push_back(i);
  order.insert(order.begin() + static_cast<ptrdiff_t>(c.out_axis), c.axis);
  size_t size = 1;
  for (const size_t extent : c.shape) size *= extent;
  std::vector<size_t> places(size);
  for (size_t index = 0; index < size; index++) {
    double place = static_cast<double>(view.offset);
    size_t rest = index;
    for (size_t i = rank; i-- > 0;) {
      const size_t dimension = order[i];
      place += static_cast<double>(rest % c.shape[dimension]) * view.strides[dimension];
      rest /= c.shape[dimension];
    }
    places[index] = static_cast<size_t>(place);
  }
  return places;
}

/// Returns the number of tests.
inline int run(const Case& c) {
  passes::Random random(c.seed);
  const View view = view_of(c);
  const size_t channels = c.shape[c.axis];
  Layer layer;
  for (size_t channel = 0; channel < channels; channel++) {
    layer.mean.push_back(100 * random.uniform());
    layer.variance.push_back(10 + 9 * random.uniform());
    layer.weight.push_back(static_cast<float>(30 * random.uniform()));
    layer.bias.push_back(static_cast<float>(50 * random.uniform()));
  }
  const std::vector<unsigned char> x = values_of(c.x, view.length, random);
  const std::vector<size_t> places = places_of(c, view);
  const size_t size = places.size();
  const std::vector<unsigned char> residual = values_of(c.residual, size, random);

  batchnorm::Source source;
  source.storage = c.x;
  const batchnorm::Shape shape =
      arrange(view.shape.data(), view.strides.data(), c.shape.size(), c.axis, c.out_axis, source);

  // What float32 makes of it.
  std::vector<float> wide(size), added(size), y(size);
  size_t missing = size;
  for (size_t i = 0; i < size; i++) {
    wide[i] = wide_at(c.x, x.data(), places[i]);
    added[i] = wide_at(c.residual, residual.data(), i);
    if (std::isnan(wide[i])) missing = std::min(missing, i);
  }
  const batchnorm::Activation activation = c.relu ? batchnorm::kRelu : batchnorm::kIdentity;
  const batchnorm::KernelTable* const generic = batchnorm::find_kernel_table("generic");
  const batchnorm::Forward<float> forward = {shape,
                                             1e-5,
                                             wide.data(),
                                             y.data(),
                                             layer.weight.data(),
                                             layer.bias.data(),
                                             {activation, c.adds ? added.data() : nullptr},
                                             nullptr};
  batchnorm::infer_present<float>({generic, 1, 1 << 19, ~size_t{0}}, forward,
                                  {nullptr, c.imputes, c.imputes, false}, layer.mean.data(),
                                  layer.variance.data());
  std::vector<uint32_t> expected(size);
  for (size_t i = 0; i < size; i++)
    expected[i] =
        c.y == batchnorm::kFloat32 ? conversions::bits_of(y[i]) : conversions::expected_narrow(c.y, y[i]);

  int passed = 0;
  const size_t x_bytes = batchnorm::bytes_of(c.x), y_bytes = batchnorm::bytes_of(c.y);
  for (const auto* table : batchnorm::kernel_tables()) {
    for (const size_t place : {size_t{0}, size_t{3}, kAtEnd}) {
      const batchnorm::Execution execution = {table, place == 3 ? size_t{3} : size_t{1}, 1 << 19,
                                              place == kAtEnd ? ~size_t{0} : size_t{0}};
      const auto at = [&](size_t bytes) { return place == kAtEnd ? place : place * bytes; };
      std::vector<unsigned char> frozen(batchnorm::frozen_bytes<float>(channels));
      batchnorm::freeze<float>(execution,
                               {channels, 1e-5, layer.mean.data(), layer.variance.data(), layer.weight.data(),
                                layer.bias.data(), activation},
                               frozen.data());
      Guarded<unsigned char> from(x.size(), at(x_bytes)), to(size * y_bytes, at(y_bytes)),
          beside(residual.size(), at(batchnorm::bytes_of(c.residual)));
      from.fill(x);
      beside.fill(residual);
      source.at = from.data() + view.offset * x_bytes;
      batchnorm::run_stored(execution,
                            {shape, frozen.data(), source, c.residual, c.adds ? beside.data() : nullptr,
                             c.imputes ? layer.bias.data() : nullptr, c.y, to.data()});
      for (size_t i = 0; i < size; i++) {
        const uint32_t actual = pattern_at(to.data(), y_bytes, i);
        if (same(c.y, actual, expected[i])) continue;
        std::printf("failed: stored on %s, types %d to %d, lying %d, axis %zu to %zu, shape", table->name,
                    c.x, c.y, c.lying, c.axis, c.out_axis);
        for (const size_t extent : c.shape) std::printf(" %zu", extent);
        std::printf(", seed %u, value %zu: must be %#x, got %#x\n", c.seed, i, expected[i], actual);
        std::exit(1);
      }
      const bool finds = batchnorm::find_missing_stored(execution, shape, source) == missing;
      if (!finds || !from.intact() || !to.intact() || !beside.intact() || !from.holds(x)) {
        std::printf("failed: stored on %s: %s\n", table->name, finds ? "memory beside it" : "missing values");
        std::exit(1);
      }
      passed++;
    }
  }
  return passed;
}

/// `share`: one of so many cases.
inline int test_all(uint32_t share) {
  const std::vector<size_t> shapes[] = {{1},
                                        {7},
                                        {5, 3},
                                        {3, 40},
                                        {2, 30, 3},
                                        {2, 5, 7, 3},
                                        {1, 9, 9, 4},
                                        {2, 65, 33, 3},
                                        {3, 4, 2, 70},
                                        {2, 150, 4, 5},
                                        {1, 3, 1, 5000},
                                        {2, 70, 90},
                                        {40, 2, 2, 3},
                                        {1, 1, 5000, 2},
                                        {3, 1, 17, 1},
                                        {0, 3, 2},
                                        {2, 4200, 3},
                                        {9, 13, 2},
                                        {2, 1, 3, 2, 3},
                                        {2, 80, 80, 3},
                                        {1, 60, 64, 4}};
  int passed = 0;
  uint32_t number = 0;
  for (const Storage x : kAll)
    for (const Storage y : kAll)
      for (int lying = 0; lying < kLyings; lying++, number++) {
        if (share > 5 && number % kLyings != (number / kLyings) % kLyings) continue;
        passed += run({{2, 5, 50, 3}, 3, 1, static_cast<Lying>(lying), x, y, y, false, false, false, number});
      }
  // Planes that are cut into pieces which are written where they belong.
  for (const Storage x : {batchnorm::kUint8, batchnorm::kInt16})
    for (const Lying lying : {kWithoutGaps, kPadded, kBackwards, kWindow})
      for (const size_t width : {size_t{128}, size_t{127}})
        for (const bool relu : {false, true})
          passed += run({{2, 192, width, 3},
                         3,
                         1,
                         lying,
                         x,
                         batchnorm::kFloat32,
                         batchnorm::kFloat32,
                         false,
                         false,
                         relu,
                         number++});
  for (const auto& shape : shapes) {
    for (size_t axis = 0; axis < shape.size(); axis++) {
      for (size_t out_axis = 0; out_axis < shape.size(); out_axis++) {
        for (int lying = 0; lying < kLyings; lying++, number++) {
          if (number % share != 0) continue;
          if (shape[axis] == 0) continue;
          if (shape[0] == 0 && lying != kWithoutGaps) continue;
          passes::Random random(number);
          const auto one = [&] { return kAll[random.next() % batchnorm::kStorages]; };
          const Storage x = one(), y = one(), residual = one();
          passed += run({shape, axis, out_axis, static_cast<Lying>(lying), x, y, residual,
                         random.next() % 3 == 0, random.next() % 4 == 0, random.next() % 2 == 0, number});
        }
      }
    }
  }
  return passed;
}

}  // namespace storages
