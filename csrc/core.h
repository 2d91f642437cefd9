// The CPU kernels behind plain functions: no torch here. torch_ops.cpp (torch tensors) and later
// array_bindings.cpp (NumPy, DLPack) are the only callers. Shapes: N rows, V columns, K targets a
// row.
#pragma once

#include <cstdint>

#include "common/online_softmax.h"
#include "common/types.h"

namespace w2s {

// Runs body(begin, end, context) over [begin, end) in pieces of at least `grain`.
using ParallelBody = void (*)(int64_t begin, int64_t end, void* context);
using ParallelFor = void (*)(int64_t begin, int64_t end, int64_t grain, ParallelBody body,
                             void* context);
// The one thread pool is the host's: torch_ops.cpp passes torch's own. Serial until set.
void set_parallel_for(ParallelFor run);
void parallel_for(int64_t begin, int64_t end, int64_t grain, ParallelBody body, void* context);

template <class F>
void parallel(int64_t begin, int64_t end, int64_t grain, const F& f) {
  parallel_for(
      begin, end, grain,
      [](int64_t b, int64_t e, void* context) { (*static_cast<const F*>(context))(b, e); },
      const_cast<F*>(&f));
}

// Instruction sets: the best one this processor runs, unless W2S_KERNELS_ISA or set_isa names
// another.
const char* isa_name();
// Space-separated names of those that are compiled in and run here, best first.
const char* isa_available();
// False when `name` is not among them; nothing changes then.
bool set_isa(const char* name);

// How a row's logits are read. `temperature_rows` ([N] fp32) wins over `temperature`; an entry that
// is not > 0 makes its row NaN. Columns from `valid` on are padding.
struct LogitRule {
  float temperature;
  const float* temperature_rows;
  float softcap;
  int64_t valid;

  float temperature_of(int64_t row) const {
    return temperature_rows != nullptr ? temperature_rows[row] : temperature;
  }
};

// Leaves of logits[N, V] into leaf[row * leaf_stride + i]; several matrices (a pair) in one launch.
struct LeafJob {
  Matrix logits;
  LogitRule rule;
  LeafStats* leaf;
  int64_t leaf_stride;
};
void leaves_of(const LeafJob* jobs, int64_t count, bool entropy);
inline void leaves_of(const Matrix& logits, const LogitRule& rule, bool entropy, LeafStats* leaf,
                      int64_t leaf_stride) {
  const LeafJob job{logits, rule, leaf, leaf_stride};
  leaves_of(&job, 1, entropy);
}

// Soft-capped logits of the targets that lie in [vocab_start, vocab_start + rule.valid) into
// z_target[N, K], NaN where the raw one is NaN or +inf; the others are left as they are.
void target_logits(const Matrix& logits, const LogitRule& rule, const Targets& target,
                   int64_t vocab_start, float* z_target);

// (m, s) of each row from its leaves; `entropy` ([N], or null) in nats.
void finish_rows(int64_t rows, const LogitRule& rule, const LeafStats* leaf, int64_t leaf_count,
                 int64_t leaf_stride, float* m, double* s, float* entropy);

// log softmax at the targets: ((z_t - m) / T - log s), rounded once; 0 at kIgnoreIndex, NaN at any
// other target outside [0, vocab) and on rows without a finite logit.
void finish_logprob(int64_t rows, const LogitRule& rule, const Targets& target, int64_t vocab,
                    const float* m, const double* s, const float* z_target, float* logprob);

// The same for a pair: (x_tuned - x_untuned) - (log s_tuned - log s_untuned) in fp64, rounded once,
// so diff(a, b) = -diff(b, a) and diff(a, a) = 0 exactly.
struct FinishedRows {
  LogitRule rule;
  const float* m;         // [N]
  const double* s;        // [N]
  const float* z_target;  // [N, K]
};
void finish_diff(int64_t rows, const Targets& target, int64_t vocab, const FinishedRows& tuned,
                 const FinishedRows& untuned, float* diff);

// One row's statistics from those of its P vocabulary shards, folded in rank order: m[P, N] and
// s[P, N] into merged_m[N], merged_s[N].
void merge_stats(int64_t parts, int64_t rows, const LogitRule& rule, const float* m,
                 const double* s, float* merged_m, double* merged_s);

// Gradient of logprob (and of the entropy) with respect to the logits, in the logits' dtype.
// `logits` are columns [vocab_start, vocab_start + V) of a row of `vocab` valid ones; `out` has the
// same shape and dtype and its own stride, and may be the logits themselves.
struct LogprobGradient {
  const float* grad;          // [N, K]
  const float* grad_entropy;  // [N] or null
  const float* m;             // [N]
  const double* s;            // [N]
  const float* entropy;       // [N] or null
  int64_t vocab_start;
  int64_t vocab;
  float sign = 1.0f;  // a factor on grad: -1 for a pair's untuned side
};
struct GradientJob {
  Matrix logits;
  LogitRule rule;
  LogprobGradient gradient;
  void* out;
  int64_t out_stride;
};
void logprob_backward(const GradientJob* jobs, int64_t count, const Targets& target);
void logprob_backward(const Matrix& logits, const LogitRule& rule, const Targets& target,
                      const LogprobGradient& gradient, void* out, int64_t out_stride);

// ---- segment_score, select_beams (core_beams.cpp), gather_beams_ (core_gather_beams.cpp) --------

// Segments of a flat diff[tokens] (bounds in cu_seqlens[rows + 1], int32 or int64), or the rows of
// a diff[rows, row_length] when cu_seqlens is null.
struct Segments {
  const void* cu_seqlens;
  bool is_int64;
  int64_t rows;
  int64_t tokens;
  int64_t row_length, row_stride;  // used when cu_seqlens is null
  int64_t max_length;              // a longer segment gives NaN, like one outside [0, tokens]
};
// score[row] += each diff of its segment, left to right in fp64. `diff` is fp32 or fp64.
void segment_score(const void* diff, bool is_float64, const Segments& segments, double* score);

// score[prompts, rows] with a row stride; clone_of (int32 or int64, contiguous, same shape) or
// null.
struct Pools {
  int64_t prompts, rows, stride;
  const void* clone_of;
  bool clone_is_int64;
};
// [prompts, width * repeat], contiguous; `score` has the dtype of the pools' scores.
struct Selection {
  int64_t width, repeat;
  int64_t* parent;
  void* score;
  bool* valid;
};
// The best `width` <= rows of each pool by (score descending, row ascending), NaN last; rows with
// one clone_of >= 0 hold one place while others are left.
void select_beams(const void* score, bool is_float64, const Pools& pools, const Selection& out);

// One cache [rows, heads, length, D] of any dtype; strides and sizes in bytes, D contiguous.
struct BeamCache {
  char* data;
  int64_t heads, length;
  int64_t row_stride, head_stride, position_stride;
  int64_t position_bytes;  // D elements
};
struct BeamRows {
  int64_t rows;
  const int64_t* parent;  // [rows]; one outside [0, rows) leaves its row as it is
  const int64_t* start;   // [rows]
  const int64_t* stop;    // [rows], clipped to each cache's length
};
// Row r of every cache becomes the old row parent[r] on positions [start[r], stop[r]).
void gather_beams(const BeamCache* caches, int64_t count, const BeamRows& rows);

// ---- guided_* (core_guided.cpp, core_guided_row.cpp) --------------------------------------------

// The guided law: base + beta (tuned - untuned) of result i is read from logits row row_of(i).
struct GuidedSources {
  Matrix base;      // [B', V]
  Matrix tuned;     // [B', V_t]; data null: the base alone
  Matrix untuned;   // [B', V_u]
  const void* row;  // [B], null: result i reads row i
  bool row_is_int64;
  int64_t results;     // B
  int64_t valid_base;  // columns where beta = 0
  int64_t valid_pair;  // columns where beta != 0
  double beta;
  const double* beta_rows;  // [B] or null

  double beta_of(int64_t i) const { return beta_rows != nullptr ? beta_rows[i] : beta; }
  // -1 for an entry of `row` that names no logits row.
  int64_t row_of(int64_t i) const;
};

// z[B, V] fp32, contiguous.
void guided_logits(const GuidedSources& sources, float* z);

// Settings of a draw: numbers, or one a row where the pointer is not null.
struct Sampling {
  float temperature;
  const float* temperature_rows;
  int64_t top_k;
  const int64_t* top_k_rows;
  double top_p;
  const double* top_p_rows;
  double min_p;
  const double* min_p_rows;
};

struct DrawKeys {
  const int64_t* seed;   // [B]
  Targets position;      // [B, 1]
  Targets candidate;     // [B, 1]; data null: 0
  const bool* finished;  // [B] or null
  int64_t pad_id;
};

// token[B], logprob[B]; the rules are those of w2s_kernels/ops/guided_sample.py.
void guided_sample(const GuidedSources& sources, const Sampling& sampling, const DrawKeys& keys,
                   int64_t* token, float* logprob);

// The k likeliest of each law, best first: logprob[B, k], id[B, k].
void guided_topk(const GuidedSources& sources, int64_t k, float temperature,
                 const float* temperature_rows, float* logprob, int64_t* id);

// ---- linear_logprob (core_linear.cpp) -----------------------------------------------------------

// The product of `all`, split over threads.
void linear_logits(const LinearPanel& all);

// Whether the chosen instruction set multiplies bf16 by bf16; then linear_logits of both may run.
bool has_bf16_product();
void linear_logits(const Bf16Panel& all);

// ---- extrapolate (core_extrapolate.cpp) ---------------------------------------------------------

// out = theta1 + alpha (theta1 - theta0) of `count` elements; the rules are those of
// w2s_kernels/ops/extrapolate.py. `out` may be one of the inputs where elements have one size.
struct Extrapolation {
  const void* theta1;
  const void* theta0;
  void* out;
  Dtype theta1_dtype, theta0_dtype, out_dtype;
  int64_t count;
  double alpha;
  const double* alpha_rows;  // one every `row_length` elements, or null
  int64_t row_length;
  bool stochastic;
  uint64_t key;
  int64_t start;  // index of the first element in the whole tensor
  double* sums;   // [4], added to, or null
};
void extrapolate(const Extrapolation& all);

}  // namespace w2s
