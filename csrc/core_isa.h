// The kernels of every instruction set, and W2S_ON_ISA, which calls the chosen one. Included by the
// core*.cpp files only.
#pragma once

#include <cstdint>

#include "common/extrapolate.h"
#include "common/guided.h"
#include "core.h"

namespace w2s {

namespace generic {
#include "cpu/kernels.inc"
}
#ifdef W2S_HAVE_AVX2
namespace avx2 {
#include "cpu/kernels.inc"
}
#endif
#ifdef W2S_HAVE_AVX512
namespace avx512 {
#include "cpu/kernels.inc"
}
#endif
#ifdef W2S_HAVE_AVX512BF16  // AVX-512's kernels, and one product (csrc/avx512bf16)
namespace avx512bf16 {
// The first rows of a block go across the lanes: how many, and their pairs [rows / 16, D / 2, 16]
// with zeros where rows or D leave a gap. A panel's weights are copied to `staged`, [columns,
// staged_stride]; `next` is the next panel's weight, or null.
int64_t packed_rows(int64_t rows);
int64_t staged_stride(int64_t width);
void pack_rows(const Bf16Panel& panel, int32_t* packed);
void bf16_panel(const Bf16Panel& panel, const int32_t* packed, BFloat16* staged,
                const BFloat16* next);
}  // namespace avx512bf16
#endif
#ifdef W2S_HAVE_NEON
namespace neon {
#include "cpu/kernels.inc"
}
#endif

enum Isa { kGeneric, kAvx2, kAvx512, kAvx512Bf16, kNeon };
extern Isa current_isa;  // chosen in core.cpp

// Calls the kernel of the chosen instruction set.
#ifdef W2S_HAVE_AVX2
#define W2S_CASE_AVX2(call) \
  case kAvx2:               \
    return avx2::call;
#else
#define W2S_CASE_AVX2(call)
#endif
#ifdef W2S_HAVE_AVX512
#define W2S_CASE_AVX512(call) \
  case kAvx512:               \
  case kAvx512Bf16:           \
    return avx512::call;
#else
#define W2S_CASE_AVX512(call)
#endif
#ifdef W2S_HAVE_NEON
#define W2S_CASE_NEON(call) \
  case kNeon:               \
    return neon::call;
#else
#define W2S_CASE_NEON(call)
#endif
#define W2S_ON_ISA(call)      \
  [&] {                       \
    switch (current_isa) {    \
      W2S_CASE_AVX512(call)   \
      W2S_CASE_AVX2(call)     \
      W2S_CASE_NEON(call)     \
      default:                \
        return generic::call; \
    }                         \
  }()

inline int64_t item_size(Dtype dtype) {
  return dtype == Dtype::kFloat64 ? 8 : dtype == Dtype::kFloat32 ? 4 : 2;
}

inline const void* element(const Matrix& m, int64_t row, int64_t column) {
  return static_cast<const char*>(m.data) + (row * m.stride + column) * item_size(m.dtype);
}

}  // namespace w2s
