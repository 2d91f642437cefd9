// Scores and selection of a search's rows. Plain code: a pool has some tens of rows, and the order
// of the additions and comparisons is the promise.
#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "core.h"

namespace w2s {

namespace {

template <class T>
void add_segments(const T* diff, const Segments& segments, double* score) {
  // A piece is some 50 us of dependent additions: below that a second thread costs more than it
  // saves.
  const int64_t total =
      segments.cu_seqlens != nullptr ? segments.tokens : segments.rows * segments.row_length;
  const int64_t grain = 1 + 32768 * segments.rows / (1 + total);
  parallel(0, segments.rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      int64_t first = row * segments.row_stride, count = segments.row_length;
      bool usable = true;
      if (segments.cu_seqlens != nullptr) {
        const Targets bounds{segments.cu_seqlens, segments.is_int64, 1};
        first = bounds.at(row);
        const int64_t stop = bounds.at(row + 1);
        usable = first >= 0 && first <= stop && stop <= segments.tokens;
        count = usable ? stop - first : 0;
      }
      if (!usable || count > segments.max_length) {
        score[row] = std::numeric_limits<double>::quiet_NaN();
        continue;
      }
      double sum = score[row];
      for (int64_t i = first; i < first + count; ++i) sum += static_cast<double>(diff[i]);
      score[row] = sum;
    }
  });
}

// One prompt's pool: `rank` says how a row takes a place, `order` is by (score descending, row
// ascending) with NaN last.
enum Rank : uint8_t { kValid = 0, kLoser = 1, kNotANumber = 2 };

class Pool {
 public:
  template <class T>
  void sort(const T* score, int64_t rows) {
    order_.resize(static_cast<size_t>(rows));
    rank_.assign(static_cast<size_t>(rows), kValid);
    for (int64_t row = 0; row < rows; ++row) {
      order_[row] = row;
      if (std::isnan(score[row])) rank_[row] = kNotANumber;
    }
    std::sort(order_.begin(), order_.end(), [&](int64_t a, int64_t b) {
      const bool nan_a = rank_[a] == kNotANumber, nan_b = rank_[b] == kNotANumber;
      if (nan_a != nan_b) return nan_b;
      if (!nan_a && score[a] != score[b]) return score[a] > score[b];
      return a < b;
    });
  }

  // Of the rows with the same clone_of >= 0, all but the first in order become losers.
  void mark_clones(const Targets& clone_of, int64_t first) {
    clones_.clear();
    for (size_t place = 0; place < order_.size(); ++place) {
      const int64_t ancestor = clone_of.at(first + order_[place]);
      if (ancestor >= 0 && rank_[order_[place]] == kValid) clones_.emplace_back(ancestor, place);
    }
    std::sort(clones_.begin(), clones_.end());
    for (size_t i = 1; i < clones_.size(); ++i) {
      if (clones_[i].first == clones_[i - 1].first) rank_[order_[clones_[i].second]] = kLoser;
    }
  }

  // Calls emit(place, row, valid) for the first `width` places: valid rows, losers, NaN rows.
  template <class Emit>
  void take(int64_t width, const Emit& emit) const {
    int64_t place = 0;
    for (Rank rank : {kValid, kLoser, kNotANumber}) {
      for (int64_t row : order_) {
        if (place == width) return;
        if (rank_[row] == rank) emit(place++, row, rank == kValid);
      }
    }
  }

 private:
  std::vector<int64_t> order_;
  std::vector<uint8_t> rank_;                       // by row
  std::vector<std::pair<int64_t, size_t>> clones_;  // (ancestor, place in order_)
};

template <class T>
void select(const T* score, const Pools& pools, const Selection& out) {
  T* value = static_cast<T*>(out.score);
  const Targets clone_of{pools.clone_of, pools.clone_is_int64, pools.rows};
  const int64_t grain = 1 + 4096 / (1 + pools.rows);  // some 50 us of sorting
  parallel(0, pools.prompts, grain, [&](int64_t begin, int64_t end) {
    Pool pool;
    for (int64_t p = begin; p < end; ++p) {
      const T* pool_score = score + p * pools.stride;
      pool.sort(pool_score, pools.rows);
      if (pools.clone_of != nullptr) pool.mark_clones(clone_of, p * pools.rows);
      pool.take(out.width, [&](int64_t place, int64_t row, bool valid) {
        const int64_t first = (p * out.width + place) * out.repeat;
        std::fill_n(out.parent + first, out.repeat, row);
        std::fill_n(value + first, out.repeat, pool_score[row]);
        std::fill_n(out.valid + first, out.repeat, valid);
      });
    }
  });
}

}  // namespace

void segment_score(const void* diff, bool is_float64, const Segments& segments, double* score) {
  if (is_float64) {
    add_segments(static_cast<const double*>(diff), segments, score);
  } else {
    add_segments(static_cast<const float*>(diff), segments, score);
  }
}

void select_beams(const void* score, bool is_float64, const Pools& pools, const Selection& out) {
  if (is_float64) {
    select(static_cast<const double*>(score), pools, out);
  } else {
    select(static_cast<const float*>(score), pools, out);
  }
}

}  // namespace w2s
