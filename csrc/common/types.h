// Plain types shared by every kernel. No torch, no allocation.
#pragma once

#include <cstdint>

namespace w2s {

// Logits and heads are one of the first three; extrapolate takes all.
enum class Dtype : int32_t { kFloat32 = 0, kBFloat16 = 1, kFloat16 = 2, kFloat64 = 3 };

// Storage-only 16-bit floats: kernels convert to fp32 at the load.
struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

// A [rows, cols] view whose last dimension is contiguous. `stride` counts elements and is 64-bit,
// so a row may lie beyond 2^31 elements from the first.
struct Matrix {
  const void* data;
  Dtype dtype;
  int64_t rows;
  int64_t cols;
  int64_t stride;
};

// Target token ids, int32 or int64, [rows, per_row] contiguous.
struct Targets {
  const void* data;
  bool is_int64;
  int64_t per_row;

  int64_t at(int64_t index) const {
    return is_int64 ? static_cast<const int64_t*>(data)[index]
                    : static_cast<const int32_t*>(data)[index];
  }
};

// A target with this value gives exactly 0 and exactly zero gradient, even on a NaN row.
constexpr int64_t kIgnoreIndex = -100;

// out[rows, columns] = logit_scale * (hidden[rows, width] . weight[columns, width] * weight_scale +
// bias) in fp32, each dot product in one fixed order: a row's bits depend on that row alone.
struct LinearPanel {
  const float* hidden;
  int64_t rows, hidden_stride;
  const void* weight;
  Dtype weight_dtype;
  int64_t columns, weight_stride;
  int64_t width;
  const float* weight_scale;  // [columns] or null
  const float* bias;          // [columns] or null
  float logit_scale;
  float* out;
  int64_t out_stride;
};

// The same of bf16 hidden states and weights, two products a lane and step (AVX512_BF16 only): a
// row's bits depend on how many rows there are and on its place among them.
struct Bf16Panel {
  const BFloat16* hidden;
  int64_t rows, hidden_stride;
  const BFloat16* weight;
  int64_t columns, weight_stride;
  int64_t width;
  const float* weight_scale;  // [columns] or null
  const float* bias;          // [columns] or null
  float logit_scale;
  float* out;
  int64_t out_stride;
};

}  // namespace w2s
