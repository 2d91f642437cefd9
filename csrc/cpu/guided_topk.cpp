// Picks the few columns that can be among the best k, so that only those are sorted.
#include "../common/guided.h"
#include "simd.h"

namespace w2s {
namespace W2S_ISA {

int64_t compact_block(const float* z, int64_t n, float z_min, int32_t first_id, float* z_out,
                      int32_t* id_out) {
  const f32x16 lowest = set1(z_min);
  int64_t count = 0;
  for (int64_t i = 0; i < n; i += 16) {
    const bool whole = i + 16 <= n;
    uint32_t mask = mask_not_less(whole ? load(z + i) : load_partial(z + i, n - i), lowest);
    if (!whole) mask &= (1u << (n - i)) - 1u;
    for (; mask != 0; mask &= mask - 1) {
      const int64_t j = i + __builtin_ctz(mask);
      z_out[count] = z[j];
      id_out[count] = first_id + static_cast<int32_t>(j);
      ++count;
    }
  }
  return count;
}

int64_t count_block(const float* z, int64_t n, float z_min) {
  const f32x16 lowest = set1(z_min);
  int64_t count = 0, i = 0;
  for (; i + 16 <= n; i += 16) count += __builtin_popcount(mask_not_less(load(z + i), lowest));
  if (i == n) return count;
  const uint32_t mask = mask_not_less(load_partial(z + i, n - i), lowest);
  return count + __builtin_popcount(mask & ((1u << (n - i)) - 1u));
}

}  // namespace W2S_ISA
}  // namespace w2s
