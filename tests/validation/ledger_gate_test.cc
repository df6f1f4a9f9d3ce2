// One number of the catalogue changed by a fifth: the gate over the accuracy page must see it.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <regex>

#include <gtest/gtest.h>

#include "calibration/accuracy_page.h"
#include "calibration/cases.h"
#include "calibration/validate.h"
#include "sim/scenario.h"
#include "tests/support/data_dir.h"

namespace simrun {
namespace {

std::string Text(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

class LedgerGate : public testing::Test {
 protected:
  void SetUp() override {
    const std::string file = DataFile("cases/silicon.csv");
    if (file.empty()) GTEST_SKIP() << "no measured cases; set SIMRUN_DATA_DIR";
    auto cases = ReadCases(file);
    ASSERT_TRUE(cases.ok()) << cases.status();
    for (MeasuredCase& c : *cases) {
      if (c.engine == "vllm" && c.engine_version.empty() && c.model == "llama-3.1-70b" && c.gpu == "h100-sxm-80gb" && c.osl == 1024) {
        cases_.push_back(std::move(c));
      }
    }
    ASSERT_GT(cases_.size(), 20u);
    auto built_in = std::make_shared<const Catalog>(BuiltInCatalog());
    page_ = PageWith(built_in);
  }
  std::string PageWith(const std::shared_ptr<const Catalog>& catalog) {
    return *AccuracyPage(cases_, Validate(cases_, catalog, {}), catalog);
  }
  // The catalogue with the first match of `pattern` in an entry replaced by `by`.
  std::shared_ptr<const Catalog> Changed(const std::string& section, const std::string& name, const std::string& pattern, const std::string& by) {
    const std::string source = Text(std::string(SIMRUN_SOURCE_DIR) + "/hw/catalog/" + section + "/" + name + ".yaml");
    const std::string text = std::regex_replace(source, std::regex(pattern), by, std::regex_constants::format_first_only);
    EXPECT_NE(text, source) << pattern;
    const std::string dir = testing::TempDir() + "/gate_" + name;
    std::filesystem::create_directories(dir + "/" + section);
    std::ofstream(dir + "/" + section + "/" + name + ".yaml") << text;
    auto catalog = std::make_shared<Catalog>(BuiltInCatalog());
    EXPECT_TRUE(catalog->AddDirectory(dir).ok());
    return catalog;
  }
  std::vector<MeasuredCase> cases_;
  std::string page_;
};

TEST_F(LedgerGate, PassesUnchanged) {
  const PageCheck check = CheckAccuracyPage(page_, PageWith(std::make_shared<const Catalog>(BuiltInCatalog())));
  EXPECT_TRUE(check.worse.empty() && check.differing.empty());
}

TEST_F(LedgerGate, SeesAnEngineNumber) {
  const PageCheck check = CheckAccuracyPage(page_, PageWith(Changed("engines", "vllm-0.11", "\npolicy:", "\ngpu_time_factor: 1.2\npolicy:")));
  EXPECT_FALSE(check.worse.empty());
}

TEST_F(LedgerGate, SeesAPeakRate) {
  // The memory bandwidth of the GPU, 3.35 TB/s, lowered by a fifth.
  const PageCheck check = CheckAccuracyPage(page_, PageWith(Changed("gpus", "h100-sxm-80gb", "memory_bandwidth: \\{value: 3352", "memory_bandwidth: {value: 2680")));
  EXPECT_FALSE(check.worse.empty());
}

}  // namespace
}  // namespace simrun
