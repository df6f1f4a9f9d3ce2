// Given the same step times, the simulator makes the same scheduling decisions as Vidur (microsoft/vidur): the published
// runs of data/vidur_runs were made with a closed-form time model, which is implemented here as a test-only cost model.
//
// Vidur's own habits stay in this file: prompt budgets that count padded tokens, TPOT divided by all output tokens.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "schedulers/batching.h"
#include "schedulers/router.h"
#include "sim/cluster.h"
#include "tests/support/data_dir.h"

namespace simrun {
namespace {

// data/vidur_runs/analytic_time_model.json: 32 layers, times in ms per layer.
class VidurTimeModel final : public StepCostModel {
 public:
  int stages() const override { return 1; }
  void Predict(std::span<const StepWork> ranks, StepCost* cost) override {
    const StepWork& w = ranks[0];
    const double n = std::ceil(static_cast<double>(w.tokens) / 8) * 8;
    double ms = 0;
    ms += 0.04 + 0.0002 * n;        // attn_pre_proj
    ms += 0.03 + 0.00014 * n;       // attn_post_proj
    ms += 0.13 + 0.00098 * n;       // mlp_up_proj
    ms += 0.065 + 0.00049 * n;      // mlp_down_proj
    ms += 0.004 + 7e-5 * n;         // mlp_act
    ms += 3 * (0.004 + 3e-5 * n);   // two norms and rope
    ms += 0.003 + 2e-5 * n;         // add
    ms += 0.003 + 1e-5 * static_cast<double>(w.tokens);  // attn_kv_cache_save, tokens not rounded
    if (!w.chunks.empty()) {
      double squares = 0, kv = 0;
      for (const PrefillChunk& c : w.chunks) {
        squares += static_cast<double>(c.tokens) * static_cast<double>(c.tokens);
        kv += std::ceil(static_cast<double>(c.past) / 64) * 64;
      }
      const double root = std::round(std::sqrt(squares));
      ms += (0.008 + 4e-7 * root * root + 1e-5 * kv) * (w.chunks.size() > 1 ? 1.1 : 1.0);
    }
    if (w.decode_seqs > 0) {
      const double mean = std::floor(static_cast<double>(w.decode_kv_sum) / static_cast<double>(w.decode_seqs));
      const double kv = std::ceil(mean / 64) * 64;
      ms += (0.010 + 2.5e-6 * static_cast<double>(w.decode_seqs) * kv) * (w.decode_seqs > 1 ? 1.1 : 1.0);
    }
    cost->stage_seconds[0] = 1e-3 * 32 * ms;
    cost->dynamic_joules = 0;
    cost->bound_seconds = {};
    cost->bound_seconds[0] = cost->stage_seconds[0];
  }
};

// Vidur's vLLM scheduler: prompts have priority, and the token limit counts every prompt as long as the longest.
class VidurVllm final : public BatchingPolicy {
 public:
  void Plan(const ReplicaView& view, Batch* batch) const override {
    int64_t running = view.running(), free = view.free_blocks, longest = 0, count = 0;
    for (WaitingQueue::Cursor c(*view.waiting); !c.done(); c.Next()) {
      const int64_t tokens = c.request().prompt_tokens;
      longest = std::max(longest, tokens);
      if (running >= view.limits.max_num_seqs || (count + 1) * longest > view.limits.max_num_batched_tokens) break;
      const int64_t need = view.BlocksFor(c.request());
      if (free - need < view.limits.watermark_blocks) break;
      batch->admitted_tokens.push_back(tokens);
      free -= need;
      ++running;
      ++count;
    }
    if (batch->admitted_tokens.empty()) batch->decode = view.decode_seqs > 0;
  }
  bool stable_while_decoding() const override { return true; }
};

struct Published {
  uint64_t id = 0;
  double arrival = 0, first_token = 0, completed = 0, ttft = 0, e2e = 0;
  int64_t input = 0, output = 0;
};

std::vector<Published> ReadRun(const std::string& path) {
  std::ifstream in(path);
  std::vector<Published> rows;
  std::string line;
  std::getline(in, line);  // id,arrival_s,prefill_tokens,decode_tokens,scheduled_s,first_token_s,completed_s,ttft_s,tpot_s,e2e_s,restarts
  while (std::getline(in, line)) {
    std::vector<double> v;
    std::stringstream cells(line);
    for (std::string cell; std::getline(cells, cell, ',');) v.push_back(std::stod(cell));
    rows.push_back({static_cast<uint64_t>(v[0]), v[1], v[5], v[6], v[7], v[9], static_cast<int64_t>(v[2]), static_cast<int64_t>(v[3])});
  }
  std::sort(rows.begin(), rows.end(), [](const Published& a, const Published& b) { return a.arrival < b.arrival; });
  return rows;
}

class ListSource final : public ArrivalSource {
 public:
  explicit ListSource(const std::vector<Published>& rows) : rows_(rows) { Update(); }
  absl::StatusOr<NextResult> Next(Arrival* out) override {
    if (next_ == rows_.size()) return NextResult::kEnd;
    const Published& r = rows_[next_++];
    *out = Arrival();
    out->id = r.id;
    out->at = SimTime::From(Seconds(r.arrival));
    out->input_tokens = r.input;
    out->output_tokens = r.output;
    Update();
    return NextResult::kArrival;
  }

 private:
  void Update() { set_next_time(next_ == rows_.size() ? SimTime::Infinite() : SimTime::From(Seconds(rows_[next_].arrival))); }
  const std::vector<Published>& rows_;
  size_t next_ = 0;
};

class Collector final : public EngineObserver {
 public:
  void OnFinish(const RequestRecord& r) override { records[r.id] = r; }
  std::map<uint64_t, RequestRecord> records;
};

std::map<uint64_t, RequestRecord> Replay(const std::vector<Published>& rows, const BatchingPolicy& policy, BatchLimits limits) {
  ClusterParams params;
  params.engine.limits = limits;
  params.engine.kv_blocks = 30208;  // Llama-3-8B on one A100, as Vidur plans it
  params.engine.limits.watermark_blocks = 303;
  VidurTimeModel model;
  RunMetrics metrics(Slo{}, SimTime{});
  ListSource source(rows);
  Cluster cluster(params, policy, &model, (*BuiltInRouters().Find("round-robin"))(Rng(1, "router")), &source, &metrics);
  Collector collector;
  cluster.set_observer(&collector);
  EXPECT_TRUE(cluster.RunOpenLoop().ok());
  return collector.records;
}

void ExpectSameTimes(const std::string& file, int64_t max_num_seqs, int64_t chunk) {
  const std::string path = DataFile("vidur_runs/" + file);
  if (path.empty()) GTEST_SKIP() << "no data: set SIMRUN_DATA_DIR to the folder that holds vidur_runs/";
  const std::vector<Published> rows = ReadRun(path);
  ASSERT_EQ(rows.size(), 1000u);
  const auto policy = (*BuiltInBatchingPolicies().Find("chunked-prefill"))();
  const auto records = Replay(rows, *policy, {.max_num_seqs = max_num_seqs, .max_num_batched_tokens = chunk, .block_size = 16});
  ASSERT_EQ(records.size(), rows.size());
  double worst = 0;
  for (const Published& r : rows) {
    const RequestRecord& ours = records.at(r.id);
    worst = std::max(worst, std::abs((ours.arrival + ours.ttft).seconds().value() - r.first_token));
    worst = std::max(worst, std::abs((ours.arrival + ours.e2e).seconds().value() - r.completed));
  }
  EXPECT_LE(worst, 1e-6);
  testing::Test::RecordProperty("worst_difference_ns", static_cast<int>(worst * 1e9));
}

TEST(VidurReplay, ChunkedPrefillConversationEveryTimeWithinAMicrosecond) {
  ExpectSameTimes("conv_analytic_sarathi_n1000_r1_requests.csv", 128, 512);
}

TEST(VidurReplay, ChunkedPrefillShortEveryTimeWithinAMicrosecond) {
  ExpectSameTimes("short_analytic_sarathi_n1000_r1_requests.csv", 8, 256);
}

double Mean(const std::vector<double>& v) {
  double sum = 0;
  for (const double x : v) sum += x;
  return sum / static_cast<double>(v.size());
}
double Quantile(std::vector<double> v, double q) {
  std::sort(v.begin(), v.end());
  return v[static_cast<size_t>(std::ceil(q * static_cast<double>(v.size()))) - 1];
}

TEST(VidurReplay, PrefillFirstShortStatisticsWithinOnePercent) {
  const std::string path = DataFile("vidur_runs/short_analytic_vllm_n1000_r1_requests.csv");
  if (path.empty()) GTEST_SKIP() << "no data: set SIMRUN_DATA_DIR to the folder that holds vidur_runs/";
  const std::vector<Published> rows = ReadRun(path);
  const VidurVllm policy;
  const auto records = Replay(rows, policy, {.max_num_seqs = 8, .max_num_batched_tokens = 4096, .block_size = 16});
  ASSERT_EQ(records.size(), rows.size());
  std::vector<double> ttft, e2e, their_ttft, their_e2e;
  for (const Published& r : rows) {
    ttft.push_back(records.at(r.id).ttft.seconds().value());
    e2e.push_back(records.at(r.id).e2e.seconds().value());
    their_ttft.push_back(r.ttft);
    their_e2e.push_back(r.e2e);
  }
  EXPECT_NEAR(Mean(ttft) / Mean(their_ttft), 1, 0.01);
  EXPECT_NEAR(Mean(e2e) / Mean(their_e2e), 1, 0.01);
  for (const double q : {0.5, 0.99}) {
    EXPECT_NEAR(Quantile(ttft, q) / Quantile(their_ttft, q), 1, 0.01) << q;
    EXPECT_NEAR(Quantile(e2e, q) / Quantile(their_e2e, q), 1, 0.01) << q;
  }
}

}  // namespace
}  // namespace simrun
