// Sixteen fp32 lanes, the same arithmetic on every instruction set: each ISA supplies the
// primitives, everything built on them (exp, tanh) is written once, with explicit fused
// multiply-adds, so all of them give the same bits.
//
// This header is compiled once per ISA inside namespace w2s::W2S_ISA. Nothing here may be an inline
// function outside that namespace, nor use a std:: template that instantiates code: the linker
// keeps one copy of such a function, and it could be the AVX-512 one.
#pragma once

#include <cstdint>
#include <cstring>

#include "../common/types.h"

#if defined(W2S_ISA_AVX512) || defined(W2S_ISA_AVX2)
#include <immintrin.h>
#elif defined(W2S_ISA_NEON)
#include <arm_neon.h>
#endif

namespace w2s {
namespace W2S_ISA {

#if defined(W2S_ISA_AVX512)
#include "simd_avx512.inc"
#elif defined(W2S_ISA_AVX2)
#include "simd_avx2.inc"
#elif defined(W2S_ISA_NEON)
#include "simd_neon.inc"
#else
#include "simd_generic.inc"
#endif

// 32 columns into two vectors, each column once but in no promised order: for maxima, where bf16
// then needs one operation a vector (the halves of 32-bit words) instead of two.
template <class T>
static inline void load_any_order(const T* p, f32x16* a, f32x16* b) {
  *a = load(p);
  *b = load(p + 16);
}

// Lanes from `count` on become -inf: they add exactly nothing to a maximum or an exp-sum.
template <class T>
static inline f32x16 load_partial(const T* p, int64_t count) {
  constexpr float kNegInf = -__builtin_inff();
  alignas(64) float lanes[16];
  alignas(32) T raw[16];
  std::memset(raw, 0, sizeof(raw));
  std::memcpy(raw, p, static_cast<size_t>(count) * sizeof(T));
  store(lanes, load(raw));
  for (int64_t i = count; i < 16; ++i) lanes[i] = kNegInf;
  return load(lanes);
}

// Stores the first `count` lanes.
template <class T>
static inline void store_partial(T* p, f32x16 a, int64_t count) {
  alignas(64) T lanes[16];
  store(lanes, a);
  std::memcpy(p, lanes, static_cast<size_t>(count) * sizeof(T));
}

// exp(x) for x <= 0 (0 gives exactly 1; below -87, where the result leaves the normal range, and at
// -inf, exactly 0). Cephes' degree-6 minimax polynomial about round(x / ln 2), error < 1 ulp.
static inline f32x16 exp_nonpositive(f32x16 x) {
  // Adding 1.5 * 2^23 rounds to an integer n and leaves it in the low bits, ready for the exponent.
  constexpr float kShift = 12582912.0f;
  const f32x16 clamped = max(x, set1(-87.0f));
  const f32x16 shifted = fma(clamped, set1(1.44269504088896341f), set1(kShift));
  const f32x16 n = sub(shifted, set1(kShift));
  f32x16 r = fma(n, set1(-0.693359375f), clamped);
  r = fma(n, set1(2.12194440e-4f), r);
  f32x16 p = set1(1.9875691500e-4f);
  p = fma(p, r, set1(1.3981999507e-3f));
  p = fma(p, r, set1(8.3334519073e-3f));
  p = fma(p, r, set1(4.1665795894e-2f));
  p = fma(p, r, set1(1.6666665459e-1f));
  p = fma(p, r, set1(5.0000001201e-1f));
  p = fma(p, r, set1(1.0f));
  p = fma(p, r, set1(1.0f));
  return scale_unless_less(x, set1(-87.0f), p, shifted);
}

// exp(x) as exp_nonpositive, for terms of a sum: relative error below 5e-7 (mostly a third of it)
// at four operations less. 2^f with f = x log2(e) - n in one fused step, a degree-5 minimax
// polynomial with p(0) = 1. What x <= -87 or -inf does on the way is masked at the end.
static inline f32x16 exp_term(f32x16 x) {
  constexpr float kShift = 12582912.0f, kLog2E = 1.44269504088896341f;
  const f32x16 shifted = fma(x, set1(kLog2E), set1(kShift));
  const f32x16 minus_n = sub(set1(kShift), shifted);
  const f32x16 f = fma(x, set1(kLog2E), minus_n);
  f32x16 p = set1(1.327463337839808e-3f);
  p = fma(p, f, set1(9.671961679428236e-3f));
  p = fma(p, f, set1(5.550678368690992e-2f));
  p = fma(p, f, set1(2.402223532236319e-1f));
  p = fma(p, f, set1(6.931470615602788e-1f));
  p = fma(p, f, set1(1.0f));
  return scale_unless_less(x, set1(-87.0f), p, shifted);
}

// tanh(x) = sign(x) (1 - e) / (1 + e), e = exp(-2|x|): absolute error of a few 2^-24.
static inline f32x16 tanh_(f32x16 x) {
  const f32x16 e = exp_nonpositive(mul(abs(x), set1(-2.0f)));
  return copy_sign(div(sub(set1(1.0f), e), add(set1(1.0f), e)), x);
}

// What the model computes from a raw logit: softcap * tanh(z / softcap); a masked -inf stays
// masked.
static inline f32x16 apply_softcap(f32x16 z, float softcap) {
  const f32x16 capped = mul(set1(softcap), tanh_(div(z, set1(softcap))));
  return neg_inf_where_equal(z, set1(-__builtin_inff()), capped);
}

}  // namespace W2S_ISA
}  // namespace w2s
