// theta1 + alpha (theta1 - theta0) in float64, rounded once. A leaf is worked on in blocks: vectors
// assume that everything is finite and in range, and take notes; a block where that was wrong is
// made again by the rules, one element after the other. What the rules are, and why 16 bits are not
// reached by way of fp32's rounding, stands in w2s_kernels/ops/extrapolate.py.
#include "../common/extrapolate.h"

#include "extrapolate_rules.h"
#include "philox_lanes.h"

namespace w2s {
namespace W2S_ISA {

namespace {

// ---- vectors ------------------------------------------------------------------------------------

static inline f64 magnitude(f64 x) { return (f64)((u64)x & ~kSign); }

// x to the last place of a 16-bit format, ties to even: adding 1.5 * 2^k rounds there, subtracting
// it is exact. What rounds to 0 keeps its sign.
template <class Out>
static inline f64 rounded(f64 x) {
  const f64 power = (f64)((u64)x & kExponent);
  // The multiplication by way of the bits: the units for integers are idle here.
  const f64 shift = (f64)((u64)max_wide(power, set1_wide(Format<Out>::least)) + kTimes<Out>);
  return (f64)((u64)((x + shift) - shift) | ((u64)x & kSign));
}

// Each stores kWide results and gives them back as float64.
static inline f64 store_nearest(double* p, f64 x) {
  store_lanes(p, x);
  return x;
}
static inline f64 store_nearest(float* p, f64 x) {
  const f32 y = narrow(x);
  store_lanes(p, y);
  return widen(y);
}
static inline f64 store_nearest(BFloat16* p, f64 x) {
  const f64 y = rounded<BFloat16>(x);
  store_halves(p, (u32)narrow(y) >> 16);
  return y;
}
static inline f64 store_nearest(Float16* p, f64 x) {
  const f64 y = rounded<Float16>(x);
  store_fp16_lanes(p, narrow(y));
  return y;
}

// The low bits that the format has not get random ones added and are cut off.
static inline f64 store_dithered(BFloat16* p, f64 x, const uint16_t* random, const uint16_t*) {
  const u32 bits = (u32)narrow(x) + load_halves(random);
  store_halves(p, bits >> 16);
  return widen((f32)(bits & 0xffff0000u));
}
static inline f64 store_dithered(Float16* p, f64 x, const uint16_t* random, const uint16_t* more) {
  const f32 single = narrow(x);
  const u32 upper = load_halves(random);
  const f32 normal = (f32)(((u32)single + (upper >> 3)) & ~0x1fffu);
  const f64 wide = widen(single), size = magnitude(wide), least = set1_wide(0x1p-14);
  if (!any_below(size, least)) {
    store_fp16_lanes(p, normal);
    return widen(normal);
  }
  // Below 2^-14 in units of 2^-56, 2^-32 of the spacing.
  const u64 fixed = (u64)(size * 0x1p56 + 0x1p52) - kTwoTo52;
  const u64 bits = widen_words((upper << 16) | load_halves(more));
  const f64 steps = (f64)(((fixed + bits) >> 32) | kTwoTo52) - 0x1p52;
  const f64 even = (f64)((u64)(steps * 0x1p-24) | ((u64)wide & kSign));
  const f64 y = size < least ? even : widen(normal);
  store_fp16_lanes(p, narrow(y));
  return y;
}

template <class T, class Out, bool kDithered>
static inline f64 store_rounded(const Block<T, Out>& in, int64_t i, f64 x) {
  if constexpr (kDithered) return store_dithered(in.out + i, x, in.random + i, in.more + i);
  return store_nearest(in.out + i, x);
}

// The block, rounded up to whole vectors; false where an element is not finite or out of range,
// whose result is then not the right one.
template <class T, class Out, bool kDithered, bool kSums, bool kByElement>
bool all_in_range(const Block<T, Out>& in, Sums* sums) {
  constexpr int kVectors = kLanes / kWide;
  const u64 most = (u64)set1_wide(Format<Out>::most), most_delta = (u64)set1_wide(__DBL_MAX__);
  const f64 zero{};
  u64 above{};  // its sign bits: a magnitude's bits were above those of the largest
  f64 sum[3][kVectors];
  if constexpr (kSums) std::memcpy(sum, sums->lane, sizeof(sum));
  for (int64_t i = 0; i < in.n; i += kLanes) {
    for (int v = 0; v < kVectors; ++v) {
      const int64_t at = i + v * kWide;
      const f64 theta1 = load_wide(in.theta1 + at), delta = theta1 - load_wide(in.theta0 + at);
      f64 x;
      if constexpr (kByElement) {
        const f64 alpha = load_wide(in.alphas + at);
        x = alpha == zero ? theta1 : theta1 + alpha * delta;
      } else {
        x = theta1 + in.alpha * delta;
      }
      above |= most - (u64)magnitude(x);
      const f64 out = store_rounded<T, Out, kDithered>(in, at, x);
      if constexpr (kByElement) above |= most_delta - (u64)magnitude(delta);
      if constexpr (kSums) {
        sum[0][v] += theta1 * theta1;
        sum[1][v] += delta * delta;
        sum[2][v] += (out - theta1) * delta;
      }
    }
  }
  uint64_t any = 0;
  for (int i = 0; i < kWide; ++i) any |= above[i];
  if ((any & kSign) != 0) return false;
  if constexpr (kSums) std::memcpy(sums->lane, sum, sizeof(sum));
  return true;
}

// ---- a leaf -------------------------------------------------------------------------------------

// The random bits of a block's elements, in order.
struct Random {
  alignas(64) uint16_t halves[kBlock + 2 * kHalvesAtOnce];
  alignas(64) uint16_t others[kBlock + 2 * kHalvesAtOnce];

  // Gives the place of element `index`.
  int64_t draw(uint64_t key, uint64_t index, int64_t n, bool both) {
    const int64_t place = static_cast<int64_t>(index % 8);
    const int64_t batches = (place + n + kHalvesAtOnce - 1) / kHalvesAtOnce;
    random_halves(halves, index / 8, batches * kWide, key);
    if (both) {  // each word's other half
      for (int64_t i = 0; i < batches * kHalvesAtOnce; i += 2) {
        others[i] = halves[i + 1];
        others[i + 1] = halves[i];
      }
    }
    return place;
  }
};

template <class T, class Out, bool kDithered>
void block(const Block<T, Out>& in, Sums* sums) {
  // Vectors read and write whole groups of kLanes: a last, shorter group lies in a copy, with
  // zeros.
  alignas(64) T theta1[kBlock], theta0[kBlock];
  alignas(64) Out out[kBlock];
  double alphas[kBlock];
  Block<T, Out> padded = in;
  const int64_t whole = (in.n + kLanes - 1) / kLanes * kLanes;
  if (whole != in.n) {
    const size_t size = static_cast<size_t>(in.n);
    std::memset(theta1, 0, static_cast<size_t>(whole) * sizeof(T));
    std::memset(theta0, 0, static_cast<size_t>(whole) * sizeof(T));
    std::memcpy(theta1, in.theta1, size * sizeof(T));
    std::memcpy(theta0, in.theta0, size * sizeof(T));
    if (in.alphas != nullptr) {
      std::memset(alphas, 0, static_cast<size_t>(whole) * sizeof(double));
      std::memcpy(alphas, in.alphas, size * sizeof(double));
      padded.alphas = alphas;
    }
    padded.theta1 = theta1, padded.theta0 = theta0, padded.out = out, padded.n = whole;
  }
  bool right;
  if (in.alphas != nullptr) {
    right = sums != nullptr ? all_in_range<T, Out, kDithered, true, true>(padded, sums)
                            : all_in_range<T, Out, kDithered, false, true>(padded, sums);
  } else {
    right = sums != nullptr ? all_in_range<T, Out, kDithered, true, false>(padded, sums)
                            : all_in_range<T, Out, kDithered, false, false>(padded, sums);
  }
  if (!right) return by_the_rules<T, Out, kDithered>(in, sums);
  if (whole != in.n) std::memcpy(in.out, out, static_cast<size_t>(in.n) * sizeof(Out));
}

// alpha = 0 in theta1's own dtype: bit for bit, a NaN's payload too.
template <class T>
void keep(const void* theta1, void* out, const double* alphas, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    if (alphas[i] == 0.0) static_cast<T*>(out)[i] = static_cast<const T*>(theta1)[i];
  }
}

// `n` numbers as float64.
void widen_all(const void* p, Dtype dtype, int64_t n, double* wide) {
  const auto convert = [&](auto* from) {
    int64_t i = 0;
    for (; i + kWide <= n; i += kWide) store_lanes(wide + i, load_wide(from + i));
    for (; i < n; ++i) wide[i] = one(from + i);
  };
  switch (dtype) {
    case Dtype::kFloat64:
      return convert(static_cast<const double*>(p));
    case Dtype::kFloat32:
      return convert(static_cast<const float*>(p));
    case Dtype::kBFloat16:
      return convert(static_cast<const BFloat16*>(p));
    default:
      return convert(static_cast<const Float16*>(p));
  }
}

template <class T, class Out, bool kDithered>
void leaf_of(const ExtrapolateLeaf& leaf, Sums* sums) {
  Random random;
  for (int64_t begin = 0; begin < leaf.n; begin += kBlock) {
    const int64_t n = leaf.n - begin < kBlock ? leaf.n - begin : kBlock;
    Block<T, Out> in{static_cast<const T*>(leaf.theta1) + begin,
                     static_cast<const T*>(leaf.theta0) + begin,
                     static_cast<Out*>(leaf.out) + begin,
                     n,
                     leaf.alpha,
                     leaf.alphas != nullptr ? leaf.alphas + begin : nullptr,
                     nullptr,
                     nullptr};
    if constexpr (kDithered) {
      const int64_t place = random.draw(leaf.key, leaf.index + static_cast<uint64_t>(begin), n,
                                        leaf.out_dtype == Dtype::kFloat16);
      in.random = random.halves + place;
      in.more = random.others + place;
    }
    block<T, Out, kDithered>(in, sums);
  }
}

template <class T>
void leaf_from(const ExtrapolateLeaf& leaf, Sums* sums) {
  switch (leaf.out_dtype) {
    case Dtype::kFloat64:
      return leaf_of<T, double, false>(leaf, sums);
    case Dtype::kFloat32:
      return leaf_of<T, float, false>(leaf, sums);
    case Dtype::kBFloat16:
      return leaf.stochastic ? leaf_of<T, BFloat16, true>(leaf, sums)
                             : leaf_of<T, BFloat16, false>(leaf, sums);
    default:
      return leaf.stochastic ? leaf_of<T, Float16, true>(leaf, sums)
                             : leaf_of<T, Float16, false>(leaf, sums);
  }
}

}  // namespace

void extrapolate_leaf(const ExtrapolateLeaf& leaf) {
  Sums sums{};
  Sums* wanted = leaf.sums != nullptr ? &sums : nullptr;
  if (leaf.theta1_dtype == leaf.theta0_dtype) {
    switch (leaf.theta1_dtype) {
      case Dtype::kFloat64:
        leaf_from<double>(leaf, wanted);
        break;
      case Dtype::kFloat32:
        leaf_from<float>(leaf, wanted);
        break;
      case Dtype::kBFloat16:
        leaf_from<BFloat16>(leaf, wanted);
        break;
      default:
        leaf_from<Float16>(leaf, wanted);
    }
  } else {
    alignas(64) double theta1[kExtrapolateLeaf], theta0[kExtrapolateLeaf];
    widen_all(leaf.theta1, leaf.theta1_dtype, leaf.n, theta1);
    widen_all(leaf.theta0, leaf.theta0_dtype, leaf.n, theta0);
    ExtrapolateLeaf wide = leaf;
    wide.theta1 = theta1, wide.theta0 = theta0;
    leaf_from<double>(wide, wanted);
  }
  if (leaf.alphas != nullptr && leaf.out_dtype == leaf.theta1_dtype) {
    switch (leaf.out_dtype) {
      case Dtype::kFloat64:
        keep<uint64_t>(leaf.theta1, leaf.out, leaf.alphas, leaf.n);
        break;
      case Dtype::kFloat32:
        keep<uint32_t>(leaf.theta1, leaf.out, leaf.alphas, leaf.n);
        break;
      default:
        keep<uint16_t>(leaf.theta1, leaf.out, leaf.alphas, leaf.n);
    }
  }
  if (wanted == nullptr) return;
  for (int k = 0; k < 3; ++k) {
    double* lane = sums.lane[k];
    for (int half = kLanes / 2; half > 0; half /= 2) {
      for (int i = 0; i < half; ++i) lane[i] += lane[i + half];
    }
    leaf.sums[k] = lane[0];
  }
  leaf.sums[3] = sums.overflowed;
}

}  // namespace W2S_ISA
}  // namespace w2s
