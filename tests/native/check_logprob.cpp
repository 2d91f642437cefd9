// csrc/cpu/logprob.cpp, kernel by kernel and as whole rows.
#include <limits>

#include "core_isa.h"
#include "same_bits.h"

namespace same_bits {

using namespace w2s;

namespace {

constexpr float kSoftcaps[] = {0.0f, 0.0f, 30.0f, 50.0f, 1.0f};
constexpr float kTemperatures[] = {1.0f, 1.0f, 0.7f, 10.0f, 1e-3f};

std::string what(const char* name, Dtype dtype, int64_t n, float softcap, bool entropy) {
  return std::string(name) + " " + name_of(dtype) + " n=" + std::to_string(n) +
         " softcap=" + std::to_string(softcap) + (entropy ? " entropy" : "");
}

void put_leaf(const LeafStats& leaf, Record& record) {
  record.put(leaf.m);
  record.put(leaf.s);
  record.put(leaf.u);
}

}  // namespace

void check_leaf(Random& random, Record& record) {
  // Temperature 0 and NaN come through here as well: their rows become NaN later.
  constexpr float kInverse[] = {1.0f,
                                1.0f,
                                1.0f / 0.7f,
                                0.1f,
                                1000.0f,
                                std::numeric_limits<float>::infinity(),
                                std::numeric_limits<float>::quiet_NaN()};
  for (Dtype dtype : kDtypes) {
    const int64_t n = columns(random, kLeafColumns);
    const Array z = logits(random, dtype, n);
    const float softcap = random.of(kSoftcaps), inverse = random.of(kInverse);
    for (const bool entropy : {false, true}) {
      record.stage(what("leaf_stats", dtype, n, softcap, entropy));
      put_leaf(W2S_ON_ISA(leaf_stats(z.data(), dtype, n, inverse, softcap, entropy)), record);
    }
    record.stage(what("logit_at", dtype, n, softcap, false));
    for (int i = 0; i < 4; ++i) {
      record.put(W2S_ON_ISA(logit_at(z.data(), dtype, random.below(n), softcap)));
    }
  }
}

void check_leaf_gradient(Random& random, Record& record) {
  for (Dtype dtype : kDtypes) {
    const int64_t n = columns(random, kLeafColumns);
    Array z = logits(random, dtype, n);
    const float softcap = random.of(kSoftcaps), inverse = 1.0f / random.of(kTemperatures);
    const float m = W2S_ON_ISA(leaf_stats(z.data(), dtype, n, inverse, softcap, false)).m;
    const float a = any_float(random), b = random.one_in(2) ? 0.0f : random.normal();
    record.stage(what("logprob_gradient_at", dtype, n, softcap, b != 0.0f));
    for (int i = 0; i < 4; ++i) {
      const int64_t index = random.below(n);
      const float delta = random.normal();
      record.put(W2S_ON_ISA(
          logprob_gradient_at(z.data(), dtype, index, m, inverse, softcap, a, b, delta)));
    }
    record.stage(what("logprob_backward_leaf", dtype, n, softcap, b != 0.0f));
    Array out(random, dtype, n);
    W2S_ON_ISA(logprob_backward_leaf(z.data(), out.data(), dtype, n, m, inverse, softcap, a, b));
    out.put_all(record);
    W2S_ON_ISA(logprob_backward_leaf(z.data(), z.data(), dtype, n, m, inverse, softcap, a, b));
    z.put_all(record);
    record.stage("store_at");
    const int64_t index = random.below(n);
    W2S_ON_ISA(store_at(out.data(), dtype, index, any_float(random)));
    out.put_all(record);
  }
}

namespace {

// Rows of `cols` columns, each of its own kind, in one matrix with a stride.
struct Rows {
  Array storage;
  Matrix matrix;

  Rows(Random& random, Dtype dtype, int64_t rows, int64_t cols)
      : storage(random, dtype, rows * (cols + 5)) {
    for (int64_t row = 0; row < rows; ++row) {
      const Array one = logits(random, dtype, cols);
      const auto* from = static_cast<const char*>(one.data());
      auto* to = static_cast<char*>(storage.data()) + row * (cols + 5) * bytes_of(dtype);
      std::copy(from, from + cols * bytes_of(dtype), to);
    }
    matrix = {storage.data(), dtype, rows, cols, cols + 5};
  }
};

}  // namespace

void check_logprob(Random& random, Record& record) {
  const Dtype dtype = random.of(kDtypes);
  const int64_t rows = 1 + random.below(3), targets = 1 + random.below(3);
  const int64_t cols = random.one_in(4) ? 4096 + random.below(5000) : columns(random, 4096);
  const int64_t valid = cols - random.below(cols < 4 ? 1 : 3);
  Rows z(random, dtype, rows, cols);
  const bool entropy = random.one_in(2);
  const LogitRule rule{random.of(kTemperatures), nullptr, random.of(kSoftcaps), valid};
  std::vector<int64_t> ids(static_cast<size_t>(rows * targets));
  for (int64_t& id : ids) {
    const int64_t odd[] = {kIgnoreIndex, -1, valid, valid + 7};
    id = random.one_in(8) ? random.of(odd) : random.below(valid);
  }
  const Targets target{ids.data(), true, targets};

  const int64_t leaves = leaf_count(valid);
  std::vector<LeafStats> leaf(static_cast<size_t>(rows * leaves));
  std::vector<float> z_target(ids.size(), 0.0f), m(rows), h(rows), logprob(ids.size());
  std::vector<double> s(rows);
  record.stage(what("leaves_of", dtype, cols, rule.softcap, entropy));
  leaves_of(z.matrix, rule, entropy, leaf.data(), leaves);
  for (const LeafStats& one : leaf) put_leaf(one, record);
  target_logits(z.matrix, rule, target, 0, z_target.data());
  record.put(z_target.data(), static_cast<int64_t>(z_target.size()));

  record.with_libm();
  record.stage(what("logprob", dtype, cols, rule.softcap, entropy));
  finish_rows(rows, rule, leaf.data(), leaves, leaves, m.data(), s.data(), h.data());
  finish_logprob(rows, rule, target, valid, m.data(), s.data(), z_target.data(), logprob.data());
  record.put(logprob.data(), static_cast<int64_t>(logprob.size()));
  if (entropy) record.put(h.data(), rows);

  record.stage(what("logprob_backward", dtype, cols, rule.softcap, entropy));
  std::vector<float> grad(ids.size()), grad_entropy(rows);
  for (float& g : grad) g = random.normal();
  for (float& g : grad_entropy) g = random.normal();
  Array out(random, dtype, rows * cols);
  const LogprobGradient gradient{grad.data(), entropy ? grad_entropy.data() : nullptr,
                                 m.data(),    s.data(),
                                 h.data(),    /*vocab_start=*/0,
                                 valid};
  logprob_backward(z.matrix, rule, target, gradient, out.data(), cols);
  out.put_all(record);
  record.without_libm();
}

}  // namespace same_bits
