// Registers the guided_* kernels with torch; see torch_ops.cpp.
#include <torch/csrc/stable/library.h>

#include <optional>
#include <tuple>

#include "torch_args.h"

namespace {

using namespace w2s_torch;

w2s::GuidedSources sources_of(const Tensor& base, const std::optional<Tensor>& tuned,
                              const std::optional<Tensor>& untuned,
                              const std::optional<Tensor>& row, double beta,
                              const std::optional<Tensor>& beta_rows, int64_t valid_base,
                              int64_t valid_pair) {
  w2s::GuidedSources s{};
  s.base = matrix_of(base);
  if (tuned.has_value() && untuned.has_value()) {
    s.tuned = matrix_of(*tuned);
    s.untuned = matrix_of(*untuned);
  }
  s.row = data_or_null<void>(row);
  s.row_is_int64 = row.has_value() && row->scalar_type() == ScalarType::Long;
  s.results = row.has_value() ? row->size(0) : base.size(0);
  s.valid_base = valid_base;
  s.valid_pair = valid_pair;
  s.beta = beta;
  s.beta_rows = data_or_null<double>(beta_rows);
  return s;
}

// -> [B, V] fp32.
Tensor guided_logits(Tensor base, std::optional<Tensor> tuned, std::optional<Tensor> untuned,
                     std::optional<Tensor> row, double beta, std::optional<Tensor> beta_rows,
                     int64_t valid_base, int64_t valid_pair) {
  const w2s::GuidedSources s =
      sources_of(base, tuned, untuned, row, beta, beta_rows, valid_base, valid_pair);
  Tensor out = new_tensor(base, {s.results, s.base.cols}, ScalarType::Float);
  w2s::guided_logits(s, data<float>(out));
  return out;
}

w2s::Targets ids_of(const Tensor& t) {  // [B]
  return {t.const_data_ptr(), t.scalar_type() == ScalarType::Long, 1};
}

// -> token [B] int64, logprob [B] fp32.
std::tuple<Tensor, Tensor> guided_sample(
    Tensor base, std::optional<Tensor> tuned, std::optional<Tensor> untuned,
    std::optional<Tensor> row, Tensor seed, Tensor position, std::optional<Tensor> candidate,
    std::optional<Tensor> finished, double beta, std::optional<Tensor> beta_rows,
    double temperature, std::optional<Tensor> temperature_rows, int64_t top_k,
    std::optional<Tensor> top_k_rows, double top_p, std::optional<Tensor> top_p_rows, double min_p,
    std::optional<Tensor> min_p_rows, int64_t pad_id, int64_t valid_base, int64_t valid_pair) {
  const w2s::GuidedSources s =
      sources_of(base, tuned, untuned, row, beta, beta_rows, valid_base, valid_pair);
  const w2s::Sampling sampling{static_cast<float>(temperature),
                               data_or_null<float>(temperature_rows),
                               top_k,
                               data_or_null<int64_t>(top_k_rows),
                               top_p,
                               data_or_null<double>(top_p_rows),
                               min_p,
                               data_or_null<double>(min_p_rows)};
  const w2s::DrawKeys keys{static_cast<const int64_t*>(seed.const_data_ptr()), ids_of(position),
                           candidate.has_value() ? ids_of(*candidate) : w2s::Targets{},
                           data_or_null<bool>(finished), pad_id};
  Tensor token = new_tensor(base, {s.results}, ScalarType::Long);
  Tensor logprob = new_tensor(base, {s.results}, ScalarType::Float);
  w2s::guided_sample(s, sampling, keys, data<int64_t>(token), data<float>(logprob));
  return {token, logprob};
}

// -> logprob [B, k] fp32, id [B, k] int64.
std::tuple<Tensor, Tensor> guided_topk(Tensor base, std::optional<Tensor> tuned,
                                       std::optional<Tensor> untuned, std::optional<Tensor> row,
                                       int64_t k, double beta, std::optional<Tensor> beta_rows,
                                       double temperature, std::optional<Tensor> temperature_rows,
                                       int64_t valid_base, int64_t valid_pair) {
  const w2s::GuidedSources s =
      sources_of(base, tuned, untuned, row, beta, beta_rows, valid_base, valid_pair);
  Tensor logprob = new_tensor(base, {s.results, k}, ScalarType::Float);
  Tensor id = new_tensor(base, {s.results, k}, ScalarType::Long);
  w2s::guided_topk(s, k, static_cast<float>(temperature), data_or_null<float>(temperature_rows),
                   data<float>(logprob), data<int64_t>(id));
  return {logprob, id};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(w2s_cpu, CPU, m) {
  m.impl("guided_logits", TORCH_BOX(&guided_logits));
  m.impl("guided_sample", TORCH_BOX(&guided_sample));
  m.impl("guided_topk", TORCH_BOX(&guided_topk));
}
