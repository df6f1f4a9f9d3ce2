// The command line as a whole, in process where nothing but text is at stake.
#include "cli/command_line.h"

#include <sstream>
#include <string>
#include <tuple>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/params.h"
#include "base/yaml.h"
#include "cli/names.h"
#include "sim/config.h"
#include "tests/unit/cli/program.h"

namespace simrun {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;

ProgramResult Call(const std::vector<std::string>& arguments) {
  std::ostringstream out, err;
  ProgramResult result;
  result.code = RunCommandLine(arguments, {out, err});
  result.out = out.str();
  result.err = err.str();
  return result;
}

class CommandLine : public ::testing::Test {
 protected:
  void SetUp() override { place_.Write("config.yaml", ScenarioText().text()); }
  std::string File(const std::string& name) const { return (place_.path() / name).string(); }
  Workplace place_;
};

TEST_F(CommandLine, RunIsTheDefaultCommand) {
  const ProgramResult shorter = Call({File("config.yaml"), "--format", "json", "--set", "metrics.warmup=0 s"});
  const ProgramResult longer = Call({"run", File("config.yaml"), "--format", "json"});
  ASSERT_EQ(shorter.code, 0) << shorter.err;
  ASSERT_EQ(longer.code, 0) << longer.err;
  // Equal but for the time the runs took.
  const auto without_wall = [](std::string text) {
    const size_t from = text.find("\"wall_s\"");
    return text.erase(from, text.find('\n', from) - from);
  };
  EXPECT_EQ(without_wall(shorter.out), without_wall(longer.out));
}

TEST_F(CommandLine, OptionsMayStandBeforeTheScenario) {
  const ProgramResult result = Call({"--set", "plan.replicas=3", "--seed", "7", File("config.yaml")});
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("3 engines"));
  EXPECT_THAT(result.out, HasSubstr("seed 7"));
}

TEST_F(CommandLine, SettingsAreCheckedTogether) {
  // 70B does not fit one GPU, and 4 ranks are more than the hardware has: each setting alone would be refused.
  const ProgramResult result = Call({File("config.yaml"), "--set", "hardware={node: dgx-h100}", "--set", "model=llama-3.1-70b", "--set", "plan.tp=4"});
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.out, StartsWith("llama-3.1-70b on 4 x h100-sxm-80gb"));
}

TEST_F(CommandLine, SettingsRepairABrokenFile) {
  place_.Write("broken.yaml", ScenarioText().Set("plan", "{tp: 0}").text());
  EXPECT_EQ(Call({File("broken.yaml")}).code, 2);
  EXPECT_EQ(Call({File("broken.yaml"), "--set", "plan.tp=2"}).code, 0);
}

TEST_F(CommandLine, ASettingMayHoldEqualsSignsAndMaps) {
  place_.Write("a=b.csv", "arrival_s,input_tokens,output_tokens\n0,7,5\n1,9,5\n");
  const ProgramResult result = Call({File("config.yaml"), "--set", "workload={trace: a=b.csv}", "--format", "json"});
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("\"input_tokens\": 16"));
}

TEST_F(CommandLine, TheLastOfTwoEqualSettingsWins) {
  const ProgramResult result = Call({File("config.yaml"), "--set", "plan.tp=3", "--set", "plan.tp=2", "--set", "seed=5", "--seed", "6"});
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("1 engine with tp 2"));
  EXPECT_THAT(result.out, HasSubstr("seed 6"));
}

TEST_F(CommandLine, JsonOnStandardOutputIsTheReportFile) {
  const ProgramResult result = Call({File("config.yaml"), "--format", "json", "--out", File("out")});
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(result.out, place_.Read("out/report.json"));
  EXPECT_THAT(result.out, StartsWith("{\n \"plan\": {"));
  EXPECT_THAT(result.out, EndsWith("}\n"));
  EXPECT_EQ(result.err, "");
}

TEST_F(CommandLine, TextOnStandardOutputIsTheSummaryFile) {
  const ProgramResult result = Call({File("config.yaml"), "--out", File("out")});
  EXPECT_EQ(result.out, place_.Read("out/summary.txt"));
  std::istringstream lines(result.out);
  int count = 0;
  for (std::string line; std::getline(lines, line); ++count) EXPECT_LE(line.size(), 80u) << line;
  EXPECT_LE(count, 44);
}

TEST_F(CommandLine, TheEffectiveConfigurationRepeatsTheRunFromAnywhere) {
  place_.Write("in/t.csv", "arrival_s,input_tokens,output_tokens\n0,7,5\n1,9,5\n");
  place_.Write("in/engine.yaml", "like: vllm-0.19\ndescription: mine\nmax_num_seqs: 3\n");
  place_.Write("in/config.yaml", ScenarioText().Set("workload", "{trace: t.csv}").text());
  ASSERT_EQ(Call({File("in/config.yaml"), "--set", "plan.replicas=2", "--set", "engine.profile=engine.yaml", "--out", File("first")}).code, 0);
  const ProgramResult again = Call({File("first/config.yaml"), "--out", File("second")});
  ASSERT_EQ(again.code, 0) << again.err;
  EXPECT_EQ(place_.Read("first/config.yaml"), place_.Read("second/config.yaml"));
  const auto latencies = [](const std::string& json) { return json.substr(json.find("\"ttft\""), json.find("\"provenance\"") - json.find("\"ttft\"")); };
  EXPECT_EQ(latencies(place_.Read("first/report.json")), latencies(place_.Read("second/report.json")));
}

TEST_F(CommandLine, RequestsAreOneRowEach) {
  ASSERT_EQ(Call({File("config.yaml"), "--out", File("out"), "--requests"}).code, 0);
  std::istringstream lines(place_.Read("out/requests.csv"));
  std::string line;
  ASSERT_TRUE(std::getline(lines, line));
  EXPECT_EQ(line, "id,arrival_s,input_tokens,output_tokens,ttft_s,tpot_s,e2e_s,queue_s,preemptions,replica,cached_tokens");
  int rows = 0;
  for (; std::getline(lines, line); ++rows) {
    std::istringstream fields(line);
    std::vector<double> v;
    for (std::string field; std::getline(fields, field, ',');) v.push_back(std::stod(field));
    ASSERT_EQ(v.size(), 11u) << line;
    EXPECT_EQ(v[2], 100);
    EXPECT_EQ(v[3], 20);
    // E2E = TTFT + (outputs - 1) TPOT by definition; both are rounded to a tick of 0.1 ns.
    EXPECT_NEAR(v[6], v[4] + 19 * v[5], 19 * 1e-10 + 1e-12) << line;
    EXPECT_LE(v[7], v[4]) << line;
  }
  EXPECT_EQ(rows, 10);
}

TEST_F(CommandLine, ResultsReplaceEarlierOnesAndKeepOtherFiles) {
  place_.Write("out/notes.txt", "mine");
  place_.Write("out/report.json", "old");
  place_.Write("out/requests.csv", "old");
  const ProgramResult result = Call({File("config.yaml"), "--out", File("out")});
  EXPECT_EQ(result.code, 0);
  EXPECT_THAT(result.err, HasSubstr("requests.csv is not from this run"));
  EXPECT_EQ(place_.Read("out/notes.txt"), "mine");
  EXPECT_THAT(place_.Read("out/report.json"), StartsWith("{"));
  EXPECT_EQ(Call({File("config.yaml"), "--out", File("out"), "--quiet"}).err, "");
}

TEST_F(CommandLine, InputsAreNeverOverwritten) {
  const ProgramResult config = Call({File("config.yaml"), "--out", place_.path().string()});
  EXPECT_EQ(config.code, 2);
  EXPECT_THAT(config.err, HasSubstr("would overwrite the configuration"));
  place_.Write("runs/requests.csv", "arrival_s,input_tokens,output_tokens\n0,7,5\n");
  const ProgramResult trace = Call({File("config.yaml"), "--set", "workload={trace: runs/requests.csv}", "--out", File("runs"), "--requests"});
  EXPECT_EQ(trace.code, 2);
  EXPECT_THAT(trace.err, HasSubstr("would overwrite the trace"));
  EXPECT_EQ(place_.Read("runs/requests.csv"), "arrival_s,input_tokens,output_tokens\n0,7,5\n");
  EXPECT_EQ(place_.Read("config.yaml"), ScenarioText().text());
}

TEST_F(CommandLine, AnOutputDirectoryThatCannotBeMadeIsARunFailure) {
  place_.Write("taken", "a file");
  for (const char* out : {"taken", "taken/below"}) {
    const ProgramResult result = Call({File("config.yaml"), "--out", File(out)});
    EXPECT_EQ(result.code, 1) << out;
    EXPECT_THAT(result.err, HasSubstr("cannot be written"));
    EXPECT_EQ(result.out, "");
    EXPECT_EQ(place_.Read("taken"), "a file");
  }
}

TEST_F(CommandLine, AFullDiskIsARunFailure) {
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP() << "no /dev/full here";
  const std::string command = std::string(SIMRUN_BINARY) + " " + File("config.yaml") + " > /dev/full 2> " + File("err");
  const int status = std::system(command.c_str());
  EXPECT_EQ(WEXITSTATUS(status), 1);
  EXPECT_THAT(place_.Read("err"), HasSubstr("could not be written"));
}

// `simrun ... | head`: nobody is told that nobody listens.
TEST_F(CommandLine, AReaderThatLeavesIsNotComplainedAbout) {
  const std::string command = "(sleep 0.2; exec " + std::string(SIMRUN_BINARY) + " " + File("config.yaml") + ") 2> " + File("err") + " | true";
  std::ignore = std::system(command.c_str());
  EXPECT_EQ(place_.Read("err"), "");
}

TEST_F(CommandLine, OwnCatalogueEntriesAreFoundFirst) {
  place_.Write("mine/models/tiny.yaml",
               "hidden: 64\nlayers: 2\nvocab: 1000\nattention: {heads: 4, kv_heads: 4, head_dim: 16}\nmlp: {ffn: 128}\nmax_positions: 2048\nsource: test\n");
  EXPECT_EQ(Call({File("config.yaml"), "--set", "model=tiny"}).code, 2);
  const ProgramResult result = Call({File("config.yaml"), "--set", "model=tiny", "--catalog", File("mine"), "--out", File("out")});
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.out, StartsWith("tiny on 1 x h100-sxm-80gb"));
  EXPECT_THAT(place_.Read("out/config.yaml"), HasSubstr("--catalog " + File("mine")));
  EXPECT_THAT(Call({"list", "models", "--catalog", File("mine")}).out, HasSubstr("tiny"));
}

TEST_F(CommandLine, Help) {
  for (const std::vector<std::string>& arguments : std::vector<std::vector<std::string>>{{"--help"}, {"-h"}, {"help"}}) {
    const ProgramResult result = Call(arguments);
    EXPECT_EQ(result.code, 0);
    for (const char* command : {"run", "list", "explain", "explain-step", "reference"}) EXPECT_THAT(result.out, HasSubstr(command));
  }
  const ProgramResult run = Call({"run", "--help"});
  EXPECT_EQ(run.code, 0);
  for (const char* option : {"--set", "--out", "--format", "--seed", "--catalog", "--quiet", "--requests"}) EXPECT_THAT(run.out, HasSubstr(option));
  const ProgramResult nothing = Call({});
  EXPECT_EQ(nothing.code, 2);
  EXPECT_EQ(nothing.out, "");
  EXPECT_THAT(Call({"--version"}).out, StartsWith("simrun 0."));
}

TEST_F(CommandLine, WrongCommandsNameTheNearest) {
  EXPECT_THAT(Call({"lsit"}).err, HasSubstr("did you mean \"list\"?"));
  EXPECT_THAT(Call({"explain-stp"}).err, HasSubstr("did you mean \"explain-step\"?"));
  EXPECT_THAT(Call({"--catalog", "x", "list", "gpus"}).err, HasSubstr("simrun list ..."));
  EXPECT_THAT(Call({"list", "gpu"}).err, HasSubstr("did you mean \"gpus\"?"));
  EXPECT_THAT(Call({"explain", "chunked-prefil"}).err, HasSubstr("did you mean \"chunked-prefill\"?"));
  EXPECT_THAT(Call({"explain", "plan.tpp"}).err, HasSubstr("did you mean \"plan.tp\"?"));
  for (const std::vector<std::string>& arguments : std::vector<std::vector<std::string>>{
           {"lsit"}, {"list", "gpu"}, {"explain", "nothing-like-it"}, {"explain"}, {"run"}, {"explain-step"}, {"list", "gpus", "more"}, {"reference", "x"}}) {
    const ProgramResult result = Call(arguments);
    EXPECT_EQ(result.code, 2) << arguments[0];
    EXPECT_EQ(result.out, "");
    EXPECT_THAT(result.err, StartsWith("simrun: "));
  }
}

TEST_F(CommandLine, ListAndExplainCoverEveryName) {
  const Catalog catalog = BuiltInCatalog();
  size_t count = 0;
  for (const NameSection& section : NameSections()) {
    const ProgramResult list = Call({"list", section.name});
    ASSERT_EQ(list.code, 0) << section.name;
    const std::vector<std::string> names = section.names(catalog);
    ASSERT_FALSE(names.empty()) << section.name;
    for (const std::string& name : names) {
      EXPECT_THAT("\n" + list.out, HasSubstr("\n" + name)) << section.name;
      EXPECT_EQ(section.describe(name, catalog).find("unreadable"), std::string::npos) << name;
      const absl::StatusOr<std::string> text = section.explain(name, catalog);
      ASSERT_TRUE(text.ok()) << name << ": " << text.status().ToString();
      EXPECT_FALSE(text->empty()) << name;
    }
    EXPECT_THAT(Call({"explain", names[0]}).out, HasSubstr(section.name + " " + names[0] + "\n"));
    count += names.size();
  }
  EXPECT_GT(count, 200u);
}

TEST_F(CommandLine, ExplainFindsAliases) {
  EXPECT_THAT(Call({"explain", "meta-llama/Llama-3.1-70B"}).out, StartsWith("models llama-3.1-70b\n"));
  EXPECT_EQ(Call({File("config.yaml"), "--set", "model=meta-llama/Llama-3.1-8B"}).code, 0);
}

TEST_F(CommandLine, ExplainKnowsEverySetting) {
  for (const ParamDoc& row : DocumentParams<ScenarioConfig>("")) {
    const ProgramResult result = Call({"explain", row.path});
    EXPECT_EQ(result.code, 0) << row.path;
    EXPECT_THAT(result.out, HasSubstr("setting " + row.path + "\n"));
  }
}

TEST_F(CommandLine, ExplainShowsWhatAModelCosts) {
  const std::string text = Call({"explain", "llama-3.1-8b"}).out;
  // 32 layers x 2 (K and V) x 8 heads x 128 x 2 bytes = 131,072 bytes a token.
  EXPECT_THAT(text, HasSubstr("131.1 KB per token"));
  EXPECT_THAT(text, HasSubstr("8,030,261,248"));  // parameters of the published checkpoint
  EXPECT_THAT(text, HasSubstr("source"));
  EXPECT_THAT(Call({"explain", "h100-sxm-80gb"}).out, HasSubstr("989.4 TFLOP/s"));
}

TEST_F(CommandLine, ExplainStepAddsUp) {
  const ProgramResult result = Call({"explain-step", File("config.yaml"), "--batch", "8", "--kv", "500"});
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("8 sequences"));
  EXPECT_THAT(result.out, HasSubstr("decode attention"));
  EXPECT_EQ(result.out.find("prefill attention"), std::string::npos);
  // The shares of the operators, rounded to 0.1 %, sum to 100 %.
  double sum = 0;
  int rows = 0;
  std::istringstream lines(result.out.substr(result.out.find("operator"), result.out.find("\nsum ") - result.out.find("operator")));
  for (std::string line; std::getline(lines, line);) {
    const size_t percent = line.find(" %");
    if (percent == std::string::npos) continue;
    const size_t from = line.rfind(' ', percent - 1);
    sum += std::stod(line.substr(from));
    ++rows;
  }
  EXPECT_GT(rows, 8);
  EXPECT_NEAR(sum, 100, 0.05 * rows + 0.1 * rows / 2);
  EXPECT_THAT(Call({"explain-step", File("config.yaml"), "--prefill", "512"}).out, HasSubstr("prefill attention"));
  for (const auto& [option, value] : std::vector<std::pair<std::string, std::string>>{
           {"--batch", "-1"}, {"--batch", "x"}, {"--batch", "0"}, {"--kv", "0"}, {"--kv", "1e30"}, {"--prefill", "1.5"}}) {
    EXPECT_EQ(Call({"explain-step", File("config.yaml"), option, value}).code, 2) << option << value;
  }
}

TEST_F(CommandLine, ExplainStepShowsTheLaunches) {
  const ProgramResult text = Call({"explain-step", File("config.yaml"), "--set", "engine.profile=pytorch-eager", "--prefill", "512",
                                   "--prompts", "2", "--fuse-chain", "8", "--kernels"});
  ASSERT_EQ(text.code, 0) << text.err;
  for (const char* part : {"2 prompts of 512 tokens", "TKLQT", "Bound by", "Fused", "CUDA graph", "issued"}) EXPECT_THAT(text.out, HasSubstr(part));
  const ProgramResult json = Call({"explain-step", File("config.yaml"), "--set", "engine.profile=pytorch-eager", "--timeline", "--format", "json"});
  ASSERT_EQ(json.code, 0) << json.err;
  for (const char* part : {"\"operators\"", "\"timeline\"", "\"host_bound\"", "\"gpu_bound_from\""}) EXPECT_THAT(json.out, HasSubstr(part));
  EXPECT_THAT(Call({"explain-step", File("config.yaml"), "--set", "engine.profile=ideal", "--timeline"}).err, HasSubstr("pytorch-eager"));
  for (const auto& [option, value] : std::vector<std::pair<std::string, std::string>>{{"--prompts", "0"}, {"--fuse-chain", "1"}, {"--format", "xml"}}) {
    EXPECT_EQ(Call({"explain-step", File("config.yaml"), option, value}).code, 2) << option << value;
  }
}

TEST_F(CommandLine, TheReferenceHasEverySetting) {
  const ProgramResult result = Call({"reference"});
  EXPECT_EQ(result.code, 0);
  for (const ParamDoc& row : DocumentParams<ScenarioConfig>("")) EXPECT_THAT(result.out, HasSubstr("| `" + row.path + "` |"));
}

}  // namespace
}  // namespace simrun
