// Registers extrapolate_into with torch; see torch_ops.cpp. torch calls it without the
// interpreter's lock, so readers and writers of files go on meanwhile.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <optional>

#include "torch_args.h"

namespace {

using namespace w2s_torch;

w2s::Dtype any_dtype_of(const Tensor& t) {
  return t.scalar_type() == ScalarType::Double ? w2s::Dtype::kFloat64 : dtype_of(t);
}

// theta1, theta0, out: contiguous, one shape; sums [4] and alpha_rows [rows] float64.
void extrapolate_into(Tensor theta1, Tensor theta0, Tensor out, std::optional<Tensor> sums,
                      double alpha, std::optional<Tensor> alpha_rows, bool stochastic, int64_t key,
                      int64_t start) {
  const int64_t count = theta1.numel();
  for (const Tensor& t : {theta1, theta0, out}) {
    STD_TORCH_CHECK(t.is_contiguous() && t.numel() == count, "expected contiguous, equal shapes");
  }
  const int64_t rows = alpha_rows.has_value() ? alpha_rows->numel() : 1;
  STD_TORCH_CHECK(rows == 0 || count % rows == 0, "expected one alpha a row");
  if (count == 0) return;
  w2s::extrapolate({theta1.const_data_ptr(), theta0.const_data_ptr(), out.mutable_data_ptr(),
                    any_dtype_of(theta1), any_dtype_of(theta0), any_dtype_of(out), count, alpha,
                    data_or_null<double>(alpha_rows), count / rows, stochastic,
                    static_cast<uint64_t>(key), start,
                    sums.has_value() ? data<double>(*sums) : nullptr});
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(w2s_cpu, CPU, m) {
  m.impl("extrapolate_into", TORCH_BOX(&extrapolate_into));
}
