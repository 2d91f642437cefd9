// Philox-4x32-10 (../common/philox.h) of many counters at once, as 16-bit random numbers in order.
#pragma once

#include "wide.h"

namespace w2s {
namespace W2S_ISA {

constexpr int kHalvesAtOnce = 8 * kWide;  // a counter gives four words

// halves[0, 8 counters): the words of counter, counter + 1, …, each its low half first. `counters`
// is a multiple of kWide. A lane holds a 32-bit word; what stands above it is never looked at.
static inline void random_halves(uint16_t* halves, uint64_t counter, int64_t counters,
                                 uint64_t key) {
  const u64 m0 = u64{} + 0xD2511F53u, m1 = u64{} + 0xCD9E8D57u;
  u64 lane;
  for (int i = 0; i < kWide; ++i) lane[i] = static_cast<uint64_t>(i);
  for (int64_t done = 0; done < counters; done += kWide) {
    u64 c0 = lane + (counter + static_cast<uint64_t>(done)), c1 = c0 >> 32, c2{}, c3{};
    uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
    for (int round = 0; round < 10; ++round) {
      const u64 p0 = multiply_low(c0, m0), p1 = multiply_low(c2, m1);
      c0 = (p1 >> 32) ^ c1 ^ (u64{} + k0);
      c2 = (p0 >> 32) ^ c3 ^ (u64{} + k1);
      c1 = p1;
      c3 = p0;
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    const u64 low = u64{} + 0xffffffffu;
    uint64_t words[2 * kWide];
    store_pairs(words, (c0 & low) | c1 << 32, (c2 & low) | c3 << 32);
    std::memcpy(halves + 8 * done, words, sizeof(words));
  }
}

}  // namespace W2S_ISA
}  // namespace w2s
