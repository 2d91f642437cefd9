// The one reduction of the project: a row is cut into leaves of kLeafColumns columns whatever V is;
// a leaf gives (m, s, u) about its own maximum; leaves are folded left to right in fp64 about the
// row maximum. Cutting at fixed columns (and not by thread or batch) is what makes a row's bits
// independent of threads, of the batch, and of appended -inf columns.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

namespace w2s {

constexpr int64_t kLeafColumns = 4096;

// Virtual lanes of a leaf: lane l sums columns l, l + 64, ... in blocks (see cpu/logprob.cpp); the
// lanes are folded in one order. 64 and not fewer, so that a chain of fp32 additions stays short:
// on rows of equal terms its roundings all have one sign.
constexpr int kLanes = 64;

inline constexpr int64_t leaf_count(int64_t columns) {
  return (columns + kLeafColumns - 1) / kLeafColumns;
}

// What a leaf knows about x = (z - m) / T.  A leaf of masked columns is (-inf, 0, 0); a leaf that
// holds a NaN or +inf is (NaN, NaN, NaN).
struct LeafStats {
  float m;   // max z
  double s;  // sum exp(x)
  double u;  // sum exp(x) * x, for the entropy
};

struct RowStats {
  float m;
  double s;
  double u;
};

// exp(-inf - -inf) never happens: a leaf with m = -inf is skipped, and so is its rescale.
inline RowStats fold_leaves(const LeafStats* leaf, int64_t count, double temperature) {
  constexpr float kNegInf = -std::numeric_limits<float>::infinity();
  float m = kNegInf;
  bool nan = false;
  for (int64_t i = 0; i < count; ++i) {
    nan |= leaf[i].m != leaf[i].m;
    if (leaf[i].m > m) m = leaf[i].m;
  }
  if (nan) {
    const float q = std::numeric_limits<float>::quiet_NaN();
    return {q, q, q};
  }
  double s = 0.0, u = 0.0;
  for (int64_t i = 0; i < count; ++i) {
    if (leaf[i].m == kNegInf) continue;
    const double d = (static_cast<double>(leaf[i].m) - static_cast<double>(m)) / temperature;
    const double scale = std::exp(d);
    if (scale == 0.0) continue;
    s += scale * leaf[i].s;
    u += scale * (leaf[i].u + d * leaf[i].s);
  }
  return {m, s, u};
}

}  // namespace w2s
