// The primitives of csrc/cpu/simd.h behind one function, once per instruction set.
#pragma once

#include <cstdint>

namespace w2s {

// clang-format off
enum class Primitive {
  kAdd, kSub, kMul, kDiv, kMax, kFma, kRoundEven, kAbs, kCopySign, kScaleUnlessLess, kZeroWhereLess,
  kNegInfWhereEqual, kQuestions, kGuide, kFold, kReduceMax, kExp, kTanh, kSoftcap, kLoadPartial, kStorePartial,
  kAddFloor, kLoad16, kStore16, kCount
};
// clang-format on

// What a primitive gave; what it does not give stays 0.
struct PrimitiveResult {
  float lanes[32];
  double wide[16];
  uint16_t half[64];
  uint32_t word;
};

// `a`, `b`, `c` are 16 lanes; a primitive reads as many of them as it has operands. kLoad16 reads
// the high halves of `a` as bf16 and as fp16; the partial ones use `count` < 16.
// kGuide's beta and kSoftcap's cap stand in lane `count` of `c` (a third of it) and of `b`.
#define W2S_DECLARE(isa)                                                                         \
  namespace isa {                                                                                \
  void primitive(Primitive which, const float* a, const float* b, const float* c, int64_t count, \
                 PrimitiveResult* out);                                                          \
  }
W2S_DECLARE(generic)
W2S_DECLARE(avx2)
W2S_DECLARE(avx512)
W2S_DECLARE(neon)
#undef W2S_DECLARE

}  // namespace w2s
