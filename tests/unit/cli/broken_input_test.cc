// Broken scenarios, traces and command lines: every one ends with exit status 2, says where and what on standard error,
// prints nothing on standard output, and leaves no file behind.
#include <algorithm>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/cli/program.h"

namespace simrun {
namespace {

using ::testing::HasSubstr;

struct Broken {
  std::string name;
  std::string config;
  std::vector<std::string> arguments;
  std::vector<std::pair<std::string, std::string>> files;
  std::string place;     // some line of standard error starts with this
  std::string what;      // and holds this
};

// A scenario in which one section is wrong.
Broken Section(std::string section, std::string value, std::string place, std::string what) {
  return {section + ": " + value, ScenarioText().Set(section, value).text(), {}, {}, "config.yaml:" + place, std::move(what)};
}
Broken Text(std::string name, std::string config, std::string place, std::string what) {
  return {std::move(name), std::move(config), {}, {}, std::move(place), std::move(what)};
}
Broken Trace(std::string name, std::string trace, std::string place, std::string what, const std::string& workload = "{trace: t.csv}") {
  return {"trace: " + name, ScenarioText().Set("workload", workload).text(), {}, {{"t.csv", std::move(trace)}}, std::move(place), std::move(what)};
}
Broken Arguments(std::vector<std::string> arguments, std::string place, std::string what) {
  std::string name;
  for (const std::string& a : arguments) name += a + " ";
  return {name, ScenarioText().text(), std::move(arguments), {}, std::move(place), std::move(what)};
}
std::string Workload(const std::string& parts) { return "{requests: 10, " + parts + "}"; }

const std::string kHeader = "arrival_s,input_tokens,output_tokens\n";

// The first bytes of `gzip -c` of a trace, cut in the middle of the data: header, then the start of a deflate block.
std::string CutGzip() {
  static constexpr unsigned char kBytes[] = {0x1f, 0x8b, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x03,
                                             0x4b, 0x2c, 0x2a, 0xca, 0x2c, 0x4b};
  return std::string(reinterpret_cast<const char*>(kBytes), sizeof kBytes);
}

std::vector<Broken> NamesAndKeys() {
  return {
      Text("unknown section", ScenarioText().text() + "sede: 1\n", "config.yaml:9:1: sede", "did you mean \"seed\"?"),
      Section("plan", "{tp: 1, pipeline: 2}", "3:15: plan.pipeline", "unknown setting; one of: tp, pp"),
      Section("model", "lama-3.1-8b", "1:8: model", "did you mean \"llama-3.1-8b\"?"),
      Section("model", "\"\"", "1:8: model", "is empty"),
      Section("hardware", "{gpu: h200-sxm-141}", "2:11: hardware.gpu", "did you mean"),
      Section("hardware", "{node: dgx-h10}", "2:11: hardware.node", "did you mean \"dgx-h100\"?"),
      Section("hardware", "{gpu: h100-sxm-80gb, host: xeon-848c}", "2:11: hardware.host", "did you mean \"xeon-8480c\"?"),
      Section("hardware", "{gpu: h100-sxm-80gb, link: nvlnk4}", "2:11: hardware.link", "did you mean \"nvlink4\"?"),
      Section("hardware", "{gpu: h100-sxm-80gb, network: ib-ndr}", "2:11: hardware.network", "did you mean \"ib-ndr-400\"?"),
      Section("hardware", "{gpu: h100-sxm-80gb, region: aws-us-est-1}", "2:11: hardware.region", "did you mean \"aws-us-east-1\"?"),
      Section("engine", "{profile: vlm-0.19}", "4:19: engine.profile", "did you mean \"vllm-0.19\"?"),
      Section("scheduler", "{policy: chunked-prefil}", "5:21: scheduler.policy", "did you mean \"chunked-prefill\"?"),
      Section("scheduler", "{router: round-robbin}", "5:21: scheduler.router", "did you mean \"round-robin\"?"),
      Section("scheduler", "{queue_order: fcsf}", "5:26: scheduler.queue_order", "did you mean \"fcfs\"?"),
      Section("scheduler", "{preemption: recomputed}", "5:25: scheduler.preemption", "did you mean \"recompute\"?"),
      Section("plan", "{weights: bf-16}", "3:17: plan.weights", "did you mean \"bf16\"?"),
      Section("plan", "{kv_cache: f8}", "3:18: plan.kv_cache", "did you mean \"fp8\"?"),
      Section("workload", Workload("arrivals: {poison: {rate: 4 /s}}, input_tokens: 9, output_tokens: 9"), "6:37: workload.arrivals.poison",
              "did you mean \"poisson\"?"),
      Section("workload", Workload("arrivals: {poisson: {rate: 4 /s}}, input_tokens: {lognorml: {mean: 3}}, output_tokens: 9"),
              "6:76: workload.input_tokens.lognorml", "did you mean \"lognormal\"?"),
      Section("workload", "{trace: t.csv, format: azur}", "6:34: workload.format", "did you mean \"azure\"?"),
      Text("no model", ScenarioText().Remove("model").text(), "config.yaml:1:1: model", "is required"),
      Text("no hardware", ScenarioText().Remove("hardware").text(), "config.yaml:1:1: hardware", "is required"),
      Text("no workload", ScenarioText().Remove("workload").text(), "config.yaml:1:1: workload", "is required"),
  };
}

std::vector<Broken> Values() {
  return {
      Section("slo", "{ttft: 500}", "7:13: slo.ttft", "has no unit; write for example \"500 ms\""),
      Section("slo", "{ttft: 500 GB}", "7:13: slo.ttft", "is a size, not a time"),
      Section("slo", "{ttft: 500 msec}", "7:13: slo.ttft", "did you mean ms?"),
      Section("slo", "{tpot: -1 ms}", "7:13: slo.tpot", "must be > 0 s"),
      Section("slo", "{tpot: inf ms}", "7:13: slo.tpot", "is not a number"),
      Section("plan", "{tp: -1}", "3:12: plan.tp", "must be 1 to"),
      Section("plan", "{tp: 0}", "3:12: plan.tp", "must be 1 to"),
      Section("plan", "{tp: 1.5}", "3:12: plan.tp", "is not a whole number"),
      Section("plan", "{tp: \"1\"}", "3:12: plan.tp", "without quotes"),
      Section("plan", "{tp: 99999999999999999999}", "3:12: plan.tp", "is too large"),
      Section("plan", "{tp: }", "3:8: plan.tp", "is empty"),
      Section("plan", "[1, 2]", "3:7: plan", "must be a map"),
      Section("plan", "4", "3:7: plan", "must be a map"),
      Section("engine", "{gpu_memory_utilization: nan}", "4:34: engine.gpu_memory_utilization", "is not a number"),
      Section("engine", "{gpu_memory_utilization: .nan}", "4:34: engine.gpu_memory_utilization", "is not a number"),
      Section("engine", "{gpu_memory_utilization: inf}", "4:34: engine.gpu_memory_utilization", "is not a number"),
      Section("engine", "{gpu_memory_utilization: 1.5}", "4:34: engine.gpu_memory_utilization", "must be > 0 and <= 1"),
      Section("engine", "{cuda_graphs: yes}", "4:23: engine.cuda_graphs", "neither true nor false"),
      Section("seed", "-1", "8:7: seed", "must be 0 to"),
      Section("seed", "abc", "8:7: seed", "is not a whole number"),
      Section("workload", Workload("arrivals: {poisson: {rate: 4}}, input_tokens: 9, output_tokens: 9"),
              "6:53: workload.arrivals.poisson.rate", "has no unit; write for example \"4 /s\""),
      Section("workload", Workload("arrivals: {poisson: {rate: 0 /s}}, input_tokens: 9, output_tokens: 9"),
              "6:53: workload.arrivals.poisson.rate", "must be > 0"),
      Section("workload", Workload("concurrency: 4, input_tokens: 9, output_tokens: 9, shared_prefix: {tokens: 0}"),
              "6:101: workload.shared_prefix.tokens", "must be 1 to"),
      Section("workload", Workload("concurrency: 4, input_tokens: 9, output_tokens: 9, shared_prefix: {groups: 2}"),
              "6:92: workload.shared_prefix.tokens", "is required"),
      Section("workload", Workload("concurrency: 4, input_tokens: 9, output_tokens: 9, shared_prefix: 1000"),
              "6:92: workload.shared_prefix", "must be a map"),
      Section("workload", Workload("concurrency: 4, input_tokens: 9, output_tokens: 9, conversations: {turns: 5}"),
              "6:92: workload.conversations.active", "is required"),
      Section("scheduler", "{prefix_caching: maybe}", "5:29: scheduler.prefix_caching", "neither true nor false"),
      Section("workload", Workload("arrivals: {poisson: {rate: 4 /s}}, input_tokens: 0, output_tokens: 9"),
              "6:75: workload.input_tokens", "must be 1 to"),
  };
}

std::vector<Broken> Contradictions() {
  return {
      Section("plan", "{tp: 3}", "3:7: plan.tp", "does not divide the 32 attention heads"),
      Section("plan", "{pp: 64}", "3:7: plan.pp", "at most 32"),
      Section("plan", "{tp: 2, ep: 2}", "3:7: plan.ep", "no experts"),
      Section("model", "llama-3.1-70b", "3:7: plan", "does not fit"),
      Section("hardware", "{gpu: h100-sxm-80gb, memory: 8 GB}", "3:7: plan", "does not fit"),
      Text("more GPUs than there are", ScenarioText().Set("hardware", "{node: dgx-h100}").Set("plan", "{tp: 8, replicas: 2}").text(),
           "config.yaml:3:7: plan", "needs 16 GPUs"),
      Text("more GPUs than counted", ScenarioText().Set("hardware", "{gpu: h100-sxm-80gb, count: 1}").Set("plan", "{tp: 2}").text(),
           "config.yaml:3:7: plan", "raise hardware.count"),
      Section("scheduler", "{max_num_seqs: 256, max_num_batched_tokens: 128}", "5:12: scheduler.max_num_batched_tokens", "use at least 256"),
      Section("scheduler", "{max_model_len: 1000000}", "5:28: scheduler.max_model_len", "context of 131072"),
      Section("hardware", "{node: dgx-h100, gpu: h100-sxm-80gb}", "2:11: hardware", "remove one of them"),
      Section("hardware", "{}", "2:11: hardware", "neither node nor gpu"),
      Section("hardware", "{gpu: h100-sxm-80gb, power_limit: 10 W}", "2:11: hardware.power_limit", "118 W"),
      Section("workload", "{arrivals: {poisson: {rate: 4 /s}}, input_tokens: 9, output_tokens: 9}", "6:11: workload", "would never end"),
      Section("workload", Workload("arrivals: {poisson: {rate: 4 /s}, constant: {rate: 4 /s}}, input_tokens: 9, output_tokens: 9"),
              "6:36: workload.arrivals", "keep one"),
      Section("workload", Workload("arrivals: {poisson: {rate: 4 /s}}"), "6:11: workload", "input_tokens is missing"),
      Section("workload", Workload("concurrency: 4, input_tokens: 9, output_tokens: 9, hash_block: 16"), "6:89: workload.hash_block", "needs a trace"),
      Section("workload", Workload("concurrency: 4, arrivals: {poisson: {rate: 4 /s}}, input_tokens: 9, output_tokens: 9"),
              "6:11: workload", "more than one of arrivals, concurrency"),
      Section("workload", Workload("arrivals: {poisson: {rate: 4 /s}}, input_tokens: {lognormal: {mean: 9, p50: 200}}, output_tokens: 9"),
              "6:87: workload.input_tokens.lognormal", "no lognormal length"),
  };
}

std::vector<Broken> Files() {
  const std::string good = ScenarioText().text();
  std::string windows;
  for (const char c : ScenarioText().Set("plan", "{tp: 0}").text()) windows += c == '\n' ? "\r\n" : std::string(1, c);
  return {
      Text("empty", "", "config.yaml:1:1", "must be a map"),
      Text("comment", "# nothing\n", "config.yaml:1:1", "must be a map"),
      Text("list", "- a\n- b\n", "config.yaml:1:1", "must be a map"),
      Text("word", "hello\n", "config.yaml:1:1", "must be a map"),
      Text("duplicate", good + "seed: 2\n", "config.yaml:9:1", "duplicate key \"seed\""),
      Text("tab", "model: llama-3.1-8b\nhardware:\n\tgpu: h100-sxm-80gb\n", "config.yaml:3:1", "tab in the indentation; indent with spaces"),
      Section("plan", "&p {tp: 1}", "3:7: plan", "anchors and aliases are not supported"),
      Section("plan", "*p", "3:7: plan", "anchors and aliases are not supported"),
      Section("plan", "{<<: {tp: 1}}", "3:8: plan", "merge keys are not supported"),
      Section("model", "!!str llama-3.1-8b", "1:8: model", "tags are not supported"),
      Text("unclosed", "model: {a: [1, 2\n", "config.yaml:2:1", "not valid YAML"),
      Text("two documents", good + "---\na: 1\n", "config.yaml:9:1", "a second document"),
      Text("deep", "a: " + std::string(100, '[') + std::string(100, ']') + "\n", "config.yaml:1:67", "deeper than 64"),
      Text("junk", std::string("\0\1\xff\xfe", 4), "config.yaml:1:1", "control character"),
      Text("latin1", "model: caf\xe9\n", "config.yaml:1:11", "is not UTF-8 text"),
      Text("10 MB line", "model: " + std::string(10'000'000, 'a') + "\n", "config.yaml", "is larger than"),
      Text("windows line ends", windows, "config.yaml:3:12: plan.tp", "out of range"),
      {"missing file", "", {"nope.yaml"}, {}, "nope.yaml", "no such file"},
      {"directory", "", {"."}, {}, ".", "is a directory"},
      {"model file missing", ScenarioText().Set("model", "./m.json").text(), {}, {}, "config.yaml:1:8: model: ./m.json", "no such file"},
      {"model file cut", ScenarioText().Set("model", "./m.json").text(), {}, {{"m.json", "{\"a\": "}}, "config.yaml:1:8: model: ./m.json:1:7", "is not JSON"},
      {"model file empty", ScenarioText().Set("model", "./m.json").text(), {}, {{"m.json", "{}"}}, "config.yaml:1:8: model: ./m.json", "model_type: is missing"},
  };
}

std::vector<Broken> Traces() {
  return {
      {"trace: missing", ScenarioText().Set("workload", "{trace: t.csv}").text(), {}, {}, "config.yaml:6:19: workload.trace", "no such file"},
      {"trace: directory", ScenarioText().Set("workload", "{trace: .}").text(), {}, {}, ".", "is a directory"},
      {"lengths: missing", ScenarioText().Set("workload", Workload("concurrency: 2, input_tokens: {empirical: {file: l.csv}}, output_tokens: 9")).text(), {}, {},
       "config.yaml:6:75: workload.input_tokens.empirical.file", "no such file"},
      Trace("empty", "", "t.csv", "is empty"),
      Trace("header alone", kHeader, "t.csv", "has no request"),
      Trace("unknown header", "a,b,c\n1,2,3\n", "t.csv:1", "of no known trace"),
      Trace("unsorted", kHeader + "1,5,5\n0.5,5,5\n", "t.csv:3", "sort the trace"),
      Trace("negative time", kHeader + "-1,5,5\n", "t.csv:2", "is negative"),
      Trace("zero input", kHeader + "0,0,5\n", "t.csv:2", "skip_invalid"),
      Trace("zero output", kHeader + "0,5,0\n", "t.csv:2", "skip_invalid"),
      Trace("negative length", kHeader + "0,-5,5\n", "t.csv:2", "is negative"),
      Trace("fraction of a token", kHeader + "0,5.5,5\n", "t.csv:2", "is not a whole number"),
      Trace("huge length", kHeader + "0,99999999999999999999,5\n", "t.csv:2", "more than a billion"),
      Trace("NaN", kHeader + "nan,5,5\n", "t.csv:2", "is not a number"),
      Trace("hash id", "arrival_s,input_tokens,output_tokens,hash_ids\n0,50,5,1 b 3\n", "t.csv:2", "hash_ids \"b\" is not a whole number"),
      Trace("too many hash ids", "arrival_s,input_tokens,output_tokens,hash_ids\n0,50,5,1 2 3\n1,9,5,1 2\n", "t.csv:3", "set hash_block"),
      Trace("words", kHeader + "a,b,c\n", "t.csv:2", "is not a number"),
      Trace("short row", kHeader + "0,5\n", "t.csv:2", "fewer fields"),
      Trace("long row", kHeader + "0,5,5,1\n", "t.csv:2", "more fields"),
      Trace("repeated column", "arrival_s,arrival_s,input_tokens,output_tokens\n0,0,5,5\n", "t.csv:1", "2 times"),
      Trace("NUL", kHeader + std::string("0,5\0,5\n", 7), "t.csv:2", "NUL byte"),
      Trace("junk", "\x7f\x45\x4c\x46\x02\x01\x01\xff\xfe\x80 \n\x90", "t.csv:1", "of no known trace"),
      Trace("10 MB line", kHeader + "0,5," + std::string(10'000'000, '5') + "\n", "t.csv:2", "longer than 1 MiB"),
      Trace("cut gzip", CutGzip(), "t.csv", "cut short"),
      Trace("wrong format", kHeader + "0,5,5\n", "t.csv:1", "JSON", "{trace: t.csv, format: mooncake}"),
      Trace("cut JSON", "{\"timestamp\": \n", "t.csv:1", "JSON", "{trace: t.csv, format: mooncake}"),
      // The tenth thousand row: the run has begun and its output folder exists when the problem is met.
      Trace("broken late", kHeader + [] {
              std::string rows;
              for (int i = 0; i < 10000; ++i) rows += std::to_string(i) + ",5,5\n";
              return rows + "10000,5,oops\n";
            }(), "t.csv:10002", "is not a number"),
  };
}

std::vector<Broken> CommandLines() {
  return {
      Arguments({"--set", "plan.tp=8x"}, "--set plan.tp: plan.tp", "is not a whole number"),
      Arguments({"--set", "plan.tpp=8"}, "--set plan.tpp: plan.tpp", "did you mean \"tp\"?"),
      Arguments({"--set", "plann.tp=8"}, "--set plann.tp", "did you mean \"plan\"?"),
      Arguments({"--set", "plan.tp"}, "--set plan.tp", "is not path=value"),
      Arguments({"--set", "=3"}, "--set =3", "is not path=value"),
      Arguments({"--set", "plan..tp=3"}, "--set plan..tp", "is not a path"),
      Arguments({"--set", "model.x=1"}, "--set model.x", "not a map"),
      Arguments({"--set", "plan.tp="}, "--set plan.tp", "has no value"),
      Arguments({"--set", "plan=[1"}, "--set plan:1:1", "not valid YAML"),
      Arguments({"--set", "slo.ttft=500"}, "--set slo.ttft: slo.ttft", "has no unit"),
      Arguments({"--set", "workload={requests: 5, concurency: 3}"}, "--set workload:1:15: workload.concurency", "did you mean \"concurrency\"?"),
      Arguments({"--set", "plan.tp=2", "--set", "plan.replicas=-1"}, "--set plan.replicas: plan.replicas", "out of range"),
      Arguments({"--set"}, "simrun: --set", "required"),
      Arguments({"--seed", "x"}, "--seed: seed", "is not a whole number"),
      Arguments({"--seed", "-1"}, "--seed: seed", "out of range"),
      Arguments({"--format", "xml"}, "simrun: --format", "one of: text, json"),
      Arguments({"--format", "Json"}, "simrun: --format", "did you mean \"json\"?"),
      Arguments({"--catalog", "/nonexistent"}, "--catalog /nonexistent", "no such catalogue directory"),
      Arguments({"--catalog", "."}, "--catalog .", "holds no catalogue entries"),
      Arguments({"--catalog", "config.yaml"}, "--catalog config.yaml", "no such catalogue directory"),
      Arguments({"--fromat", "json"}, "simrun: unknown option --fromat", "did you mean \"--format\"?"),
      Arguments({"-x"}, "simrun: unknown option -x", "one of"),
      Arguments({"extra"}, "simrun: unexpected argument \"extra\"", "--help"),
  };
}

class BrokenInput : public ::testing::Test {
 protected:
  static void Check(const std::vector<Broken>& table) {
    for (const Broken& b : table) {
      SCOPED_TRACE(b.name.substr(0, 200));
      const Workplace place;
      place.Write("config.yaml", b.config);
      for (const auto& [name, text] : b.files) place.Write(name, text);
      const std::set<std::string> before = place.Files();
      std::vector<std::string> arguments = {"config.yaml"};
      // A table entry that is a file name of its own replaces the scenario.
      if (b.config.empty() && !b.arguments.empty()) arguments.clear();
      arguments.insert(arguments.end(), {"--out", "results/deep"});
      arguments.insert(arguments.end(), b.arguments.begin(), b.arguments.end());
      if (arguments[0] == "--out") arguments.insert(arguments.begin(), "run");
      const ProgramResult result = place.Run(arguments);

      EXPECT_EQ(result.signal, 0);
      EXPECT_EQ(result.code, 2);
      EXPECT_EQ(result.out, "");
      EXPECT_EQ(place.Files(), before);
      bool found = false;
      std::istringstream lines(result.err);
      for (std::string line; std::getline(lines, line);) {
        found = found || (line.rfind(b.place, 0) == 0 && line.find(b.what) != std::string::npos);
      }
      EXPECT_TRUE(found) << "no line starts with " << b.place << " and says " << b.what << ":\n" << result.err.substr(0, 2000);
      EXPECT_LT(result.err.size(), 4000u);
    }
  }
};

TEST_F(BrokenInput, NamesAndKeys) { Check(NamesAndKeys()); }
TEST_F(BrokenInput, Values) { Check(Values()); }
TEST_F(BrokenInput, Contradictions) { Check(Contradictions()); }
TEST_F(BrokenInput, Files) { Check(Files()); }
TEST_F(BrokenInput, Traces) { Check(Traces()); }
TEST_F(BrokenInput, CommandLines) { Check(CommandLines()); }

// The table must not be passing because everything fails.
TEST_F(BrokenInput, TheScenarioItselfRuns) {
  const Workplace place;
  place.Write("config.yaml", ScenarioText().text());
  const ProgramResult result = place.Run({"config.yaml", "--out", "results/deep"});
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(result.err, "");
  EXPECT_EQ(place.Files(), (std::set<std::string>{"config.yaml", "results", "results/deep", "results/deep/config.yaml",
                                                  "results/deep/report.json", "results/deep/summary.txt"}));
}

TEST_F(BrokenInput, AllProblemsOfAFileAreReportedInOrder) {
  const Workplace place;
  place.Write("config.yaml", ScenarioText().Set("model", "nope-model-xyz").Set("plan", "{tp: 0}").Set("slo", "{ttft: 5}").text() + "extra: 1\n");
  const ProgramResult result = place.Run({"config.yaml"});
  EXPECT_EQ(result.code, 2);
  std::vector<std::string> starts;
  std::istringstream lines(result.err);
  for (std::string line; std::getline(lines, line);) starts.push_back(line.substr(0, line.find(' ')));
  EXPECT_THAT(starts, ::testing::ElementsAre("config.yaml:1:8:", "config.yaml:3:12:", "config.yaml:7:13:", "config.yaml:9:1:"));
}

TEST_F(BrokenInput, UnreadableFiles) {
  if (::geteuid() == 0) GTEST_SKIP() << "root may read and write everything";
  const Workplace place;
  place.Write("config.yaml", ScenarioText().text());
  std::filesystem::create_directory(place.path() / "closed");
  std::filesystem::permissions(place.path() / "closed", std::filesystem::perms::owner_read);
  const ProgramResult result = place.Run({"config.yaml", "--out", "closed/results"});
  EXPECT_EQ(result.code, 1);
  EXPECT_THAT(result.err, HasSubstr("closed"));
  EXPECT_EQ(result.out, "");
  std::filesystem::permissions(place.path() / "config.yaml", std::filesystem::perms::none);
  const ProgramResult unreadable = place.Run({"config.yaml"});
  EXPECT_EQ(unreadable.code, 2);
  EXPECT_THAT(unreadable.err, HasSubstr("config.yaml: cannot be read"));
  std::filesystem::permissions(place.path() / "closed", std::filesystem::perms::owner_all);
}

}  // namespace
}  // namespace simrun
