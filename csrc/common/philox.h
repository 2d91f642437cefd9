// Philox-4x32-10, the counter-based generator of Salmon et al., "Parallel random numbers: as easy
// as 1, 2, 3" (SC 2011). Host and device.
#pragma once

#include <cstdint>

#if defined(__CUDACC__) || defined(__HIPCC__)
#define W2S_HD __host__ __device__
#else
#define W2S_HD
#endif

namespace w2s {

struct PhiloxWords {
  uint32_t word[4];
};

W2S_HD static inline PhiloxWords philox4x32_10(PhiloxWords c, uint32_t key_low, uint32_t key_high) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = static_cast<uint64_t>(c.word[0]) * 0xD2511F53u;
    const uint64_t p1 = static_cast<uint64_t>(c.word[2]) * 0xCD9E8D57u;
    const PhiloxWords next = {
        {static_cast<uint32_t>(p1 >> 32) ^ c.word[1] ^ key_low, static_cast<uint32_t>(p1),
         static_cast<uint32_t>(p0 >> 32) ^ c.word[3] ^ key_high, static_cast<uint32_t>(p0)}};
    c = next;
    key_low += 0x9E3779B9u;   // golden ratio
    key_high += 0xBB67AE85u;  // sqrt(3) - 1
  }
  return c;
}

// The 64-bit draw of (seed, position, candidate): of position and candidate the low 32 bits count.
W2S_HD static inline uint64_t philox_draw(int64_t seed, int64_t position, int64_t candidate) {
  const uint64_t key = static_cast<uint64_t>(seed);
  const PhiloxWords counter = {
      {static_cast<uint32_t>(position), static_cast<uint32_t>(candidate), 0u, 0u}};
  const PhiloxWords out =
      philox4x32_10(counter, static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32));
  return (static_cast<uint64_t>(out.word[1]) << 32) | out.word[0];
}

}  // namespace w2s
