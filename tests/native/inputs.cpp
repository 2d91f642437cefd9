// Random inputs and the record of results.
#include <cfloat>
#include <cstring>

#include "same_bits.h"

namespace same_bits {

namespace {

constexpr float kInf = __builtin_inff();
constexpr uint64_t kNaNBits = 0x7fc00000u;
constexpr int64_t kCanary = 32;  // elements before and behind an array: two registers

// Truncates; a NaN or infinity stays one.
uint16_t half_bits(float x) {
  const uint32_t bits = bits_of(x), sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude == 0x7f800000u) return static_cast<uint16_t>(sign | 0x7c00u);
  if (magnitude >= 0x47800000u) return static_cast<uint16_t>(sign | 0x7bffu);
  if (magnitude < 0x33800000u) return static_cast<uint16_t>(sign);
  if (magnitude < 0x38800000u) {
    return static_cast<uint16_t>(sign | static_cast<uint32_t>(float_of(magnitude) * 16777216.0f));
  }
  return static_cast<uint16_t>(sign | ((magnitude - 0x38000000u) >> 13));
}

}  // namespace

const w2s::Dtype kDtypes[3] = {w2s::Dtype::kFloat32, w2s::Dtype::kBFloat16, w2s::Dtype::kFloat16};

const char* name_of(w2s::Dtype dtype) {
  return dtype == w2s::Dtype::kFloat32 ? "fp32" : dtype == w2s::Dtype::kBFloat16 ? "bf16" : "fp16";
}

float float_of(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}

const std::vector<float> kSpecial = [] {
  std::vector<float> all;
  for (float x :
       {0.0f,     FLT_TRUE_MIN, 1.5f * FLT_MIN, FLT_MIN,       FLT_MIN / 2, 0x1p-25f, 0x1.8p-25f,
        0x1p-24f, 0x1p-14f,     0.25f,          0.5f,          1.0f,        1.5f,     2.5f,
        3.0f,     8388607.5f,   8388608.0f,     12582912.0f,   16777216.0f, 65504.0f, 65519.0f,
        65520.0f, 1e20f,        FLT_MAX / 2,    FLT_MAX,       kInf,        86.5f,    87.0f,
        87.5f,    88.0f,        104.0f,         0x1.fffffep-1f}) {
    all.push_back(x);
    all.push_back(-x);
  }
  for (uint32_t nan : {0x7fc00000u, 0xffc00000u, 0x7f800001u, 0xffbfffffu, 0x7fffffffu}) {
    all.push_back(float_of(nan));
  }
  return all;
}();

uint64_t Random::next() {
  uint64_t x = state_ += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

float Random::normal() {
  float sum = -2.0f;
  for (int i = 0; i < 4; ++i) sum += uniform();
  return sum * 1.7320508f;
}

float any_float(Random& random) {
  switch (random.below(4)) {
    case 0:
      return kSpecial[random.below(static_cast<int64_t>(kSpecial.size()))];
    case 1:
      return float_of(static_cast<uint32_t>(random.next()));
    case 2:
      return random.normal() * 64.0f;
    default:
      return random.normal();
  }
}

Array::Array(Random& random, w2s::Dtype dtype, int64_t n) : dtype_(dtype), n_(n) {
  const int64_t size = bytes_of(dtype);
  offset_ = (kCanary + random.below(16)) * size;
  bytes_.assign(static_cast<size_t>(offset_ + (n + kCanary) * size), '\x7f');  // a NaN
}

void Array::set_bits(int64_t index, uint32_t value) {
  const int64_t size = bytes_of(dtype_);
  std::memcpy(static_cast<char*>(data()) + index * size, &value, static_cast<size_t>(size));
}

void Array::set(int64_t index, float value) {
  switch (dtype_) {
    case w2s::Dtype::kFloat32:
      return set_bits(index, bits_of(value));
    case w2s::Dtype::kBFloat16:
      return set_bits(index, value != value ? 0x7fc0u : bits_of(value) >> 16);
    default:
      return set_bits(index, half_bits(value));
  }
}

void Array::put_all(Record& record) const {
  const int64_t size = bytes_of(dtype_);
  record.put(bytes_.data(), dtype_, static_cast<int64_t>(bytes_.size()) / size);
}

Array logits(Random& random, w2s::Dtype dtype, int64_t n, bool finite_or_masked) {
  constexpr float kScales[] = {1.0f, 5.0f, 30.0f, 0.01f};
  constexpr float kOffsets[] = {0.0f, 0.0f, 1e4f, -1e4f, 300.0f};
  const float scale = random.of(kScales), offset = random.of(kOffsets);
  Array row(random, dtype, n);
  const int64_t kind = random.below(finite_or_masked ? 6 : 8);
  const int64_t hot = random.below(n);
  for (int64_t i = 0; i < n; ++i) {
    float x = offset + scale * random.normal();
    if (kind == 1) x = i == hot ? offset + 40.0f : offset;            // one-hot
    if (kind == 2) x = offset + static_cast<float>(random.below(4));  // ties
    if (kind == 3) x = random.normal() * 0x1p-130f;                   // subnormal in fp32
    row.set(i, x);
  }
  if (kind == 6) {  // huge
    for (int64_t i = 0; i < n; ++i) row.set(i, random.normal() * 1.5e38f);
  }
  if (kind == 7) {
    for (int64_t i = 0; i < n; ++i) {
      row.set_bits(
          i, random.one_in(2) ? static_cast<uint32_t>(random.next()) : bits_of(any_float(random)));
    }
  }
  switch (random.below(6)) {
    case 0: {  // masked here and there, or all but a few
      const int64_t kept = 1 + random.below(10);
      for (int64_t i = 0; i < n; ++i) {
        if (random.below(11) >= kept) row.set(i, -kInf);
      }
      break;
    }
    case 1:  // a masked beginning, or the whole row
      for (int64_t i = 0, end = random.below(n + 1); i < end; ++i) row.set(i, -kInf);
      break;
    default:
      break;
  }
  if (!finite_or_masked && random.one_in(8)) {
    constexpr float kBad[] = {kInf, __builtin_nanf("")};
    const float bad = random.of(kBad);
    row.set(random.below(n), bad);
  }
  return row;
}

int64_t columns(Random& random, int64_t most) {
  constexpr int64_t kRound[] = {64, 128, 256, 512, 1024, 4096};
  int64_t n = 1 + random.below(63);
  if (random.one_in(4)) n = random.of(kRound) + random.below(3) - 1;
  if (random.one_in(16)) n = 1 + random.below(most);
  return n < most ? n : most;
}

void Record::push(uint64_t value) {
  values_.push_back(value);
  portable_.push_back(!libm_);
}

void Record::put(float x) { push(x != x ? kNaNBits : bits_of(x)); }

void Record::put(double x) {
  uint64_t bits = 0;
  std::memcpy(&bits, &x, 8);
  push(x != x ? kNaNBits : bits);
}

void Record::put(const float* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) put(x[i]);
}

void Record::put(const void* data, w2s::Dtype dtype, int64_t n) {
  const char* from = static_cast<const char*>(data);
  for (int64_t i = 0; i < n; ++i) {
    if (dtype == w2s::Dtype::kFloat32) {
      float x;
      std::memcpy(&x, from + 4 * i, 4);
      put(x);
      continue;
    }
    const uint32_t limit = dtype == w2s::Dtype::kBFloat16 ? 0x7f80u : 0x7c00u;
    uint16_t bits;
    std::memcpy(&bits, from + 2 * i, 2);
    push((bits & 0x7fffu) > limit ? kNaNBits : bits);
  }
}

void Record::stage(std::string name) { stages_.emplace_back(size(), std::move(name)); }

std::string Record::difference(const Record& other) const {
  if (size() != other.size()) {
    return "gave " + std::to_string(size()) + " values instead of " + std::to_string(other.size());
  }
  for (int64_t i = 0; i < size(); ++i) {
    if (values_[i] == other.values_[i]) continue;
    std::string where = "result";
    int64_t first = 0;
    for (const auto& [begin, name] : stages_) {
      if (begin <= i) first = begin, where = name;
    }
    char text[96];
    std::snprintf(text, sizeof(text), " [%lld]: %#llx, generic %#llx",
                  static_cast<long long>(i - first), static_cast<unsigned long long>(values_[i]),
                  static_cast<unsigned long long>(other.values_[i]));
    return where + text;
  }
  return "";
}

uint64_t Record::digest(uint64_t so_far) const {
  for (int64_t i = 0; i < size(); ++i) {
    if (portable_[i]) so_far = (so_far ^ values_[i]) * 0x100000001b3u;
  }
  return so_far;
}

}  // namespace same_bits
