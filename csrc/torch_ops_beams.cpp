// Registers segment_score, select_beams and gather_beams_ with torch; see torch_ops.cpp.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <optional>
#include <tuple>
#include <vector>

#include "torch_args.h"

namespace {

using namespace w2s_torch;

// diff [N] with cu_seqlens [R + 1], or [R, L]: adds to score [R] float64.
void segment_score_(Tensor score, Tensor diff, std::optional<Tensor> cu_seqlens,
                    int64_t max_length) {
  const bool flat = cu_seqlens.has_value();
  STD_TORCH_CHECK(diff.dim() == (flat ? 1 : 2), "expected diff [N] with cu_seqlens, else [R, L]");
  const w2s::Segments segments{flat ? cu_seqlens->const_data_ptr() : nullptr,
                               flat && cu_seqlens->scalar_type() == ScalarType::Long,
                               score.size(0),
                               diff.size(0),
                               flat ? 0 : diff.size(1),
                               flat ? 0 : diff.stride(0),
                               max_length};
  STD_TORCH_CHECK(segments.rows == (flat ? cu_seqlens->size(0) - 1 : diff.size(0)),
                  "expected one score a segment");
  w2s::segment_score(diff.const_data_ptr(), diff.scalar_type() == ScalarType::Double, segments,
                     data<double>(score));
}

Tensor segment_score(Tensor diff, std::optional<Tensor> cu_seqlens, int64_t max_length) {
  const int64_t rows = cu_seqlens.has_value() ? cu_seqlens->size(0) - 1 : diff.size(0);
  Tensor score = new_tensor(diff, {rows}, ScalarType::Double);
  torch::stable::zero_(score);
  segment_score_(score, diff, cu_seqlens, max_length);
  return score;
}

// score [P, C] -> parent, score, valid [P, width * repeat].
std::tuple<Tensor, Tensor, Tensor> select_beams(Tensor score, std::optional<Tensor> clone_of,
                                                int64_t width, int64_t repeat) {
  const w2s::Pools pools{score.size(0), score.size(1), score.stride(0),
                         data_or_null<void>(clone_of),
                         clone_of.has_value() && clone_of->scalar_type() == ScalarType::Long};
  STD_TORCH_CHECK(width <= pools.rows, "expected width <= C");
  const std::vector<int64_t> size{pools.prompts, width * repeat};
  Tensor parent = new_tensor(score, size, ScalarType::Long);
  Tensor value = new_tensor(score, size, score.scalar_type());
  Tensor valid = new_tensor(score, size, ScalarType::Bool);
  w2s::select_beams(
      score.const_data_ptr(), score.scalar_type() == ScalarType::Double, pools,
      {width, repeat, data<int64_t>(parent), value.mutable_data_ptr(), data<bool>(valid)});
  return {parent, value, valid};
}

// caches: [R, heads, T, D] each; parent, start, stop: [R] int64.
void gather_beams_(std::vector<Tensor> caches, Tensor parent, Tensor start, Tensor stop) {
  std::vector<w2s::BeamCache> views;
  for (const Tensor& cache : caches) {
    STD_TORCH_CHECK(cache.dim() == 4 && cache.size(0) == parent.size(0),
                    "expected caches [R, heads, T, D]");
    if (cache.numel() == 0) continue;
    const int64_t bytes = static_cast<int64_t>(cache.element_size());
    views.push_back({data<char>(cache), cache.size(1), cache.size(2), cache.stride(0) * bytes,
                     cache.stride(1) * bytes, cache.stride(2) * bytes, cache.size(3) * bytes});
  }
  w2s::gather_beams(views.data(), static_cast<int64_t>(views.size()),
                    {parent.size(0), data_or_null<int64_t>(parent), data_or_null<int64_t>(start),
                     data_or_null<int64_t>(stop)});
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(w2s_cpu, CPU, m) {
  m.impl("segment_score", TORCH_BOX(&segment_score));
  m.impl("segment_score_", TORCH_BOX(&segment_score_));
  m.impl("select_beams", TORCH_BOX(&select_beams));
  m.impl("gather_beams_", TORCH_BOX(&gather_beams_));
}
