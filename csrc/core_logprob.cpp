// The log-prob family: splits rows and leaves over threads and finishes them in fp64. No arithmetic
// that a split could change happens here: leaves are cut at fixed columns.
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "core_isa.h"

namespace w2s {

namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kNegInf = -std::numeric_limits<float>::infinity();

}  // namespace

void leaves_of(const Matrix& logits, const LogitRule& rule, bool entropy, LeafStats* leaf,
               int64_t leaf_stride) {
  const int64_t leaves = leaf_count(rule.valid);
  constexpr int64_t kGrain = 4;  // about 5 us of work
  parallel(0, logits.rows * leaves, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t row = task / leaves, i = task % leaves;
      const int64_t first = i * kLeafColumns;
      const int64_t n = rule.valid - first < kLeafColumns ? rule.valid - first : kLeafColumns;
      const float inv_temperature = 1.0f / rule.temperature_of(row);
      leaf[row * leaf_stride + i] = W2S_ON_ISA(leaf_stats(
          element(logits, row, first), logits.dtype, n, inv_temperature, rule.softcap, entropy));
    }
  });
}

void target_logits(const Matrix& logits, const LogitRule& rule, const Targets& target,
                   int64_t vocab_start, float* z_target) {
  for (int64_t row = 0; row < logits.rows; ++row) {
    for (int64_t k = 0; k < target.per_row; ++k) {
      const int64_t column = target.at(row * target.per_row + k) - vocab_start;
      if (column < 0 || column >= rule.valid) continue;
      z_target[row * target.per_row + k] =
          W2S_ON_ISA(logit_at(element(logits, row, 0), logits.dtype, column, rule.softcap));
    }
  }
}

void finish_rows(int64_t rows, const LogitRule& rule, const LeafStats* leaf, int64_t leaf_count,
                 int64_t leaf_stride, float* m, double* s, float* entropy) {
  for (int64_t row = 0; row < rows; ++row) {
    const float t = rule.temperature_of(row);
    const RowStats stats = fold_leaves(leaf + row * leaf_stride, leaf_count, t);
    const bool usable = t > 0.0f && t < std::numeric_limits<float>::infinity();
    m[row] = usable ? stats.m : kNaN;
    s[row] = usable ? stats.s : std::numeric_limits<double>::quiet_NaN();
    if (entropy != nullptr) {
      // H = log s - sum p x; a row without a finite logit has s = 0, and 0 / 0 is the NaN it needs.
      entropy[row] = static_cast<float>(std::log(s[row]) - stats.u / s[row]);
    }
  }
}

void finish_logprob(int64_t rows, const LogitRule& rule, const Targets& target, int64_t vocab,
                    const float* m, const double* s, const float* z_target, float* logprob) {
  for (int64_t row = 0; row < rows; ++row) {
    const double t = rule.temperature_of(row);
    const double log_s = std::log(s[row]);
    for (int64_t k = 0; k < target.per_row; ++k) {
      const int64_t i = row * target.per_row + k;
      const int64_t id = target.at(i);
      if (id == kIgnoreIndex) {
        logprob[i] = 0.0f;
      } else if (id < 0 || id >= vocab || !(m[row] > kNegInf)) {
        logprob[i] = kNaN;
      } else {
        const double x = (static_cast<double>(z_target[i]) - static_cast<double>(m[row])) / t;
        logprob[i] = static_cast<float>(x - log_s);
      }
    }
  }
}

void logprob_backward(const Matrix& logits, const LogitRule& rule, const Targets& target,
                      const LogprobGradient& gradient, void* out, int64_t out_stride) {
  const int64_t bytes = item_size(logits.dtype);
  parallel(0, logits.rows, 1, [&](int64_t begin, int64_t end) {
    std::vector<int64_t> ids;
    std::vector<float> deltas;
    for (int64_t row = begin; row < end; ++row) {
      char* out_row = static_cast<char*>(out) + row * out_stride * bytes;
      const void* z = element(logits, row, 0);
      const double t = rule.temperature_of(row);
      const float inv_t = 1.0f / static_cast<float>(t);
      const double s = gradient.s[row];
      double total = 0.0;  // sum of the gradients at targets that count
      bool invalid = false, used = false;
      ids.clear();
      deltas.clear();
      for (int64_t k = 0; k < target.per_row; ++k) {
        const int64_t i = row * target.per_row + k, id = target.at(i);
        if (id == kIgnoreIndex) continue;
        used = true;
        invalid |= id < 0 || id >= gradient.vocab;
        total += gradient.grad[i];
        const int64_t column = id - gradient.vocab_start;
        if (column < 0 || column >= rule.valid) continue;
        size_t slot = 0;  // one entry a distinct id: K targets may name it twice
        while (slot < ids.size() && ids[slot] != column) ++slot;
        if (slot == ids.size()) {
          ids.push_back(column);
          deltas.push_back(0.0f);
        }
        deltas[slot] += static_cast<float>(gradient.grad[i] / t);
      }
      const double g_entropy = gradient.grad_entropy != nullptr ? gradient.grad_entropy[row] : 0.0;
      std::memset(out_row + rule.valid * bytes, 0, (logits.cols - rule.valid) * bytes);
      if (!used && g_entropy == 0.0) {  // ignored: exactly zero, even on a NaN row
        std::memset(out_row, 0, rule.valid * bytes);
        continue;
      }
      if (invalid || !(gradient.m[row] > kNegInf)) {
        for (int64_t j = 0; j < rule.valid; ++j) {
          W2S_ON_ISA(store_at(out_row, logits.dtype, j, kNaN));
        }
        continue;
      }
      const double h = gradient.entropy != nullptr ? gradient.entropy[row] : 0.0;
      const float a = static_cast<float>(-(total + g_entropy * (h - std::log(s))) / (s * t));
      const float b = static_cast<float>(-g_entropy / (s * t));
      for (size_t i = 0; i < ids.size(); ++i) {
        deltas[i] = W2S_ON_ISA(logprob_gradient_at(z, logits.dtype, ids[i], gradient.m[row], inv_t,
                                                   rule.softcap, a, b, deltas[i]));
      }
      W2S_ON_ISA(logprob_backward_leaf(z, out_row, logits.dtype, rule.valid, gradient.m[row], inv_t,
                                       rule.softcap, a, b));
      for (size_t i = 0; i < ids.size(); ++i) {
        W2S_ON_ISA(store_at(out_row, logits.dtype, ids[i], deltas[i]));
      }
    }
  });
}

}  // namespace w2s
