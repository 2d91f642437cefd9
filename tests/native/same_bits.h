// What the checks of `same_bits` share: random numbers, inputs, and the record of what a kernel
// gave.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/types.h"

namespace same_bits {

// SplitMix64: the same numbers on every machine.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u + 1) {}
  uint64_t next();
  int64_t below(int64_t n) { return static_cast<int64_t>(next() % static_cast<uint64_t>(n)); }
  bool one_in(int64_t n) { return below(n) == 0; }
  float uniform() { return static_cast<float>(next() >> 40) * 0x1p-24f; }  // [0, 1)
  float normal();                                                          // nearly
  template <class T, int64_t N>
  T of(const T (&values)[N]) {
    return values[below(N)];
  }

 private:
  uint64_t state_;
};

// The results of one case on one instruction set, in order. All NaNs count as one: their sign and
// payload differ between processors, and no kernel's contract names them.
class Record {
 public:
  void put(float x);
  void put(double x);
  void put(const float* x, int64_t n);
  void put_word(uint64_t x) { push(x); }
  // Storage of `n` elements, canary and all.
  void put(const void* data, w2s::Dtype dtype, int64_t n);
  // Stages name what follows; a difference is reported with the stage it is in.
  void stage(std::string name);
  // What follows depends on libm too (exp or log of a fold), which differs between machines in the
  // last place; the instruction sets of one machine must still agree.
  void with_libm() { libm_ = true; }
  void without_libm() { libm_ = false; }

  int64_t size() const { return static_cast<int64_t>(values_.size()); }
  // The first difference in words, or "".
  std::string difference(const Record& other) const;
  // Extends a digest of everything that must be equal on every machine.
  uint64_t digest(uint64_t so_far) const;

 private:
  void push(uint64_t value);
  std::vector<uint64_t> values_;
  std::vector<bool> portable_;
  std::vector<std::pair<int64_t, std::string>> stages_;
  bool libm_ = false;
};

inline int64_t bytes_of(w2s::Dtype dtype) { return dtype == w2s::Dtype::kFloat32 ? 4 : 2; }
extern const w2s::Dtype kDtypes[3];
const char* name_of(w2s::Dtype dtype);

// An array of `n` elements at a random (unaligned) place between canaries.
class Array {
 public:
  Array(Random& random, w2s::Dtype dtype, int64_t n);
  void* data() { return bytes_.data() + offset_; }
  const void* data() const { return bytes_.data() + offset_; }
  w2s::Dtype dtype() const { return dtype_; }
  int64_t size() const { return n_; }
  void set(int64_t index, float value);          // truncated to the dtype
  void set_bits(int64_t index, uint32_t value);  // the low bits of `value`
  // The elements and the canaries around them.
  void put_all(Record& record) const;

 private:
  w2s::Dtype dtype_;
  int64_t n_, offset_;
  std::vector<char> bytes_;
};

// Floats on which instruction sets could disagree: zeros, subnormals, halves, limits, infinities,
// NaN.
extern const std::vector<float> kSpecial;
float float_of(uint32_t bits);
uint32_t bits_of(float x);
// Bits of every kind, special values among them.
float any_float(Random& random);

// Rows of logits of every kind a model (or a mistake) makes: spread, offset, one-hot, equal, ties,
// masked, huge, tiny, any bits, a NaN or +inf. `finite_or_masked` leaves out the last two.
Array logits(Random& random, w2s::Dtype dtype, int64_t n, bool finite_or_masked = false);
// A number of columns: mostly 1 to 63 or next to a power of two, at most `most`.
int64_t columns(Random& random, int64_t most);

// One check, run on every instruction set with the same random numbers.
using Check = void (*)(Random& random, Record& record);
void check_primitives(Random& random, Record& record);   // operands of every kind
void check_conversions(Random& random, Record& record);  // 16-bit types, every value
void check_leaf(Random& random, Record& record);
void check_leaf_gradient(Random& random, Record& record);
void check_logprob(Random& random, Record& record);  // forward and backward of whole rows
void check_linear(Random& random, Record& record);
void check_guide_block(Random& random, Record& record);
void check_weigh_and_compact(Random& random, Record& record);
void check_guided_ops(Random& random, Record& record);  // logits, sample, topk
void check_extrapolate(Random& random, Record& record);

}  // namespace same_bits
