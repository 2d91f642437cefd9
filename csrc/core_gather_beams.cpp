// gather_beams_: plans the fewest copies once, then runs the plan on every (cache, head).
//
// Row r waits for every row that reads what r is about to overwrite, so rows are written in that
// order. A row has one parent, so what remains after that are plain cycles: each costs one saved
// range, the only copy beyond the moves themselves.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <utility>
#include <vector>

#include "core.h"
#include "core_copy.h"

namespace w2s {

namespace {

constexpr int64_t kSaved = -1;  // as a row: the saved range

struct Move {
  int64_t to, from, start, stop;
};

struct Plan {
  std::vector<Move> moves;     // in the order to run, chain after chain
  std::vector<int64_t> first;  // moves[first[i] … first[i + 1]) are chain i: independent of others
};

class Planner {
 public:
  Planner(const BeamRows& rows, int64_t longest) : rows_(rows), longest_(longest) {}

  Plan plan() {
    const int64_t n = rows_.rows;
    readers_.assign(static_cast<size_t>(n), 0);
    reader_.assign(static_cast<size_t>(n), -1);
    chain_.resize(static_cast<size_t>(n));
    std::iota(chain_.begin(), chain_.end(), int64_t{0});
    for (int64_t r = 0; r < n; ++r) {
      if (waits_for(r)) {
        ++readers_[rows_.parent[r]];
        chain_[root(r)] = root(rows_.parent[r]);
      }
    }
    for (int64_t r = 0; r < n; ++r) {
      if (readers_[r] == 0 && moves(r)) write_while_free(r);
    }
    for (int64_t r = 0; r < n; ++r) {
      if (readers_[r] > 0 && waits_for(r)) reader_[rows_.parent[r]] = r;
    }
    for (int64_t r = 0; r < n; ++r) {
      if (readers_[r] > 0) write_cycle(r);
    }
    return grouped();
  }

 private:
  int64_t start(int64_t r) const { return std::max<int64_t>(0, rows_.start[r]); }
  int64_t stop(int64_t r) const { return std::min(longest_, rows_.stop[r]); }

  bool moves(int64_t r) const {
    const int64_t p = rows_.parent[r];
    return p != r && p >= 0 && p < rows_.rows && start(r) < stop(r);
  }

  // Whether r reads what the write of its parent's row will overwrite.
  bool waits_for(int64_t r) const {
    if (!moves(r)) return false;
    const int64_t p = rows_.parent[r];
    return moves(p) && std::max(start(r), start(p)) < std::min(stop(r), stop(p));
  }

  int64_t root(int64_t r) {
    while (chain_[r] != r) r = chain_[r] = chain_[chain_[r]];
    return r;
  }

  // Writes r, which nobody waits for, and then every row that this sets free.
  void write_while_free(int64_t r) {
    for (bool more = true; more;) {
      const int64_t p = rows_.parent[r];
      const bool waited = waits_for(r);
      ordered_.push_back({r, p, start(r), stop(r)});
      readers_[r] = kDone;
      more = waited && --readers_[p] == 0;
      r = p;
    }
  }

  // r0 <- r1 <- … <- r0: saves what the last one reads of r0, the first that is overwritten.
  void write_cycle(int64_t first) {
    const int64_t last = reader_[first];
    ordered_.push_back({kSaved, first, start(last), stop(last)});
    for (int64_t r = first;; r = rows_.parent[r]) {
      readers_[r] = kDone;
      ordered_.push_back({r, r == last ? kSaved : rows_.parent[r], start(r), stop(r)});
      if (r == last) return;
    }
  }

  Plan grouped() {
    const auto chain_of = [this](const Move& m) { return root(m.to == kSaved ? m.from : m.to); };
    std::stable_sort(ordered_.begin(), ordered_.end(),
                     [&](const Move& a, const Move& b) { return chain_of(a) < chain_of(b); });
    Plan plan{std::move(ordered_), {}};
    for (size_t i = 0; i < plan.moves.size(); ++i) {
      if (i == 0 || chain_of(plan.moves[i]) != chain_of(plan.moves[i - 1])) {
        plan.first.push_back(static_cast<int64_t>(i));
      }
    }
    plan.first.push_back(static_cast<int64_t>(plan.moves.size()));
    return plan;
  }

  static constexpr int64_t kDone = -1;
  const BeamRows& rows_;
  const int64_t longest_;
  std::vector<int64_t> readers_;  // rows that still have to read this one; kDone once it is written
  std::vector<int64_t> reader_;   // on a cycle: the one that reads this row
  std::vector<int64_t> chain_;    // union-find over "waits for"
  std::vector<Move> ordered_;
};

// Copies positions [start, stop) of one head; positions may have a stride, a position's D elements
// have none.
void copy_positions(char* to, int64_t to_stride, const char* from, int64_t from_stride,
                    int64_t bytes, int64_t start, int64_t stop, bool past_caches) {
  to += start * to_stride;
  from += start * from_stride;
  if (to_stride == bytes && from_stride == bytes) {
    const size_t size = static_cast<size_t>((stop - start) * bytes);
    if (past_caches) {
      copy_past_caches(to, from, size);
    } else {
      std::memcpy(to, from, size);
    }
    return;
  }
  for (int64_t i = start; i < stop; ++i, to += to_stride, from += from_stride) {
    std::memcpy(to, from, static_cast<size_t>(bytes));
  }
}

// One head of one cache, or a saved range of it.
struct Row {
  char* data;
  int64_t stride;  // between positions
};

void run_chain(const BeamCache& cache, int64_t head, const Move* move, const Move* end,
               bool past_caches, std::vector<char>& saved) {
  const auto row = [&](int64_t r) {
    if (r == kSaved) return Row{saved.data(), cache.position_bytes};
    return Row{cache.data + head * cache.head_stride + r * cache.row_stride, cache.position_stride};
  };
  for (; move != end; ++move) {
    const int64_t stop = std::min(move->stop, cache.length);
    if (move->start >= stop) continue;
    if (move->to == kSaved) saved.resize(static_cast<size_t>(stop * cache.position_bytes));
    const Row to = row(move->to), from = row(move->from);
    copy_positions(to.data, to.stride, from.data, from.stride, cache.position_bytes, move->start,
                   stop, past_caches && move->to != kSaved);
  }
}

}  // namespace

void gather_beams(const BeamCache* caches, int64_t count, const BeamRows& rows) {
  int64_t longest = 0, heads = 0, position_bytes = 0;
  for (int64_t i = 0; i < count; ++i) {
    longest = std::max(longest, caches[i].length);
    heads += caches[i].heads;
    position_bytes += caches[i].heads * caches[i].position_bytes;
  }
  const Plan plan = Planner(rows, longest).plan();
  const int64_t chains = static_cast<int64_t>(plan.first.size()) - 1;
  if (chains == 0 || heads == 0) return;

  std::vector<int64_t> first_task(static_cast<size_t>(count) + 1, 0);  // of each cache
  for (int64_t i = 0; i < count; ++i) {
    first_task[i + 1] = first_task[i] + caches[i].heads * chains;
  }
  int64_t positions = 0;
  for (const Move& move : plan.moves) positions += move.stop - move.start;
  const int64_t bytes = positions * position_bytes;
  constexpr int64_t kBytesPerPiece = 256 << 10;  // below that a thread costs more than it saves
  constexpr int64_t kCached = 4 << 20;           // more than this is not worth keeping in a cache
  const int64_t grain =
      std::max<int64_t>(1, kBytesPerPiece / std::max<int64_t>(1, bytes / (heads * chains)));
  parallel(0, first_task[count], grain, [&](int64_t begin, int64_t end) {
    std::vector<char> saved;
    int64_t i = 0;
    for (int64_t task = begin; task < end; ++task) {
      while (task >= first_task[i + 1]) ++i;
      const int64_t local = task - first_task[i];
      const int64_t head = local / chains, chain = local % chains;
      run_chain(caches[i], head, plan.moves.data() + plan.first[chain],
                plan.moves.data() + plan.first[chain + 1], bytes > kCached, saved);
    }
    copied_past_caches();
  });
}

}  // namespace w2s
