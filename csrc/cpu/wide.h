// float64 lanes, as many as a register of the instruction set holds, and the integers and narrower
// numbers that go with them: the compiler's vector types. Each operation is one IEEE operation a
// lane, so all instruction sets give the same bits. Included by one namespace per ISA, see simd.h.
#pragma once

#include "simd.h"

namespace w2s {
namespace W2S_ISA {

#if defined(W2S_ISA_AVX512)
constexpr int kWideBytes = 64;
#elif defined(W2S_ISA_AVX2)
constexpr int kWideBytes = 32;
#else
constexpr int kWideBytes = 16;
#endif
constexpr int kWide = kWideBytes / 8;  // lanes
typedef double f64 __attribute__((vector_size(kWideBytes)));
typedef uint64_t u64 __attribute__((vector_size(kWideBytes)));
typedef float f32 __attribute__((vector_size(kWideBytes / 2)));
typedef uint32_t u32 __attribute__((vector_size(kWideBytes / 2)));

template <class V, class T>
static inline V load_lanes(const T* p) {
  V v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}
template <class V, class T>
static inline void store_lanes(T* p, V v) {
  std::memcpy(p, &v, sizeof(v));
}

static inline f64 set1_wide(double x) { return f64{} + x; }

// Written out where GCC 12 makes several instructions of what is one.
#if defined(W2S_ISA_AVX512)
static inline f32 narrow(f64 x) { return (f32)_mm512_cvtpd_ps((__m512d)x); }
static inline f64 widen(f32 x) { return (f64)_mm512_cvtps_pd((__m256)x); }
static inline u64 widen_words(u32 x) { return (u64)_mm512_cvtepu32_epi64((__m256i)x); }
static inline f64 max_wide(f64 a, f64 b) { return (f64)_mm512_max_pd((__m512d)a, (__m512d)b); }
static inline bool any_below(f64 a, f64 b) {
  return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_LT_OQ) != 0;
}
static inline u32 load_halves(const void* p) {
  return (u32)_mm256_cvtepu16_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p)));
}
static inline void store_halves(void* p, u32 a) {
  _mm_storeu_si128(static_cast<__m128i*>(p), _mm256_cvtepi32_epi16((__m256i)a));
}
static inline f32 load_fp16_lanes(const Float16* p) {
  return (f32)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
static inline void store_fp16_lanes(Float16* p, f32 a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph((__m256)a, 0));
}
// The 64-bit products of the lanes' low 32 bits.
static inline u64 multiply_low(u64 a, u64 b) {
  return (u64)_mm512_mul_epu32((__m512i)a, (__m512i)b);
}
// a0 b0 a1 b1 …
static inline void store_pairs(uint64_t* p, u64 a, u64 b) {
  const __m512i low = _mm512_set_epi64(11, 3, 10, 2, 9, 1, 8, 0);
  const __m512i high = _mm512_set_epi64(15, 7, 14, 6, 13, 5, 12, 4);
  _mm512_storeu_si512(p, _mm512_permutex2var_epi64((__m512i)a, low, (__m512i)b));
  _mm512_storeu_si512(p + 8, _mm512_permutex2var_epi64((__m512i)a, high, (__m512i)b));
}
#elif defined(W2S_ISA_AVX2)
static inline f32 narrow(f64 x) { return (f32)_mm256_cvtpd_ps((__m256d)x); }
static inline f64 widen(f32 x) { return (f64)_mm256_cvtps_pd((__m128)x); }
static inline u64 widen_words(u32 x) { return (u64)_mm256_cvtepu32_epi64((__m128i)x); }
static inline f64 max_wide(f64 a, f64 b) { return (f64)_mm256_max_pd((__m256d)a, (__m256d)b); }
static inline bool any_below(f64 a, f64 b) {
  return _mm256_movemask_pd(_mm256_cmp_pd((__m256d)a, (__m256d)b, _CMP_LT_OQ)) != 0;
}
static inline u32 load_halves(const void* p) {
  return (u32)_mm_cvtepu16_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(p)));
}
static inline void store_halves(void* p, u32 a) {  // lanes below 2^16
  _mm_storel_epi64(static_cast<__m128i*>(p), _mm_packus_epi32((__m128i)a, (__m128i)a));
}
static inline f32 load_fp16_lanes(const Float16* p) {
  return (f32)_mm_cvtph_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}
static inline void store_fp16_lanes(Float16* p, f32 a) {
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_cvtps_ph((__m128)a, 0));
}
static inline u64 multiply_low(u64 a, u64 b) {
  return (u64)_mm256_mul_epu32((__m256i)a, (__m256i)b);
}
static inline void store_pairs(uint64_t* p, u64 a, u64 b) {
  const __m256i even = _mm256_unpacklo_epi64((__m256i)a, (__m256i)b);
  const __m256i odd = _mm256_unpackhi_epi64((__m256i)a, (__m256i)b);
  __m256i* q = reinterpret_cast<__m256i*>(p);
  _mm256_storeu_si256(q, _mm256_permute2x128_si256(even, odd, 0x20));
  _mm256_storeu_si256(q + 1, _mm256_permute2x128_si256(even, odd, 0x31));
}
#else
static inline f32 narrow(f64 x) { return __builtin_convertvector(x, f32); }
static inline f64 widen(f32 x) { return __builtin_convertvector(x, f64); }
static inline u64 widen_words(u32 x) { return __builtin_convertvector(x, u64); }
static inline f64 max_wide(f64 a, f64 b) { return a > b ? a : b; }
static inline bool any_below(f64 a, f64 b) { return a[0] < b[0] || a[1] < b[1]; }
static inline u32 load_halves(const void* p) {
  uint16_t half[kWide];
  std::memcpy(half, p, sizeof(half));
  return u32{half[0], half[1]};
}
static inline void store_halves(void* p, u32 a) {
  const uint16_t half[kWide] = {static_cast<uint16_t>(a[0]), static_cast<uint16_t>(a[1])};
  std::memcpy(p, half, sizeof(half));
}
#if defined(W2S_ISA_NEON)
static inline f32 load_fp16_lanes(const Float16* p) {
  const __fp16* q = reinterpret_cast<const __fp16*>(p);
  return f32{static_cast<float>(q[0]), static_cast<float>(q[1])};
}
static inline void store_fp16_lanes(Float16* p, f32 a) {
  __fp16* q = reinterpret_cast<__fp16*>(p);
  q[0] = static_cast<__fp16>(a[0]);
  q[1] = static_cast<__fp16>(a[1]);
}
static inline u64 multiply_low(u64 a, u64 b) {
  return (u64)vmull_u32(vmovn_u64((uint64x2_t)a), vmovn_u64((uint64x2_t)b));
}
#else
static inline f32 load_fp16_lanes(const Float16* p) { return f32{widen(p[0]), widen(p[1])}; }
static inline void store_fp16_lanes(Float16* p, f32 a) {
  for (int i = 0; i < kWide; ++i) p[i].bits = narrow_fp16(a[i]);
}
static inline u64 multiply_low(u64 a, u64 b) { return (a & 0xffffffffu) * (b & 0xffffffffu); }
#endif
static inline void store_pairs(uint64_t* p, u64 a, u64 b) {
  for (int i = 0; i < kWide; ++i) p[2 * i] = a[i], p[2 * i + 1] = b[i];
}
#endif

// kWide numbers as float64; exact.
static inline f64 load_wide(const double* p) { return load_lanes<f64>(p); }
static inline f64 load_wide(const float* p) { return widen(load_lanes<f32>(p)); }
static inline f64 load_wide(const BFloat16* p) { return widen((f32)(load_halves(p) << 16)); }
static inline f64 load_wide(const Float16* p) { return widen(load_fp16_lanes(p)); }

}  // namespace W2S_ISA
}  // namespace w2s
