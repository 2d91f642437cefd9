// The linear log-prob ops' own product: columns are cut into panels that stay in the L2 cache and
// panels go to threads. How they are cut changes no bit (csrc/cpu/linear_logprob.cpp).
#include <algorithm>
#include <vector>

#include "core_isa.h"

namespace w2s {

void linear_logits(const LinearPanel& all) {
  constexpr int64_t kPanelElements = 32 * 1024;  // 128 KiB of fp32 weights
  constexpr int64_t kBlockElements = 96 * 1024;  // 384 KiB of hidden states
  const int64_t panel = std::clamp<int64_t>(kPanelElements / all.width / 4 * 4, 4, 64);
  const int64_t block = std::max<int64_t>(kBlockElements / all.width / 4 * 4, 16);
  const int64_t panels = (all.columns + panel - 1) / panel;
  const int64_t bytes = item_size(all.weight_dtype);
  parallel(0, panels, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(static_cast<size_t>(
        all.weight_dtype == Dtype::kFloat32 ? 0 : std::min(panel, all.columns) * all.width));
    for (int64_t row = 0; row < all.rows; row += block) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t column = i * panel;
        LinearPanel part = all;
        part.rows = std::min(block, all.rows - row);
        part.hidden += row * all.hidden_stride;
        part.weight = static_cast<const char*>(all.weight) + column * all.weight_stride * bytes;
        part.columns = std::min(panel, all.columns - column);
        if (all.weight_scale != nullptr) part.weight_scale += column;
        if (all.bias != nullptr) part.bias += column;
        part.out += row * all.out_stride + column;
        W2S_ON_ISA(linear_panel(part, scratch.data()));
      }
    }
  });
}

}  // namespace w2s
