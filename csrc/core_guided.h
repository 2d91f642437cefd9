// One row of the guided law on the CPU: read once, filtered by exact integer rules, drawn from.
// Shared by guided_sample and guided_topk (core_guided.cpp); not part of the interface.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "common/guided.h"
#include "core.h"

namespace w2s {

// Where an order by (value descending, index ascending) is cut: kept are z > value, and z == value
// at an index below tie_end.
struct Cut {
  float value;
  int64_t tie_end;

  bool keeps(float z, int64_t index) const { return z > value || (z == value && index < tie_end); }
};

// Cuts after the first element, in that order, at which the inclusive sum of weights reaches
// `target` >= 1; elements of weight 0 are passed over. `weight` holds integers as floats (its
// fraction is dropped); null counts every element as 1. The sum of all must reach `target`. Never
// slower than a few passes, whatever the values: a radix selection where a sort would be long.
class Selector {
 public:
  Cut cut(const float* z, const float* weight, int64_t n, uint64_t target);

 private:
  Cut cut_sorted(const float* z, const float* weight, int64_t n, uint64_t target);
  Cut cut_radix(const float* z, const float* weight, int64_t n, uint64_t target);

  struct Element {
    uint32_t key;
    float weight;
  };
  std::vector<Element> elements_;
  std::vector<std::pair<uint64_t, float>> sorted_;
};

// A row's logits, and then the part of them that is kept. Buffers live as long as the object, so a
// thread's rows share them; nothing that one row leaves behind is read by another.
class GuidedRow {
 public:
  // Forgets what was read, keeps the buffers.
  void forget() { row_ = -1; }
  // Reads result i's row unless it holds that very one already. False: the row has no law (a NaN,
  // a +inf, no finite logit, or no such row).
  bool read(const GuidedSources& sources, int64_t i);
  bool is_read(const GuidedSources& sources, int64_t i) const;
  // The law of what is kept, at a temperature > 0; min_p here or, when top-p comes first, below.
  void weigh(float temperature, double min_p = 0.0);
  // The best k, exactly: everything else is dropped. Also k > finite columns.
  void keep_top_k(int64_t k);
  // After weigh.
  void keep_top_p(double p);
  void keep_min_p(double min_p);
  int64_t first_maximum() const;
  // The token whose share of the kept weight `draw` falls on.
  int64_t draw(uint64_t draw);
  // (z - m) / T - log(sum of weights), of the value of the last drawn token or any other.
  float logprob(float z) const;

  float drawn_logit() const { return drawn_; }
  int64_t count() const { return ids_ != nullptr ? count_ : columns_; }
  const float* values() const { return ids_ != nullptr ? small_z_.data() : z_.data(); }
  const int32_t* ids() const { return ids_; }
  const float* all_values() const { return z_.data(); }  // [columns]
  int64_t columns() const { return columns_; }
  float maximum() const { return m_; }

 private:
  uint64_t weigh_range(int64_t begin, int64_t end, float* weight) const;
  void sum_blocks();
  float lower_bound_of_best(int64_t k);
  int64_t count_from(float bound) const;
  float block_maximum(int64_t first_column) const;
  void compact(float bound);
  bool keep_near_maximum(float reach, uint64_t target);
  uint64_t weigh_all_from(float bound) const;

  // What was read.
  int64_t row_ = -1;
  double beta_ = 0.0;
  bool usable_ = false;
  int64_t columns_ = 0;
  float m_ = 0.0f;
  std::vector<float> z_, lane_max_, lane_max_copy_;
  // What is kept of it: all columns, or the compacted `count_` of them, then those that cut_ keeps.
  const int32_t* ids_ = nullptr;
  int64_t count_ = 0;
  std::vector<float> small_z_, weight_;
  std::vector<int32_t> small_id_;
  Cut cut_{};
  double temperature_ = 1.0;
  Weighing rule_{};
  uint64_t total_ = 0;
  std::vector<uint64_t> block_total_;
  float drawn_ = 0.0f;
  Selector selector_;
};

}  // namespace w2s
