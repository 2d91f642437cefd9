// Logits of a block of hidden states by dot products in one fixed order: lane l of sixteen adds the
// products d = l, l + 16, ... one fused multiply-add at a time, then the lanes fold as a halving
// tree. A (row, column) pair's operations depend on nothing else, so a row's bits are the same in
// any batch, at any position, on any thread and instruction set; how many pairs share the registers
// is only a matter of speed.
#include "simd.h"

namespace w2s {
namespace W2S_ISA {

namespace {

#if defined(W2S_ISA_AVX512)
constexpr int kTile = 4;  // rows = columns of a register block: 16 of 32 registers add
#else
constexpr int kTile = 2;  // AVX2: 8 of 16 registers; NEON: 16 of 32
#endif

struct Epilogue {
  const float* weight_scale;  // [columns] or null
  const float* bias;          // [columns] or null
  float logit_scale;

  float at(float dot, int64_t column) const {
    if (weight_scale != nullptr) dot *= weight_scale[column];
    if (bias != nullptr) dot += bias[column];
    return dot * logit_scale;
  }
};

// Lanes from `count` on are 0: their products change no sum.
template <class T>
f32x16 load_or_zero(const T* p, int64_t count) {
  alignas(64) T raw[16];
  std::memset(raw, 0, sizeof(raw));
  std::memcpy(raw, p, static_cast<size_t>(count) * sizeof(T));
  return load(raw);
}

// One register block: hidden rows [Rows, D] x weight rows [Columns, D] -> out[Rows, Columns].
template <int Rows, int Columns, class T>
void dot_block(const float* hidden, int64_t hidden_stride, const T* weight, int64_t weight_stride,
               int64_t width, const Epilogue& epilogue, int64_t column, float* out,
               int64_t out_stride) {
  f32x16 sum[Rows * Columns];
  for (int i = 0; i < Rows * Columns; ++i) sum[i] = set1(0.0f);
  int64_t d = 0;
  for (; d + 16 <= width; d += 16) {
    f32x16 h[Rows];
    for (int r = 0; r < Rows; ++r) h[r] = load(hidden + r * hidden_stride + d);
    for (int c = 0; c < Columns; ++c) {
      const f32x16 w = load(weight + c * weight_stride + d);
      for (int r = 0; r < Rows; ++r) sum[c * Rows + r] = fma(h[r], w, sum[c * Rows + r]);
    }
  }
  if (d < width) {
    for (int c = 0; c < Columns; ++c) {
      const f32x16 w = load_or_zero(weight + c * weight_stride + d, width - d);
      for (int r = 0; r < Rows; ++r) {
        const f32x16 h = load_or_zero(hidden + r * hidden_stride + d, width - d);
        sum[c * Rows + r] = fma(h, w, sum[c * Rows + r]);
      }
    }
  }
  float dot[Rows * Columns];
  fold_all<Rows * Columns>(sum, dot);
  for (int r = 0; r < Rows; ++r) {
    for (int c = 0; c < Columns; ++c) {
      out[r * out_stride + c] = epilogue.at(dot[c * Rows + r], column + c);
    }
  }
}

// All rows against `Columns` weight rows.
template <int Columns, class T>
void dot_columns(const float* hidden, int64_t rows, int64_t hidden_stride, const T* weight,
                 int64_t weight_stride, int64_t width, const Epilogue& epilogue, int64_t column,
                 float* out, int64_t out_stride) {
  int64_t r = 0;
  for (; r + kTile <= rows; r += kTile) {
    dot_block<kTile, Columns>(hidden + r * hidden_stride, hidden_stride, weight, weight_stride,
                              width, epilogue, column, out + r * out_stride, out_stride);
  }
  for (; r < rows; ++r) {
    dot_block<1, Columns>(hidden + r * hidden_stride, hidden_stride, weight, weight_stride, width,
                          epilogue, column, out + r * out_stride, out_stride);
  }
}

template <class T>
void dot_panel(const float* hidden, int64_t rows, int64_t hidden_stride, const T* weight,
               int64_t columns, int64_t weight_stride, int64_t width, const Epilogue& epilogue,
               float* out, int64_t out_stride) {
  int64_t c = 0;
  for (; c + kTile <= columns; c += kTile) {
    dot_columns<kTile>(hidden, rows, hidden_stride, weight + c * weight_stride, weight_stride,
                       width, epilogue, c, out + c, out_stride);
  }
  for (; c < columns; ++c) {
    dot_columns<1>(hidden, rows, hidden_stride, weight + c * weight_stride, weight_stride, width,
                   epilogue, c, out + c, out_stride);
  }
}

// A 16-bit panel that several register blocks read is widened once; widening is exact.
template <class T>
void widened_panel(const float* hidden, int64_t rows, int64_t hidden_stride, const T* weight,
                   int64_t columns, int64_t weight_stride, int64_t width, const Epilogue& epilogue,
                   float* out, int64_t out_stride, float* scratch) {
  if (rows <= kTile) {
    return dot_panel(hidden, rows, hidden_stride, weight, columns, weight_stride, width, epilogue,
                     out, out_stride);
  }
  for (int64_t c = 0; c < columns; ++c) {
    const T* from = weight + c * weight_stride;
    float* to = scratch + c * width;
    int64_t d = 0;
    for (; d + 16 <= width; d += 16) store(to + d, load(from + d));
    if (d < width) store_partial(to + d, load_or_zero(from + d, width - d), width - d);
  }
  dot_panel(hidden, rows, hidden_stride, scratch, columns, width, width, epilogue, out, out_stride);
}

}  // namespace

void linear_panel(const LinearPanel& p, float* scratch) {
  const Epilogue epilogue{p.weight_scale, p.bias, p.logit_scale};
  switch (p.weight_dtype) {
    case Dtype::kFloat32:
      return dot_panel(p.hidden, p.rows, p.hidden_stride, static_cast<const float*>(p.weight),
                       p.columns, p.weight_stride, p.width, epilogue, p.out, p.out_stride);
    case Dtype::kBFloat16:
      return widened_panel(p.hidden, p.rows, p.hidden_stride,
                           static_cast<const BFloat16*>(p.weight), p.columns, p.weight_stride,
                           p.width, epilogue, p.out, p.out_stride, scratch);
    default:
      return widened_panel(p.hidden, p.rows, p.hidden_stride, static_cast<const Float16*>(p.weight),
                           p.columns, p.weight_stride, p.width, epilogue, p.out, p.out_stride,
                           scratch);
  }
}

}  // namespace W2S_ISA
}  // namespace w2s
