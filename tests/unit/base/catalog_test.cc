#include "base/catalog.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace simrun {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class CatalogTest : public testing::Test {
 protected:
  CatalogTest() {
    char name[] = "/tmp/simrun-catalog-test-XXXXXX";
    dir_ = ::mkdtemp(name);
    catalog_.AddEmbedded({{"gpus", "h100-sxm-80gb", "aliases: [h100, H100-SXM]\nmemory: 80 GB\n"},
                          {"gpus", "a100-sxm-80gb", "memory: 80 GB\n"},
                          {"models", "llama-3.1-8b", "layers: 32\n"}});
  }
  ~CatalogTest() override { std::filesystem::remove_all(dir_); }
  void Write(const std::string& path, const std::string& text) const {
    std::filesystem::create_directories(std::filesystem::path(dir_ + "/" + path).parent_path());
    std::ofstream(dir_ + "/" + path) << text;
  }
  std::string Error(std::string_view section, std::string_view name, absl::StatusCode code) const {
    const auto loaded = catalog_.Load(section, name);
    EXPECT_EQ(loaded.status().code(), code);
    return std::string(loaded.status().message());
  }

  std::string dir_;
  Catalog catalog_;
};

TEST_F(CatalogTest, LoadsEmbeddedEntriesByNameAndAlias) {
  EXPECT_THAT(catalog_.Names("gpus"), ElementsAre("a100-sxm-80gb", "h100-sxm-80gb"));
  EXPECT_TRUE(catalog_.Names("links").empty());
  EXPECT_EQ(catalog_.Load("gpus", "h100-sxm-80gb")->Get("memory")->text(), "80 GB");
  EXPECT_EQ(catalog_.Load("gpus", "h100")->Get("memory")->text(), "80 GB");
  EXPECT_EQ(*catalog_.Resolve("gpus", "H100-SXM"), "h100-sxm-80gb");
  EXPECT_EQ(*catalog_.Resolve("gpus", "a100-sxm-80gb"), "a100-sxm-80gb");
  EXPECT_EQ(catalog_.Load("models", "llama-3.1-8b")->location().file, "<built-in>/models/llama-3.1-8b.yaml");
}

TEST_F(CatalogTest, NamesMayBeSpelledOtherwise) {
  EXPECT_EQ(*catalog_.Resolve("gpus", "H100 SXM 80GB"), "h100-sxm-80gb");
  EXPECT_EQ(*catalog_.Resolve("gpus", "h100_sxm"), "h100-sxm-80gb");
  EXPECT_EQ(*catalog_.Resolve("models", "Llama 3.1 8B"), "llama-3.1-8b");
  EXPECT_FALSE(catalog_.Resolve("models", "llama-31-8b").ok()) << "a dot is no spelling: 2-57b is not 2.5-7b";
  // What two entries could mean is unknown.
  Write("gpus/H100-SXM_80GB.yaml", "memory: 1 GB\n");
  ASSERT_TRUE(catalog_.AddDirectory(dir_).ok());
  EXPECT_EQ(*catalog_.Resolve("gpus", "h100-sxm-80gb"), "h100-sxm-80gb");
  EXPECT_FALSE(catalog_.Resolve("gpus", "H100 SXM 80GB").ok());
}

TEST_F(CatalogTest, UnknownNamesGetAHint) {
  EXPECT_EQ(Error("gpus", "h100-sxm-80g", absl::StatusCode::kNotFound),
            "unknown gpu \"h100-sxm-80g\"; did you mean \"h100-sxm-80gb\"?");
  EXPECT_EQ(Error("models", "quantum", absl::StatusCode::kNotFound), "unknown model \"quantum\"; one of: llama-3.1-8b");
  EXPECT_EQ(Error("gpus", "H100-SMX", absl::StatusCode::kNotFound),
            "unknown gpu \"H100-SMX\"; did you mean \"H100-SXM\"?");  // aliases count as names
  EXPECT_EQ(Error("links", "nvlink", absl::StatusCode::kNotFound), "unknown link \"nvlink\"");
  EXPECT_EQ(Error("gpus", "", absl::StatusCode::kNotFound).substr(0, 14), "unknown gpu \"\"");
}

TEST_F(CatalogTest, AUsersFileReplacesTheBuiltInOneAndAddsNewOnes) {
  Write("gpus/h100-sxm-80gb.yaml", "memory: 96 GB\n");
  Write("gpus/mine.v2.yaml", "memory: 1 GB\naliases: [my-gpu]\n");
  Write("gpus/notes.txt", "not an entry");
  Write("README.yaml", "not: an entry");
  ASSERT_TRUE(catalog_.AddDirectory(dir_).ok());
  EXPECT_THAT(catalog_.Names("gpus"), ElementsAre("a100-sxm-80gb", "h100-sxm-80gb", "mine.v2"));
  EXPECT_EQ(catalog_.Load("gpus", "h100-sxm-80gb")->Get("memory")->text(), "96 GB");
  EXPECT_EQ(catalog_.Load("gpus", "my-gpu")->Get("memory")->location().file, dir_ + "/gpus/mine.v2.yaml");
  // The alias went with the file that it stood in.
  EXPECT_FALSE(catalog_.Resolve("gpus", "h100-SXM").ok());
  EXPECT_EQ(catalog_.Names("").size(), 0u);
}

TEST_F(CatalogTest, ANameGoesBeforeAnAlias) {
  Write("gpus/h100.yaml", "memory: 5 GB\n");
  ASSERT_TRUE(catalog_.AddDirectory(dir_).ok());
  EXPECT_EQ(*catalog_.Resolve("gpus", "h100"), "h100");
}

TEST_F(CatalogTest, BrokenFilesAreReportedWhereTheyMatter) {
  Write("gpus/broken.yaml", "aliases: [b]\nmemory: 1 GB\nmemory: 2 GB\n");
  ASSERT_TRUE(catalog_.AddDirectory(dir_).ok());
  EXPECT_THAT(Error("gpus", "broken", absl::StatusCode::kInvalidArgument),
              HasSubstr(dir_ + "/gpus/broken.yaml:3:1: duplicate key \"memory\""));
  // Others load; an unknown name says that the broken file may have held it.
  EXPECT_TRUE(catalog_.Load("gpus", "h100").ok());
  EXPECT_THAT(Error("gpus", "b", absl::StatusCode::kNotFound), HasSubstr("gpus/broken.yaml:3:1: duplicate key"));
}

TEST_F(CatalogTest, AFileIsReadOnce) {
  Write("gpus/mine.yaml", "memory: 1 GB\n");
  ASSERT_TRUE(catalog_.AddDirectory(dir_).ok());
  EXPECT_EQ(catalog_.Load("gpus", "mine")->Get("memory")->text(), "1 GB");
  Write("gpus/mine.yaml", "memory: 2 GB\n");
  EXPECT_EQ(catalog_.Load("gpus", "mine")->Get("memory")->text(), "1 GB") << "one catalogue gives one answer";
}

TEST_F(CatalogTest, WhatWasMadeOfEntriesLastsUntilOthersCome) {
  EXPECT_EQ(catalog_.Kept<int>("sum"), nullptr);
  catalog_.Keep("sum", std::make_shared<const int>(5));
  EXPECT_EQ(*catalog_.Kept<int>("sum"), 5);
  EXPECT_EQ(catalog_.Kept<double>("sum"), nullptr) << "names count within a type";
  Catalog copy = catalog_;
  EXPECT_EQ(*copy.Kept<int>("sum"), 5);
  copy.AddEmbedded({{"gpus", "h100-sxm-80gb", "memory: 1 GB\n"}});
  EXPECT_EQ(copy.Kept<int>("sum"), nullptr) << "it may have been made of the entry replaced";
  EXPECT_EQ(*catalog_.Kept<int>("sum"), 5);
  copy.Keep("sum", std::make_shared<const int>(1));
  EXPECT_EQ(*catalog_.Kept<int>("sum"), 5);
}

TEST_F(CatalogTest, DirectoriesThatHoldNothingAreErrors) {
  EXPECT_EQ(catalog_.AddDirectory(dir_ + "/missing").code(), absl::StatusCode::kNotFound);
  Write("file", "x");
  EXPECT_EQ(catalog_.AddDirectory(dir_ + "/file").code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(catalog_.AddDirectory(dir_).code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(CatalogTest, AFileThatVanishedIsNotFound) {
  Write("gpus/gone.yaml", "memory: 1 GB\n");
  ASSERT_TRUE(catalog_.AddDirectory(dir_).ok());
  std::filesystem::remove(dir_ + "/gpus/gone.yaml");
  EXPECT_THAT(Error("gpus", "gone", absl::StatusCode::kNotFound), HasSubstr("no such file"));
}

}  // namespace
}  // namespace simrun
