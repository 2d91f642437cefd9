// (value descending, id ascending) as one unsigned comparison: the larger key comes first. The
// order of every arg max, top-k and top-p. Host and device.
#pragma once

#include <cstdint>
#include <cstring>

#include "philox.h"  // W2S_HD

namespace w2s {

// Monotone in the value; -0 and +0 are one value. NaN is not ordered: sort those rows out before.
W2S_HD static inline uint32_t ordered_bits(float value) {
  uint32_t bits;
  value += 0.0f;  // -0 becomes +0
  std::memcpy(&bits, &value, 4);
  return (bits & 0x80000000u) != 0u ? ~bits : bits | 0x80000000u;
}

W2S_HD static inline uint64_t packed_key(float value, uint32_t id) {
  return (static_cast<uint64_t>(ordered_bits(value)) << 32) | (0xffffffffu - id);
}

W2S_HD static inline uint32_t packed_id(uint64_t key) {
  return 0xffffffffu - static_cast<uint32_t>(key);
}

W2S_HD static inline float packed_value(uint64_t key) {
  const uint32_t ordered = static_cast<uint32_t>(key >> 32);
  const uint32_t bits = (ordered & 0x80000000u) != 0u ? ordered & 0x7fffffffu : ~ordered;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

}  // namespace w2s
