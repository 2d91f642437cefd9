// Registers the CPU kernels with torch through its stable ABI, so one library serves every torch
// from 2.10 on. Schemas, fakes and autograd live in w2s_kernels/ops; arguments arrive checked from
// there.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "core.h"
#include "torch_args.h"

namespace {

using namespace w2s_torch;

// torch's own pool, so that the product and the fold around it share threads and torch's settings.
void torch_pool(int64_t begin, int64_t end, int64_t grain, w2s::ParallelBody body, void* context) {
  torch::stable::parallel_for(begin, end, grain,
                              [&](int64_t b, int64_t e) { body(b, e, context); });
}

[[maybe_unused]] const bool pool_is_set = [] {
  w2s::set_parallel_for(&torch_pool);
  return true;
}();

// logits [N, V], target [N, K] -> logprob [N, K], m [N], s [N] (float64), entropy [N] or [0].
std::tuple<Tensor, Tensor, Tensor, Tensor> logprob(Tensor logits, Tensor target, double temperature,
                                                   std::optional<Tensor> temperature_rows,
                                                   double softcap, int64_t valid, bool entropy) {
  const w2s::Matrix z = matrix_of(logits);
  const w2s::Targets ids = targets_of(target);
  const w2s::LogitRule rule = rule_of(temperature, temperature_rows, softcap, valid);
  const int64_t leaves = w2s::leaf_count(valid);
  Tensor out = new_tensor(logits, {z.rows, ids.per_row}, ScalarType::Float);
  Tensor m = new_tensor(logits, {z.rows}, ScalarType::Float);
  Tensor s = new_tensor(logits, {z.rows}, ScalarType::Double);
  Tensor h = new_tensor(logits, {entropy ? z.rows : 0}, ScalarType::Float);
  std::vector<w2s::LeafStats> leaf(static_cast<size_t>(z.rows * leaves));
  std::vector<float> z_target(static_cast<size_t>(z.rows * ids.per_row));
  w2s::leaves_of(z, rule, entropy, leaf.data(), leaves);
  w2s::target_logits(z, rule, ids, 0, z_target.data());
  w2s::finish_rows(z.rows, rule, leaf.data(), leaves, leaves, data<float>(m), data<double>(s),
                   entropy ? data<float>(h) : nullptr);
  w2s::finish_logprob(z.rows, rule, ids, valid, data<float>(m), data<double>(s), z_target.data(),
                      data<float>(out));
  return {out, m, s, h};
}

// -> gradient of the logits [N, V] in their dtype.
Tensor logprob_backward(Tensor grad, std::optional<Tensor> grad_entropy, Tensor logits,
                        Tensor target, Tensor m, Tensor s, std::optional<Tensor> entropy,
                        double temperature, std::optional<Tensor> temperature_rows, double softcap,
                        int64_t valid) {
  const w2s::Matrix z = matrix_of(logits);
  Tensor out = new_tensor(logits, {z.rows, z.cols}, logits.scalar_type());
  const w2s::LogprobGradient gradient{
      data<float>(grad), data_or_null<float>(grad_entropy), data<float>(m),
      data<double>(s),   data_or_null<float>(entropy),      /*vocab_start=*/0,
      /*vocab=*/valid};
  w2s::logprob_backward(z, rule_of(temperature, temperature_rows, softcap, valid),
                        targets_of(target), gradient, out.mutable_data_ptr(), z.cols);
  return out;
}

// One model's side of the pair: its logits with the rule, and what is found about its rows.
struct Side {
  w2s::Matrix z;
  w2s::LogitRule rule;
  int64_t leaves;
  std::vector<w2s::LeafStats> leaf;
  std::vector<float> z_target;
  Tensor m, s;

  Side(const Tensor& logits, const w2s::LogitRule& rule, int64_t targets)
      : z(matrix_of(logits)),
        rule(rule),
        leaves(w2s::leaf_count(rule.valid)),
        leaf(static_cast<size_t>(z.rows * leaves)),
        z_target(static_cast<size_t>(z.rows * targets)),
        m(new_tensor(logits, {z.rows}, ScalarType::Float)),
        s(new_tensor(logits, {z.rows}, ScalarType::Double)) {}

  w2s::LeafJob job() { return {z, rule, leaf.data(), leaves}; }
  void finish(const w2s::Targets& target) {
    w2s::target_logits(z, rule, target, 0, z_target.data());
    w2s::finish_rows(z.rows, rule, leaf.data(), leaves, leaves, data<float>(m), data<double>(s),
                     nullptr);
  }
  w2s::FinishedRows rows() const {
    return {rule, data<float>(m), data<double>(s), z_target.data()};
  }
};

// tuned [N, V], untuned [N, V'], target [N, K] -> diff [N, K] and each side's m [N], s [N].
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> logprob_diff(
    Tensor tuned, Tensor untuned, Tensor target, double temperature_t, double temperature_u,
    std::optional<Tensor> rows_t, std::optional<Tensor> rows_u, double softcap_t, double softcap_u,
    int64_t valid_t, int64_t valid_u) {
  const w2s::Targets ids = targets_of(target);
  Side t(tuned, rule_of(temperature_t, rows_t, softcap_t, valid_t), ids.per_row);
  Side u(untuned, rule_of(temperature_u, rows_u, softcap_u, valid_u), ids.per_row);
  const w2s::LeafJob jobs[] = {t.job(), u.job()};
  w2s::leaves_of(jobs, 2, /*entropy=*/false);
  t.finish(ids);
  u.finish(ids);
  Tensor out = new_tensor(tuned, {t.z.rows, ids.per_row}, ScalarType::Float);
  w2s::finish_diff(t.z.rows, ids, std::min(valid_t, valid_u), t.rows(), u.rows(), data<float>(out));
  return {out, t.m, t.s, u.m, u.s};
}

// -> gradients of tuned and untuned in their dtypes; one that is not needed is [0, V].
std::tuple<Tensor, Tensor> logprob_diff_backward(Tensor grad, Tensor tuned, Tensor untuned,
                                                 Tensor target, Tensor m_t, Tensor s_t, Tensor m_u,
                                                 Tensor s_u, double temperature_t,
                                                 double temperature_u, std::optional<Tensor> rows_t,
                                                 std::optional<Tensor> rows_u, double softcap_t,
                                                 double softcap_u, int64_t valid_t, int64_t valid_u,
                                                 bool need_t, bool need_u) {
  const int64_t vocab = std::min(valid_t, valid_u);
  std::vector<w2s::GradientJob> jobs;
  auto add = [&](const Tensor& logits, const w2s::LogitRule& rule, const Tensor& m, const Tensor& s,
                 float sign, bool needed) {
    const w2s::Matrix z = matrix_of(logits);
    Tensor out = new_tensor(logits, {needed ? z.rows : 0, z.cols}, logits.scalar_type());
    const w2s::LogprobGradient gradient{data<float>(grad), nullptr, data<float>(m),
                                        data<double>(s),   nullptr,
                                        /*vocab_start=*/0, vocab,   sign};
    if (needed) jobs.push_back({z, rule, gradient, out.mutable_data_ptr(), z.cols});
    return out;
  };
  Tensor out_t =
      add(tuned, rule_of(temperature_t, rows_t, softcap_t, valid_t), m_t, s_t, 1.0f, need_t);
  Tensor out_u =
      add(untuned, rule_of(temperature_u, rows_u, softcap_u, valid_u), m_u, s_u, -1.0f, need_u);
  w2s::logprob_backward(jobs.data(), static_cast<int64_t>(jobs.size()), targets_of(target));
  return {out_t, out_u};
}

// logits [N, V_shard], target [N, K] -> m [N], s [N] (float64), z_target [N, K].
std::tuple<Tensor, Tensor, Tensor> logprob_stats(Tensor logits, Tensor target, double temperature,
                                                 std::optional<Tensor> temperature_rows,
                                                 double softcap, int64_t valid,
                                                 int64_t vocab_start) {
  const w2s::Matrix z = matrix_of(logits);
  const w2s::Targets ids = targets_of(target);
  const w2s::LogitRule rule = rule_of(temperature, temperature_rows, softcap, valid);
  const int64_t leaves = w2s::leaf_count(valid);
  Tensor m = new_tensor(logits, {z.rows}, ScalarType::Float);
  Tensor s = new_tensor(logits, {z.rows}, ScalarType::Double);
  Tensor z_target = new_tensor(logits, {z.rows, ids.per_row}, ScalarType::Float);
  std::vector<w2s::LeafStats> leaf(static_cast<size_t>(z.rows * leaves));
  std::fill_n(data<float>(z_target), z.rows * ids.per_row, -std::numeric_limits<float>::infinity());
  w2s::leaves_of(z, rule, /*entropy=*/false, leaf.data(), leaves);
  w2s::target_logits(z, rule, ids, vocab_start, data<float>(z_target));
  w2s::finish_rows(z.rows, rule, leaf.data(), leaves, leaves, data<float>(m), data<double>(s),
                   nullptr);
  return {m, s, z_target};
}

// m [P, N], s [P, N] -> m [N], s [N].
std::tuple<Tensor, Tensor> merge_stats(Tensor m, Tensor s, double temperature,
                                       std::optional<Tensor> temperature_rows) {
  const int64_t parts = m.size(0), rows = m.size(1);
  Tensor merged_m = new_tensor(m, {rows}, ScalarType::Float);
  Tensor merged_s = new_tensor(m, {rows}, ScalarType::Double);
  w2s::merge_stats(parts, rows, rule_of(temperature, temperature_rows, 0.0, 0), data<float>(m),
                   data<double>(s), data<float>(merged_m), data<double>(merged_s));
  return {merged_m, merged_s};
}

// m [N], s [N], z_target [N, K], target [N, K] -> logprob [N, K].
Tensor finish_stats(Tensor m, Tensor s, Tensor z_target, Tensor target, double temperature,
                    std::optional<Tensor> temperature_rows, int64_t vocab) {
  Tensor out = new_tensor(m, {z_target.size(0), z_target.size(1)}, ScalarType::Float);
  w2s::finish_logprob(m.size(0), rule_of(temperature, temperature_rows, 0.0, vocab),
                      targets_of(target), vocab, data<float>(m), data<double>(s),
                      data<float>(z_target), data<float>(out));
  return out;
}

std::string isa() { return w2s::isa_name(); }
std::string isas() { return w2s::isa_available(); }
bool set_isa(std::string name) { return w2s::set_isa(name.c_str()); }

}  // namespace

// Not ops on tensors: what the library is, for info and for the tests that force each ISA.
STABLE_TORCH_LIBRARY(w2s_library, m) {
  m.def("isa() -> str");
  m.def("isas() -> str");
  m.def("set_isa(str name) -> bool");
}
STABLE_TORCH_LIBRARY_IMPL(w2s_library, CompositeExplicitAutograd, m) {
  m.impl("isa", TORCH_BOX(&isa));
  m.impl("isas", TORCH_BOX(&isas));
  m.impl("set_isa", TORCH_BOX(&set_isa));
}

STABLE_TORCH_LIBRARY_IMPL(w2s_cpu, CPU, m) {
  m.impl("logprob", TORCH_BOX(&logprob));
  m.impl("logprob_backward", TORCH_BOX(&logprob_backward));
  m.impl("logprob_diff", TORCH_BOX(&logprob_diff));
  m.impl("logprob_diff_backward", TORCH_BOX(&logprob_diff_backward));
  m.impl("logprob_stats", TORCH_BOX(&logprob_stats));
  m.impl("merge_stats", TORCH_BOX(&merge_stats));
  m.impl("finish_stats", TORCH_BOX(&finish_stats));
}
