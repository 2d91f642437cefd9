// What a block of extrapolate is, and its rules for one element after the other, whatever that is:
// NaN, infinite, out of range. The vectors of extrapolate.cpp are held to these.
#pragma once

#include "wide.h"

namespace w2s {
namespace W2S_ISA {

namespace {

constexpr int64_t kBlock = 512;  // elements
constexpr int kLanes = 8;        // of a leaf's sums: element j is added to lane j % 8
constexpr uint64_t kSign = uint64_t{1} << 63, kExponent = uint64_t{0x7ff} << 52;
constexpr uint64_t kTwoTo52 = uint64_t{0x433} << 52;  // bits of 2^52: adding it makes an integer
constexpr double kInf = __builtin_inf();

// most: the largest finite number. Of 16 bits: numbers lie evenly below `least`, and a number's
// power of two times 1.5 * 2^places has, in float64, its last place where the format has the
// number's.
template <class T>
struct Format;
template <>
struct Format<double> {
  static constexpr double most = __DBL_MAX__;
};
template <>
struct Format<float> {
  static constexpr double most = __FLT_MAX__;
};
template <>
struct Format<BFloat16> {
  static constexpr double most = 0x1.fep127, least = 0x1p-126;
  static constexpr uint64_t places = 45;
};
template <>
struct Format<Float16> {
  static constexpr double most = 65504.0, least = 0x1p-14;
  static constexpr uint64_t places = 42;
};

// Added to the bits of a power of two: 1.5 * 2^places times as much.
template <class Out>
constexpr uint64_t kTimes = (Format<Out>::places << 52) | (uint64_t{1} << 51);

// Sums of the finite elements: theta1^2, delta^2, (out - theta1) delta; and how many results are
// not finite.
struct Sums {
  double lane[3][kLanes];
  double overflowed;
};

// A block's arguments: inputs of one type, n <= kBlock.
template <class T, class Out>
struct Block {
  const T* theta1;
  const T* theta0;
  Out* out;
  int64_t n;
  double alpha;
  const double* alphas;
  // Of each element 16 random bits and 16 more, or null: to nearest.
  const uint16_t* random;
  const uint16_t* more;
};

static inline uint64_t bits_of(double x) {
  uint64_t bits;
  std::memcpy(&bits, &x, 8);
  return bits;
}
static inline uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}
static inline double double_of(uint64_t bits) {
  double x;
  std::memcpy(&x, &bits, 8);
  return x;
}

static inline double one(const double* p) { return *p; }
static inline double one(const float* p) { return static_cast<double>(*p); }
static inline double one(const BFloat16* p) {
  const uint32_t bits = static_cast<uint32_t>(p->bits) << 16;
  float x;
  std::memcpy(&x, &bits, 4);
  return static_cast<double>(x);
}
static inline double one(const Float16* p) {
  const uint32_t exponent = (p->bits >> 10) & 31u, fraction = p->bits & 1023u;
  const double sign = (p->bits & 0x8000u) != 0 ? -1.0 : 1.0;
  if (exponent == 31u) return fraction != 0 ? __builtin_nan("") : sign * kInf;
  if (exponent == 0) return sign * (fraction * 0x1p-24);
  return sign * double_of((uint64_t{exponent} + 1008u) << 52 | uint64_t{fraction} << 42);
}

static inline void put_nearest(double* p, double x) { *p = x != x ? __builtin_nan("") : x; }
static inline void put_nearest(float* p, double x) {
  *p = x != x ? __builtin_nanf("") : static_cast<float>(x);
}
// As rounded(), with room for what overflows.
template <class Out>
static inline float rounded_one(double x) {
  const double power = double_of(bits_of(x) & kExponent), least = Format<Out>::least;
  const double clamped = power < least ? least : power < 0x1p200 ? power : 0x1p200;
  const double shift = double_of(bits_of(clamped) + kTimes<Out>);
  return static_cast<float>(double_of(bits_of((x + shift) - shift) | (bits_of(x) & kSign)));
}
static inline void put_nearest(BFloat16* p, double x) {
  p->bits = x != x ? 0x7fc0u : static_cast<uint16_t>(bits_of(rounded_one<BFloat16>(x)) >> 16);
}
static inline void put_nearest(Float16* p, double x) {
  const float y = rounded_one<Float16>(x);
  const uint32_t sign = (bits_of(y) >> 16) & 0x8000u, size = bits_of(y) & 0x7fffffffu;
  uint32_t bits = 0x7e00u;
  if (x == x) {
    if (size >= 0x47800000u) {
      bits = sign | 0x7c00u;
    } else if (size >= 0x38800000u) {
      bits = sign | (size - 0x38000000u) >> 13;
    } else {
      bits = sign | static_cast<uint32_t>((y < 0 ? -y : y) * 0x1p24f);
    }
  }
  p->bits = static_cast<uint16_t>(bits);
}

// A finite x; what would become more than the largest number becomes that.
static inline void put_dithered(BFloat16* p, double x, uint32_t random) {
  const uint32_t bits = bits_of(static_cast<float>(x)), sign = bits & 0x80000000u;
  const uint32_t sum = (bits & 0x7fffffffu) + (random >> 16);
  p->bits = static_cast<uint16_t>((sign | (sum < 0x7f7fffffu ? sum : 0x7f7fffffu)) >> 16);
}
static inline void put_dithered(Float16* p, double x, uint32_t random) {
  const float single = static_cast<float>(x);
  const uint32_t sign = (bits_of(single) >> 16) & 0x8000u, size = bits_of(single) & 0x7fffffffu;
  uint32_t bits;
  if (size < 0x38800000u) {
    const double wide = single < 0 ? -static_cast<double>(single) : static_cast<double>(single);
    const uint64_t fixed = bits_of(wide * 0x1p56 + 0x1p52) - kTwoTo52;
    bits = static_cast<uint32_t>((fixed + random) >> 32);
  } else {
    const uint32_t sum = size + (random >> 19);
    bits = ((sum < 0x477fffffu ? sum : 0x477fffffu) - 0x38000000u) >> 13;
  }
  p->bits = static_cast<uint16_t>(sign | bits);
}

static inline bool finite(double x) { return x - x == 0.0; }

// The rules, for whatever the elements are.
template <class T, class Out, bool kDithered>
void by_the_rules(const Block<T, Out>& in, Sums* sums) {
  for (int64_t i = 0; i < in.n; ++i) {
    const double theta1 = one(in.theta1 + i), theta0 = one(in.theta0 + i), delta = theta1 - theta0;
    const double alpha = in.alphas != nullptr ? in.alphas[i] : in.alpha;
    const double x = alpha == 0.0 ? theta1 : theta1 + alpha * delta;
    if constexpr (kDithered) {
      if (finite(x)) {
        put_dithered(in.out + i, x, static_cast<uint32_t>(in.random[i]) << 16 | in.more[i]);
      } else {
        put_nearest(in.out + i, x);
      }
    } else {
      put_nearest(in.out + i, x);
    }
    if (sums == nullptr) continue;
    const double out = one(in.out + i);
    if (finite(delta) && finite(out)) {
      sums->lane[0][i % kLanes] += theta1 * theta1;
      sums->lane[1][i % kLanes] += delta * delta;
      sums->lane[2][i % kLanes] += (out - theta1) * delta;
    }
    sums->overflowed += finite(theta1) && finite(theta0) && !finite(out) ? 1.0 : 0.0;
  }
}

}  // namespace

}  // namespace W2S_ISA
}  // namespace w2s
