// What extrapolate's kernel is given: a leaf, the unit in which sums are made.
#pragma once

#include <cstdint>

#include "types.h"

namespace w2s {

constexpr int64_t kExtrapolateLeaf = 4096;  // elements, from a multiple of it on
constexpr int kExtrapolateSums = 4;

struct ExtrapolateLeaf {
  const void* theta1;  // [n]
  const void* theta0;  // [n]
  void* out;           // [n], apart from the inputs
  Dtype theta1_dtype, theta0_dtype, out_dtype;
  int64_t n;             // <= kExtrapolateLeaf
  double alpha;          // not 0, where alphas is null
  const double* alphas;  // [n] or null
  bool stochastic;
  uint64_t key;
  uint64_t index;  // of the first element, in the whole tensor
  double* sums;    // [kExtrapolateSums], written, or null
};

}  // namespace w2s
