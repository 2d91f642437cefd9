// Reads one row of the guided law: maximum, weights, the filters, and the draw.
#include <algorithm>
#include <cfloat>
#include <cmath>
#include <limits>

#include "common/packed_key.h"
#include "core_guided.h"
#include "core_isa.h"

namespace w2s {

namespace {

constexpr float kNegInf = -std::numeric_limits<float>::infinity();
constexpr int64_t kSortedAtMost = 512;

using uint128 = unsigned __int128;

// ceil(p * total) with p in (0, 1) read as the rational it is.
uint64_t ceil_share(double p, uint64_t total) {
  int exponent;
  const auto mantissa = static_cast<uint64_t>(std::ldexp(std::frexp(p, &exponent), 53));
  const int shift = 53 - exponent;  // p = mantissa / 2^shift, shift >= 53
  if (shift >= 117) return 1;       // 0 < product < 2^116
  const uint128 product = static_cast<uint128>(mantissa) * total;
  const uint128 rest = product & ((static_cast<uint128>(1) << shift) - 1);
  return static_cast<uint64_t>(product >> shift) + (rest != 0 ? 1 : 0);
}

// The smallest fp32 that is not below x.
float float_at_least(double x) {
  const auto f = static_cast<float>(x);
  return static_cast<double>(f) < x ? std::nextafter(f, FLT_MAX) : f;
}

// min_p as the smallest weight that counts: an integer, the largest being 2^44 exactly.
float least_weight(double min_p) { return float_at_least(std::ceil(std::ldexp(min_p, 44))); }

// Through int64: one instruction, where the unsigned conversion branches.
uint64_t whole(float weight) { return static_cast<uint64_t>(static_cast<int64_t>(weight)); }

void reserve(std::vector<float>& v, int64_t n) {
  if (static_cast<int64_t>(v.size()) < n) v.resize(static_cast<size_t>(n));
}

}  // namespace

Cut Selector::cut(const float* z, const float* weight, int64_t n, uint64_t target) {
  return n <= kSortedAtMost ? cut_sorted(z, weight, n, target) : cut_radix(z, weight, n, target);
}

Cut Selector::cut_sorted(const float* z, const float* weight, int64_t n, uint64_t target) {
  sorted_.clear();
  for (int64_t i = 0; i < n; ++i) {
    sorted_.emplace_back(packed_key(z[i], static_cast<uint32_t>(i)),
                         weight != nullptr ? weight[i] : 1.0f);
  }
  std::sort(sorted_.begin(), sorted_.end(),
            [](const auto& a, const auto& b) { return a.first > b.first; });
  uint64_t sum = 0;
  for (const auto& [key, w] : sorted_) {
    sum += whole(w);
    if (sum >= target) return {packed_value(key), packed_id(key) + 1};
  }
  return {kNegInf, n};
}

// Most significant digit first on the 32-bit order of the values: each pass finds the digit at
// which the sum crosses and keeps only those elements. What is left at the end is one value, whose
// elements weigh the same, so how many of them are needed is a division.
Cut Selector::cut_radix(const float* z, const float* weight, int64_t n, uint64_t target) {
  constexpr int kDigitBits = 11, kDigits = 1 << kDigitBits;
  // Two histograms by turns: neighbours often meet in one digit, and would wait for each other.
  static thread_local uint64_t histogram[2][kDigits];
  elements_.resize(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) {
    elements_[i] = {ordered_bits(z[i]), weight != nullptr ? weight[i] : 1.0f};
  }
  uint64_t rest = target;
  int64_t left = n;
  uint32_t key = 0;
  for (const int shift : {21, 10, 0}) {
    std::fill(&histogram[0][0], &histogram[0][0] + 2 * kDigits, 0);
    const auto digit_of = [&](uint32_t k) {
      return static_cast<int>((k >> shift) & (kDigits - 1));
    };
    for (int64_t i = 0; i < left; ++i) {
      histogram[i & 1][digit_of(elements_[i].key)] += whole(elements_[i].weight);
    }
    int digit = kDigits - 1;
    for (; digit > 0; --digit) {
      const uint64_t here = histogram[0][digit] + histogram[1][digit];
      if (here >= rest) break;
      rest -= here;
    }
    key |= static_cast<uint32_t>(digit) << shift;
    int64_t kept = 0;
    for (int64_t i = 0; i < left; ++i) {  // no branch: which digit comes is anyone's guess
      const Element e = elements_[i];
      elements_[kept] = e;
      kept += digit_of(e.key) == digit ? 1 : 0;
    }
    left = kept;
  }
  const uint64_t each = whole(elements_[0].weight);
  uint64_t ties = each == 0 ? 0 : (rest + each - 1) / each;
  const float value = packed_value(static_cast<uint64_t>(key) << 32);
  int64_t i = 0;
  for (; i < n && ties > 0; ++i) ties -= z[i] == value ? 1 : 0;
  return {value, i};
}

int64_t GuidedSources::row_of(int64_t i) const {
  if (row == nullptr) return i;
  const int64_t at = Targets{row, row_is_int64, 1}.at(i);
  return at >= 0 && at < base.rows ? at : -1;
}

bool GuidedRow::is_read(const GuidedSources& sources, int64_t i) const {
  return row_ >= 0 && row_ == sources.row_of(i) && beta_ == sources.beta_of(i);
}

bool GuidedRow::read(const GuidedSources& sources, int64_t i) {
  ids_ = nullptr;
  if (is_read(sources, i)) return usable_;
  row_ = sources.row_of(i);
  beta_ = sources.beta_of(i);
  usable_ = false;
  if (row_ < 0) return false;
  const bool pair = sources.tuned.data != nullptr && beta_ != 0.0;
  columns_ = pair ? sources.valid_pair : sources.valid_base;
  reserve(z_, columns_);
  reserve(lane_max_, (columns_ + kGuideColumns - 1) / kGuideColumns * 16);
  bool bad = false;
  m_ = kNegInf;
  const Matrix* from[3] = {&sources.base, &sources.tuned, &sources.untuned};
  for (int64_t c = 0, block = 0; c < columns_; c += kGuideColumns, ++block) {
    GuidedBlock in{};
    for (int k = 0; k < (pair ? 3 : 1); ++k) {
      in.logits[k] = element(*from[k], row_, c);
      in.dtype[k] = from[k]->dtype;
    }
    const int64_t n = std::min(kGuideColumns, columns_ - c);
    float* lanes = lane_max_.data() + block * 16;
    bad |= W2S_ON_ISA(guide_block(in, pair, n, beta_, z_.data() + c, lanes));
    if (bad) return false;
    m_ = std::max(m_, *std::max_element(lanes, lanes + 16));
  }
  usable_ = m_ > kNegInf;
  return usable_;
}

int64_t GuidedRow::count_from(float bound) const {
  int64_t count = 0;
  for (int64_t c = 0; c < columns_; c += kGuideColumns) {
    if (block_maximum(c) < bound) continue;
    count += W2S_ON_ISA(count_block(z_.data() + c, std::min(kGuideColumns, columns_ - c), bound));
  }
  return count;
}

// A value that at least k columns reach and, ties apart, not many more; the smallest finite number
// when in doubt. For a small k from the maxima of V / 64 groups of columns, else by counting.
float GuidedRow::lower_bound_of_best(int64_t k) {
  const int64_t groups = (columns_ + kGuideColumns - 1) / kGuideColumns * 16;
  if (k * 4 <= groups) {
    lane_max_copy_.assign(lane_max_.begin(), lane_max_.begin() + groups);
    std::nth_element(lane_max_copy_.begin(), lane_max_copy_.begin() + (k - 1), lane_max_copy_.end(),
                     [](float a, float b) { return a > b; });
    return std::max(lane_max_copy_[k - 1], -FLT_MAX);
  }
  if (k * 2 > columns_ || columns_ <= kSortedAtMost) return -FLT_MAX;
  // Down from the maximum in doubling steps until enough are reached, then half-way between.
  float enough = m_, few = m_, step = std::max(1.0f, std::fabs(m_) * 0x1p-10f);
  for (int tries = 0; count_from(enough) < k; ++tries, step *= 2.0f) {
    if (tries == 16) return -FLT_MAX;
    few = enough;
    enough = std::max(enough - step, -FLT_MAX);
  }
  for (int halving = 0; halving < 8; ++halving) {
    const float middle = enough + (few - enough) * 0.5f;
    (count_from(middle) < k ? few : enough) = middle;
  }
  return enough;
}

float GuidedRow::block_maximum(int64_t first_column) const {
  const float* lanes = lane_max_.data() + first_column / kGuideColumns * 16;
  return *std::max_element(lanes, lanes + 16);
}

void GuidedRow::compact(float bound) {
  reserve(small_z_, columns_);
  if (static_cast<int64_t>(small_id_.size()) < columns_) small_id_.resize(columns_);
  count_ = 0;
  for (int64_t c = 0; c < columns_; c += kGuideColumns) {
    if (block_maximum(c) < bound) continue;
    count_ += W2S_ON_ISA(compact_block(z_.data() + c, std::min(kGuideColumns, columns_ - c), bound,
                                       static_cast<int32_t>(c), small_z_.data() + count_,
                                       small_id_.data() + count_));
  }
  ids_ = small_id_.data();
}

void GuidedRow::keep_top_k(int64_t k) {
  compact(lower_bound_of_best(k));
  if (count_ <= k) return;
  const Cut cut = selector_.cut(small_z_.data(), nullptr, count_, static_cast<uint64_t>(k));
  int64_t kept = 0;
  for (int64_t i = 0; i < count_; ++i) {
    if (!cut.keeps(small_z_[i], i)) continue;
    small_z_[kept] = small_z_[i];
    small_id_[kept++] = small_id_[i];
  }
  count_ = kept;
}

// The weights of [begin, end), as cut_ and rule_ leave them; `weight` (or null) starts at begin.
uint64_t GuidedRow::weigh_range(int64_t begin, int64_t end, float* weight) const {
  const float* z = values();
  const int64_t middle = std::clamp(cut_.tie_end, begin, end);
  const float above = std::nextafter(cut_.value, std::numeric_limits<float>::infinity());
  uint64_t sum = 0;
  if (middle > begin) {
    sum += W2S_ON_ISA(weigh_block(z + begin, middle - begin, rule_, cut_.value, weight));
  }
  if (end > middle) {
    float* rest = weight != nullptr ? weight + (middle - begin) : nullptr;
    sum += W2S_ON_ISA(weigh_block(z + middle, end - middle, rule_, above, rest));
  }
  return sum;
}

void GuidedRow::sum_blocks() {
  block_total_.clear();
  total_ = 0;
  for (int64_t c = 0; c < count(); c += kGuideColumns) {
    block_total_.push_back(weigh_range(c, std::min(c + kGuideColumns, count()), nullptr));
    total_ += block_total_.back();
  }
}

void GuidedRow::weigh(float temperature, double min_p) {
  temperature_ = temperature;
  // At most FLT_MAX: 0 * inf would be NaN.
  rule_ = {m_, std::min(1.0f / temperature, FLT_MAX), least_weight(min_p)};
  cut_ = {kNegInf, count()};
  sum_blocks();
}

// The part of all columns within `reach` of the maximum, in units of T, becomes what is kept,
// unless its weight is below `target`.
bool GuidedRow::keep_near_maximum(float reach, uint64_t target) {
  const float bound = std::max(m_ - reach * static_cast<float>(temperature_), -FLT_MAX);
  if (weigh_all_from(bound) < target) return false;
  compact(bound);
  cut_ = {kNegInf, count_};
  return true;
}

uint64_t GuidedRow::weigh_all_from(float bound) const {
  uint64_t sum = 0;
  for (int64_t c = 0; c < columns_; c += kGuideColumns) {
    if (block_maximum(c) < bound) continue;
    const int64_t n = std::min(kGuideColumns, columns_ - c);
    sum += W2S_ON_ISA(weigh_block(z_.data() + c, n, rule_, bound, nullptr));
  }
  return sum;
}

void GuidedRow::keep_top_p(double p) {
  const uint64_t target = ceil_share(p, total_);
  // What reaches the share is mostly near the maximum: look there first, so that a long row is not
  // ordered for the sake of a few columns.
  if (ids_ == nullptr && columns_ > kSortedAtMost) {
    for (const float reach : {4.0f, 8.0f, 12.0f}) {
      if (keep_near_maximum(reach, target)) break;
    }
  }
  reserve(weight_, count());
  for (int64_t c = 0; c < count(); c += kGuideColumns) {
    weigh_range(c, std::min(c + kGuideColumns, count()), weight_.data() + c);
  }
  cut_ = selector_.cut(values(), weight_.data(), count(), target);
  sum_blocks();
}

void GuidedRow::keep_min_p(double min_p) {
  rule_.least = least_weight(min_p);
  sum_blocks();
}

int64_t GuidedRow::first_maximum() const {
  int64_t c = 0;
  while (block_maximum(c) != m_) c += kGuideColumns;
  return std::find(z_.begin() + c, z_.begin() + columns_, m_) - z_.begin();
}

int64_t GuidedRow::draw(uint64_t draw) {
  auto threshold = static_cast<uint64_t>((static_cast<uint128>(draw) * total_) >> 64);
  size_t block = 0;
  while (threshold >= block_total_[block]) threshold -= block_total_[block++];
  const int64_t begin = static_cast<int64_t>(block) * kGuideColumns;
  const int64_t end = std::min(begin + kGuideColumns, count());
  alignas(64) float weight[kGuideColumns];
  weigh_range(begin, end, weight);
  int64_t i = 0;
  while (threshold >= whole(weight[i])) threshold -= whole(weight[i++]);
  drawn_ = values()[begin + i];
  return ids_ != nullptr ? ids_[begin + i] : begin + i;
}

float GuidedRow::logprob(float z) const {
  const double x = (static_cast<double>(z) - static_cast<double>(m_)) / temperature_;
  return static_cast<float>(x - std::log(static_cast<double>(total_) * 0x1p-44));
}

}  // namespace w2s
