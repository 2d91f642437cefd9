// Picks the instruction set at run time and splits work over the host's threads.
#include <cstdlib>
#include <cstring>
#include <string>

#include "core_isa.h"

namespace w2s {

namespace {

constexpr const char* kIsaNames[] = {"generic", "avx2", "avx512", "avx512bf16", "neon"};  // by Isa
constexpr Isa kBestFirst[] = {kAvx512Bf16, kAvx512, kAvx2, kNeon, kGeneric};

bool runs_here(Isa isa) {
  switch (isa) {
#ifdef W2S_HAVE_AVX2
    case kAvx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
             __builtin_cpu_supports("f16c");
#endif
#ifdef W2S_HAVE_AVX512
    case kAvx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
             __builtin_cpu_supports("f16c");
#endif
#ifdef W2S_HAVE_AVX512BF16
    case kAvx512Bf16:
      return runs_here(kAvx512) && __builtin_cpu_supports("avx512bf16");
#endif
#ifdef W2S_HAVE_NEON
    case kNeon:  // every AArch64 processor has it
      return true;
#endif
    default:
      return isa == kGeneric;
  }
}

bool find_isa(const char* name, Isa* found) {
  for (Isa isa : kBestFirst) {
    if (std::strcmp(name, kIsaNames[isa]) == 0 && runs_here(isa)) {
      *found = isa;
      return true;
    }
  }
  return false;
}

// A name that is not there leaves the best one: w2s_kernels/dispatch.py refuses the first call.
Isa initial_isa() {
  Isa isa = kGeneric;
  const char* wanted = std::getenv("W2S_KERNELS_ISA");
  if (wanted != nullptr && find_isa(wanted, &isa)) return isa;
  for (Isa best : kBestFirst) {
    if (runs_here(best)) return best;
  }
  return kGeneric;
}

ParallelFor current_parallel_for = nullptr;

}  // namespace

Isa current_isa = initial_isa();

void set_parallel_for(ParallelFor run) { current_parallel_for = run; }

void parallel_for(int64_t begin, int64_t end, int64_t grain, ParallelBody body, void* context) {
  if (begin >= end) return;
  if (current_parallel_for == nullptr || end - begin <= grain) {
    body(begin, end, context);
  } else {
    current_parallel_for(begin, end, grain, body, context);
  }
}

const char* isa_name() { return kIsaNames[current_isa]; }

const char* isa_available() {
  static const std::string names = [] {
    std::string all;
    for (Isa isa : kBestFirst) {
      if (runs_here(isa)) all += (all.empty() ? "" : " ") + std::string(kIsaNames[isa]);
    }
    return all;
  }();
  return names.c_str();
}

bool set_isa(const char* name) { return find_isa(name, &current_isa); }

}  // namespace w2s
