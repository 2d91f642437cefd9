// Picks the instruction set at run time and splits work over the host's threads.
#include <cstdlib>
#include <cstring>
#include <string>

#include "core_isa.h"

namespace w2s {

namespace {

constexpr const char* kIsaNames[] = {"generic", "avx2", "avx512"};

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
    default:
      return isa == kGeneric;
  }
}

Isa best_isa() {
  for (Isa isa : {kAvx512, kAvx2}) {
    if (runs_here(isa)) return isa;
  }
  return kGeneric;
}

Isa initial_isa() {
  const char* wanted = std::getenv("W2S_KERNELS_ISA");
  for (Isa isa : {kGeneric, kAvx2, kAvx512}) {
    if (wanted != nullptr && std::strcmp(wanted, kIsaNames[isa]) == 0 && runs_here(isa)) return isa;
  }
  return best_isa();
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
    for (Isa isa : {kAvx512, kAvx2, kGeneric}) {
      if (runs_here(isa)) all += (all.empty() ? "" : " ") + std::string(kIsaNames[isa]);
    }
    return all;
  }();
  return names.c_str();
}

bool set_isa(const char* name) {
  for (Isa isa : {kGeneric, kAvx2, kAvx512}) {
    if (std::strcmp(name, kIsaNames[isa]) == 0 && runs_here(isa)) {
      current_isa = isa;
      return true;
    }
  }
  return false;
}

}  // namespace w2s
