#include "calibration/fit_engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/params.h"
#include "calibration/validate.h"
#include "sim/scenario.h"
#include "tests/support/cases.h"

namespace simrun {
namespace {

using ::testing::HasSubstr;

std::vector<MeasuredCase> Cases() {
  std::vector<MeasuredCase> cases;
  for (const double batch : {1, 8, 32, 64}) {
    MeasuredCase c = StaticBatchCase("llama-3-8b", "fp16", batch, 128, 64);
    c.id = "b" + std::to_string(static_cast<int>(batch));
    MeasuredValue v;
    v.metric = "tpot";
    v.statistic = "mean";
    v.unit = "ms";
    v.class_name = "static-batch";
    v.value = 1;
    c.values.push_back(v);
    cases.push_back(c);
  }
  return cases;
}

// "Measurements" made with other host terms than the profile's: the fit finds them back.
TEST(FitEngine, RecoversKnownTerms) {
  const auto catalog = std::make_shared<const Catalog>(BuiltInCatalog());
  EngineProfile truth = *LoadEngineProfile("vllm-0.6", *catalog);
  truth.step_host = Seconds(3.1e-3);
  truth.sequence_host = Seconds(70e-6);
  auto with_truth = std::make_shared<Catalog>(*catalog);
  const std::string text = WriteParams(truth).ToYaml();
  with_truth->AddEmbedded({{"engines", "truth", text}});
  std::vector<MeasuredCase> cases = Cases();
  ValidateOptions options;
  options.profile = "truth";
  options.baseline = false;
  const std::vector<LedgerRow> rows = Validate(cases, with_truth, options);
  for (size_t i = 0; i < rows.size(); ++i) cases[i].values[0].value = *rows[i].predicted;

  FitEngineOptions fit;
  fit.fields = {"step_host", "sequence_host", "front_end"};
  const auto result = FitEngine(cases, "vllm-0.6", catalog, fit);
  ASSERT_TRUE(result.ok()) << result.status();
  // Four values: the start, 2.2 ms and 20 us, still pulls a little.
  EXPECT_NEAR(result->fields[0].value, 3.1e-3, 0.15e-3);
  EXPECT_NEAR(result->fields[1].value, 70e-6, 4e-6);
  EXPECT_GT(result->fields[0].learned(), 0.6);
  EXPECT_LT(result->fields[2].learned(), 0.1) << "a library call has no front end, so its time cannot be known";
  EXPECT_LT(result->median_after, 0.005);
  EXPECT_GT(result->median_before, 0.05);
}

TEST(FitEngine, NamesWhatCannotBeFitted) {
  FitEngineOptions fit;
  fit.fields = {"step_hots"};
  const auto result = FitEngine(Cases(), "vllm-0.6", std::make_shared<const Catalog>(BuiltInCatalog()), fit);
  EXPECT_THAT(std::string(result.status().message()), HasSubstr("did you mean \"step_host\"?"));
}

}  // namespace
}  // namespace simrun
