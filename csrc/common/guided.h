// What the guided_* kernels hand each other. Plain types.
#pragma once

#include <cstdint>

#include "types.h"

namespace w2s {

// Work on a row goes in blocks of this many columns: 64 vectors, so sums of weights in fp64 lanes
// stay below 2^53, and a block of every input lies in L1 together.
constexpr int64_t kGuideColumns = 1024;

// The largest weight; exp((z - m) / T) = 1 there.
constexpr float kWeightOne = 17592186044416.0f;  // 2^44

// The same columns of three logits rows.
struct GuidedBlock {
  const void* logits[3];  // base, tuned, untuned
  Dtype dtype[3];
};

// How a logit becomes a weight: about the row maximum m, times 1/T (at most FLT_MAX).
struct Weighing {
  float m;
  float inv_temperature;
  float least;  // smallest weight that counts (min-p); 0 for all
};

}  // namespace w2s
