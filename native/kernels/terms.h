// Sums of vectors, in an order of their own, and of lanes in double.
#pragma once

#include "loops.h"

namespace {

/// What a quad adds to a pair of sums.
template <typename T>
struct Terms {
  Vec<T> first = Vec<T>::broadcast(0);
  Vec<T> second = Vec<T>::broadcast(0);
  friend ALWAYS_INLINE Terms operator+(const Terms& a, const Terms& b) {
    return {a.first + b.first, a.second + b.second};
  }
};

/// ((t0 + t1) + (t2 + t3)) of the terms from `First` on, with what is missing left out. One after the other:
/// as arrays GCC keeps them in memory.
template <size_t First, size_t Count, typename Term>
ALWAYS_INLINE auto tree_of(const Term& term) {
  if constexpr (Count == 1) {
    return term(First);
  } else {
    constexpr size_t kLeft = Count == 2 ? 1 : 2;
    const auto left = tree_of<First, kLeft>(term);
    return left + tree_of<First + kLeft, Count - kLeft>(term);
  }
}

/// The same of the terms of each vector of a quad.
template <typename Quad, typename Term>
ALWAYS_INLINE auto sum_of(Quad quad, const Term& term) {
  if constexpr (Quad::kSize > 0) {
    return tree_of<0, Quad::kSize>(term);
  } else {
    decltype(term(0)) terms[kQuad];
    for (size_t i = 0; i < quad.size(); i++) terms[i] = term(i);
    return (terms[0] + terms[1]) + (terms[2] + terms[3]);
  }
}

/// Adds the lanes to as many doubles.
template <typename T>
ALWAYS_INLINE void add_lanes(const Vec<T>& values, double* totals) {
  using Doubles = Vec<double>;
  alignas(64) T lanes[kLanes<T>];
  values.store(lanes);
  // By registers: GCC makes a loop over lanes one of scalars, which took as long as the sums before it.
  for (size_t at = 0; at < kLanes<T>; at += kLanes<double>)
    (Doubles::load(totals + at) + Doubles::widen(lanes + at)).store(totals + at);
}

}  // namespace
