// Logits of bf16 hidden states and bf16 weights by vdpbf16ps: two products a lane and step, added
// in fp32. Rows lie across the lanes, sixteen a vector (packed once a call), so that a weight is
// read as a broadcast pair and no sum is folded; a few rows left over take dot products along D. No
// sum of the former runs over more than kChunk pairs before it is added to a total: where all
// products have one sign its rounding errors would outgrow those of the fp32 product (one sum over
// 160 pairs: up to 14 * 2^-24 ||h|| ||w||, over 48: half of that). Denormals count as 0.
//
// The one file that is compiled for AVX512_BF16: a row's bits depend on its place in the block
// here, so `invariant` never comes this way.
#include "../cpu/simd.h"

namespace w2s {
namespace W2S_ISA {

// An odd number of cache lines: at a multiple of 4096 bytes all rows would share one set of the
// first cache.
int64_t staged_stride(int64_t width) { return ((width + 31) / 32 | 1) * 32; }

namespace {

constexpr int64_t kChunk = 48;   // pairs: 96 products a lane
constexpr int64_t kFewRows = 6;  // below, dot products beat a vector of rows that is mostly empty

struct Epilogue {
  const float* weight_scale;  // [columns] or null
  const float* bias;          // [columns] or null
  float logit_scale;

  f32x16 at(f32x16 dot, int64_t column) const {
    if (weight_scale != nullptr) dot = mul(dot, set1(weight_scale[column]));
    if (bias != nullptr) dot = add(dot, set1(bias[column]));
    return mul(dot, set1(logit_scale));
  }
  float at(float dot, int64_t column) const {
    if (weight_scale != nullptr) dot *= weight_scale[column];
    if (bias != nullptr) dot += bias[column];
    return dot * logit_scale;
  }
};

inline f32x16 add_pairs(f32x16 sum, __m512i a, __m512i b) {
  return {_mm512_dpbf16_ps(sum.v, (__m512bh)a, (__m512bh)b)};
}

inline __m512i broadcast_pair(const BFloat16* p) {
  int32_t pair;
  std::memcpy(&pair, p, sizeof(pair));
  return _mm512_set1_epi32(pair);
}

// Eight vectors over rows to out[16 rows, 8 columns], the first `rows` of them.
inline void store_transposed(const f32x16* a, int64_t rows, float* out, int64_t out_stride) {
  __m512 four[2][4];  // lane group l of four[half][i]: row 4 l + i of columns 4 half ... 4 half + 3
  for (int half = 0; half < 2; ++half) {
    const f32x16* v = a + 4 * half;
    const __m512d ab_lo = _mm512_castps_pd(_mm512_unpacklo_ps(v[0].v, v[1].v));
    const __m512d ab_hi = _mm512_castps_pd(_mm512_unpackhi_ps(v[0].v, v[1].v));
    const __m512d cd_lo = _mm512_castps_pd(_mm512_unpacklo_ps(v[2].v, v[3].v));
    const __m512d cd_hi = _mm512_castps_pd(_mm512_unpackhi_ps(v[2].v, v[3].v));
    four[half][0] = _mm512_castpd_ps(_mm512_unpacklo_pd(ab_lo, cd_lo));
    four[half][1] = _mm512_castpd_ps(_mm512_unpackhi_pd(ab_lo, cd_lo));
    four[half][2] = _mm512_castpd_ps(_mm512_unpacklo_pd(ab_hi, cd_hi));
    four[half][3] = _mm512_castpd_ps(_mm512_unpackhi_pd(ab_hi, cd_hi));
  }
  alignas(64) float rows_of[2][4][16];
  for (int half = 0; half < 2; ++half) {
    for (int i = 0; i < 4; ++i) _mm512_store_ps(rows_of[half][i], four[half][i]);
  }
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t lane = 4 * (r / 4);
    _mm_storeu_ps(out + r * out_stride, _mm_load_ps(rows_of[0][r % 4] + lane));
    _mm_storeu_ps(out + r * out_stride + 4, _mm_load_ps(rows_of[1][r % 4] + lane));
  }
}

// Vectors x 16 rows (packed[Vectors, pairs, 16] of pairs) x Columns rows of the staged weight. What
// the next panel will read of `next` is asked for on the way, a cache line of each row at a time.
template <int Vectors, int Columns>
void broadcast_block(const Bf16Panel& p, const int32_t* packed, int64_t rows,
                     const BFloat16* staged, const BFloat16* next, int64_t column, float* out) {
  const int64_t pairs = (p.width + 1) / 2, stride = staged_stride(p.width);
  const BFloat16* weight = staged + column * stride;
  if (next != nullptr) next += column * p.weight_stride;
  f32x16 total[Vectors * Columns];
  for (auto& t : total) t = set1(0.0f);
  for (int64_t begin = 0; begin < pairs; begin += kChunk) {
    const int64_t end = begin + kChunk < pairs ? begin + kChunk : pairs;
    f32x16 sum[Vectors * Columns];
    for (int i = 0; i < Vectors * Columns; ++i) sum[i] = set1(0.0f);
    for (int64_t i = begin; i < end; ++i) {
      if (next != nullptr && i % 16 == 0) {
        for (int c = 0; c < Columns; ++c) {
          __builtin_prefetch(next + c * p.weight_stride + 2 * i, 0, 2);
        }
      }
      __m512i h[Vectors];
      for (int v = 0; v < Vectors; ++v) {
        h[v] = _mm512_loadu_si512(packed + (v * pairs + i) * 16);
      }
      for (int c = 0; c < Columns; ++c) {
        const __m512i w = broadcast_pair(weight + c * stride + 2 * i);
        for (int v = 0; v < Vectors; ++v) {
          sum[v * Columns + c] = add_pairs(sum[v * Columns + c], h[v], w);
        }
      }
    }
    for (int i = 0; i < Vectors * Columns; ++i) total[i] = add(total[i], sum[i]);
  }
  const Epilogue epilogue{p.weight_scale, p.bias, p.logit_scale};
  for (int v = 0; v < Vectors; ++v) {
    f32x16* z = total + v * Columns;
    for (int c = 0; c < Columns; ++c) z[c] = epilogue.at(z[c], column + c);
    const int64_t count = rows - 16 * v < 16 ? rows - 16 * v : 16;
    float* to = out + 16 * v * p.out_stride + column;
    if constexpr (Columns % 8 == 0) {
      for (int c = 0; c < Columns; c += 8) store_transposed(z + c, count, to + c, p.out_stride);
    } else {
      alignas(64) float lanes[16];
      for (int c = 0; c < Columns; ++c) {
        store(lanes, z[c]);
        for (int64_t r = 0; r < count; ++r) to[r * p.out_stride + c] = lanes[r];
      }
    }
  }
}

template <int Vectors, int Columns>
void broadcast_columns(const Bf16Panel& p, const int32_t* packed, int64_t rows,
                       const BFloat16* staged, const BFloat16* next, float* out) {
  int64_t c = 0;
  for (; c + Columns <= p.columns; c += Columns) {
    broadcast_block<Vectors, Columns>(p, packed, rows, staged, next, c, out);
  }
  for (; c < p.columns; ++c) {
    broadcast_block<Vectors, 1>(p, packed, rows, staged, nullptr, c, out);
  }
}

// The panel's weight rows one after the other, a zero after an odd last column.
void stage(const Bf16Panel& p, BFloat16* staged) {
  for (int64_t c = 0; c < p.columns; ++c) {
    const BFloat16* from = p.weight + c * p.weight_stride;
    BFloat16* to = staged + c * staged_stride(p.width);
    std::memcpy(to, from, static_cast<size_t>(p.width) * sizeof(BFloat16));
    if (p.width % 2 != 0) to[p.width].bits = 0;
  }
}

// Rows x Columns <= 16 dot products along D.
template <int Rows, int Columns>
void dot_block(const Bf16Panel& p, const BFloat16* hidden, int64_t column, float* out) {
  const BFloat16* weight = p.weight + column * p.weight_stride;
  f32x16 sum[16];
  for (auto& s : sum) s = set1(0.0f);
  for (int64_t d = 0; d < p.width; d += 32) {
    const int64_t left = p.width - d;
    const __mmask32 mask = left >= 32 ? ~__mmask32{0} : (__mmask32{1} << left) - 1;
    __m512i h[Rows];
    for (int r = 0; r < Rows; ++r) {
      h[r] = _mm512_maskz_loadu_epi16(mask, hidden + r * p.hidden_stride + d);
    }
    for (int c = 0; c < Columns; ++c) {
      const __m512i w = _mm512_maskz_loadu_epi16(mask, weight + c * p.weight_stride + d);
      for (int r = 0; r < Rows; ++r) sum[c * Rows + r] = add_pairs(sum[c * Rows + r], h[r], w);
    }
  }
  float dot[16];
  fold_all<16>(sum, dot);
  const Epilogue epilogue{p.weight_scale, p.bias, p.logit_scale};
  for (int r = 0; r < Rows; ++r) {
    for (int c = 0; c < Columns; ++c) {
      out[r * p.out_stride + column + c] = epilogue.at(dot[c * Rows + r], column + c);
    }
  }
}

template <int Rows, int Columns>
void dot_columns(const Bf16Panel& p, const BFloat16* hidden, float* out) {
  int64_t c = 0;
  for (; c + Columns <= p.columns; c += Columns) dot_block<Rows, Columns>(p, hidden, c, out);
  for (; c < p.columns; ++c) dot_block<Rows, 1>(p, hidden, c, out);
}

}  // namespace

int64_t packed_rows(int64_t rows) {
  const int64_t left = rows % 16;
  return left < kFewRows ? rows - left : rows;
}

void pack_rows(const Bf16Panel& p, int32_t* packed) {
  const int64_t pairs = (p.width + 1) / 2, rows = packed_rows(p.rows);
  for (int64_t first = 0; first < rows; first += 16, packed += pairs * 16) {
    for (int64_t r = 0; r < 16; ++r) {
      const BFloat16* from = p.hidden + (first + r) * p.hidden_stride;
      for (int64_t i = 0; i < pairs; ++i) {
        uint32_t pair = 0;
        if (first + r < rows) {
          pair = from[2 * i].bits;
          if (2 * i + 1 < p.width) pair |= uint32_t{from[2 * i + 1].bits} << 16;
        }
        packed[i * 16 + r] = static_cast<int32_t>(pair);
      }
    }
  }
}

void bf16_panel(const Bf16Panel& p, const int32_t* packed, BFloat16* staged, const BFloat16* next) {
  const int64_t vectors = packed_rows(p.rows), step = (p.width + 1) / 2 * 16;
  if (vectors != 0) stage(p, staged);
  int64_t r = 0;
  for (; r + 16 < vectors; r += 32, packed += 2 * step) {
    broadcast_columns<2, 8>(p, packed, vectors - r, staged, r == 0 ? next : nullptr,
                            p.out + r * p.out_stride);
  }
  if (r < vectors) {
    broadcast_columns<1, 16>(p, packed, vectors - r, staged, r == 0 ? next : nullptr,
                             p.out + r * p.out_stride);
  }
  r = vectors;
  const auto hidden = [&] { return p.hidden + r * p.hidden_stride; };
  const auto out = [&] { return p.out + r * p.out_stride; };
  for (; r + 4 <= p.rows; r += 4) dot_columns<4, 4>(p, hidden(), out());
  for (; r + 2 <= p.rows; r += 2) dot_columns<2, 8>(p, hidden(), out());
  if (r < p.rows) dot_columns<1, 16>(p, hidden(), out());
}

}  // namespace W2S_ISA
}  // namespace w2s
