// The exp-sum of a leaf and its gradient: logprob, logprob_stats, logprob_diff and the linear ops
// all come down to these. A leaf is read block by block about the maximum so far; while a block's
// exponentials are taken, the next block's maximum is: memory and arithmetic are both busy all the
// time, the second look at a column finds it in the first cache, and each costs one exp.
#include "../common/online_softmax.h"
#include "simd.h"

namespace w2s {
namespace W2S_ISA {

namespace {

// Columns are taken 64 at a time, one for each virtual lane, and the exp-sum runs over blocks of 8
// such groups: a lane first adds the terms of its block, then the block to the leaf. A single chain
// of 64 fp32 additions misses the tolerance where one term is large and all others are equal (a
// one-hot row), as their roundings share a sign.
constexpr int64_t kBlockGroups = 8;

// The columns of a leaf as whole groups: what the last one lacks is -inf.
template <class T>
class Groups {
 public:
  Groups(const T* z, int64_t n) : z_(z), whole_(n / kLanes), count_((n + kLanes - 1) / kLanes) {
    if (whole_ == count_) return;
    for (int k = 0; k < kLanes; k += 16) store(last_ + k, set1(-__builtin_inff()));
    std::memcpy(last_, z + whole_ * kLanes, static_cast<size_t>(n - whole_ * kLanes) * sizeof(T));
  }
  int64_t count() const { return count_; }
  const T* at(int64_t group) const { return group < whole_ ? z_ + group * kLanes : last_; }

 private:
  const T* z_;
  int64_t whole_, count_;
  alignas(64) T last_[kLanes];
};

// The maximum of the raw logits so far (softcap is monotonic) and whether one is NaN.
struct Scan {
  f32x16 maximum = set1(-__builtin_inff());
  NanFlag nan = no_nan();

  template <class T>
  void add_group(const T* z) {
    f32x16 a, b, c, d;
    load_any_order(z, &a, &b);
    load_any_order(z + 32, &c, &d);
    note_nan(&nan, a, b);
    note_nan(&nan, c, d);
    maximum = max(max(max(a, b), max(c, d)), maximum);
  }
};

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
  // Moves the sums to a maximum that is higher by -x / T and adds a block about it.
  void move_and_add(f32x16 x, const Sums& block) {
    const f32x16 scale = exp_term(x), d = max(x, set1(-88.0f));
    for (int k = 0; k < 4; ++k) {
      if (kEntropy) u[k] = fma(scale, fma(d, s[k], u[k]), block.u[k]);
      s[k] = fma(scale, s[k], block.s[k]);
    }
  }
};

// Eight chains, then a halving tree: one chain of 64 additions would be a tenth of a leaf's time.
double fold_lanes(const f32x16* lanes_of) {
  alignas(64) float lanes[kLanes];
  for (int k = 0; k < 4; ++k) store(lanes + 16 * k, lanes_of[k]);
  double sum[8];
  for (int i = 0; i < 8; ++i) sum[i] = static_cast<double>(lanes[i]);
  for (int k = 8; k < kLanes; k += 8) {
    for (int i = 0; i < 8; ++i) sum[i] += static_cast<double>(lanes[k + i]);
  }
  for (int half = 4; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) sum[i] += sum[i + half];
  }
  return sum[0];
}

// kDivide: T is not 1 (the bits are the same).
template <bool kSoftcap, bool kEntropy, bool kDivide, class T>
LeafStats stats(const T* z, int64_t n, float inv_temperature, float softcap) {
  constexpr float kInf = __builtin_inff();
  const f32x16 vt = set1(inv_temperature);
  const auto capped = [&](f32x16 raw) { return kSoftcap ? apply_softcap(raw, softcap) : raw; };
  const auto scaled = [&](f32x16 x) { return kDivide ? mul(x, vt) : x; };
  const Groups<T> groups(z, n);
  const int64_t count = groups.count();
  Scan scan;
  for (int64_t g = 0; g < kBlockGroups && g < count; ++g) scan.add_group(groups.at(g));

  Sums<kEntropy> leaf, block;
  leaf.clear();
  f32x16 m = set1(-__FLT_MAX__);  // finite, so that nothing takes -inf from -inf
  for (int64_t first = 0; first < count; first += kBlockGroups) {
    const f32x16 before = m;
    m = max(capped(set1(reduce_max(scan.maximum))), before);
    const int64_t end = first + kBlockGroups < count ? first + kBlockGroups : count;
    block.clear();
    for (int64_t g = first; g < end; ++g) {
      if (g + kBlockGroups < count) scan.add_group(groups.at(g + kBlockGroups));
      const T* group = groups.at(g);
      for (int k = 0; k < 4; ++k) {
        block.add_term(k, scaled(sub(capped(load(group + 16 * k)), m)));
      }
    }
    leaf.move_and_add(scaled(sub(before, m)), block);
  }

  const float highest = reduce_max(scan.maximum);
  if (any(scan.nan) || highest == kInf) {
    return {__builtin_nanf(""), __builtin_nan(""), __builtin_nan("")};
  }
  if (highest == -kInf) return {-kInf, 0.0, 0.0};
  // Which of -0 and +0 is found depends on the order: + 0 makes it +0.
  return {reduce_max(m) + 0.0f, fold_lanes(leaf.s), kEntropy ? fold_lanes(leaf.u) : 0.0};
}

template <class T>
LeafStats stats(const T* z, int64_t n, float inv_temperature, float softcap, bool entropy) {
  if (softcap > 0.0f) {
    return entropy ? stats<true, true, true>(z, n, inv_temperature, softcap)
                   : stats<true, false, true>(z, n, inv_temperature, softcap);
  }
  if (!entropy && inv_temperature == 1.0f) {
    return stats<false, false, false>(z, n, inv_temperature, softcap);
  }
  return entropy ? stats<false, true, true>(z, n, inv_temperature, softcap)
                 : stats<false, false, true>(z, n, inv_temperature, softcap);
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
