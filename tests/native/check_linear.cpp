// csrc/cpu/linear_logprob.cpp.
#include "core_isa.h"
#include "same_bits.h"

namespace same_bits {

using namespace w2s;

void check_linear(Random& random, Record& record) {
  const Dtype dtype = random.of(kDtypes);
  const int64_t rows = 1 + random.below(9), cols = 1 + random.below(random.one_in(8) ? 150 : 9);
  const int64_t width = random.one_in(8) ? 500 + random.below(100) : 1 + random.below(80);
  const int64_t hidden_stride = width + random.below(3), weight_stride = width + random.below(3);
  // Mostly numbers as models have them; now and then whatever fits into the bits.
  const bool wild = random.one_in(8);
  const auto fill = [&](Array& array) {
    for (int64_t i = 0; i < array.size(); ++i) {
      array.set(i, wild && random.one_in(64) ? any_float(random) : random.normal());
    }
  };
  Array hidden(random, Dtype::kFloat32, rows * hidden_stride);
  Array weight(random, dtype, cols * weight_stride);
  fill(hidden);
  fill(weight);
  std::vector<float> scale(cols), bias(cols);
  for (float& x : scale) x = 0.5f + random.uniform();
  for (float& x : bias) x = random.normal();

  const int64_t out_stride = cols + random.below(3);
  Array out(random, Dtype::kFloat32, rows * out_stride);
  constexpr float kLogitScales[] = {1.0f, 0.0625f, 12.0f};
  const LinearPanel panel{static_cast<const float*>(hidden.data()),
                          rows,
                          hidden_stride,
                          weight.data(),
                          dtype,
                          cols,
                          weight_stride,
                          width,
                          random.one_in(2) ? scale.data() : nullptr,
                          random.one_in(2) ? bias.data() : nullptr,
                          random.of(kLogitScales),
                          static_cast<float*>(out.data()),
                          out_stride};
  record.stage("linear_logits " + std::string(name_of(dtype)) + " rows=" + std::to_string(rows) +
               " columns=" + std::to_string(cols) + " width=" + std::to_string(width));
  linear_logits(panel);
  out.put_all(record);
}

}  // namespace same_bits
