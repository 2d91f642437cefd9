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

bool has_bf16_product() { return current_isa == kAvx512Bf16; }

void linear_logits(const Bf16Panel& all) {
#ifdef W2S_HAVE_AVX512BF16
  constexpr int64_t kPanelElements = 96 * 1024;  // 192 KiB of weights
  const int64_t panel = std::clamp<int64_t>(kPanelElements / all.width / 16 * 16, 16, 64);
  const int64_t panels = (all.columns + panel - 1) / panel;
  const int64_t vectors = (avx512bf16::packed_rows(all.rows) + 15) / 16;
  std::vector<int32_t> packed(static_cast<size_t>(vectors * ((all.width + 1) / 2) * 16));
  avx512bf16::pack_rows(all, packed.data());
  parallel(0, panels, 1, [&](int64_t begin, int64_t end) {
    std::vector<BFloat16> staged(
        static_cast<size_t>(vectors == 0 ? 0 : panel * avx512bf16::staged_stride(all.width)));
    for (int64_t i = begin; i < end; ++i) {
      const int64_t column = i * panel;
      Bf16Panel part = all;
      part.weight += column * all.weight_stride;
      part.columns = std::min(panel, all.columns - column);
      if (all.weight_scale != nullptr) part.weight_scale += column;
      if (all.bias != nullptr) part.bias += column;
      part.out += column;
      const bool whole = column + 2 * panel <= all.columns;  // the next panel is
      const BFloat16* next = whole ? part.weight + panel * all.weight_stride : nullptr;
      avx512bf16::bf16_panel(part, packed.data(), staged.data(), next);
    }
  });
#else
  (void)all;  // has_bf16_product() is false
#endif
}

}  // namespace w2s
