// guided_logits, guided_sample and guided_topk: results in parallel over threads, each row by
// itself (core_guided_row.cpp), so neither threads nor the batch change a bit.
#include "core_guided.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "common/packed_key.h"
#include "common/philox.h"
#include "core_isa.h"

namespace w2s {

namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kNegInf = -std::numeric_limits<float>::infinity();

bool finite_temperature(float t) { return t >= 0.0f && t < std::numeric_limits<float>::infinity(); }

// One a thread, so that its buffers are paged in once.
GuidedRow& thread_row() {
  static thread_local GuidedRow row;
  row.forget();  // another call's row, perhaps at the same address
  return row;
}

struct Settings {
  float temperature;
  int64_t top_k;
  double top_p, min_p;

  Settings(const Sampling& s, int64_t i)
      : temperature(s.temperature_rows != nullptr ? s.temperature_rows[i] : s.temperature),
        top_k(s.top_k_rows != nullptr ? s.top_k_rows[i] : s.top_k),
        top_p(s.top_p_rows != nullptr ? s.top_p_rows[i] : s.top_p),
        min_p(s.min_p_rows != nullptr ? s.min_p_rows[i] : s.min_p) {}

  bool valid() const {
    return finite_temperature(temperature) && top_k >= 0 && top_p > 0.0 && top_p <= 1.0 &&
           min_p >= 0.0 && min_p <= 1.0;
  }
  bool operator==(const Settings& o) const {
    return temperature == o.temperature && top_k == o.top_k && top_p == o.top_p && min_p == o.min_p;
  }
};

void filter(GuidedRow& row, const Settings& s) {
  if (s.top_k > 0 && s.top_k < row.columns()) row.keep_top_k(s.top_k);
  if (s.top_p >= 1.0) return row.weigh(s.temperature, s.min_p);
  row.weigh(s.temperature);
  row.keep_top_p(s.top_p);
  if (s.min_p > 0.0) row.keep_min_p(s.min_p);
}

void topk_row(GuidedRow& row, int64_t columns, int64_t k, float temperature, float* logprob,
              int64_t* id, std::vector<uint64_t>& keys) {
  if (temperature > 0.0f) row.weigh(temperature);  // the whole law, before anything is dropped
  keys.clear();
  if (k < row.columns()) {
    row.keep_top_k(k);
    for (int64_t i = 0; i < row.count(); ++i) {
      keys.push_back(packed_key(row.values()[i], static_cast<uint32_t>(row.ids()[i])));
    }
  } else {
    for (int64_t i = 0; i < row.columns(); ++i) {
      if (row.all_values()[i] > kNegInf) {
        keys.push_back(packed_key(row.all_values()[i], static_cast<uint32_t>(i)));
      }
    }
  }
  std::sort(keys.begin(), keys.end(), [](uint64_t a, uint64_t b) { return a > b; });
  const auto found = static_cast<int64_t>(keys.size());
  for (int64_t j = 0; j < found; ++j) {
    id[j] = packed_id(keys[j]);
    if (temperature > 0.0f) {
      logprob[j] = row.logprob(packed_value(keys[j]));
    } else {
      logprob[j] = j == 0 ? 0.0f : kNegInf;
    }
  }
  // The masked columns, in order of their ids.
  int64_t j = found;
  for (int64_t i = 0; i < columns && j < k; ++i) {
    if (i < row.columns() && row.all_values()[i] > kNegInf) continue;
    id[j] = i;
    logprob[j++] = kNegInf;
  }
}

}  // namespace

void guided_logits(const GuidedSources& s, float* z) {
  const int64_t columns = s.base.cols;
  const int64_t blocks = (columns + kGuideColumns - 1) / kGuideColumns;
  constexpr int64_t kGrain = 16;  // about 5 us of work
  parallel(0, s.results * blocks, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t i = task / blocks, c = task % blocks * kGuideColumns;
      const int64_t row = s.row_of(i), stop = std::min(c + kGuideColumns, columns);
      float* out = z + i * columns;
      if (row < 0) {
        std::fill(out + c, out + stop, kNaN);
        continue;
      }
      const double beta = s.beta_of(i);
      const bool pair = s.tuned.data != nullptr && beta != 0.0;
      const int64_t valid = std::clamp(pair ? s.valid_pair : s.valid_base, c, stop);
      if (valid > c) {
        GuidedBlock in{};
        const Matrix* from[3] = {&s.base, &s.tuned, &s.untuned};
        for (int k = 0; k < (pair ? 3 : 1); ++k) {
          in.logits[k] = element(*from[k], row, c);
          in.dtype[k] = from[k]->dtype;
        }
        float lane_max[16];
        W2S_ON_ISA(guide_block(in, pair, valid - c, beta, out + c, lane_max));
      }
      std::fill(out + valid, out + stop, kNegInf);
    }
  });
}

void guided_sample(const GuidedSources& sources, const Sampling& sampling, const DrawKeys& keys,
                   int64_t* token, float* logprob) {
  parallel(0, sources.results, 1, [&](int64_t begin, int64_t end) {
    GuidedRow& row = thread_row();
    std::optional<Settings> filtered;  // what `row` was last filtered with
    for (int64_t i = begin; i < end; ++i) {
      token[i] = keys.pad_id;
      logprob[i] = 0.0f;
      if (keys.finished != nullptr && keys.finished[i]) continue;
      const Settings settings(sampling, i);
      const bool same = filtered.has_value() && *filtered == settings && row.is_read(sources, i);
      if (!settings.valid() || !(same || row.read(sources, i))) {
        filtered.reset();
        logprob[i] = kNaN;
        continue;
      }
      if (settings.temperature == 0.0f) {
        filtered.reset();
        token[i] = row.first_maximum();
        continue;
      }
      // Draws that share a row and settings (a search's candidates) share the work up to here.
      if (!same) filter(row, settings);
      filtered.emplace(settings);
      const int64_t candidate = keys.candidate.data != nullptr ? keys.candidate.at(i) : 0;
      token[i] = row.draw(philox_draw(keys.seed[i], keys.position.at(i), candidate));
      logprob[i] = row.logprob(row.drawn_logit());
    }
  });
}

void guided_topk(const GuidedSources& sources, int64_t k, float temperature,
                 const float* temperature_rows, float* logprob, int64_t* id) {
  parallel(0, sources.results, 1, [&](int64_t begin, int64_t end) {
    GuidedRow& row = thread_row();
    std::vector<uint64_t> keys;
    for (int64_t i = begin; i < end; ++i) {
      const float t = temperature_rows != nullptr ? temperature_rows[i] : temperature;
      if (finite_temperature(t) && row.read(sources, i)) {
        topk_row(row, sources.base.cols, k, t, logprob + i * k, id + i * k, keys);
        continue;
      }
      for (int64_t j = 0; j < k; ++j) {
        logprob[i * k + j] = kNaN;
        id[i * k + j] = j;
      }
    }
  });
}

}  // namespace w2s
