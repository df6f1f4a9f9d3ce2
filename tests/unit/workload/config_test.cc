#include "workload/config.h"

#include "tests/unit/workload/testing.h"

namespace simrun {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(WorkloadConfig, ContractForms) {
  const WorkloadConfig trace = Config("{trace: azure.csv}");
  EXPECT_EQ(trace.trace, "azure.csv");
  EXPECT_EQ(trace.format, "auto");

  const WorkloadConfig open = Config(
      "{requests: 10000, arrivals: {poisson: {rate: 4 /s}},\n"
      " input_tokens: {lognormal: {mean: 1155, p99: 4142, max: 8192}}, output_tokens: 200}");
  EXPECT_EQ(open.requests, 10000);
  EXPECT_EQ(open.arrivals->poisson->rate.value(), 4);
  EXPECT_EQ(open.input_tokens->lognormal->p99, 4142);
  EXPECT_EQ(open.output_tokens->fixed, 200);

  const WorkloadConfig closed = Config("{concurrency: 64, think_time: 500 ms, requests: 100, input_tokens: 10, output_tokens: 20}");
  EXPECT_EQ(closed.concurrency, 64);
  EXPECT_EQ(closed.think_time->fixed->value(), 0.5);

  const WorkloadConfig batch = Config("{static_batch: 16, input_tokens: 10, output_tokens: {uniform: {min: 1, max: 9}}}");
  EXPECT_EQ(batch.static_batch, 16);
  EXPECT_EQ(batch.batches, 1);

  Config("{trace: lengths.csv, arrivals: {gamma: {rate: 4 /s, cv: 2}}, requests: 10}");
  Config("{trace: a.csv, format: azure2024, output_tokens: 5, start: 10 s, duration: 1 h, rate_scale: 2, skip_invalid: true}");
  Config("{trace: a.csv, concurrency: 8}");
  Config("{arrivals: all_at_once, requests: 3, input_tokens: 1, output_tokens: 1, priorities: {levels: 3}, deadline: 2 s}");
}

TEST(WorkloadConfig, WrittenFormReadsBack) {
  for (const char* text :
       {"{trace: azure.csv, time_scale: 0.5}",
        "{requests: 5, arrivals: {onoff: {rate_on: 4 /s, mean_on: 2 s, mean_off: 1 s}}, input_tokens: {zipf: {max: 9}}, output_tokens: 200}",
        "{concurrency: 64, think_time: 500 ms, duration: 1 min, input_tokens: {empirical: {file: a.csv}}, output_tokens: {uniform: {max: 3}}}",
        "{requests: 5, arrivals: all_at_once, input_tokens: 7, output_tokens: 1, shared_prefix: {tokens: 1000, groups: 4, exponent: 0.5}}",
        "{trace: a.csv, hash_block: 16}",
        "{requests: 5, arrivals: all_at_once, input_tokens: {lognormal: {mean: 1155, p99: 4142}}, output_tokens: 1, deadline: 1 s}"}) {
    const WorkloadConfig config = Config(text);
    const YamlNode written = WriteParams(config);
    const std::string yaml = written.ToYaml();
    EXPECT_EQ(WriteParams(Config(yaml)), written) << yaml;
    EXPECT_EQ(WorkloadSummary(Config(yaml)), WorkloadSummary(config));
  }
}

TEST(WorkloadConfig, EveryParameterIsDocumented) {
  const auto rows = DocumentParams<WorkloadConfig>("workload");
  EXPECT_GT(rows.size(), 50u);
  for (const ParamDoc& row : rows) EXPECT_FALSE(row.help.empty()) << row.path;
}

struct Bad {
  const char* yaml;
  const char* problem;
};

TEST(WorkloadConfig, ProblemsHavePlacePathAndHint) {
  const Bad cases[] = {
      {"{requests: 1, input_tokens: 1, output_tokens: 1}",
       "w.yaml:1:1: workload: nothing says when requests arrive; give trace, arrivals, concurrency or static_batch"},
      {"{requests: 1, concurrency: 2, static_batch: 2, input_tokens: 1, output_tokens: 1}", "more than one of arrivals, concurrency and static_batch"},
      {"{arrivals: {poisson: {rate: 1 /s}}, requests: 1, input_tokens: 1}", "workload: output_tokens is missing; give a number or a distribution"},
      {"{arrivals: {poisson: {rate: 1 /s}}, input_tokens: 1, output_tokens: 1}", "workload: would never end; give requests"},
      {"{concurrency: 2, input_tokens: 1, output_tokens: 1}", "would never end"},
      {"{arrivals: all_at_once, duration: 1 s, input_tokens: 1, output_tokens: 1}", "requests is missing: the number that arrive at once"},
      {"{arrivals: {poisson: {rate: 1 /s}, constant: {rate: 1 /s}}, requests: 1, input_tokens: 1, output_tokens: 1}",
       "workload.arrivals: has 2 of poisson, gamma, weibull, onoff, constant or all_at_once; keep one"},
      {"{arrivals: {}, requests: 1, input_tokens: 1, output_tokens: 1}", "workload.arrivals: needs one of poisson"},
      {"{arrivals: {poison: {rate: 1 /s}}, requests: 1, input_tokens: 1, output_tokens: 1}", "poisson"},
      {"{arrivals: poisson, requests: 1, input_tokens: 1, output_tokens: 1}", "workload.arrivals: \"poisson\" needs settings; write {poisson: {rate: 4 /s}}"},
      {"{arrivals: all_at_onc, requests: 1, input_tokens: 1, output_tokens: 1}", "did you mean \"all_at_once\"?"},
      {"{arrivals: {poisson: {rate: 4}}, requests: 1, input_tokens: 1, output_tokens: 1}", "workload.arrivals.poisson.rate"},
      {"{arrivals: {poisson: {}}, requests: 1, input_tokens: 1, output_tokens: 1}", "workload.arrivals.poisson.rate: is required"},
      {"{arrivals: {weibull: {rate: 4 /s}}, requests: 1, input_tokens: 1, output_tokens: 1}", "workload.arrivals.weibull: needs cv or shape"},
      {"{arrivals: {weibull: {rate: 4 /s, cv: 1, shape: 1}}, requests: 1, input_tokens: 1, output_tokens: 1}", "weibull: has both cv and shape; keep one"},
      {"{arrivals: {onoff: {rate_on: 1 /s, mean_on: 1 ns, mean_off: 1 s}}, requests: 1, input_tokens: 1, output_tokens: 1}", "requests per burst and pause"},
      {"{static_batch: 1, input_tokens: 0, output_tokens: 1}", "workload.input_tokens: must be 1 to 1000000000 tokens"},
      {"{static_batch: 1, input_tokens: many, output_tokens: 1}", "workload.input_tokens: "},
      {"{static_batch: 1, input_tokens: {}, output_tokens: 1}", "workload.input_tokens: needs one of fixed, uniform, lognormal, zipf or empirical"},
      {"{static_batch: 1, input_tokens: {fixed: auto}, output_tokens: 1}", "workload.input_tokens: needs one of fixed"},
      {"{static_batch: 1, input_tokens: {fixed: 1, zipf: {max: 2}}, output_tokens: 1}", "workload.input_tokens: has 2 of fixed"},
      {"{static_batch: 1, input_tokens: {uniform: {min: 3, max: 2}}, output_tokens: 1}", "workload.input_tokens.uniform: min is greater than max"},
      {"{static_batch: 1, input_tokens: {zipf: {min: 3, max: 2}}, output_tokens: 1}", "workload.input_tokens.zipf: min is greater than max"},
      {"{static_batch: 1, input_tokens: {zipf: {max: 10000000}}, output_tokens: 1}", "at most 1048576 are supported"},
      {"{static_batch: 1, input_tokens: {lognormal: {mean: 100}}, output_tokens: 1}", "workload.input_tokens.lognormal: needs exactly two of"},
      {"{static_batch: 1, input_tokens: {lognormal: {mean: 100, p99: 50}}, output_tokens: 1}", "workload.input_tokens.lognormal: no lognormal length"},
      {"{static_batch: 1, input_tokens: {empirical: {file: a.csv, column: output_token}}, output_tokens: 1}", "did you mean \"output_tokens\"?"},
      {"{static_batch: 1, input_tokens: {empirical: {file: \"\"}}, output_tokens: 1}", "workload.input_tokens.empirical.file: is empty"},
      {"{trace: a.csv, arrivals: {poisson: {rate: 1 /s}}, input_tokens: 1, output_tokens: 1}", "workload.trace: is not used"},
      {"{trace: a.csv, think_time: 1 s}", "workload.think_time: needs a closed loop; give concurrency"},
      {"{concurrency: 1, requests: 1, think_time: 1, input_tokens: 1, output_tokens: 1}", "workload.think_time: "},
      {"{concurrency: 1, requests: 1, think_time: {uniform: {min: 2 s, max: 1 s}}, input_tokens: 1, output_tokens: 1}", "workload.think_time.uniform: min is greater than max"},
      {"{concurrency: 1, requests: 1, think_time: {}, input_tokens: 1, output_tokens: 1}", "workload.think_time: needs one of fixed, exponential or uniform"},
      {"{trace: a.csv, batches: 2}", "workload.batches: needs static_batch"},
      {"{static_batch: 1, format: azure, input_tokens: 1, output_tokens: 1}", "workload.format: needs a trace"},
      {"{trace: a.csv, format: azur}", "azure"},
      {"{trace: a.csv, concurrency: 2, start: 1 s}", "workload.start: needs a trace that sets the times of arrival"},
      {"{trace: a.csv, concurrency: 2, rate_scale: 2}", "workload.rate_scale: has nothing to scale"},
      {"{trace: a.csv, static_batch: 2, time_scale: 2}", "workload.time_scale: has nothing to scale"},
      {"{trace: a.csv, request: 5}", "requests"},
      {"{trace: a.csv, deadline: 0 s}", "workload.deadline"},
  };
  for (const Bad& c : cases) EXPECT_THAT(ProblemsOf(c.yaml), HasSubstr(c.problem)) << c.yaml;
}

TEST(WorkloadConfig, AllProblemsAreReportedAtOnce) {
  const std::string problems = ProblemsOf(
      "concurrency: 4\n"
      "batches: 3\n"
      "start: 1 s\n"
      "input_tokens: {uniform: {min: 9, max: 2}}\n"
      "outputs: 3\n");
  EXPECT_THAT(problems, AllOf(HasSubstr("w.yaml:2:10: workload.batches"), HasSubstr("w.yaml:3:8: workload.start"),
                              HasSubstr("w.yaml:4:25: workload.input_tokens.uniform"), HasSubstr("outputs"),
                              HasSubstr("output_tokens is missing"), HasSubstr("would never end")));
}

TEST(WorkloadConfig, AMisreadLengthIsNotAlsoCalledMissing) {
  const std::string problems = ProblemsOf("{static_batch: 1, input_tokens: many, output_tokens: 1}");
  EXPECT_EQ(problems.find('\n'), std::string::npos) << problems;
}

TEST(WorkloadConfig, OfferedRate) {
  const auto rate = [](const char* yaml) {
    const auto r = OfferedRate(Config(yaml));
    return r ? r->value() : -1;
  };
  EXPECT_DOUBLE_EQ(rate("{requests: 1, arrivals: {poisson: {rate: 4 /s}}, input_tokens: 1, output_tokens: 1}"), 4);
  EXPECT_DOUBLE_EQ(rate("{requests: 1, rate_scale: 3, time_scale: 0.5, arrivals: {gamma: {rate: 4 /s, cv: 2}}, input_tokens: 1, output_tokens: 1}"), 24);
  // 2 s at 10 /s and 3 s at 5 /s: 35 requests in 5 s.
  EXPECT_DOUBLE_EQ(rate("{requests: 1, arrivals: {onoff: {rate_on: 10 /s, rate_off: 5 /s, mean_on: 2 s, mean_off: 3 s}}, input_tokens: 1, output_tokens: 1}"), 7);
  EXPECT_EQ(rate("{requests: 1, arrivals: all_at_once, input_tokens: 1, output_tokens: 1}"), -1);
  EXPECT_EQ(rate("{trace: a.csv}"), -1);
}

TEST(WorkloadConfig, Summary) {
  EXPECT_EQ(WorkloadSummary(Config("{requests: 10000, arrivals: {poisson: {rate: 4 /s}},"
                                   " input_tokens: {lognormal: {mean: 1155, p99: 4142, max: 8192}}, output_tokens: 200}")),
            "10000 requests, Poisson 4 /s, input lognormal (mean 1155, p99 4142, max 8192), output 200");
  EXPECT_EQ(WorkloadSummary(Config("{trace: a.csv, rate_scale: 2, duration: 10 s}")), "10 s, trace a.csv, rate x 2");
  EXPECT_EQ(WorkloadSummary(Config("{concurrency: 64, think_time: 2 s, requests: 5, input_tokens: 1, output_tokens: 2}")),
            "5 requests, closed loop of 64, think time 2 s, input 1, output 2");
  EXPECT_EQ(WorkloadSummary(Config("{static_batch: 16, batches: 2, input_tokens: 1, output_tokens: 2}")),
            "2 static batches of 16, input 1, output 2");
}

}  // namespace
}  // namespace simrun
