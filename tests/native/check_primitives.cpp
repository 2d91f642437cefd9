// Every primitive of csrc/cpu/simd_*.inc on operands of every kind.
#include <cstring>

#include "core_isa.h"
#include "primitives.h"
#include "same_bits.h"

namespace same_bits {

using w2s::Primitive;
using w2s::PrimitiveResult;

namespace {

PrimitiveResult run(Primitive which, const float* a, const float* b, const float* c,
                    int64_t count) {
  using namespace w2s;  // W2S_ON_ISA names the namespaces of the instruction sets
  PrimitiveResult out{};
  W2S_ON_ISA(primitive(which, a, b, c, count, &out));
  return out;
}

// What `which` gives of the result.
void put(Primitive which, const PrimitiveResult& out, Record& record) {
  switch (which) {
    case Primitive::kQuestions:
      return record.put_word(out.word);
    case Primitive::kAddFloor:
      for (double x : out.wide) record.put(x);
      return;
    case Primitive::kStorePartial:
      record.put(out.lanes, 16);
      [[fallthrough]];
    case Primitive::kStore16:
      record.put(out.half, w2s::Dtype::kBFloat16, 16);
      return record.put(out.half + 16, w2s::Dtype::kFloat16, 16);
    case Primitive::kFold:
      return record.put(out.lanes, 24);
    case Primitive::kLoadPartial:
    case Primitive::kLoad16:
      return record.put(out.lanes, 32);
    default:
      return record.put(out.lanes, 16);
  }
}

void check(Primitive which, const float* a, const float* b, const float* c, int64_t count,
           Record& record) {
  put(which, run(which, a, b, c, count), record);
}

// Operands for one call: any floats, except where the primitive is only defined on some.
void fill(Random& random, Primitive which, int64_t count, float* a, float* b, float* c) {
  const bool finite = random.one_in(2);
  for (int i = 0; i < 16; ++i) {
    for (float* p : {a, b, c}) {
      p[i] = finite ? random.normal() * 100.0f : any_float(random);
      if (which == Primitive::kAddFloor) {  // up to 2^44, with and without a fraction
        p[i] = random.uniform() * float_of(static_cast<uint32_t>(127 + random.below(45)) << 23);
      }
    }
    if (random.one_in(8)) b[i] = a[i];
    if (which == Primitive::kSoftcap) b[i] = 1.0f + random.uniform() * 100.0f;
    if (which == Primitive::kExp && finite) a[i] = -random.uniform() * 100.0f;
  }
  if (which != Primitive::kGuide || !finite) return;
  // What is left of a sum that cancels shows every rounding before it.
  const double beta = static_cast<double>(c[count]) / 3.0;
  for (int i = 0; i < 16; ++i) {
    a[i] = -static_cast<float>(beta * (static_cast<double>(b[i]) - static_cast<double>(c[i])));
  }
}

}  // namespace

void check_primitives(Random& random, Record& record) {
  float a[16], b[16], c[16];
  for (int w = 0; w < static_cast<int>(Primitive::kCount); ++w) {
    const auto which = static_cast<Primitive>(w);
    record.stage("primitive " + std::to_string(w));
    const int64_t count = random.below(16);
    fill(random, which, count, a, b, c);
    check(which, a, b, c, count, record);
  }
  // Pairs of special values, 16 second operands at a time.
  const auto special = static_cast<int64_t>(kSpecial.size());
  const float x = kSpecial[random.below(special)];
  const int64_t first = random.below(special);
  for (int i = 0; i < 16; ++i) {
    a[i] = x;
    b[i] = kSpecial[(first + i) % special];
    c[i] = kSpecial[random.below(special)];
  }
  for (int w = 0; w <= static_cast<int>(Primitive::kTanh); ++w) {
    record.stage("primitive " + std::to_string(w) + " of special values");
    check(static_cast<Primitive>(w), a, b, c, 0, record);
    check(static_cast<Primitive>(w), b, a, c, 0, record);
  }
}

void check_conversions(Random&, Record& record) {  // every value, none drawn
  float a[16];
  for (uint32_t first = 0; first < 0x10000u; first += 16) {
    record.stage("16-bit values from " + std::to_string(first));
    for (uint32_t i = 0; i < 16; ++i) a[i] = float_of((first + i) << 16);
    const PrimitiveResult loaded = run(Primitive::kLoad16, a, a, a, 0);
    put(Primitive::kLoad16, loaded, record);
    // Each value, the middle between it and the next, and their neighbours, to bf16 and fp16.
    for (const uint32_t low : {0u, 1u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) {
      for (uint32_t i = 0; i < 16; ++i) a[i] = float_of((first + i) << 16 | low);
      check(Primitive::kStore16, a, a, a, 0, record);
    }
    for (const uint32_t low : {0u, 1u, 0xfffu, 0x1000u, 0x1001u, 0x1fffu}) {
      for (uint32_t i = 0; i < 16; ++i) a[i] = float_of(bits_of(loaded.lanes[16 + i]) + low);
      check(Primitive::kStore16, a, a, a, 0, record);
    }
  }
  // Half-way points of fp16's subnormals, and beside them.
  for (int32_t first = 0; first < 2048; first += 16) {
    for (const int32_t beside : {-1, 0, 1}) {
      for (int32_t i = 0; i < 16; ++i) {
        const float middle = (static_cast<float>(first + i) + 0.5f) * 0x1p-24f;
        a[i] = float_of(bits_of(middle) + static_cast<uint32_t>(beside));
      }
      check(Primitive::kStore16, a, a, a, 0, record);
    }
  }
}

}  // namespace same_bits
