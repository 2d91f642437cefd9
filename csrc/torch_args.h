// torch tensors as the plain arguments of core.h; shared by the torch_ops*.cpp files.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <vector>

#include "core.h"

namespace w2s_torch {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline w2s::Dtype dtype_of(const Tensor& t) {
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

inline w2s::Matrix matrix_of(const Tensor& t) {  // [N, V]
  STD_TORCH_CHECK(t.dim() == 2 && (t.size(1) <= 1 || t.stride(1) == 1),
                  "expected [N, V], rows contiguous");
  return {t.const_data_ptr(), dtype_of(t), t.size(0), t.size(1), t.stride(0)};
}

inline w2s::Targets targets_of(const Tensor& t) {  // [N, K]
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

inline Tensor new_tensor(const Tensor& like, std::vector<int64_t> size, ScalarType type) {
  return torch::stable::new_empty(like, size, type);
}

inline w2s::LogitRule rule_of(double temperature, const std::optional<Tensor>& rows, double softcap,
                              int64_t valid) {
  return {static_cast<float>(temperature), data_or_null<float>(rows), static_cast<float>(softcap),
          valid};
}

}  // namespace w2s_torch
