// The exp-sum of a leaf and its gradient: logprob, logprob_stats, logprob_diff and the linear ops
// all come down to these. Two passes over a leaf (maximum, then exp-sum) rather than an online
// rescale: the second pass reads L1, and each element costs exactly one exp.
#include "../common/online_softmax.h"
#include "simd.h"

namespace w2s {
namespace W2S_ISA {

namespace {

// The exp-sum runs over blocks of columns: a lane first adds kBlockColumns / kLanes terms of its
// block, then the block to the leaf. A single chain of 64 fp32 additions misses the tolerance where
// one term is large and all others are equal (a one-hot row), as their roundings share a sign.
constexpr int64_t kBlockColumns = 512;

// Asks for 64 columns of the next leaf. Pass 1 waits for memory and pass 2 computes without
// touching it: taking turns, a leaf would cost the sum of both. An address behind the last row is
// ignored.
template <class T>
inline void prefetch_leaf(const T* p) {
  const char* line = reinterpret_cast<const char*>(p);
  for (size_t at = 0; at < 64 * sizeof(T); at += 64) __builtin_prefetch(line + at);
}

// 64 virtual lanes of Σ e and Σ e x.
template <bool kEntropy>
struct Sums {
  f32x16 s[4], u[4];

  void clear() {
    for (int k = 0; k < 4; ++k) s[k] = u[k] = set1(0.0f);
  }
  void add_term(int k, f32x16 x) {
    const f32x16 e = exp_term(x);
    s[k] = add(s[k], e);
    // exp(-inf) * -inf is 0 here: a masked column has no entropy term.
    if (kEntropy) u[k] = fma(e, max(x, set1(-88.0f)), u[k]);
  }
  void add_block(const Sums& block) {
    for (int k = 0; k < 4; ++k) {
      s[k] = add(s[k], block.s[k]);
      if (kEntropy) u[k] = add(u[k], block.u[k]);
    }
  }
};

double fold_lanes(const f32x16* lanes_of) {
  alignas(64) float lanes[kLanes];
  double sum = 0.0;
  for (int k = 0; k < 4; ++k) store(lanes + 16 * k, lanes_of[k]);
  for (int k = 0; k < kLanes; ++k) sum += static_cast<double>(lanes[k]);
  return sum;
}

// Pass 2 over a leaf whose (soft-capped) maximum is m. kDivide: T is not 1 (the bits are the same).
template <bool kSoftcap, bool kEntropy, bool kDivide, class T>
LeafStats exp_sums(const T* z, int64_t n, float m, float inv_temperature, float softcap) {
  const f32x16 vm = set1(m), vt = set1(inv_temperature);
  auto scaled = [&](f32x16 raw) {
    const f32x16 x = sub(kSoftcap ? apply_softcap(raw, softcap) : raw, vm);
    return kDivide ? mul(x, vt) : x;
  };
  Sums<kEntropy> leaf, block;
  leaf.clear();
  for (int64_t first = 0; first < n; first += kBlockColumns) {
    const int64_t end = first + kBlockColumns < n ? first + kBlockColumns : n;
    block.clear();
    int64_t i = first;
    for (; i + 64 <= end; i += 64) {
      prefetch_leaf(z + i + kLeafColumns);
      for (int k = 0; k < 4; ++k) block.add_term(k, scaled(load(z + i + 16 * k)));
    }
    for (int k = 0; i < end; i += 16, ++k) {
      block.add_term(k, scaled(i + 16 <= end ? load(z + i) : load_partial(z + i, end - i)));
    }
    leaf.add_block(block);
  }
  return {m, fold_lanes(leaf.s), kEntropy ? fold_lanes(leaf.u) : 0.0};
}

template <class T>
LeafStats stats(const T* z, int64_t n, float inv_temperature, float softcap, bool entropy) {
  constexpr float kInf = __builtin_inff();
  // Pass 1: the maximum of the raw logits (softcap is monotonic) and whether one is NaN.
  f32x16 maximum[4] = {set1(-kInf), set1(-kInf), set1(-kInf), set1(-kInf)};
  NanFlag nan = no_nan();
  int64_t i = 0;
  for (; i + 64 <= n; i += 64) {
    for (int k = 0; k < 4; k += 2) {
      const f32x16 a = load(z + i + 16 * k), b = load(z + i + 16 * k + 16);
      note_nan(&nan, a, b);
      maximum[k] = max(maximum[k], a);
      maximum[k + 1] = max(maximum[k + 1], b);
    }
  }
  for (; i < n; i += 16) {
    const f32x16 v = i + 16 <= n ? load(z + i) : load_partial(z + i, n - i);
    note_nan(&nan, v, v);
    maximum[0] = max(maximum[0], v);
  }
  alignas(64) float lanes[64];
  store(lanes, max(max(maximum[0], maximum[1]), max(maximum[2], maximum[3])));
  float m = lanes[0];
  for (int k = 1; k < 16; ++k) m = lanes[k] > m ? lanes[k] : m;
  if (any(nan) || m == kInf) return {__builtin_nanf(""), __builtin_nan(""), __builtin_nan("")};
  if (m == -kInf) return {-kInf, 0.0, 0.0};
  if (softcap > 0.0f) {
    store(lanes, apply_softcap(set1(m), softcap));
    m = lanes[0];
  }

  if (softcap > 0.0f) {
    return entropy ? exp_sums<true, true, true>(z, n, m, inv_temperature, softcap)
                   : exp_sums<true, false, true>(z, n, m, inv_temperature, softcap);
  }
  if (!entropy && inv_temperature == 1.0f) {
    return exp_sums<false, false, false>(z, n, m, inv_temperature, softcap);
  }
  return entropy ? exp_sums<false, true, true>(z, n, m, inv_temperature, softcap)
                 : exp_sums<false, false, true>(z, n, m, inv_temperature, softcap);
}

struct Slope {
  f32x16 m, inv_temperature, a, b;
  float softcap;

  // raw logits -> e (a + b x) (1 - tanh^2), plus `delta` before the softcap's own slope.
  f32x16 at(f32x16 raw, f32x16 delta) const {
    f32x16 z = raw, cap_slope = set1(1.0f);
    if (softcap > 0.0f) {
      z = apply_softcap(raw, softcap);
      const f32x16 t = div(z, set1(softcap));
      // A masked column has e = 0 and t = -inf; clamping keeps 0 * slope at 0.
      const f32x16 bounded = max(t, set1(-1.0f));
      cap_slope = sub(set1(1.0f), mul(bounded, bounded));
    }
    const f32x16 x = mul(sub(z, m), inv_temperature);
    const f32x16 e = exp_nonpositive(x);
    const f32x16 g = mul(e, fma(b, max(x, set1(-88.0f)), a));
    return mul(add(g, delta), cap_slope);
  }
};

Slope slope_of(float m, float inv_temperature, float softcap, float a, float b) {
  return {set1(m), set1(inv_temperature), set1(a), set1(b), softcap};
}

template <class T>
void backward(const T* z, T* out, int64_t n, const Slope& slope) {
  const f32x16 zero = set1(0.0f);
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) store(out + i, slope.at(load(z + i), zero));
  if (i < n) store_partial(out + i, slope.at(load_partial(z + i, n - i), zero), n - i);
}

}  // namespace

LeafStats leaf_stats(const void* z, Dtype dtype, int64_t n, float inv_temperature, float softcap,
                     bool entropy) {
  switch (dtype) {
    case Dtype::kFloat32:
      return stats(static_cast<const float*>(z), n, inv_temperature, softcap, entropy);
    case Dtype::kBFloat16:
      return stats(static_cast<const BFloat16*>(z), n, inv_temperature, softcap, entropy);
    default:
      return stats(static_cast<const Float16*>(z), n, inv_temperature, softcap, entropy);
  }
}

float logit_at(const void* row, Dtype dtype, int64_t index, float softcap) {
  alignas(64) float lanes[16];
  switch (dtype) {
    case Dtype::kFloat32:
      store(lanes, load_partial(static_cast<const float*>(row) + index, 1));
      break;
    case Dtype::kBFloat16:
      store(lanes, load_partial(static_cast<const BFloat16*>(row) + index, 1));
      break;
    default:
      store(lanes, load_partial(static_cast<const Float16*>(row) + index, 1));
  }
  if (!(lanes[0] < __builtin_inff())) return __builtin_nanf("");
  if (softcap > 0.0f) store(lanes, apply_softcap(set1(lanes[0]), softcap));
  return lanes[0];
}

void logprob_backward_leaf(const void* z, void* out, Dtype dtype, int64_t n, float m,
                           float inv_temperature, float softcap, float a, float b) {
  const Slope slope = slope_of(m, inv_temperature, softcap, a, b);
  switch (dtype) {
    case Dtype::kFloat32:
      return backward(static_cast<const float*>(z), static_cast<float*>(out), n, slope);
    case Dtype::kBFloat16:
      return backward(static_cast<const BFloat16*>(z), static_cast<BFloat16*>(out), n, slope);
    default:
      return backward(static_cast<const Float16*>(z), static_cast<Float16*>(out), n, slope);
  }
}

float logprob_gradient_at(const void* z, Dtype dtype, int64_t index, float m, float inv_temperature,
                          float softcap, float a, float b, float delta) {
  alignas(64) float lanes[16];
  const Slope slope = slope_of(m, inv_temperature, softcap, a, b);
  store(lanes, slope.at(set1(logit_at(z, dtype, index, 0.0f)), set1(delta)));
  return lanes[0];
}

void store_at(void* out, Dtype dtype, int64_t index, float value) {
  switch (dtype) {
    case Dtype::kFloat32:
      return store_partial(static_cast<float*>(out) + index, set1(value), 1);
    case Dtype::kBFloat16:
      return store_partial(static_cast<BFloat16*>(out) + index, set1(value), 1);
    default:
      return store_partial(static_cast<Float16*>(out) + index, set1(value), 1);
  }
}

}  // namespace W2S_ISA
}  // namespace w2s
