// Every instruction set gives the bits of the generic one: `same_bits [factor]` runs each check on
// all that run here, `factor` times as many cases as usual. Exit 1 and a line for each difference
// (the first few of a check). A digest is over the generic results that no libm touches: it is the
// same on every processor.
#include "same_bits.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "core.h"

namespace {

using same_bits::Check;
using same_bits::Random;
using same_bits::Record;

struct Named {
  const char* name;
  Check check;
  int64_t cases;  // at factor 1; 0: once, whatever the factor
};

constexpr Named kChecks[] = {
    {"primitives", same_bits::check_primitives, 4000},
    {"conversions", same_bits::check_conversions, 0},
    {"leaf", same_bits::check_leaf, 1500},
    {"leaf_gradient", same_bits::check_leaf_gradient, 600},
    {"logprob", same_bits::check_logprob, 400},
    {"linear", same_bits::check_linear, 1500},
    {"guide_block", same_bits::check_guide_block, 3000},
    {"weigh_and_compact", same_bits::check_weigh_and_compact, 3000},
    {"guided_ops", same_bits::check_guided_ops, 400},
    {"extrapolate", same_bits::check_extrapolate, 1500},
};
constexpr int64_t kShown = 5;  // differences printed of a check and instruction set

std::vector<std::string> isas() {
  std::vector<std::string> names;
  std::string all = w2s::isa_available();
  for (char* name = std::strtok(all.data(), " "); name != nullptr; name = std::strtok(nullptr, " "))
    if (std::strcmp(name, "generic") != 0) names.emplace_back(name);
  return names;
}

Record run(const Named& check, int64_t index, const char* isa) {
  if (!w2s::set_isa(isa)) {
    std::fprintf(stderr, "the instruction set %s could not be chosen\n", isa);
    std::exit(2);
  }
  Random random(static_cast<uint64_t>(index));
  Record record;
  check.check(random, record);
  return record;
}

}  // namespace

int main(int count, char** arguments) {
  const double factor = count > 1 ? std::atof(arguments[1]) : 1.0;
  if (!(factor > 0.0)) {
    std::fprintf(stderr, "usage: same_bits [factor > 0]\n");
    return 2;
  }
  const std::vector<std::string> others = isas();
  if (others.empty()) {
    std::printf("only the generic instruction set runs here: nothing to compare\n");
    return 2;
  }
  int64_t differences = 0, total = 0;
  for (const Named& check : kChecks) {
    const auto cases = check.cases == 0 ? 1 : static_cast<int64_t>(check.cases * factor) + 1;
    const auto begin = std::chrono::steady_clock::now();
    std::vector<int64_t> wrong(others.size(), 0);
    int64_t values = 0;
    uint64_t digest = 0xcbf29ce484222325u;
    for (int64_t i = 0; i < cases; ++i) {
      const Record expected = run(check, i, "generic");
      digest = expected.digest(digest);
      values += expected.size();
      for (size_t k = 0; k < others.size(); ++k) {
        const std::string difference = run(check, i, others[k].c_str()).difference(expected);
        if (difference.empty() || ++wrong[k] > kShown) continue;
        std::printf("%s, case %lld, %s: %s\n", check.name, static_cast<long long>(i),
                    others[k].c_str(), difference.c_str());
      }
    }
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    std::printf("%-18s %6lld cases %10lld values", check.name, static_cast<long long>(cases),
                static_cast<long long>(values));
    for (size_t k = 0; k < others.size(); ++k) {
      std::printf("  %s: %s", others[k].c_str(), wrong[k] == 0 ? "same" : "DIFFERENT");
      differences += wrong[k];
    }
    std::printf("  digest %016llx  %.1f s\n", static_cast<unsigned long long>(digest),
                seconds.count());
    total += values * static_cast<int64_t>(others.size());
  }
  std::printf("compared %lld values; %lld cases differ\n", static_cast<long long>(total),
              static_cast<long long>(differences));
  return differences == 0 ? 0 : 1;
}
