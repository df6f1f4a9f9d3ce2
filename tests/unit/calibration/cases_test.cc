#include "calibration/cases.h"

#include <cmath>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "calibration/case_scenario.h"
#include "calibration/roofline.h"
#include "calibration/validate.h"
#include "sim/resolved.h"
#include "sim/simulation.h"
#include "tests/support/cases.h"
#include "workload/distributions.h"

namespace simrun {
namespace {

using ::testing::HasSubstr;

constexpr char kHeader[] =
    "case_id,class,model,weights_dtype,kv_dtype,engine,engine_version,gpu,n_gpus,tp,pp,ep,dp,load_kind,load_value,num_requests,isl,osl,"
    "trace,metric,statistic,value,unit,source,notes\n";

std::string Write(const std::string& rows) {
  // A file of each test's own: they may run side by side.
  const std::string path = testing::TempDir() + "/" + testing::UnitTest::GetInstance()->current_test_info()->name() + "_cases.csv";
  std::ofstream(path) << kHeader << rows;
  return path;
}

std::shared_ptr<const Catalog> BuiltIn() { return std::make_shared<const Catalog>(BuiltInCatalog()); }

TEST(Cases, GroupsRowsAndReadsNotes) {
  const auto cases = ReadCases(Write(
      "a,energy,llama-3-8b,fp16,fp16,vllm,0.6.0,h100-sxm-80gb,1,1,1,1,1,static_batch,4,4,128,32,,power,mean,300,W,s,eager=1;kv_block_size=32#free = text\n"
      "b,static-batch,llama-3-8b,fp16,,vllm,0.6.0,h100-sxm-80gb,2,2,1,1,1,static_batch,1,,128,32,,ttft,mean,20,ms,s,\n"
      "a,static-batch,llama-3-8b,fp16,fp16,vllm,0.6.0,h100-sxm-80gb,1,1,1,1,1,static_batch,4,4,128,32,,e2e,mean,0.5,s,s,\n"));
  ASSERT_TRUE(cases.ok()) << cases.status();
  ASSERT_EQ(cases->size(), 2u);
  const MeasuredCase& a = (*cases)[0];
  EXPECT_EQ(a.values.size(), 2u);
  EXPECT_EQ(a.class_name, "static-batch") << "the energy row does not name the case";
  EXPECT_EQ(a.Note("eager"), "1");
  EXPECT_EQ(a.Note("kv_block_size"), "32");
  EXPECT_FALSE(a.Note("free ").has_value());
  EXPECT_EQ((*cases)[1].tp, 2);
  EXPECT_FALSE((*cases)[1].num_requests.has_value());
}

TEST(Cases, SettingsOfASourceReachTheScenario) {
  auto cases = ReadCases(Write(
      "a,static-batch,llama-3-8b,fp16,fp16,vllm,0.6.0,h100-sxm-80gb,1,1,1,1,1,static_batch,4,4,128,32,,e2e,mean,0.5,s,s,eager=1\n"));
  ASSERT_TRUE(cases.ok()) << cases.status();
  const std::string path = testing::TempDir() + "/SettingsOfASource.csv";
  std::ofstream(path) << "case_id,notes,source\na,\"eager=0;set:plan.placement={rules: [{tensors: dense_ffn, tier: dram}], window: 3}\",s\nelsewhere,eager=1,s\n";
  ASSERT_TRUE(AddSettings(path, &*cases).ok());
  EXPECT_EQ((*cases)[0].Note("eager"), "0") << "it knows better than the row";
  const auto scenario = ScenarioOfCase((*cases)[0], "", BuiltIn());
  ASSERT_TRUE(scenario.ok()) << scenario.status();
  EXPECT_EQ(scenario->scenario.resolved().placement.window, 3);
  EXPECT_FALSE(scenario->scenario.resolved().placement.resident);
  std::ofstream(path) << "case_id,note\n";
  EXPECT_THAT(std::string(AddSettings(path, &*cases).message()), HasSubstr("column \"notes\" is missing; did you mean \"note\"?"));
  std::ofstream(path) << "case_id,notes\na,set:plan.placement\n";
  EXPECT_THAT(std::string(AddSettings(path, &*cases).message()), HasSubstr(":2:1: notes: hold no key=value pair"));
}

TEST(Cases, ReportsEveryProblem) {
  const auto bad = ReadCases(Write(
      "a,c,m,,,e,,g,x,1,1,1,1,static_batch,4,4,128,32,,ttft,mean,20,ms,s,\n"
      "b,c,m,,,e,,g,1,1,1,1,1,static_batch,4,4,128,32,,ttft,mean,-20,ms,s,\n"));
  ASSERT_FALSE(bad.ok());
  EXPECT_THAT(std::string(bad.status().message()), HasSubstr("cases.csv:2:1: n_gpus"));
  EXPECT_THAT(std::string(bad.status().message()), HasSubstr("cases.csv:3:1: value"));
  const std::string path = testing::TempDir() + "/nothing.csv";
  std::ofstream(path) << "case_id,clas\n";
  EXPECT_THAT(std::string(ReadCases(path).status().message()), HasSubstr("column \"class\" is missing; did you mean \"clas\"?"));
}

TEST(EngineProfileFor, TakesTheLongestListedPrefix) {
  const auto catalog = BuiltIn();
  EXPECT_EQ(*EngineProfileFor("vllm", "0.6.0", *catalog), "vllm-0.6");
  EXPECT_EQ(*EngineProfileFor("vllm", "0.11.1", *catalog), "vllm-0.11");
  EXPECT_EQ(*EngineProfileFor("vllm", "2023-late", *catalog), "eager-2023");
  EXPECT_EQ(*EngineProfileFor("vllm", "", *catalog), "vllm-0.11");
  EXPECT_EQ(*EngineProfileFor("vllm", "0.14.1", *catalog), "vllm-0.19") << "asynchronous scheduling became the default";
  EXPECT_EQ(*EngineProfileFor("trtllm", "0.9.0", *catalog), "trt-llm-0.9");
  EXPECT_EQ(*EngineProfileFor("trtllm", "0.15.0", *catalog), "trt-llm-0.15");
  EXPECT_EQ(*EngineProfileFor("trtllm", "1.0.0rc3", *catalog), "trt-llm-1.0rc");
  EXPECT_EQ(*EngineProfileFor("trtllm", "1.0.0", *catalog), "trt-llm");
  EXPECT_EQ(*EngineProfileFor("trtllm", "1.2.0rc6", *catalog), "trt-llm");
  std::string nearest;
  EXPECT_EQ(*EngineProfileFor("vllm", "v0.19.1", *catalog, &nearest), "vllm-0.19") << "a leading v is spelling";
  EXPECT_EQ(nearest, "");
  EXPECT_EQ(*EngineProfileFor("trtllm", "0.3.0", *catalog, &nearest), "trt-llm-0.6") << "0.5 is the nearest listed version";
  EXPECT_NE(nearest, "");
  nearest.clear();
  EXPECT_EQ(*EngineProfileFor("llama.cpp", "b4000", *catalog, &nearest), "cpu") << "no number to compare: the one for unstated versions";
  EXPECT_NE(nearest, "");
  EXPECT_EQ(*EngineProfileFor("vllm", "0.2.1", *catalog), "eager-2023");
  EXPECT_EQ(*EngineProfileFor("vllm", "0.2.7", *catalog), "vllm-0.6") << "CUDA graphs";
  EXPECT_EQ(*EngineProfileFor("vllm", "0.20.1", *catalog), "vllm-0.19");
  EXPECT_EQ(*EngineProfileFor("trtllm", "0.18.2", *catalog), "trt-llm-0.15");
  EXPECT_EQ(*EngineProfileFor("trtllm", "0.20.0", *catalog), "trt-llm") << "the PyTorch loop";
  EXPECT_EQ(*EngineProfileFor("tgi", "1.4", *catalog), "tgi-1");
  EXPECT_EQ(*EngineProfileFor("vllm", "1.2.0", *catalog, &nearest), "vllm-0.19");
  EXPECT_EQ(EngineProfileFor("no-such-engine", "1", *catalog).status().code(), absl::StatusCode::kUnimplemented);
}

TEST(ScenarioOfCase, DescribesLoadsSettingsAndLibraryCalls) {
  MeasuredCase c = StaticBatchCase("llama-3-8b", "fp16", 8, 100, 10);
  c.n_gpus = c.dp = 2;
  c.values.push_back({"e2e", "mean", "s", "static-batch", 1.0, {{"num_gpu_blocks", "500"}, {"eager", "1"}}});
  auto batch = ScenarioOfCase(c, "", BuiltIn());
  ASSERT_TRUE(batch.ok()) << batch.status();
  const ResolvedScenario& r = batch->scenario.resolved();
  EXPECT_EQ(r.plan.replicas, 2) << "attention replicas of a dense model are engines";
  EXPECT_EQ(r.params.kv_blocks, 500);
  EXPECT_FALSE(r.engine.cuda_graphs);
  EXPECT_FALSE(r.config.engine.server) << "a static batch is a library call";
  EXPECT_EQ(r.params.limits.max_num_seqs, 8);

  c.load_kind = "saturated_batch";
  c.isl.reset();
  auto saturated = ScenarioOfCase(c, "", BuiltIn());
  ASSERT_TRUE(saturated.ok()) << saturated.status();
  EXPECT_TRUE(saturated->scenario.config().engine.server);
  EXPECT_THAT(saturated->assumptions, testing::ElementsAre(HasSubstr("input length")));
  c.load_kind = "something";
  EXPECT_EQ(ScenarioOfCase(c, "", BuiltIn()).status().code(), absl::StatusCode::kUnimplemented);
}

// Somebody else's spelling of everything.
TEST(ScenarioOfCase, KnowsGpusModelsEnginesAndFormatsByTheirOtherNames) {
  MeasuredCase c = StaticBatchCase("RedHatAI/Meta-Llama-3.1-8B-Instruct-FP8-dynamic", "", 8, 100, 10);
  c.engine = "TensorRT-LLM";
  c.engine_version = "v1.0";
  c.gpu = "NVIDIA H100 80GB HBM3";
  c.kv_dtype = "fp8_e4m3";
  auto read = ScenarioOfCase(c, "", BuiltIn());
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->measured.model, "llama-3.1-8b");
  EXPECT_EQ(read->measured.gpu, "h100-sxm-80gb");
  EXPECT_EQ(read->measured.engine, "trtllm");
  const ResolvedScenario& r = read->scenario.resolved();
  EXPECT_EQ(r.engine.name, "trt-llm");
  EXPECT_EQ(r.plan.weights, DType::kFp8) << "the checkpoint's name says so";
  EXPECT_EQ(r.plan.kv_cache, DType::kFp8);
  c.weights_dtype = "bfloat16";
  c.kv_dtype = "auto";
  EXPECT_EQ(ScenarioOfCase(c, "", BuiltIn())->scenario.resolved().plan.weights, DType::kBf16) << "a column goes before a name";
  EXPECT_EQ(ScenarioOfCase(c, "", BuiltIn())->scenario.resolved().plan.kv_cache, DType::kBf16);
  c.weights_dtype = "int3";
  EXPECT_EQ(ScenarioOfCase(c, "", BuiltIn()).status().code(), absl::StatusCode::kUnimplemented);
}

TEST(ScenarioOfCase, NotesSayHowPromptsAreCutWhatIsCapturedAndHowLengthsVary) {
  MeasuredCase c = StaticBatchCase("llama-3.1-8b", "bf16", 8, 200, 100);
  c.engine = "vllm";
  c.engine_version = "0.6.0";
  c.load_kind = "poisson_rate";
  c.load_value = 2;
  const auto noted = [&](std::map<std::string, std::string> notes) {
    MeasuredCase n = c;
    n.values.assign(1, {"ttft", "mean", "ms", "online-rate", 1.0, std::move(notes)});
    auto read = ScenarioOfCase(n, "", BuiltIn());
    EXPECT_TRUE(read.ok()) << read.status();
    return read->scenario;
  };
  EXPECT_EQ(noted({}).resolved().policy, "prefill-first");
  EXPECT_EQ(noted({{"chunked_prefill", "1"}}).resolved().policy, "chunked-prefill");
  EXPECT_EQ(noted({{"graph_sizes", "1 2 64"}}).resolved().engine.graph_sizes, (std::vector<int64_t>{1, 2, 64}));
  EXPECT_FALSE(noted({}).config().workload.input_tokens->lognormal.has_value());
  const Scenario chats = noted({{"dataset", "sharegpt"}});
  EXPECT_NEAR(chats.config().workload.input_tokens->lognormal->mean.value_or(0), 200, 1e-9);
  EXPECT_EQ(chats.config().workload.input_tokens->lognormal->min, 4) << "the client leaves shorter ones out";
  EXPECT_EQ(chats.config().workload.input_tokens->lognormal->max, 1024) << "and longer ones";
  EXPECT_GT(chats.config().workload.output_tokens->lognormal->sigma.value_or(0), 0.5);
  EXPECT_EQ(chats.config().workload.output_tokens->lognormal->max, 1024);
  EXPECT_FALSE(noted({{"max_model_len", "4096"}}).config().scheduler.allow_longer_context);
  EXPECT_EQ(noted({{"max_model_len", "140000"}}).resolved().params.max_model_len, 140000) << "beyond the model's context, as it was started";
}

// The three ways published closed loops differ: lengths, prompts per step, format of the KV cache.
TEST(ScenarioOfCase, StartsClosedLoopsAsTheirBenchmarksDo) {
  MeasuredCase c;
  c.model = "llama-3.1-8b";
  c.weights_dtype = "fp8";
  c.engine = "trtllm";
  c.engine_version = "1.0.0";
  c.gpu = "h100-sxm-80gb";
  c.load_kind = "concurrency";
  c.load_value = 16;
  c.isl = 1024;
  c.osl = 1024;
  c.values.push_back({"ttft", "mean", "ms", "online-concurrency", 1.0, {{"gemm_quant", "fp8"}}});
  const auto scenario = [&] { return ScenarioOfCase(c, "", BuiltIn())->scenario; };
  {
    const Scenario s = scenario();
    const WorkloadConfig& w = s.config().workload;
    EXPECT_EQ(w.requests, 160) << "ten per client";
    EXPECT_EQ(w.ramp_up.value(), 0) << "all clients at once";
    EXPECT_EQ(w.input_tokens->uniform->min, 819) << "InferenceMAX: 0.8 of the nominal length";
    EXPECT_EQ(w.output_tokens->uniform->max, 1024);
    EXPECT_EQ(s.resolved().params.limits.max_num_batched_tokens, 16384) << "as InferenceMAX starts TensorRT-LLM";
    EXPECT_EQ(s.resolved().params.limits.prompt_wait_steps, 20);
    EXPECT_EQ(s.resolved().plan.kv_cache, DType::kFp8);
  }
  c.isl = 1000;
  EXPECT_EQ(scenario().resolved().params.limits.max_num_batched_tokens, 1536) << "16 + 1000 + 500 rounded up to whole blocks of 32";
  EXPECT_EQ(scenario().resolved().params.limits.prompt_wait_steps, 0);
  c.isl = 1024;
  c.engine = "vllm";
  EXPECT_EQ(scenario().resolved().plan.kv_cache, DType::kBf16);
  c.gpu = "h200-sxm-141gb";
  EXPECT_EQ(scenario().resolved().plan.kv_cache, DType::kFp8) << "--kv-cache-dtype fp8 on H200 alone";
  c.gpu = "h100-sxm-80gb";
  c.osl = 256;
  c.values[0].notes = {{"gemm_quant", "fp8_block"}};
  const Scenario s = scenario();
  EXPECT_EQ(s.config().workload.input_tokens->fixed, 1024) << "genai-perf: equal lengths";
  EXPECT_EQ(s.resolved().params.limits.max_num_batched_tokens, 8192) << "the engine's default";
  EXPECT_NE(s.resolved().plan.kv_cache, DType::kFp8);
}

// NVFP4 checkpoints quantise activations; without FP4 units the weights are widened and multiplied in 16 bits.
TEST(ScenarioOfCase, MultipliesNvfp4WhereTheDeviceCan) {
  MeasuredCase c = StaticBatchCase("llama-3.1-8b", "nvfp4", 1, 100, 100);
  for (const auto& [gpu, activations] : {std::pair("b200-sxm-180gb", DType::kNvfp4), std::pair("h100-sxm-80gb", DType::kBf16)}) {
    c.gpu = gpu;
    const auto made = ScenarioOfCase(c, "", BuiltIn());
    ASSERT_TRUE(made.ok()) << made.status();
    EXPECT_EQ(made->scenario.resolved().plan.activations, activations) << gpu;
  }
}

TEST(ScenarioOfCase, TakesTheShareOfFreeMemoryOfTensorRtLlm) {
  MeasuredCase c;
  c.model = "llama-3.1-70b";
  c.weights_dtype = "fp8";
  c.kv_dtype = "fp8";
  c.engine = "trtllm";
  c.engine_version = "0.15.0";
  c.gpu = "h100-sxm-80gb";
  c.load_kind = "offline_max_inflight";
  c.load_value = 30000;
  c.num_requests = 30000;
  c.isl = 128;
  c.osl = 128;
  c.values.push_back({"throughput_out", "mean", "tok/s", "offline", 1.0, {{"kv_fraction", "0.95"}}});
  const auto made = ScenarioOfCase(c, "", BuiltIn());
  ASSERT_TRUE(made.ok()) << made.status();
  const ResolvedScenario& r = made->scenario.resolved();
  const MemoryPlan& m = r.memory;
  const double kv_bytes = m.kv_blocks * r.params.limits.block_size * 80 * 2 * 8 * 128.0;   // one byte per element
  EXPECT_NEAR(kv_bytes / (m.gpu - m.weights - m.activations - m.reserve).value(), 0.95, 0.01);
  EXPECT_EQ(r.params.limits.max_num_seqs, 2048) << "no cap stated: the engine's own";
}

TEST(ScenarioOfCase, HoldsTheCacheOfASessionsBatchWhereItFits) {
  MeasuredCase c;
  c.model = "llama-2-7b";
  c.engine = "trtllm";
  c.engine_version = "0.9.0";
  c.gpu = "h100-sxm-80gb";
  c.load_kind = "static_batch";
  c.weights_dtype = c.kv_dtype = "fp8";
  c.isl = 128, c.osl = 2048;
  const auto blocks = [&c](double batch) {
    c.load_value = batch;
    return ScenarioOfCase(c, "", BuiltIn())->scenario.resolved().memory.kv_blocks;
  };
  // 0.27 MB per token: 68 GB for 120 sequences of 68 blocks, a little more than a tenth of the memory leaves.
  EXPECT_EQ(blocks(120), 120 * 68);
  EXPECT_GT(blocks(60), 60 * 68);     // fits anyway
  EXPECT_LT(blocks(150), 150 * 68);   // 86 GB fit nowhere
  c.engine_version = "0.15.0";
  EXPECT_LT(blocks(120), 120 * 68);   // an executor lets the last ones wait
}

// Four clients of vLLM on two GPUs.
MeasuredCase ClosedLoopOfVllm(const char* model, const char* weights) {
  MeasuredCase c;
  c.model = model;
  c.engine = "vllm";
  c.n_gpus = c.tp = 2;
  c.load_kind = "concurrency";
  c.load_value = 4;
  c.weights_dtype = weights;
  return c;
}

// Up to 0.13 vLLM schedules asynchronously when it is told to, as InferenceMAX does on H200.
TEST(ScenarioOfCase, TakesTheProfileOfAsynchronousScheduling) {
  MeasuredCase c = ClosedLoopOfVllm("llama-3.1-70b", "fp8");
  const auto profile = [&c](const char* gpu, const char* version, double length, const char* note) {
    c.gpu = gpu;
    c.engine_version = version;
    c.isl = c.osl = length;
    c.values.clear();
    if (*note != 0) c.values.push_back({"ttft", "mean", "ms", "", 100.0, {{"async_scheduling", note}}});
    const auto made = ScenarioOfCase(c, "", BuiltIn());
    EXPECT_TRUE(made.ok()) << made.status();
    const EngineProfile& engine = made->scenario.resolved().engine;
    return engine.name + (engine.overlap ? " overlapped" : "");
  };
  EXPECT_EQ(profile("h200-sxm-141gb", "", 1024, ""), "vllm-0.11-async overlapped");
  EXPECT_EQ(profile("h100-sxm-80gb", "", 1024, ""), "vllm-0.11");
  EXPECT_EQ(profile("h200-sxm-141gb", "", 1000, ""), "vllm-0.11");   // somebody else's
  EXPECT_EQ(profile("h100-sxm-80gb", "0.11.1", 1000, "1"), "vllm-0.11-async overlapped");
  EXPECT_EQ(profile("h100-sxm-80gb", "0.19.0", 1000, ""), "vllm-0.19 overlapped");
  EXPECT_EQ(profile("h100-sxm-80gb", "0.19.0", 1000, "0"), "vllm-0.19");
}

// InferenceMAX asks for Marlin's kernels.
TEST(ScenarioOfCase, PublishedRunsOfMxfp4TakeTheKernelsTheyWereStartedWith) {
  MeasuredCase c = ClosedLoopOfVllm("gpt-oss-120b", "mxfp4");
  c.gpu = "h100-sxm-80gb";
  c.isl = c.osl = 1024;
  const auto kernels = [&c](const char* version) {
    c.engine_version = version;
    return ScenarioOfCase(c, "", BuiltIn())->scenario.resolved().engine.moe_backend;
  };
  EXPECT_EQ(kernels("0.18.0"), "marlin");
  // Somebody's own runs.
  c.values.push_back({"ttft", "mean", "ms", "", 100.0, {{"length_range_ratio", "1"}}});
  EXPECT_EQ(kernels("0.18.0"), "triton");
  c.values.front().notes["moe_backend"] = "marlin";
  EXPECT_EQ(kernels("0.18.0"), "marlin");
}

// Random lengths of bench_serving go from the stated share of the longest up; without a server there is no front end.
TEST(ScenarioOfCase, NotesSayHowLengthsVaryAndWhetherAServerAnswers) {
  MeasuredCase c;
  c.model = "llama-3.1-8b";
  c.engine = "sglang", c.engine_version = "0.5.6";
  c.gpu = "h100-sxm-80gb";
  c.load_kind = "concurrency", c.load_value = 16;
  c.isl = c.osl = 1000;
  c.values.push_back({"ttft", "p50", "ms", "", 100.0, {{"length_range_ratio", "0"}}});
  const auto law = [&c] { return ScenarioOfCase(c, "", BuiltIn())->scenario; };
  EXPECT_FALSE(law().config().scheduler.max_num_seqs.has_value()) << "somebody's own server: what the engine starts with";
  EXPECT_EQ(law().config().workload.input_tokens->uniform->min, 1);
  EXPECT_EQ(law().config().workload.input_tokens->uniform->max, 1000);
  EXPECT_GT(law().resolved().front_end.seconds().value(), 0);
  c.values.front().notes["length_range_ratio"] = "1";
  EXPECT_FALSE(law().config().workload.input_tokens->uniform.has_value());
  c.values.front().notes["library"] = "1";
  EXPECT_EQ(law().resolved().front_end.seconds().value(), 0);
}

// SGLang's scheduler and memory settings changed in 0.5.4. "0.5.1" is no prefix of 0.5.10: numbers end where their digits end.
TEST(EngineProfileFor, VersionsOfSglangKnowTheirOwn) {
  const auto profile = [](const char* version) { return *EngineProfileFor("sglang", version, *BuiltIn(), nullptr); };
  EXPECT_EQ(profile("0.5.1.post1"), "sglang-0.5.1");
  EXPECT_EQ(profile("0.5.3"), "sglang-0.5.1");
  EXPECT_EQ(profile("0.5.4"), "sglang-0.5");
  EXPECT_EQ(profile("0.5.10"), "sglang-0.5");
  EXPECT_EQ(profile(""), "sglang-0.5");
  EXPECT_EQ(*EngineProfileFor("lmdeploy", "0.1.0a1", *BuiltIn(), nullptr), "lmdeploy-0.1");
  EXPECT_EQ(*EngineProfileFor("lmdeploy", "0.7.2", *BuiltIn(), nullptr), "lmdeploy-0.7");
}

// TensorRT-LLM's runtime keeps to a window only where it is told to.
TEST(ScenarioOfCase, TensorRtLlmSeesBehindSlidingWindows) {
  MeasuredCase c;
  c.model = "mistral-7b-v0.1";
  c.engine = "trtllm";
  c.engine_version = "0.15.0";
  c.gpu = "h100-sxm-80gb";
  c.load_kind = "static_batch";
  c.load_value = 1;
  c.isl = 20000, c.osl = 10;
  EXPECT_EQ(ScenarioOfCase(c, "", BuiltIn())->scenario.resolved().model.attention.window, 0);
  c.engine = "vllm", c.engine_version = "0.11.0";
  EXPECT_EQ(ScenarioOfCase(c, "", BuiltIn())->scenario.resolved().model.attention.window, 4096);
}

TEST(PredictedValue, FollowsEachDefinition) {
  MeasuredCase c;
  c.load_kind = "static_batch";
  Report r;
  r.ttft.mean = Seconds(0.1);
  r.ttft.max = Seconds(0.3);
  r.ttft.count = 2;
  r.itl.mean = Seconds(0.02);
  r.itl.count = 18;
  r.tpot.mean = Seconds(0.02);
  r.tpot.count = 2;
  r.requests.completed = 2;
  r.requests.input_tokens = 200;
  r.requests.output_tokens = 20;
  r.simulation.simulated_s = 2;
  r.energy.by_component = {{"gpu_active", 900.0}, {"gpu_idle", 100.0}, {"host", 5000.0}};
  const auto value = [&](const char* metric, const char* statistic, const char* unit, std::map<std::string, std::string> notes = {}) {
    return PredictedValue(c, {metric, statistic, unit, "", 1, std::move(notes)}, r);
  };
  EXPECT_DOUBLE_EQ(*value("ttft", "mean", "ms"), 300) << "the prefill time of a static batch is that of the whole batch";
  EXPECT_DOUBLE_EQ(*value("tpot", "mean", "ms"), 20);
  // 18 gaps of 20 ms over 20 output tokens, the first ones included.
  EXPECT_DOUBLE_EQ(*value("tpot", "mean", "ms", {{"tpot_def", "sum_itl/all_out_tokens"}}), 18 * 20.0 / 20);
  EXPECT_DOUBLE_EQ(*value("throughput_out", "mean", "tok/s"), 10);
  EXPECT_DOUBLE_EQ(*value("throughput_total", "mean", "tok/s"), 110);
  EXPECT_DOUBLE_EQ(*value("power", "mean", "W"), 500) << "boards only: 1000 J in 2 s";
  EXPECT_DOUBLE_EQ(*value("energy_per_out_token", "mean", "J"), 50);
  EXPECT_FALSE(value("ttft", "p42", "ms").has_value());
  c.load_kind = "concurrency";
  EXPECT_DOUBLE_EQ(*value("ttft", "mean", "ms"), 100);
  // Eight clients, each 50 tokens in 2 s.
  c.load_kind = "saturated_batch";
  c.load_value = 8;
  r.e2e.mean = Seconds(2);
  r.e2e.count = 100;
  r.throughput.requests_per_s = 1;
  r.throughput.output_tokens_per_s = 50;
  EXPECT_DOUBLE_EQ(*value("throughput_out", "mean", "tok/s"), 8 / 2.0 * 50);
}

// A chat whose mean lengths alone are published: half of the prompts are at most mean x exp(-sigma^2 / 2) long, 71 of 256
// tokens with sigma 1.6; multiple-choice questions are alike.
TEST(ScenarioOfCase, PromptsOfChatsAreShortAndSometimesLong) {
  MeasuredCase c = StaticBatchCase("llama-3.1-8b", "bf16", 64, 100, 350);
  c.load_kind = "saturated_batch";
  c.engine_version = "0.11.1";
  c.isl.reset();
  const auto input = [&](const char* task) {
    c.values.assign(1, {"itl", "p50", "ms", "online-saturated", 20.0, {{"task", task}, {"osl_kind", "mean"}}});
    const auto made = ScenarioOfCase(c, "", BuiltIn());
    EXPECT_TRUE(made.ok()) << made.status();
    return *made->scenario.config().workload.input_tokens;
  };
  const auto chat = input("lm-arena-chat");
  ASSERT_TRUE(chat.lognormal.has_value());
  const auto law = SolveLognormal(*chat.lognormal);
  ASSERT_TRUE(law.ok()) << law.status();
  EXPECT_NEAR(law->Mean(), 256, 1);
  EXPECT_NEAR(law->Cdf(256 * std::exp(-1.6 * 1.6 / 2)), 0.5, 0.02);   // cut at the model's context
  EXPECT_EQ(input("gpqa").fixed, 256);
}

TEST(Summarize, MediansBiasWorstAndMissing) {
  std::vector<LedgerRow> rows(4);
  const double predicted[] = {110, 80, 130};
  for (int i = 0; i < 4; ++i) {
    rows[i].class_name = "x";
    rows[i].measured = 100;
    if (i < 3) rows[i].predicted = predicted[i];
    rows[i].baseline = 50;
  }
  const auto summary = Summarize(rows, [](const LedgerRow& r) { return r.class_name; });
  ASSERT_EQ(summary.size(), 1u);
  EXPECT_EQ(summary[0].rows, 3);
  EXPECT_EQ(summary[0].missing, 1);
  EXPECT_NEAR(summary[0].median, 0.2, 1e-12);   // of 0.1, 0.2, 0.3
  EXPECT_NEAR(summary[0].bias, 0.1, 1e-12);     // of -0.2, 0.1, 0.3
  EXPECT_NEAR(*summary[0].baseline_median, 0.5, 1e-12);
  EXPECT_THAT(summary[0].worst, testing::ElementsAre(2, 1, 0));
}

TEST(RooflineBaseline, IsTheLargerOfComputeAndBytes) {
  const auto scenario = Scenario::FromYaml(
      "model: llama-2-7b\nhardware: {gpu: a100-sxm-80gb, count: 1}\nplan: {weights: fp16}\n"
      "workload: {static_batch: 1, input_tokens: 10, output_tokens: 10}\n");
  ASSERT_TRUE(scenario.ok()) << scenario.status();
  const ResolvedScenario& r = scenario->resolved();
  const auto model = MakeRooflineBaseline(r.model, r.plan, r.machine);
  StepCost cost;
  StepWork decode{.tokens = 1, .logits_rows = 1, .decode_seqs = 1, .decode_kv_sum = 1000, .decode_kv_max = 1000, .decode_kv_sum_windowed = 1000};
  model->Predict({&decode, 1}, &cost);
  // 6.738 G parameters and 1000 tokens of 32 layers x 2 x 4096 elements, two bytes each, over 2.039 TB/s.
  const double bytes = 2 * 6.7384e9 + 1000 * 2.0 * 32 * 2 * 4096;
  EXPECT_NEAR(cost.stage_seconds[0], bytes / 2.039e12, 0.01 * bytes / 2.039e12);
  const PrefillChunk chunk{.tokens = 4096, .past = 0};
  StepWork prefill{.tokens = 4096, .logits_rows = 1};
  prefill.chunks = {&chunk, 1};
  model->Predict({&prefill, 1}, &cost);
  // 2 FLOPs per parameter (input embedding excluded) and token, plus 4 x hidden x pairs per layer of attention.
  const double flops = 2 * 6.607e9 * 4096 + 32 * 4.0 * 4096 * 4096 * 4096 / 2;
  EXPECT_NEAR(cost.stage_seconds[0], flops / 312e12, 0.02 * flops / 312e12);
}

}  // namespace
}  // namespace simrun
