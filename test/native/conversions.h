// Conversions against what the definitions of the types say, in arithmetic of another kind: doubles, and a
// search among all values that a type has.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <vector>

#include "dispatch.h"
#include "guarded.h"

namespace conversions {

using batchnorm::Storage;

inline float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
inline uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

/// Of a floating-point type of 16 bits: those of its mantissa, and the exponent that it adds.
struct Format {
  int mantissa, bias;
};
constexpr Format format_of(Storage storage) {
  return storage == batchnorm::kBfloat16 ? Format{7, 127} : Format{10, 15};
}

/// What 16 bits mean. Of a NaN any.
inline double meaning(Storage storage, uint16_t bits) {
  const auto [mantissa, bias] = format_of(storage);
  const int exponent = (bits & 0x7fff) >> mantissa, most = 0x7fff >> mantissa;
  const int fraction = bits & ((1 << mantissa) - 1);
  double value;
  if (exponent == most)
    value = fraction ? std::numeric_limits<double>::quiet_NaN() : std::numeric_limits<double>::infinity();
  else if (exponent == 0)
    value = std::ldexp(fraction, 1 - bias - mantissa);
  else
    value = std::ldexp(fraction + (1 << mantissa), exponent - bias - mantissa);
  return bits & 0x8000 ? -value : value;
}

/// As it must be widened: a NaN keeps its bits; float16's becomes a quiet one.
inline uint32_t widened(Storage storage, uint16_t bits) {
  const double value = meaning(storage, bits);
  if (!std::isnan(value)) return bits_of(static_cast<float>(value));
  const uint32_t sign = uint32_t{bits & 0x8000u} << 16;
  if (storage == batchnorm::kBfloat16) return uint32_t{bits} << 16;
  return sign | 0x7fc00000 | (bits & 0x3ffu) << 13;
}

/// The 16 bits nearest to a value, found by bisection among the positive ones, which are in the order of
/// their values. What follows the largest stands for as much as it would mean with another exponent.
inline uint16_t nearest(Storage storage, float from) {
  const auto [mantissa, bias] = format_of(storage);
  const uint32_t bits = bits_of(from);
  const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  const auto infinity = static_cast<uint16_t>((0x7fff >> mantissa) << mantissa);
  if (std::isnan(from)) {
    const int quiet = 1 << (mantissa - 1);
    return static_cast<uint16_t>(sign | infinity | quiet | ((bits & 0x7fffff) >> (23 - mantissa)));
  }
  const double value = std::fabs(static_cast<double>(from));
  const double beyond = std::ldexp(1, (0x7fff >> mantissa) - bias);
  const auto value_of = [&](int pattern) {
    return pattern == infinity ? beyond : meaning(storage, static_cast<uint16_t>(pattern));
  };
  if (value >= beyond) return sign | infinity;
  int below = 0, above = infinity;
  while (above - below > 1) {
    const int middle = (below + above) / 2;
    (value_of(middle) <= value ? below : above) = middle;
  }
  const double down = value - value_of(below), up = value_of(above) - value;
  const bool rounds_up = up < down || (up == down && below % 2 == 1);
  return static_cast<uint16_t>(sign | (rounds_up ? above : below));
}

/// The integer nearest to a value.
inline int nearest(float from, int least, int most) {
  if (std::isnan(from)) return 0;
  const double value = std::clamp<double>(from, least, most);
  const double down = std::floor(value);
  const double rest = value - down;
  return static_cast<int>(down) + (rest > 0.5 || (rest == 0.5 && std::fmod(down, 2) != 0) ? 1 : 0);
}

struct Range {
  int least, most;
};
constexpr Range range_of(Storage storage) {
  return storage == batchnorm::kUint8  ? Range{0, 255}
         : storage == batchnorm::kInt8 ? Range{-128, 127}
                                       : Range{-32768, 32767};
}
constexpr bool is_integer(Storage storage) {
  return storage >= batchnorm::kUint8;
}

/// Every value that a type has, as it lies in memory.
inline std::vector<unsigned char> all_of(Storage storage) {
  const size_t bytes = batchnorm::bytes_of(storage);
  std::vector<unsigned char> all;
  for (size_t value = 0; value < (bytes == 1 ? 0x100u : 0x10000u); value++)
    for (size_t byte = 0; byte < bytes; byte++)
      all.push_back(static_cast<unsigned char>(value >> 8 * byte & 0xff));
  return all;
}

inline uint32_t pattern_at(const unsigned char* values, size_t bytes, size_t index) {
  uint32_t pattern = 0;
  std::memcpy(&pattern, values + index * bytes, bytes);
  return pattern;
}

inline uint32_t expected_wide(Storage storage, uint32_t pattern) {
  if (!is_integer(storage)) return widened(storage, static_cast<uint16_t>(pattern));
  const int values = batchnorm::bytes_of(storage) == 1 ? 0x100 : 0x10000;
  const int value = static_cast<int>(pattern);
  return bits_of(static_cast<float>(value > range_of(storage).most ? value - values : value));
}
inline uint32_t expected_narrow(Storage storage, float value) {
  if (!is_integer(storage)) return nearest(storage, value);
  const auto [least, most] = range_of(storage);
  return static_cast<uint32_t>(nearest(value, least, most)) &
         (batchnorm::bytes_of(storage) == 1 ? 0xff : 0xffff);
}

/// Floats around every place where a result changes, the middle between two neighbours of a type: itself and
/// both floats beside it. And what is special, and any bits.
inline std::vector<float> boundaries(Storage storage) {
  std::vector<float> all;
  const auto around = [&](float value) {
    for (const float sign : {1.0f, -1.0f}) {
      all.push_back(sign * value);
      all.push_back(sign * std::nextafter(value, std::numeric_limits<float>::infinity()));
      all.push_back(sign * std::nextafter(value, -std::numeric_limits<float>::infinity()));
    }
  };
  if (is_integer(storage)) {
    for (int twice = 2 * range_of(storage).least - 4; twice <= 2 * range_of(storage).most + 4; twice++)
      around(static_cast<float>(twice) / 2);
  } else {
    const auto [mantissa, bias] = format_of(storage);
    const int infinity = (0x7fff >> mantissa) << mantissa;
    for (int pattern = 0; pattern < infinity; pattern++) {
      const double value = meaning(storage, static_cast<uint16_t>(pattern));
      const double next = pattern + 1 == infinity ? std::ldexp(1, (0x7fff >> mantissa) - bias)
                                                  : meaning(storage, static_cast<uint16_t>(pattern + 1));
      around(static_cast<float>(value));
      around(static_cast<float>((value + next) / 2));
    }
  }
  for (const uint32_t special : {0x00000000u, 0x00000001u, 0x007fffffu, 0x00800000u, 0x33000000u, 0x33000001u,
                                 0x477fe000u, 0x477fefffu, 0x477ff000u, 0x47800000u, 0x4effffffu, 0x4f000000u,
                                 0x4f800000u, 0x5f000000u, 0x7f7fffffu, 0x7f800000u, 0x7f800001u, 0x7f801fffu,
                                 0x7f80ffffu, 0x7fbfffffu, 0x7fc00000u, 0x7fc00001u, 0x7fffffffu}) {
    all.push_back(float_of(special));
    all.push_back(float_of(special | 0x80000000));
  }
  uint32_t state = 1;
  for (int i = 0; i < 100000; i++) {
    state = state * 1664525u + 1013904223u;
    all.push_back(float_of(state ^ state >> 15));
  }
  return all;
}

inline void require(bool condition, const char* what, const char* isa, Storage storage, uint32_t from,
                    uint32_t expected, uint32_t actual) {
  if (condition) return;
  std::printf("failed: %s on %s, type %d: %#x must become %#x, got %#x\n", what, isa, storage, from, expected,
              actual);
  std::exit(1);
}

/// All values of a type widened, and narrowed again to what they were.
inline void test_widen(const batchnorm::KernelTable* table, Storage storage) {
  const std::vector<unsigned char> all = all_of(storage);
  const size_t bytes = batchnorm::bytes_of(storage);
  const size_t count = all.size() / bytes;
  std::vector<float> wide(count), past(count);
  table->conversions[storage].widen(all.data(), count, wide.data());
  table->conversions[storage].stream_wide(all.data(), count, past.data());
  table->fence();
  std::vector<unsigned char> back(all.size());
  table->conversions[storage].narrow(wide.data(), count, back.data());
  for (size_t i = 0; i < count; i++) {
    const uint32_t pattern = pattern_at(all.data(), bytes, i);
    const uint32_t expected = expected_wide(storage, pattern);
    for (const float value : {wide[i], past[i]})
      require(bits_of(value) == expected, "widen", table->name, storage, pattern, expected, bits_of(value));
    const uint32_t returned = pattern_at(back.data(), bytes, i);
    const uint32_t quiet = std::isnan(wide[i]) ? 1u << (format_of(storage).mantissa - 1) : 0;
    require(returned == (pattern | quiet), "back again", table->name, storage, pattern, pattern | quiet,
            returned);
  }
}

inline void test_narrow(const batchnorm::KernelTable* table, Storage storage,
                        const std::vector<float>& values, const std::vector<uint32_t>& expected) {
  const size_t bytes = batchnorm::bytes_of(storage);
  const auto& conversion = table->conversions[storage];
  for (const auto narrow : {conversion.narrow, conversion.stream}) {
    std::vector<unsigned char> narrowed(values.size() * bytes);
    narrow(values.data(), values.size(), narrowed.data());
    table->fence();
    for (size_t i = 0; i < values.size(); i++) {
      const uint32_t actual = pattern_at(narrowed.data(), bytes, i);
      require(actual == expected[i], "narrow", table->name, storage, bits_of(values[i]), expected[i], actual);
    }
  }
}

/// Any number of values at any place, between pages without access; the last of many lines as well as the
/// first.
inline void test_places(const batchnorm::KernelTable* table, Storage storage,
                        const std::vector<float>& values, const std::vector<uint32_t>& expected) {
  const size_t bytes = batchnorm::bytes_of(storage);
  const auto& conversion = table->conversions[storage];
  for (size_t count = 0; count <= 200; count++) {
    for (const size_t place : {size_t{0}, size_t{1}, size_t{9}, kAtEnd}) {
      const size_t first = (count * 977 + (place & 15) * 31) % (values.size() - 200);
      Guarded<float> wide(count, place), again(count, place);
      wide.fill({values.begin() + static_cast<ptrdiff_t>(first),
                 values.begin() + static_cast<ptrdiff_t>(first + count)});
      for (const auto narrow : {conversion.narrow, conversion.stream}) {
        Guarded<unsigned char> narrowed(count * bytes, place == kAtEnd ? place : place * bytes);
        narrow(wide.data(), count, narrowed.data());
        table->fence();
        for (size_t i = 0; i < count; i++) {
          const uint32_t actual = pattern_at(narrowed.data(), bytes, i);
          require(actual == expected[first + i], "some values", table->name, storage, bits_of(wide.data()[i]),
                  expected[first + i], actual);
        }
        for (const auto widen : {conversion.widen, conversion.stream_wide}) {
          widen(narrowed.data(), count, again.data());
          table->fence();
          for (size_t i = 0; i < count && storage != batchnorm::kFloat32; i++) {
            const uint32_t is = bits_of(again.data()[i]), must = expected_wide(storage, expected[first + i]);
            require(is == must, "some values widened", table->name, storage, expected[first + i], must, is);
          }
        }
        require(narrowed.intact(), "what lies beside them", table->name, storage, 0, 0, 0);
      }
      require(wide.intact() && again.intact(), "what lies beside them", table->name, storage, 0, 0, 0);
    }
  }
}

/// Returns the number of tests.
inline int test_all() {
  int passed = 0;
  for (const Storage storage : {batchnorm::kFloat32, batchnorm::kBfloat16, batchnorm::kFloat16,
                                batchnorm::kUint8, batchnorm::kInt8, batchnorm::kInt16}) {
    const bool is_float = storage == batchnorm::kFloat32;
    const std::vector<float> values = boundaries(is_float ? batchnorm::kFloat16 : storage);
    std::vector<uint32_t> expected;
    for (const float value : values)
      expected.push_back(is_float ? bits_of(value) : expected_narrow(storage, value));
    for (const auto* table : batchnorm::kernel_tables()) {
      if (!is_float) test_widen(table, storage);
      test_narrow(table, storage, values, expected);
      test_places(table, storage, values, expected);
      passed += 3;
    }
  }
  return passed;
}

}  // namespace conversions
