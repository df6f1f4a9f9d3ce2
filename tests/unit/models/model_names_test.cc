#include "models/model_names.h"

#include <filesystem>
#include <fstream>
#include <map>

#include <gtest/gtest.h>

#include "tests/unit/models/testing.h"

namespace simrun {
namespace {

TEST(ModelNames, CheckpointsAreTheirModels) {
  const std::pair<const char*, const char*> names[] = {{"meta-llama/Meta-Llama-3-8B-Instruct", "llama-3-8b"},
                                                       {"RedHatAI/Meta-Llama-3.1-70B-Instruct-quantized.w8a8", "llama-3.1-70b"},
                                                       {"hugging-quants/Meta-Llama-3.1-8B-Instruct-AWQ-INT4", "llama-3.1-8b"},
                                                       {"Qwen/Qwen3-4B-Instruct-2507", "qwen3-4b"},
                                                       {"Qwen/Qwen2.5-7B-Instruct-GPTQ-Int8", "qwen2.5-7b"},
                                                       {"Qwen/Qwen2-57B-A14B-Instruct", "qwen2-57b-a14b"},
                                                       {"deepseek-ai/DeepSeek-V3-0324", "deepseek-v3"},
                                                       {"moonshotai/Kimi-K2-Instruct-0905", "kimi-k2"},
                                                       {"google/gemma-7b-it", "gemma-7b"},
                                                       {"mistralai/Mistral-Large-Instruct-2411", "mistral-large-2407"},
                                                       {"Llama 3.1 8B", "llama-3.1-8b"}};
  for (const auto& [name, entry] : names) {
    const auto found = ResolveModel(name, TestCatalog());
    ASSERT_TRUE(found.ok()) << found.status();
    EXPECT_EQ(*found, entry) << name;
  }
  for (const char* unknown : {"moonshotai/Kimi-Linear-48B-A3B-Instruct", "deepseek-ai/DeepSeek-V4-Flash", "Instruct", "", "/models/llama-3.1-8b", "./llama-3.1-8b"}) {
    EXPECT_FALSE(ResolveModel(unknown, TestCatalog()).ok()) << unknown;
  }
}

TEST(ModelNames, NoSpellingStandsForTwoModels) {
  std::map<std::string, std::string> spelled;
  for (const std::string& name : ModelNames()) {
    EXPECT_EQ(spelled.emplace(ModelSpelling(name), name).first->second, name);
    for (const std::string& alias : Model(name).aliases) EXPECT_EQ(spelled.emplace(ModelSpelling(alias), name).first->second, name) << alias;
  }
}

TEST(ModelNames, SayWhatFormatTheWeightsAreIn) {
  const std::pair<const char*, std::optional<DType>> formats[] = {
      {"bfloat16", DType::kBf16},           {"half", DType::kFp16},           {"fp8_e4m3", DType::kFp8},  {"awq", DType::kInt4},
      {"gptq-int8", DType::kInt8},          {"w8a8", DType::kInt8},           {"w4a16", DType::kInt4},    {"q4_k_m", DType::kQ4KM},
      {"nvidia/Qwen3-32B-FP4", DType::kNvfp4}, {"Qwen/Qwen3-8B", std::nullopt}, {"sparse", std::nullopt}, {"", std::nullopt}};
  for (const auto& [text, format] : formats) EXPECT_EQ(FormatIn(text), format) << text;

  const auto dtype = [](const char* name) { return LoadModel(name, TestCatalog())->native_dtype; };
  EXPECT_EQ(dtype("llama-3.1-8b"), DType::kBf16);
  EXPECT_EQ(dtype("nvidia/Llama-3.1-8B-Instruct-FP8"), DType::kFp8) << "an alias of the same entry";
  EXPECT_EQ(dtype("Qwen/Qwen3-30B-A3B-Instruct-2507-FP8"), DType::kFp8);
  EXPECT_EQ(dtype("unsloth/gpt-oss-20b-MXFP4"), DType::kBf16) << "the experts alone are, as ever";
}

TEST(ModelNames, AFolderGoesBeforeASpellingButNotBeforeAName) {
  const std::string base = testing::TempDir() + "/model_names";
  std::filesystem::create_directories(base + "/mine/Llama-3.1-8B-Instruct");
  std::filesystem::create_directories(base + "/meta-llama/Llama-3.1-8B");
  EXPECT_TRUE(IsModelPath("mine/Llama-3.1-8B-Instruct", base, TestCatalog()));
  EXPECT_FALSE(IsModelPath("others/Llama-3.1-8B-Instruct", base, TestCatalog()));
  EXPECT_FALSE(IsModelPath("meta-llama/Llama-3.1-8B", base, TestCatalog()));
  EXPECT_FALSE(IsModelPath("others/unknown", base, TestCatalog()));
  EXPECT_TRUE(IsModelPath("llama-3.1-8b.yaml", base, TestCatalog()));
  std::filesystem::remove_all(base);
}

}  // namespace
}  // namespace simrun
