// base + beta (tuned - untuned), the one read of the logits that every guided_* op makes. In fp64,
// rounded once: the bits are the same on every backend, and cancellation between base and pair
// costs no accuracy; the loop waits for memory anyway.
#include "../common/guided.h"
#include "simd.h"

namespace w2s {
namespace W2S_ISA {

namespace {

constexpr float kInf = __builtin_inff();

// `n` columns as fp32: the input itself, or converted into `buffer`.
const float* as_float(const void* p, Dtype dtype, int64_t n, float* buffer) {
  if (dtype == Dtype::kFloat32) return static_cast<const float*>(p);
  const auto convert = [&](auto* from) {
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) store(buffer + i, load(from + i));
    if (i < n) store_partial(buffer + i, load_partial(from + i, n - i), n - i);
  };
  if (dtype == Dtype::kBFloat16) {
    convert(static_cast<const BFloat16*>(p));
  } else {
    convert(static_cast<const Float16*>(p));
  }
  return buffer;
}

// The value rules one by one, for vectors in which an input is NaN or +inf.
f32x16 guide_lanes(f32x16 base, f32x16 tuned, f32x16 untuned, double beta) {
  alignas(64) float b[16], t[16], u[16], z[16];
  store(b, base);
  store(t, tuned);
  store(u, untuned);
  store(z, guide(base, tuned, untuned, beta));
  for (int i = 0; i < 16; ++i) {
    if (!(b[i] < kInf && t[i] < kInf && u[i] < kInf)) {
      z[i] = __builtin_nanf("");
    } else if (b[i] == -kInf || t[i] == -kInf) {
      z[i] = -kInf;
    } else if (u[i] == -kInf) {
      z[i] = __builtin_nanf("");
    }
  }
  return load(z);
}

// Vectors with a result that is not finite: a mask, or something bad. What is not finite in an
// input is not finite in the result either, so all other vectors need no second look.
f32x16 guide_special(f32x16 b, f32x16 t, f32x16 u, double beta) {
  if (any_nan_or_pos_inf(b) || any_nan_or_pos_inf(t) || any_nan_or_pos_inf(u)) {
    return guide_lanes(b, t, u, beta);
  }
  // -0 * inf is the NaN that an untuned -inf alone means (a mask in base or tuned overrides it),
  // and adding the -0 of a finite one changes nothing, not even a -0.
  f32x16 z = add(guide(b, t, u, beta), mul(abs(u), set1(-0.0f)));
  z = neg_inf_where_equal(t, set1(-kInf), z);
  return neg_inf_where_equal(b, set1(-kInf), z);
}

// +inf, from an input or from overflow, is as bad as NaN.
f32x16 nan_where_pos_inf(f32x16 z) {
  alignas(64) float lanes[16];
  store(lanes, z);
  for (int i = 0; i < 16; ++i) {
    if (!(lanes[i] < kInf)) lanes[i] = __builtin_nanf("");
  }
  return load(lanes);
}

// The three rows of one dtype T; t and u null: the base alone.
template <class T>
bool guide_rows(const T* b, const T* t, const T* u, int64_t n, double beta, float* z,
                float* lane_max) {
  bool bad = false;
  f32x16 maximum[2] = {set1(-kInf), set1(-kInf)};
  const auto take = [&](f32x16 value, int k) {
    if (any_nan_or_pos_inf(value)) {
      value = nan_where_pos_inf(value);
      bad = true;
    }
    maximum[k] = max(maximum[k], value);
    return value;
  };
  const auto take_pair = [&](f32x16 vb, f32x16 vt, f32x16 vu, int k) {
    const f32x16 value = guide(vb, vt, vu, beta);
    if (any_not_finite(value)) return take(guide_special(vb, vt, vu, beta), k);
    maximum[k] = max(maximum[k], value);
    return value;
  };
  int64_t i = 0;
  if (t != nullptr) {
    for (; i + 32 <= n; i += 32) {
      store(z + i, take_pair(load(b + i), load(t + i), load(u + i), 0));
      store(z + i + 16, take_pair(load(b + i + 16), load(t + i + 16), load(u + i + 16), 1));
    }
    for (; i < n; i += 16) {
      const int64_t left = n - i < 16 ? n - i : 16;
      // Lanes past the end are -inf in all three, which makes them masked.
      store_partial(z + i,
                    take_pair(load_partial(b + i, left), load_partial(t + i, left),
                              load_partial(u + i, left), 0),
                    left);
    }
  } else {
    for (; i + 16 <= n; i += 16) store(z + i, take(load(b + i), 0));
    if (i < n) store_partial(z + i, take(load_partial(b + i, n - i), 0), n - i);
  }
  store(lane_max, max(maximum[0], maximum[1]));
  return bad;
}

template <class T>
bool guide_same(const GuidedBlock& in, bool pair, int64_t n, double beta, float* z,
                float* lane_max) {
  const auto rows = [&](int k) { return static_cast<const T*>(in.logits[k]); };
  return guide_rows<T>(rows(0), pair ? rows(1) : nullptr, pair ? rows(2) : nullptr, n, beta, z,
                       lane_max);
}

}  // namespace

bool guide_block(const GuidedBlock& in, bool pair, int64_t n, double beta, float* z,
                 float* lane_max) {
  if (!pair || (in.dtype[1] == in.dtype[0] && in.dtype[2] == in.dtype[0])) {
    switch (in.dtype[0]) {
      case Dtype::kFloat32:
        return guide_same<float>(in, pair, n, beta, z, lane_max);
      case Dtype::kBFloat16:
        return guide_same<BFloat16>(in, pair, n, beta, z, lane_max);
      default:
        return guide_same<Float16>(in, pair, n, beta, z, lane_max);
    }
  }
  alignas(64) float buffer[3][kGuideColumns];
  const float* rows[3];
  for (int k = 0; k < 3; ++k) rows[k] = as_float(in.logits[k], in.dtype[k], n, buffer[k]);
  return guide_rows<float>(rows[0], rows[1], rows[2], n, beta, z, lane_max);
}

}  // namespace W2S_ISA
}  // namespace w2s
