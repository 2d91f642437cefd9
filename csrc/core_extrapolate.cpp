// extrapolate: leaves over threads, each by the kernel of the chosen instruction set.
#include <algorithm>
#include <cstring>
#include <vector>

#include "core.h"
#include "core_copy.h"
#include "core_isa.h"

namespace w2s {

namespace {

constexpr int64_t kLeavesPerPiece = 16;  // some 20 us: below that a thread costs more than it saves
constexpr int64_t kCached = 4 << 20;     // more bytes than this are not worth keeping in a cache

// The alpha of each element of [begin, begin + n).
void spread_alphas(const Extrapolation& all, int64_t begin, int64_t n, double* alphas) {
  if (all.alpha_rows == nullptr) {
    std::fill_n(alphas, n, all.alpha);
    return;
  }
  for (int64_t i = 0, row = begin / all.row_length; i < n; ++row) {
    const int64_t end = std::min(n, (row + 1) * all.row_length - begin);
    std::fill(alphas + i, alphas + end, all.alpha_rows[row]);
    i = end;
  }
}

}  // namespace

void extrapolate(const Extrapolation& all) {
  // Leaves end at multiples of kExtrapolateLeaf of the whole tensor, so the first may be shorter.
  const int64_t skipped = all.start % kExtrapolateLeaf;
  const int64_t leaves = (skipped + all.count + kExtrapolateLeaf - 1) / kExtrapolateLeaf;
  const int64_t sizes[] = {item_size(all.theta1_dtype), item_size(all.theta0_dtype),
                           item_size(all.out_dtype)};
  const bool in_place = all.out == all.theta1 || all.out == all.theta0;
  const bool past_caches = !in_place && all.count * sizes[2] > kCached;
  // alpha = 0 keeps theta1's bits, which is what the kernel does by element.
  const bool by_element = all.alpha_rows != nullptr || all.alpha == 0.0;
  std::vector<double> sums(all.sums == nullptr ? 0
                                               : static_cast<size_t>(leaves) * kExtrapolateSums);
  parallel(0, leaves, kLeavesPerPiece, [&](int64_t first, int64_t last) {
    alignas(64) char result[kExtrapolateLeaf * sizeof(double)];
    std::vector<double> alphas(by_element ? kExtrapolateLeaf : 0);
    for (int64_t i = first; i < last; ++i) {
      const int64_t begin = std::max<int64_t>(0, i * kExtrapolateLeaf - skipped);
      const int64_t n = std::min(all.count, (i + 1) * kExtrapolateLeaf - skipped) - begin;
      if (by_element) spread_alphas(all, begin, n, alphas.data());
      const ExtrapolateLeaf leaf{static_cast<const char*>(all.theta1) + begin * sizes[0],
                                 static_cast<const char*>(all.theta0) + begin * sizes[1],
                                 result,
                                 all.theta1_dtype,
                                 all.theta0_dtype,
                                 all.out_dtype,
                                 n,
                                 all.alpha,
                                 by_element ? alphas.data() : nullptr,
                                 all.stochastic,
                                 all.key,
                                 static_cast<uint64_t>(all.start + begin),
                                 sums.empty() ? nullptr : sums.data() + i * kExtrapolateSums};
      W2S_ON_ISA(extrapolate_leaf(leaf));
      char* to = static_cast<char*>(all.out) + begin * sizes[2];
      if (past_caches) {
        copy_past_caches(to, result, static_cast<size_t>(n * sizes[2]));
      } else {
        std::memcpy(to, result, static_cast<size_t>(n * sizes[2]));
      }
    }
    if (past_caches) copied_past_caches();
  });
  for (size_t i = 0; i < sums.size(); ++i) all.sums[i % kExtrapolateSums] += sums[i];
}

}  // namespace w2s
