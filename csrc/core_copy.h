// Copies of more than the processor's caches hold.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

namespace w2s {

// memcpy that leaves the target out of the processor's caches: a re-order larger than they are
// would otherwise read every line before it overwrites it. SSE2 is part of every x86-64.
inline void copy_past_caches(char* to, const char* from, size_t size) {
#ifdef __SSE2__
  constexpr size_t kLine = 64;
  const size_t head = std::min(size, (kLine - reinterpret_cast<uintptr_t>(to) % kLine) % kLine);
  std::memcpy(to, from, head);
  to += head, from += head, size -= head;
  for (; size >= kLine; to += kLine, from += kLine, size -= kLine) {
    const __m128i* source = reinterpret_cast<const __m128i*>(from);
    __m128i* target = reinterpret_cast<__m128i*>(to);
    const __m128i a = _mm_loadu_si128(source), b = _mm_loadu_si128(source + 1);
    const __m128i c = _mm_loadu_si128(source + 2), d = _mm_loadu_si128(source + 3);
    _mm_stream_si128(target, a);
    _mm_stream_si128(target + 1, b);
    _mm_stream_si128(target + 2, c);
    _mm_stream_si128(target + 3, d);
  }
#endif
  std::memcpy(to, from, size);
}

// To be called by a thread after its copies: what was stored past the caches is there for all.
inline void copied_past_caches() {
#ifdef __SSE2__
  _mm_sfence();
#endif
}

}  // namespace w2s
