#include <cmath>
#include <fstream>
#include <map>
#include <set>
#include <string>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/models/testing.h"

namespace simrun {

std::vector<std::vector<std::string>> ReadCsv(const std::string& path) {
  std::vector<std::vector<std::string>> rows;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    std::vector<std::string> row(1);
    bool quoted = false;
    for (const char ch : line) {
      if (ch == '"') {
        quoted = !quoted;
      } else if (ch == ',' && !quoted) {
        row.emplace_back();
      } else if (ch != '\r') {
        row.back() += ch;
      }
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

namespace {

// A headline such as 1.7 billion stands for anything that rounds to it: half a unit of its last digit.
double HalfUnit(double parameters) {
  const std::string text = fmt::format("{}", parameters / 1e9);
  const size_t dot = text.find('.');
  const int decimals = dot == std::string::npos ? 0 : static_cast<int>(text.size() - dot - 1);
  return 0.5e9 * std::pow(10.0, -decimals);
}

TEST(ModelCatalog, HoldsEveryEntryReadable) {
  EXPECT_GE(ModelNames().size(), 77u);
  for (const std::string& name : ModelNames()) {
    const ModelSpec m = Model(name);
    EXPECT_EQ(m.name, name);
    EXPECT_FALSE(m.source.empty()) << name;
    EXPECT_GT(m.published.parameters, 0) << name;
    if (m.moe.has_value()) {
      EXPECT_GT(m.moe->popularity_cv, 0) << name;
      EXPECT_FALSE(m.moe->popularity_source.empty()) << name;
    }
  }
}

TEST(ModelCatalog, ParameterCountsMatchThePublishedOnes) {
  for (const std::string& name : ModelNames()) {
    const ModelSpec m = Model(name);
    const double counted = static_cast<double>(ParameterCount(m)) + m.published.not_modelled;
    double tolerance = 0.01 * m.published.parameters;
    if (m.published.basis == "headline") tolerance = std::max(tolerance, HalfUnit(m.published.parameters));
    if (m.published.flagged) {
      EXPECT_FALSE(m.published.note.empty()) << name;
      EXPECT_GT(std::abs(counted - m.published.parameters), tolerance) << name << " needs no flag";
      continue;
    }
    EXPECT_NEAR(counted, m.published.parameters, tolerance) << name;
  }
}

TEST(ModelCatalog, OnlyKimiIsFlagged) {
  for (const std::string& name : ModelNames()) EXPECT_EQ(Model(name).published.flagged, name == "kimi-k2") << name;
}

TEST(ModelCatalog, ActiveParametersMatchThePublishedOnesUnderEitherConvention) {
  for (const std::string& name : ModelNames()) {
    const ModelSpec m = Model(name);
    if (m.published.active_parameters == 0) {
      if (!m.moe.has_value()) {
        EXPECT_EQ(ActiveParameterCount(m, true), ParameterCount(m)) << name;
      }
      continue;
    }
    const double with = static_cast<double>(ActiveParameterCount(m, true));
    const double without = static_cast<double>(ActiveParameterCount(m, false));
    const double published = m.published.active_parameters;
    // Headlines of one or two digits: the widest gap is glm-4.5-air's 12B, which leaves out embedding and LM head.
    const double tolerance = std::max(0.07 * published, HalfUnit(published));
    EXPECT_LT(std::min(std::abs(with - published), std::abs(without - published)), tolerance) << name;
  }
}

TEST(ModelCatalog, DimensionsAgreeExactlyWithTheReferenceTable) {
  const auto rows = ReadCsv(DataDir() + "/models.csv");
  if (rows.empty()) GTEST_SKIP() << "no " << DataDir() << "/models.csv; set SIMRUN_DATA_DIR";
  std::map<std::string, size_t> column;
  for (size_t i = 0; i < rows[0].size(); ++i) column[rows[0][i]] = i;
  for (size_t r = 1; r < rows.size(); ++r) {
    const auto cell = [&](const char* name) { return rows[r][column.at(name)]; };
    const ModelSpec m = Model(cell("model"));
    EXPECT_EQ(m.KvElementsPerTokenPerLayer(), std::stoll(cell("kv_elems_per_token_per_layer"))) << m.name;
    EXPECT_EQ(m.max_positions, std::stoll(cell("max_positions"))) << m.name;
    // The table leaves out MiniMax's routing bias and norms over all query and key heads.
    const int64_t missing = m.name == "minimax-m2" ? 62 * (256 + (48 + 8) * 128) : 0;
    EXPECT_EQ(ParameterCount(m) - missing, std::stoll(cell("computed_params"))) << m.name;
    if (missing > 0) continue;  // and from the active counts its last norm too
    EXPECT_EQ(ActiveParameterCount(m, true), std::stoll(cell("computed_active"))) << m.name;
    if (!m.is_encoder()) {  // there the table counts the input embedding in any case
      EXPECT_EQ(ActiveParameterCount(m, false), std::stoll(cell("computed_active_no_in_embed"))) << m.name;
    }
  }
  EXPECT_GE(rows.size(), 78u);
}

TEST(ModelCatalog, KnowsEveryNameOfTheReferenceTable) {
  const auto rows = ReadCsv(DataDir() + "/model_names.csv");
  if (rows.empty()) GTEST_SKIP() << "no " << DataDir() << "/model_names.csv; set SIMRUN_DATA_DIR";
  for (size_t r = 1; r < rows.size(); ++r) {
    for (size_t c = 1; c < rows[r].size(); ++c) {
      std::string list = rows[r][c] + "|";
      for (size_t at = 0, bar; (bar = list.find('|', at)) != std::string::npos; at = bar + 1) {
        const std::string alias = list.substr(at, bar - at);
        if (alias.empty()) continue;
        const auto name = TestCatalog().Resolve("models", alias);
        ASSERT_TRUE(name.ok()) << alias;
        EXPECT_EQ(*name, rows[r][0]) << alias;
      }
    }
  }
}

TEST(ModelCatalog, NoNameStandsForTwoModels) {
  std::set<std::string> names;
  for (const std::string& name : ModelNames()) {
    EXPECT_TRUE(names.insert(name).second) << name;
    for (const std::string& alias : Model(name).aliases) EXPECT_TRUE(names.insert(alias).second) << alias;
  }
}

}  // namespace
}  // namespace simrun
