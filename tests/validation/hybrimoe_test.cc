// The ablation of HybriMoE (arXiv 2504.05897): Qwen2-57B-A14B in 4 bits, RTX A6000, Xeon Gold 5220R limited to 10 cores,
// a quarter of the experts in GPU memory.
//
// One number is calibrated, the time of an expert on the CPU, on the decode baseline (0.21 s per token, experts pinned
// without regard to popularity). The GPU's time and the size of an expert follow from the machine and the model. The
// time of a transfer cannot be read off the baseline, which has none: 15.5 MB over PCIe 4 x16 is 0.62 ms from pinned
// memory, and 2.3 ms where the driver copies pageable memory through a staging buffer at the 9 GB/s of one core. That core
// is one of the ten, busy for the 1.7 ms of a copy in each 2.3: where experts are transferred, 9.3 compute.
#include <algorithm>
#include <cmath>
#include <map>
#include <string>

#include "base/csv.h"
#include "gtest/gtest.h"
#include "models/expert_router.h"
#include "sim/expert_execution.h"
#include "tests/support/data_dir.h"
#include "tests/support/expert_parts.h"

namespace simrun {
namespace {

constexpr int kLayers = 28, kExperts = 64, kTopK = 8;
constexpr double kExpertBytes = 3.0 * 3584 * 2560 * 4.5 / 8;
constexpr double kPinned = 25e9, kCoreCopy = 9e9, kCores = 10;

// Fetched experts take the place of the one used longest ago, as in any cache of fixed size (were the residents pinned,
// and fetched ones dropped again, scheduling alone would give 1.30 in decode, not 1.62; published is 1.46).
struct Variant {
  const char *policy, *cache, *prefetch;
};
const std::map<std::string, Variant>& Variants() {
  static const auto* const v = new std::map<std::string, Variant>{
      {"baseline_ktransformers", {"static", "pinned", "none"}},
      {"+scheduling", {"hybrid", "lru", "none"}},
      {"+prefetching", {"static", "pinned", "impact"}},
      {"+caching", {"static", "score", "none"}},
      {"all", {"hybrid", "score", "impact"}},
  };
  return *v;
}

// Seconds of one step, mean of `steps` after as many to settle. `decodes` sequences or a prompt.
double StepSeconds(const Variant& v, const ExpertCosts& costs, int64_t decodes, int64_t prompt, int steps) {
  const ExpertParts parts(v.policy, v.cache, v.prefetch);
  ExpertExecutionParams params = parts.Params();
  params.prefetch_layers = 3;
  params.prefetch_buffer = kTopK;
  params.predictor_accuracy = 0.8;
  params.places.assign(kLayers, kExperts / 4);
  RoutingLaw law{kTopK, GammaPopularity(kLayers, kExperts, kTopK, 0.83, Rng(1, "popularity")), 0.195, 0.71, 0.3};
  ExpertExecution execution(params, MakeLawRouter(law, Rng(1, "routing")), Rng(1, "predictor"));
  // Between the experts of two layers: attention, shared experts and router, 0.25 G parameters in 4.5 bits at 650 GB/s or, for a
  // prompt, their products at 0.6 of the GPU's 155 TFLOP/s; and about twenty launches of 10 us.
  const double between = 0.25e9 * std::max(4.5 / 8 / 650e9, 2.0 * static_cast<double>(decodes + prompt) / (0.6 * 155e12)) + 20 * 10e-6;
  double sum = 0;
  for (int s = 0; s < 2 * steps; ++s) {
    execution.Begin(decodes, prompt);
    double seconds = 0;
    for (int l = 0; l < kLayers; ++l) seconds += execution.Layer(l, costs, 0, 0, 0, between).makespan + between;
    if (s >= steps) sum += seconds;
  }
  return sum / steps;
}

TEST(HybriMoe, Ablation) {
  const std::string path = DataFile("seeds/hybrimoe_ablation.csv");
  if (path.empty()) GTEST_SKIP() << "no data";
  const CsvTable table = *CsvTable::Read(path);
  const size_t name = *table.Column("variant"), prefill_column = *table.Column("prefill_speedup"), decode_column = *table.Column("decode_speedup");
  std::map<std::string, double> prefill, decode;
  for (size_t i = 0; i < table.rows(); ++i) {
    decode[table.Cell(i, name)] = std::stod(table.Cell(i, decode_column));
    if (!table.Cell(i, prefill_column).empty()) prefill[table.Cell(i, name)] = std::stod(table.Cell(i, prefill_column));
  }

  const auto run = [&](double transfer, double copy_cores, std::map<std::string, double>* decodes, std::map<std::string, double>* prefills) {
    ExpertCosts costs;
    costs.gpu_base = kExpertBytes / (768e9 * 0.85) + 10e-6;
    costs.cpu_first = 20e-6;
    costs.transfer = transfer;
    double low = 0, high = 0.1;  // calibration on the decode baseline
    for (int i = 0; i < 40; ++i) {
      costs.cpu_base = (low + high) / 2;
      (StepSeconds(Variants().at("baseline_ktransformers"), costs, 1, 0, 30) < 0.21 ? low : high) = costs.cpu_base;
    }
    EXPECT_NEAR(costs.cpu_base, 1.17e-3, 0.05e-3);
    const double base = StepSeconds(Variants().at("baseline_ktransformers"), costs, 1, 0, 100);
    // A prompt of 128 tokens: 16 per expert still read its weights more slowly than they multiply. Not calibrated.
    const double base_prefill = StepSeconds(Variants().at("baseline_ktransformers"), costs, 0, 128, 10);
    EXPECT_NEAR(base_prefill, 1.47, 0.15 * 1.47);
    ExpertCosts beside_copies = costs;
    beside_copies.cpu_base *= kCores / (kCores - copy_cores);
    for (const auto& [variant, v] : Variants()) {
      const ExpertCosts& c = variant == "baseline_ktransformers" ? costs : beside_copies;
      (*decodes)[variant] = base / StepSeconds(v, c, 1, 0, 100);
      (*prefills)[variant] = base_prefill / StepSeconds(v, c, 0, 128, 10);
    }
  };
  std::map<std::string, double> d, p, pinned_d, pinned_p;
  const double copy = kExpertBytes / kCoreCopy, cross = kExpertBytes / kPinned;
  run(cross + copy, copy / (cross + copy), &d, &p);
  run(kExpertBytes / kPinned, 0, &pinned_d, &pinned_p);
  int line = 0;
  // Seen with --gtest_output=xml.
  for (const auto& [variant, speedup] : decode) {
    const std::string text = variant + ": decode " + std::to_string(speedup) + " predicted " + std::to_string(d[variant]) + " pinned " +
                             std::to_string(pinned_d[variant]) + "; prefill " + std::to_string(prefill[variant]) + " predicted " +
                             std::to_string(p[variant]) + " pinned " + std::to_string(pinned_p[variant]);
    RecordProperty("speedups_" + std::to_string(line++), text);
  }
  for (const char* variant : {"+scheduling", "+prefetching", "+caching", "all"}) EXPECT_NEAR(d[variant], decode[variant], 0.15 * decode[variant]) << variant;
  // In the published order.
  EXPECT_GT(d["all"], d["+scheduling"]);
  EXPECT_GT(d["+scheduling"], d["+caching"]);
  EXPECT_GT(d["+caching"], d["+prefetching"]);
  EXPECT_GT(p["all"], p["+scheduling"]);
  EXPECT_GT(p["+scheduling"], p["+prefetching"]);
  for (const char* variant : {"+scheduling", "+prefetching", "all"}) EXPECT_NEAR(p[variant], prefill[variant], 0.15 * prefill[variant]) << variant;
  // Transfers from pinned memory would gain far more.
  for (const char* variant : {"+scheduling", "all"}) {
    EXPECT_GT(pinned_d[variant], 1.3 * decode[variant]) << variant;
  }
}

// The hit rates published for the same model, LRU 0.450 and score 0.528, against those of the law of choices, whose
// constants come from another model. What the score gains comes from the router's scores, which the law does not have.
TEST(HybriMoe, HitRates) {
  const std::string path = DataFile("seeds/hybrimoe_cache_hit.csv");
  if (path.empty()) GTEST_SKIP() << "no data";
  std::map<std::string, double> hit;
  for (const char* cache : {"lru", "score", "oracle"}) {
    const ExpertParts parts("stream", cache, "none");
    ExpertExecutionParams params = parts.Params();
    params.places.assign(kLayers, kExperts / 4);
    RoutingLaw law{kTopK, GammaPopularity(kLayers, kExperts, kTopK, 0.83, Rng(1, "popularity")), 0.195, 0.71, 0.3};
    ExpertExecution execution(params, MakeLawRouter(law, Rng(1, "routing")), Rng(1, "predictor"));
    ExpertCosts costs;
    costs.transfer = 1e-3;
    for (int s = 0; s < 300; ++s) {
      execution.Begin(1, 0);
      for (int l = 0; l < kLayers; ++l) execution.Layer(l, costs, 0, 0, 0, 0);
    }
    hit[cache] = static_cast<double>(execution.totals().hits) / static_cast<double>(execution.totals().uses);
  }
  EXPECT_NEAR(hit["lru"], 0.450, 0.06);
  EXPECT_NEAR(hit["score"], 0.528, 0.06);
  EXPECT_GT(hit["oracle"], hit["score"] + 0.1);
}

}  // namespace
}  // namespace simrun
