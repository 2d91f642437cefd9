// The primitives that w2s_kernels/ops/_linear_cpu.py drives: it owns the loop over chunks of
// columns and the vendor's matrix product, these own what happens to a chunk of logits.
#include <torch/csrc/stable/library.h>

#include <optional>

#include "core.h"
#include "torch_args.h"

namespace {

using namespace w2s_torch;

// One row's leaves lie in a [N, leaves, 3] float64 tensor, a LeafStats each.
static_assert(sizeof(w2s::LeafStats) == 3 * sizeof(double), "the driver allocates leaves by size");

w2s::LeafStats* leaves_in(const Tensor& leaf) {
  STD_TORCH_CHECK(leaf.dim() == 3 && leaf.size(2) == 3 && leaf.is_contiguous(),
                  "expected contiguous leaves [N, leaves, 3]");
  return static_cast<w2s::LeafStats*>(leaf.mutable_data_ptr());
}

// logits[n, C] = logit_scale * (hidden[n, D] . weight[C, D] * weight_scale + bias).
void linear_logits_(Tensor logits, Tensor hidden, Tensor weight, std::optional<Tensor> weight_scale,
                    std::optional<Tensor> bias, double logit_scale) {
  const w2s::Matrix h = matrix_of(hidden), w = matrix_of(weight), z = matrix_of(logits);
  STD_TORCH_CHECK(z.dtype == w2s::Dtype::kFloat32, "expected fp32 logits");
  STD_TORCH_CHECK(z.rows == h.rows && z.cols == w.rows && h.cols == w.cols, "shapes do not fit");
  if (h.dtype == w2s::Dtype::kBFloat16) {
    STD_TORCH_CHECK(w.dtype == w2s::Dtype::kBFloat16 && w2s::has_bf16_product(),
                    "bf16 hidden states need a bf16 weight and the instruction set avx512bf16");
    return w2s::linear_logits(
        w2s::Bf16Panel{static_cast<const w2s::BFloat16*>(h.data), h.rows, h.stride,
                       static_cast<const w2s::BFloat16*>(w.data), w.rows, w.stride, w.cols,
                       data_or_null<float>(weight_scale), data_or_null<float>(bias),
                       static_cast<float>(logit_scale), data<float>(logits), z.stride});
  }
  STD_TORCH_CHECK(h.dtype == w2s::Dtype::kFloat32, "expected fp32 or bf16 hidden states");
  w2s::linear_logits(w2s::LinearPanel{
      static_cast<const float*>(h.data), h.rows, h.stride, w.data, w.dtype, w.rows, w.stride,
      w.cols, data_or_null<float>(weight_scale), data_or_null<float>(bias),
      static_cast<float>(logit_scale), data<float>(logits), z.stride});
}

// Leaves of columns [vocab_start, vocab_start + C) into leaf[:, vocab_start / 4096 ...], and their
// targets' logits into z_target[n, K].
void linear_fold_(Tensor leaf, Tensor z_target, Tensor logits, Tensor target, double temperature,
                  std::optional<Tensor> temperature_rows, double softcap, int64_t vocab_start,
                  bool entropy) {
  STD_TORCH_CHECK(vocab_start % w2s::kLeafColumns == 0, "a chunk begins at a leaf");
  const w2s::Matrix z = matrix_of(logits);
  const w2s::LogitRule rule = rule_of(temperature, temperature_rows, softcap, z.cols);
  const int64_t first = vocab_start / w2s::kLeafColumns;
  STD_TORCH_CHECK(first + w2s::leaf_count(z.cols) <= leaf.size(1), "too few leaves");
  w2s::leaves_of(z, rule, entropy, leaves_in(leaf) + first, leaf.size(1));
  w2s::target_logits(z, rule, targets_of(target), vocab_start, data<float>(z_target));
}

// Leaves -> m[n], s[n] and, where asked, entropy[n].
void linear_rows_(Tensor m, Tensor s, std::optional<Tensor> entropy, Tensor leaf,
                  double temperature, std::optional<Tensor> temperature_rows) {
  const w2s::LogitRule rule = rule_of(temperature, temperature_rows, 0.0, 0);
  w2s::finish_rows(leaf.size(0), rule, leaves_in(leaf), leaf.size(1), leaf.size(1), data<float>(m),
                   data<double>(s), entropy.has_value() ? data<float>(entropy.value()) : nullptr);
}

// Turns logits[n, C] of columns from vocab_start on into their gradient, in place.
void linear_gradient_(Tensor logits, Tensor grad, std::optional<Tensor> grad_entropy, Tensor target,
                      Tensor m, Tensor s, std::optional<Tensor> entropy, double temperature,
                      std::optional<Tensor> temperature_rows, double softcap, int64_t vocab_start,
                      int64_t vocab) {
  const w2s::Matrix z = matrix_of(logits);
  const w2s::LogprobGradient gradient{data<float>(grad),
                                      data_or_null<float>(grad_entropy),
                                      data<float>(m),
                                      data<double>(s),
                                      data_or_null<float>(entropy),
                                      vocab_start,
                                      vocab};
  w2s::logprob_backward(z, rule_of(temperature, temperature_rows, softcap, z.cols),
                        targets_of(target), gradient, logits.mutable_data_ptr(), z.stride);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(w2s_cpu, CPU, m) {
  m.impl("linear_logits_", TORCH_BOX(&linear_logits_));
  m.impl("linear_fold_", TORCH_BOX(&linear_fold_));
  m.impl("linear_rows_", TORCH_BOX(&linear_rows_));
  m.impl("linear_gradient_", TORCH_BOX(&linear_gradient_));
}
