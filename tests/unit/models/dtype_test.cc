#include "models/dtype.h"

#include <gtest/gtest.h>

namespace simrun {
namespace {

TEST(DType, NamesReadBack) {
  ASSERT_EQ(DTypeNames().size(), static_cast<size_t>(kNumDTypes));
  for (int i = 0; i < kNumDTypes; ++i) {
    const DType d = static_cast<DType>(i);
    EXPECT_EQ(DTypeNames()[static_cast<size_t>(i)], DTypeName(d));
    EXPECT_EQ(*ParseDType(DTypeName(d)), d);
  }
  const auto bad = ParseDType("bf61");
  ASSERT_FALSE(bad.ok());
  EXPECT_NE(std::string(bad.status().message()).find("did you mean \"bf16\""), std::string::npos) << bad.status();
}

TEST(DType, BlockScaledFormatsCountTheirScales) {
  EXPECT_DOUBLE_EQ(BitsPerElement(DType::kMxfp4), 4 + 8.0 / 32);  // one 8-bit scale for 32 numbers
  EXPECT_DOUBLE_EQ(BitsPerElement(DType::kNvfp4), 4 + 8.0 / 16);  // one fp8 scale for 16 numbers
  // 404 GB for the 671 G parameters of DeepSeek-V3 is 4.82 bits; the mix differs a little from model to model.
  EXPECT_NEAR(BitsPerElement(DType::kQ4KM), 404e9 * 8 / 671e9, 0.05);
  EXPECT_DOUBLE_EQ(BitsPerElement(DType::kQ5), 5 + 16.0 / 32);          // one fp16 scale for 32 numbers
  EXPECT_DOUBLE_EQ(BitsPerElement(DType::kQ8), 8 + 16.0 / 32);
  EXPECT_DOUBLE_EQ(BitsPerElement(DType::kQ6K), 6 + (16 * 8 + 16) / 256.0);  // an 8-bit scale for 16, one of those for 256
  EXPECT_DOUBLE_EQ(BytesPerElement(DType::kTf32), 4);
  EXPECT_DOUBLE_EQ(BytesPerElement(DType::kFp8), 1);
}

TEST(DType, MultiplyRunsInTheWiderFormat) {
  EXPECT_EQ(ComputeDType(DType::kInt4, DType::kBf16), DType::kBf16);   // weight-only
  EXPECT_EQ(ComputeDType(DType::kMxfp4, DType::kFp8), DType::kFp8);
  EXPECT_EQ(ComputeDType(DType::kInt8, DType::kFp16), DType::kFp16);
  EXPECT_EQ(ComputeDType(DType::kInt8, DType::kInt8), DType::kInt8);
  EXPECT_EQ(ComputeDType(DType::kNvfp4, DType::kNvfp4), DType::kNvfp4);
  EXPECT_EQ(ComputeDType(DType::kFp32, DType::kTf32), DType::kFp32);
  EXPECT_EQ(ComputeDType(DType::kBf16, DType::kFp8), DType::kBf16);
  EXPECT_EQ(ComputeDType(DType::kBf16, DType::kFp16), DType::kFp16);
}

}  // namespace
}  // namespace simrun
