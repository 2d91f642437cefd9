// csrc/cpu/guided_*.cpp, kernel by kernel and as the ops that are made of them.
#include <limits>

#include "common/guided.h"
#include "core_isa.h"
#include "same_bits.h"

namespace same_bits {

using namespace w2s;

namespace {

constexpr double kBetas[] = {1.0, 1.0, 0.3, -0.7, 2.5, 1e30};
constexpr float kInf = std::numeric_limits<float>::infinity();

float* floats(Array& array) { return static_cast<float*>(array.data()); }

}  // namespace

void check_guide_block(Random& random, Record& record) {
  const int64_t n = columns(random, kGuideColumns);
  const Dtype common = random.of(kDtypes);
  const bool mixed = random.one_in(3), pair = !random.one_in(4);
  std::vector<Array> rows;
  GuidedBlock in{};
  for (int k = 0; k < 3; ++k) {
    in.dtype[k] = mixed ? random.of(kDtypes) : common;
    rows.push_back(logits(random, in.dtype[k], n, /*finite_or_masked=*/random.one_in(2)));
  }
  for (int k = 0; k < 3; ++k) in.logits[k] = rows[k].data();
  const double beta = random.of(kBetas);
  if (pair && !mixed && common == Dtype::kFloat32 && random.one_in(2)) {
    for (int64_t i = 0; i < n; ++i) {  // what is left after cancellation shows every rounding
      const double t = floats(rows[1])[i], u = floats(rows[2])[i];
      floats(rows[0])[i] = -static_cast<float>(beta * (t - u));
    }
  }
  record.stage(std::string("guide_block ") + (mixed ? "mixed" : name_of(common)) +
               (pair ? " pair" : "") + " n=" + std::to_string(n) + " beta=" + std::to_string(beta));
  Array z(random, Dtype::kFloat32, n);
  float lane_max[16];
  record.put_word(W2S_ON_ISA(guide_block(in, pair, n, beta, floats(z), lane_max)));
  z.put_all(record);
  // Where an element is NaN nobody reads the maxima.
  record.put(lane_max, 16);
}

void check_weigh_and_compact(Random& random, Record& record) {
  const int64_t n = columns(random, kGuideColumns);
  Array z = logits(random, Dtype::kFloat32, n, /*finite_or_masked=*/true);
  float m = -kInf;
  for (int64_t i = 0; i < n; ++i) m = floats(z)[i] > m ? floats(z)[i] : m;
  if (!(m > -kInf)) floats(z)[random.below(n)] = m = 0.0f;  // a row without a law is not weighed
  constexpr float kInverse[] = {1.0f, 1.0f / 0.7f, 0.1f, 1000.0f, 3.4e38f};
  const float edges[] = {-kInf, m, floats(z)[random.below(n)], m - 4.0f, -3.4e38f};
  const float z_min = random.of(edges);
  const float least = random.one_in(2) ? 0.0f : random.uniform() * kWeightOne;
  const Weighing rule{m, random.of(kInverse), least};
  record.stage("weigh_block n=" + std::to_string(n));
  Array weight(random, Dtype::kFloat32, n);
  record.put_word(W2S_ON_ISA(weigh_block(floats(z), n, rule, z_min, nullptr)));
  record.put_word(W2S_ON_ISA(weigh_block(floats(z), n, rule, z_min, floats(weight))));
  weight.put_all(record);

  record.stage("compact_block n=" + std::to_string(n));
  Array kept(random, Dtype::kFloat32, n);
  std::vector<int32_t> id(static_cast<size_t>(n), -1);
  const auto first = static_cast<int32_t>(random.below(100000));
  record.put_word(W2S_ON_ISA(compact_block(floats(z), n, z_min, first, floats(kept), id.data())));
  kept.put_all(record);
  for (int32_t one : id) record.put_word(static_cast<uint32_t>(one));
  record.put_word(W2S_ON_ISA(count_block(floats(z), n, z_min)));
}

void check_guided_ops(Random& random, Record& record) {
  const int64_t n = random.one_in(3) ? 1000 + random.below(3000) : columns(random, 4096);
  const Dtype dtype = random.of(kDtypes);
  const bool pair = !random.one_in(4);
  std::vector<Array> rows;
  for (int k = 0; k < 3; ++k) rows.push_back(logits(random, dtype, n, !random.one_in(4)));
  const auto matrix = [&](int k) { return Matrix{rows[k].data(), dtype, 1, n, n}; };
  constexpr int64_t kDraws = 8;
  std::vector<int64_t> row(kDraws, 0), seed(kDraws), position(kDraws);
  for (int64_t i = 0; i < kDraws; ++i) {
    seed[i] = static_cast<int64_t>(random.next());
    position[i] = random.below(1000);
  }
  GuidedSources sources{};
  sources.base = matrix(0);
  sources.tuned = pair ? matrix(1) : Matrix{nullptr, dtype, 0, 0, 0};
  sources.untuned = pair ? matrix(2) : Matrix{nullptr, dtype, 0, 0, 0};
  sources.row = row.data();
  sources.row_is_int64 = true;
  sources.results = 1;
  sources.valid_base = sources.valid_pair = n;
  sources.beta = random.of(kBetas);

  const std::string size =
      std::string(name_of(dtype)) + (pair ? " pair" : "") + " n=" + std::to_string(n);
  record.stage("guided_logits " + size);
  Array z(random, Dtype::kFloat32, n);
  guided_logits(sources, floats(z));
  z.put_all(record);

  constexpr float kTemperatures[] = {1.0f, 0.7f, 0.0f, 3.0f, 1e-3f};
  constexpr double kTopP[] = {1.0, 0.9, 0.5, 1e-6}, kMinP[] = {0.0, 0.0, 0.05};
  const int64_t top_k[] = {0, 1, 50, n};
  const float temperature = random.of(kTemperatures);
  const Sampling sampling{temperature,      nullptr, random.of(top_k), nullptr,
                          random.of(kTopP), nullptr, random.of(kMinP), nullptr};
  const DrawKeys keys{seed.data(), {position.data(), true, 1}, {nullptr, true, 1}, nullptr, -7};
  record.stage("guided_sample " + size);
  sources.results = kDraws;
  int64_t token[kDraws];
  float logprob[kDraws];
  guided_sample(sources, sampling, keys, token, logprob);
  for (int64_t one : token) record.put_word(static_cast<uint64_t>(one));
  record.with_libm();
  record.put(logprob, kDraws);
  record.without_libm();

  record.stage("guided_topk " + size);
  sources.results = 1;
  const int64_t k = random.one_in(4) ? n : 1 + random.below(n < 20 ? n : 20);
  std::vector<int64_t> id(static_cast<size_t>(k));
  std::vector<float> best(static_cast<size_t>(k));
  guided_topk(sources, k, temperature, nullptr, best.data(), id.data());
  for (int64_t one : id) record.put_word(static_cast<uint64_t>(one));
  record.with_libm();
  record.put(best.data(), k);
  record.without_libm();
}

}  // namespace same_bits
