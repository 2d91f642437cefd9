// Registers the CPU kernels with torch through its stable ABI, so one library serves every torch
// from 2.10 on. Schemas, fakes and autograd live in w2s_kernels/ops; arguments arrive checked from
// there.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "core.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// torch's own pool, so that the product and the fold around it share threads and torch's settings.
void torch_pool(int64_t begin, int64_t end, int64_t grain, w2s::ParallelBody body, void* context) {
  torch::stable::parallel_for(begin, end, grain,
                              [&](int64_t b, int64_t e) { body(b, e, context); });
}

[[maybe_unused]] const bool pool_is_set = [] {
  w2s::set_parallel_for(&torch_pool);
  return true;
}();

w2s::Dtype dtype_of(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Float:
      return w2s::Dtype::kFloat32;
    case ScalarType::BFloat16:
      return w2s::Dtype::kBFloat16;
    default:
      STD_TORCH_CHECK(t.scalar_type() == ScalarType::Half, "expected fp32, bf16 or fp16");
      return w2s::Dtype::kFloat16;
  }
}

w2s::Matrix matrix_of(const Tensor& t) {  // [N, V]
  STD_TORCH_CHECK(t.dim() == 2 && (t.size(1) <= 1 || t.stride(1) == 1),
                  "expected [N, V], rows contiguous");
  return {t.const_data_ptr(), dtype_of(t), t.size(0), t.size(1), t.stride(0)};
}

w2s::Targets targets_of(const Tensor& t) {  // [N, K]
  STD_TORCH_CHECK(t.dim() == 2 && t.is_contiguous(), "expected contiguous targets [N, K]");
  return {t.const_data_ptr(), t.scalar_type() == ScalarType::Long, t.size(1)};
}

template <class T>
T* data(const Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

template <class T>
const T* data_or_null(const std::optional<Tensor>& t) {
  return t.has_value() ? static_cast<const T*>(t->const_data_ptr()) : nullptr;
}

Tensor new_tensor(const Tensor& like, std::vector<int64_t> size, ScalarType type) {
  return torch::stable::new_empty(like, size, type);
}

w2s::LogitRule rule_of(double temperature, const std::optional<Tensor>& rows, double softcap,
                       int64_t valid) {
  return {static_cast<float>(temperature), data_or_null<float>(rows), static_cast<float>(softcap),
          valid};
}

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
}
