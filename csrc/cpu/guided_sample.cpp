// Integer weights and their sums. Integers, so that a sum has one value whatever its order, and the
// filters and the draw are exact rules on it.
#include "../common/guided.h"
#include "simd.h"

namespace w2s {
namespace W2S_ISA {

uint64_t weigh_block(const float* z, int64_t n, const Weighing& rule, float z_min, float* weight) {
  const f32x16 m = set1(rule.m), inv_t = set1(rule.inv_temperature), lowest = set1(z_min);
  const f32x16 least = set1(rule.least), one = set1(kWeightOne);
  // A lane adds at most 64 integers of at most 2^44: exact.
  f64x16 sum = zero_f64();
  const auto weigh = [&](f32x16 v) {
    // Scaling by 2^44 is exact: exp_nonpositive gives no subnormal.
    const f32x16 w = mul(exp_nonpositive(mul(sub(v, m), inv_t)), one);
    const f32x16 kept = zero_where_less(w, least, zero_where_less(v, lowest, w));
    sum = add_floor(sum, kept);
    return kept;
  };
  int64_t i = 0;
  if (weight == nullptr) {
    for (; i + 16 <= n; i += 16) weigh(load(z + i));
    if (i < n) weigh(load_partial(z + i, n - i));
  } else {
    for (; i + 16 <= n; i += 16) store(weight + i, weigh(load(z + i)));
    if (i < n) store_partial(weight + i, weigh(load_partial(z + i, n - i)), n - i);
  }
  alignas(64) double lanes[16];
  store(lanes, sum);
  uint64_t total = 0;
  for (int k = 0; k < 16; ++k) total += static_cast<uint64_t>(lanes[k]);
  return total;
}

}  // namespace W2S_ISA
}  // namespace w2s
