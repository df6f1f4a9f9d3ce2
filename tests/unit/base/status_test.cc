#include "base/status.h"

#include <gtest/gtest.h>

#include "base/registry.h"

namespace simrun {
namespace {

std::string Message(const absl::Status& s) { return std::string(s.message()); }

TEST(Problems, NoneIsOk) { EXPECT_TRUE(Problems().ToStatus().ok()); }

TEST(Problems, AreSortedByPlaceAndKeepTheirParts) {
  Problems p;
  p.Add({"c.yaml", 9, 1}, "b", "late");
  p.Add({"c.yaml", 2, 7}, "a.x", "is wrong", "write it right");
  p.Add({"c.yaml", 2, 3}, "", "early");
  p.Add({"c.yaml", 0, 0}, "", "whole file");
  p.Add({}, "plan.tp", "no file");
  EXPECT_EQ(p.size(), 5u);
  EXPECT_EQ(p.ToStatus().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Message(p.ToStatus()),
            "c.yaml: whole file\n"
            "plan.tp: no file\n"
            "c.yaml:2:3: early\n"
            "c.yaml:2:7: a.x: is wrong; write it right\n"
            "c.yaml:9:1: b: late");
}

TEST(NearestName, FindsTyposAndCutShortNames) {
  const std::vector<std::string> names = {"h100-sxm-80gb", "a100-sxm-80gb", "llama-3.1-70b", "round-robin"};
  EXPECT_EQ(NearestName("round-robbin", names), "round-robin");
  EXPECT_EQ(NearestName("h100-sxm-80g", names), "h100-sxm-80gb");
  EXPECT_EQ(NearestName("a100", names), "a100-sxm-80gb");
  EXPECT_EQ(NearestName("lama-3.1-70b", names), "llama-3.1-70b");
  EXPECT_EQ(NearestName("form", {"farms", "from"}), "from");  // a swap is one edit, not two
  EXPECT_EQ(NearestName("quantum", names), "");
  EXPECT_EQ(NearestName("", names), "");
  EXPECT_EQ(NearestName("x", {}), "");
  EXPECT_EQ(NearestName(std::string(100000, 'x'), names), "");  // in no time
}

TEST(NameHint, ListsNamesWhenNoneIsNear) {
  EXPECT_EQ(NameHint("round-robbin", {"round-robin", "random"}), "did you mean \"round-robin\"?");
  EXPECT_EQ(NameHint("zzzzzzz", {"round-robin", "random"}), "one of: round-robin, random");
  EXPECT_EQ(NameHint("zzzzzzz", {}), "");
  const std::vector<std::string> many(13, "abcdefghijk");
  const std::string hint = NameHint("zzzzzzz", many);
  EXPECT_EQ(hint.substr(hint.size() - 5), ", ...");
}

absl::StatusOr<int> Half(int n) {
  if (n % 2 != 0) return absl::InvalidArgumentError("odd");
  return n / 2;
}
absl::StatusOr<int> Quarter(int n) {
  SIMRUN_ASSIGN_OR_RETURN(const int half, Half(n));
  SIMRUN_RETURN_IF_ERROR(Half(half).status());
  return half / 2;
}

TEST(StatusMacros, PassErrorsOn) {
  EXPECT_EQ(*Quarter(8), 2);
  EXPECT_EQ(Message(Quarter(7).status()), "odd");
  EXPECT_EQ(Message(Quarter(6).status()), "odd");
}

TEST(StatusDeathTest, ABrokenInvariantAborts) {
  EXPECT_DEATH(SIM_CHECK(1 + 1 == 3), "internal error: 1 \\+ 1 == 3 does not hold");
}

TEST(Registry, FindsByNameAndRefusesASecondOne) {
  Registry<std::function<int(int)>> registry("router");
  ASSERT_TRUE(registry.Add("twice", "Doubles", [](int x) { return 2 * x; }).ok());
  ASSERT_TRUE(registry.Add("square", "Squares", [](int x) { return x * x; }).ok());
  EXPECT_EQ((*registry.Find("twice"))(21), 42);
  EXPECT_EQ((*registry.Find("square"))(5), 25);
  EXPECT_EQ(registry.Names(), (std::vector<std::string>{"twice", "square"}));

  const absl::Status taken = registry.Add("twice", "Again", [](int x) { return x; });
  EXPECT_EQ(taken.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(Message(taken), "router \"twice\" is already registered");
  EXPECT_EQ((*registry.Find("twice"))(21), 42);

  const auto unknown = registry.Find("twise");
  EXPECT_EQ(unknown.status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Message(unknown.status()), "unknown router \"twise\"; did you mean \"twice\"?");
}

}  // namespace
}  // namespace simrun
