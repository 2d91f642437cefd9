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

void leaves_of(const LeafJob* jobs, int64_t count, bool entropy) {
  int64_t tasks = 0;
  for (int64_t j = 0; j < count; ++j) tasks += jobs[j].logits.rows * leaf_count(jobs[j].rule.valid);
  constexpr int64_t kGrain = 4;  // about 5 us of work
  parallel(0, tasks, kGrain, [&](int64_t begin, int64_t end) {
    const LeafJob* job = jobs;
    int64_t job_begin = 0;  // its first task
    for (int64_t task = begin; task < end; ++task) {
      int64_t leaves = leaf_count(job->rule.valid);
      while (task >= job_begin + job->logits.rows * leaves) {
        job_begin += job->logits.rows * leaves;
        ++job;
        leaves = leaf_count(job->rule.valid);
      }
      const int64_t row = (task - job_begin) / leaves, i = (task - job_begin) % leaves;
      const int64_t first = i * kLeafColumns, left = job->rule.valid - first;
      const float inv_temperature = 1.0f / job->rule.temperature_of(row);
      job->leaf[row * job->leaf_stride + i] = W2S_ON_ISA(leaf_stats(
          element(job->logits, row, first), job->logits.dtype,
          left < kLeafColumns ? left : kLeafColumns, inv_temperature, job->rule.softcap, entropy));
    }
  });
}

void target_logits(const Matrix& logits, const LogitRule& rule, const Targets& target,
                   int64_t vocab_start, float* z_target) {
  constexpr int64_t kGrain = 256;
  parallel(0, logits.rows * target.per_row, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t column = target.at(i) - vocab_start;
      if (column < 0 || column >= rule.valid) continue;
      z_target[i] = W2S_ON_ISA(
          logit_at(element(logits, i / target.per_row, 0), logits.dtype, column, rule.softcap));
    }
  });
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

namespace {

// A row without a finite logit (m = -inf) or with a NaN or +inf (m = NaN) has no log-prob.
bool has_logprob(float m) { return m > kNegInf; }

double scaled(double z, double m, double temperature) { return (z - m) / temperature; }

}  // namespace

void finish_logprob(int64_t rows, const LogitRule& rule, const Targets& target, int64_t vocab,
                    const float* m, const double* s, const float* z_target, float* logprob) {
  for (int64_t row = 0; row < rows; ++row) {
    const double t = rule.temperature_of(row);
    const double log_s = std::log(s[row]);
    for (int64_t k = 0; k < target.per_row; ++k) {
      const int64_t i = row * target.per_row + k, id = target.at(i);
      if (id == kIgnoreIndex) {
        logprob[i] = 0.0f;
      } else if (id < 0 || id >= vocab || !has_logprob(m[row])) {
        logprob[i] = kNaN;
      } else {
        logprob[i] = static_cast<float>(scaled(z_target[i], m[row], t) - log_s);
      }
    }
  }
}

void finish_diff(int64_t rows, const Targets& target, int64_t vocab, const FinishedRows& tuned,
                 const FinishedRows& untuned, float* diff) {
  for (int64_t row = 0; row < rows; ++row) {
    const double t = tuned.rule.temperature_of(row), u = untuned.rule.temperature_of(row);
    const double log_s = std::log(tuned.s[row]) - std::log(untuned.s[row]);
    const bool usable = has_logprob(tuned.m[row]) && has_logprob(untuned.m[row]);
    for (int64_t k = 0; k < target.per_row; ++k) {
      const int64_t i = row * target.per_row + k, id = target.at(i);
      if (id == kIgnoreIndex) {
        diff[i] = 0.0f;
      } else if (id < 0 || id >= vocab || !usable) {
        diff[i] = kNaN;
      } else {  // a target masked in both is -inf - -inf: NaN
        diff[i] = static_cast<float>((scaled(tuned.z_target[i], tuned.m[row], t) -
                                      scaled(untuned.z_target[i], untuned.m[row], u)) -
                                     log_s);
      }
    }
  }
}

void merge_stats(int64_t parts, int64_t rows, const LogitRule& rule, const float* m,
                 const double* s, float* merged_m, double* merged_s) {
  std::vector<LeafStats> part(static_cast<size_t>(parts));
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t p = 0; p < parts; ++p) part[p] = {m[p * rows + row], s[p * rows + row], 0.0};
    const RowStats stats = fold_leaves(part.data(), parts, rule.temperature_of(row));
    merged_m[row] = stats.m;
    merged_s[row] = stats.s;
  }
}

namespace {

// The targets of one row as distinct columns with the sum of their gradients: K targets may name
// a column twice, and it is stored once.
struct TargetGradients {
  std::vector<int64_t> column;
  std::vector<float> delta;
  double total;  // of all targets that count, wherever they lie
  bool used, invalid;

  void gather(const GradientJob& job, const Targets& target, int64_t row) {
    const LogprobGradient& gradient = job.gradient;
    const double t = job.rule.temperature_of(row);
    column.clear();
    delta.clear();
    total = 0.0;
    used = invalid = false;
    for (int64_t k = 0; k < target.per_row; ++k) {
      const int64_t i = row * target.per_row + k, id = target.at(i);
      if (id == kIgnoreIndex) continue;
      const double grad = static_cast<double>(gradient.sign) * gradient.grad[i];
      used = true;
      invalid |= id < 0 || id >= gradient.vocab;
      total += grad;
      const int64_t local = id - gradient.vocab_start;
      if (local < 0 || local >= job.rule.valid) continue;
      size_t slot = 0;
      while (slot < column.size() && column[slot] != local) ++slot;
      if (slot == column.size()) {
        column.push_back(local);
        delta.push_back(0.0f);
      }
      delta[slot] += static_cast<float>(grad / t);
    }
  }
};

void backward_row(const GradientJob& job, const Targets& target, int64_t row,
                  TargetGradients* targets) {
  const LogprobGradient& gradient = job.gradient;
  const Dtype dtype = job.logits.dtype;
  const int64_t bytes = item_size(dtype), valid = job.rule.valid;
  char* out = static_cast<char*>(job.out) + row * job.out_stride * bytes;
  const void* z = element(job.logits, row, 0);
  const double g_entropy = gradient.grad_entropy != nullptr ? gradient.grad_entropy[row] : 0.0;
  const float m = gradient.m[row];
  targets->gather(job, target, row);

  std::memset(out + valid * bytes, 0, (job.logits.cols - valid) * bytes);
  if (!targets->used && g_entropy == 0.0) {  // ignored: exactly zero, even on a NaN row
    std::memset(out, 0, valid * bytes);
    return;
  }
  if (targets->invalid || !has_logprob(m)) {
    for (int64_t j = 0; j < valid; ++j) W2S_ON_ISA(store_at(out, dtype, j, kNaN));
    return;
  }
  const double t = job.rule.temperature_of(row), s = gradient.s[row];
  const float inv_t = 1.0f / static_cast<float>(t);
  const double h = gradient.entropy != nullptr ? gradient.entropy[row] : 0.0;
  const float a = static_cast<float>(-(targets->total + g_entropy * (h - std::log(s))) / (s * t));
  const float b = static_cast<float>(-g_entropy / (s * t));
  // The targets' own elements are read before the pass (`out` may be `z`) and stored after it.
  std::vector<float>& delta = targets->delta;
  for (size_t i = 0; i < delta.size(); ++i) {
    delta[i] = W2S_ON_ISA(logprob_gradient_at(z, dtype, targets->column[i], m, inv_t,
                                              job.rule.softcap, a, b, delta[i]));
  }
  W2S_ON_ISA(logprob_backward_leaf(z, out, dtype, valid, m, inv_t, job.rule.softcap, a, b));
  for (size_t i = 0; i < delta.size(); ++i) {
    W2S_ON_ISA(store_at(out, dtype, targets->column[i], delta[i]));
  }
}

}  // namespace

void logprob_backward(const GradientJob* jobs, int64_t count, const Targets& target) {
  int64_t tasks = 0;
  for (int64_t j = 0; j < count; ++j) tasks += jobs[j].logits.rows;
  parallel(0, tasks, 1, [&](int64_t begin, int64_t end) {
    TargetGradients scratch;
    for (int64_t task = begin; task < end; ++task) {
      const GradientJob* job = jobs;
      int64_t row = task;
      while (row >= job->logits.rows) row -= (job++)->logits.rows;
      backward_row(*job, target, row, &scratch);
    }
  });
}

void logprob_backward(const Matrix& logits, const LogitRule& rule, const Targets& target,
                      const LogprobGradient& gradient, void* out, int64_t out_stride) {
  const GradientJob job{logits, rule, gradient, out, out_stride};
  logprob_backward(&job, 1, target);
}

}  // namespace w2s
