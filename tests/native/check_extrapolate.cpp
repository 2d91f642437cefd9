// csrc/cpu/extrapolate.cpp, by way of the op: every mix of dtypes, both roundings, pieces of
// leaves.
#include <cstring>

#include "core.h"
#include "same_bits.h"

namespace same_bits {

using namespace w2s;

namespace {

constexpr Dtype kAll[] = {Dtype::kFloat32, Dtype::kBFloat16, Dtype::kFloat16, Dtype::kFloat64};

int64_t size_of(Dtype dtype) { return dtype == Dtype::kFloat64 ? 8 : bytes_of(dtype); }

// Numbers as weights are, near the ends of the range, or of any bits; at an unaligned place.
class Weights {
 public:
  Weights(Random& random, Dtype dtype, int64_t n)
      : size_(size_of(dtype)), n_(n), offset_(size_ * random.below(9)) {
    bytes_.assign(static_cast<size_t>(offset_ + (n + 8) * size_), '\x5a');
    constexpr float kScales[] = {0.02f, 0.02f, 1e-6f, 6e4f, 3e38f, 1e-38f};
    const float scale = random.of(kScales);
    const bool any = random.one_in(3);
    for (int64_t i = 0; i < n; ++i) {
      const float x = scale * random.normal();
      const uint64_t bits = random.next();
      char* to = data() + i * size_;
      if (any && random.one_in(2)) {
        std::memcpy(to, &bits, static_cast<size_t>(size_));
      } else if (dtype == Dtype::kFloat64) {
        const double wide = static_cast<double>(x) * (1.0 + 0x1p-40 * random.below(1000));
        std::memcpy(to, &wide, 8);
      } else {
        Array one(random, dtype, 1);
        one.set(0, x);
        std::memcpy(to, one.data(), static_cast<size_t>(size_));
      }
    }
  }
  char* data() { return bytes_.data() + offset_; }
  // Every bit, NaNs' too: they are promised. And what lies around.
  void put_all(Record& record) const {
    for (size_t i = 0; i < bytes_.size(); i += 2) {
      uint16_t half;
      std::memcpy(&half, bytes_.data() + i, 2);
      record.put_word(half);
    }
  }

 private:
  int64_t size_, n_, offset_;
  std::vector<char> bytes_;
};

}  // namespace

void check_extrapolate(Random& random, Record& record) {
  const bool same = random.one_in(2);
  const Dtype one = random.of(kAll), two = same ? one : random.of(kAll), out = random.of(kAll);
  const int64_t row = random.one_in(4) ? 1 + random.below(700) : 1;
  const int64_t rows = random.one_in(16) ? 4000 + random.below(2000) : 1 + random.below(300);
  const int64_t n = row * rows > 12000 ? rows : row * rows;
  Weights theta1(random, one, n), theta0(random, two, n), result(random, out, n);
  constexpr double kAlphas[] = {0.3, -1.0, 0.5, 0.0, 25.0, 1e300, 1e-300};
  std::vector<double> alphas(static_cast<size_t>(n));
  for (double& alpha : alphas) alpha = random.of(kAlphas);
  constexpr int64_t kStarts[] = {0, 0, 4096, 5, 4095, (int64_t{1} << 40) + 12345};
  double sums[4] = {0.0, 0.0, 0.0, 0.0};
  const bool by_row = random.one_in(3), with_sums = random.one_in(2), in_place = random.one_in(4);
  const Extrapolation all{theta1.data(),
                          theta0.data(),
                          in_place && out == one ? theta1.data() : result.data(),
                          one,
                          two,
                          out,
                          n,
                          random.of(kAlphas),
                          by_row ? alphas.data() : nullptr,
                          n % row == 0 ? row : 1,
                          random.one_in(2),
                          random.next(),
                          random.of(kStarts),
                          with_sums ? sums : nullptr};
  record.stage("extrapolate " + std::to_string(static_cast<int>(one)) +
               std::to_string(static_cast<int>(two)) + std::to_string(static_cast<int>(out)) +
               " n=" + std::to_string(n) + " alpha=" + std::to_string(all.alpha) +
               (all.stochastic ? " stochastic" : "") + (by_row ? " by row" : ""));
  extrapolate(all);
  theta1.put_all(record);
  result.put_all(record);
  for (double sum : sums) record.put(sum);
}

}  // namespace same_bits
