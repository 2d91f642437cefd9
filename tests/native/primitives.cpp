// Compiled once per instruction set, like the kernels.
#include "primitives.h"

#include "../../csrc/cpu/simd.h"

namespace w2s {
namespace W2S_ISA {

namespace {

template <class T>
void load_half(const uint16_t* bits, float* lanes) {
  store(lanes, load(reinterpret_cast<const T*>(bits)));
}

void answers(f32x16 a, f32x16 b, PrimitiveResult* out) {
  NanFlag flag = no_nan();
  note_nan(&flag, a, b);
  out->word = mask_not_less(a, b) | static_cast<uint32_t>(any(flag)) << 16 |
              static_cast<uint32_t>(any_nan_or_pos_inf(a)) << 17 |
              static_cast<uint32_t>(any_not_finite(a)) << 18;
}

void folds(f32x16 a, f32x16 b, f32x16 c, float* out) {
  const f32x16 all[16] = {a, b, c, add(a, b), b, c, a, mul(a, c), c, a, b, sub(b, c), a, c, b, a};
  out[0] = fold(a);
  fold_all<1>(all, out + 1);
  fold_all<2>(all, out + 2);
  fold_all<4>(all, out + 4);
  fold_all<16>(all, out + 8);
}

void partial_loads(const float* p, int64_t count, float* out) {
  store(out, load_partial(p, count));
  store(out + 16, load_partial(reinterpret_cast<const BFloat16*>(p), count));
}

void partial_stores(f32x16 a, int64_t count, PrimitiveResult* out) {
  store_partial(out->lanes, a, count);
  store_partial(reinterpret_cast<BFloat16*>(out->half), a, count);
  store_partial(reinterpret_cast<Float16*>(out->half) + 16, a, count);
}

}  // namespace

void primitive(Primitive which, const float* pa, const float* pb, const float* pc, int64_t count,
               PrimitiveResult* out) {
  const f32x16 a = load(pa), b = load(pb), c = load(pc);
  float* lanes = out->lanes;
  switch (which) {
    case Primitive::kAdd:
      return store(lanes, add(a, b));
    case Primitive::kSub:
      return store(lanes, sub(a, b));
    case Primitive::kMul:
      return store(lanes, mul(a, b));
    case Primitive::kDiv:
      return store(lanes, div(a, b));
    case Primitive::kMax:
      return store(lanes, max(a, b));
    case Primitive::kFma:
      return store(lanes, fma(a, b, c));
    case Primitive::kRoundEven:
      return store(lanes, round_even(a));
    case Primitive::kAbs:
      return store(lanes, abs(a));
    case Primitive::kCopySign:
      return store(lanes, copy_sign(a, b));
    case Primitive::kScaleUnlessLess:
      return store(lanes, scale_unless_less(a, b, c, a));
    case Primitive::kZeroWhereLess:
      return store(lanes, zero_where_less(a, b, c));
    case Primitive::kNegInfWhereEqual:
      return store(lanes, neg_inf_where_equal(a, b, c));
    case Primitive::kQuestions:
      return answers(a, b, out);
    case Primitive::kGuide:
      return store(lanes, guide(a, b, c, static_cast<double>(pc[count]) / 3.0));
    case Primitive::kFold:
      return folds(a, b, c, lanes);
    case Primitive::kReduceMax:
      lanes[0] = reduce_max(a);
      return;
    case Primitive::kExp:
      return store(lanes, exp_nonpositive(a));
    case Primitive::kTanh:
      return store(lanes, tanh_(a));
    case Primitive::kSoftcap:
      return store(lanes, apply_softcap(a, pb[count]));
    case Primitive::kLoadPartial:
      return partial_loads(pa, count, lanes);
    case Primitive::kStorePartial:
      return partial_stores(a, count, out);
    case Primitive::kAddFloor:
      return store(out->wide, add_floor(add_floor(zero_f64(), a), b));
    case Primitive::kLoad16: {
      uint16_t bits[16];
      for (int i = 0; i < 16; ++i) {
        uint32_t word;
        std::memcpy(&word, pa + i, 4);
        bits[i] = static_cast<uint16_t>(word >> 16);
      }
      load_half<BFloat16>(bits, lanes);
      return load_half<Float16>(bits, lanes + 16);
    }
    case Primitive::kStore16:
      store(reinterpret_cast<BFloat16*>(out->half), a);
      return store(reinterpret_cast<Float16*>(out->half) + 16, a);
    case Primitive::kCount:
      return;
  }
}

}  // namespace W2S_ISA
}  // namespace w2s
