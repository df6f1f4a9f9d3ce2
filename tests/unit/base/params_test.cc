#include "base/params.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace simrun {
namespace {

using testing::HasSubstr;

std::vector<std::string> Colours() { return {"red", "green", "blue"}; }

struct Inner {
  double share = 0.5;
  Bytes size{1e9};
  template <class Visitor>
  void Describe(Visitor& v) {
    v.Field("share", share, {.help = "part of the whole", .min = 0, .max = 1});
    v.Field("size", size, {.help = "bytes", .min = 0, .above_min = true});
  }
};

// `length: 200` is short for `length: {tokens: 200}`.
struct Length {
  int64_t tokens = 1;
  std::string shape = "constant";
  template <class Visitor>
  void Describe(Visitor& v) {
    v.Field("tokens", tokens, {.help = "how many", .min = 1});
    v.Field("shape", shape, {.help = "distribution"});
  }
  absl::Status ReadScalar(const YamlNode& node) {
    const std::string error = params_internal::ReadInteger(node, &tokens);
    return error.empty() ? absl::OkStatus() : absl::InvalidArgumentError(error);
  }
  bool WriteScalar(YamlNode* node) const {
    if (shape != "constant") return false;
    *node = YamlNode::Scalar(std::to_string(tokens));
    return true;
  }
};

struct Settings {
  bool enabled = true;
  int ways = 4;
  int64_t limit = 256;
  double ratio = 0.25;
  std::string colour = "red";
  std::string note;
  Seconds deadline{0.5};
  PerSecond rate{4};
  std::optional<int64_t> blocks;
  std::optional<Seconds> wait;
  Inner inner;
  std::optional<Inner> extra;
  std::vector<int64_t> sizes = {1, 2};
  std::vector<Seconds> steps;
  std::vector<Inner> parts;
  Length length;

  template <class Visitor>
  void Describe(Visitor& v) {
    v.Field("enabled", enabled, {.help = "on or off"});
    v.Field("ways", ways, {.help = "ways", .min = 1, .max = 8});
    v.Field("limit", limit, {.help = "most at once", .min = 1});
    v.Field("ratio", ratio, {.help = "a ratio", .min = 0, .max = 1, .above_min = true});
    v.Field("colour", colour, {.help = "a colour", .choices = &Colours});
    v.Field("note", note, {.help = "any text", .example = "\"hello\""});
    v.Field("deadline", deadline, {.help = "time allowed", .min = 0});
    v.Field("rate", rate, {.help = "arrivals", .min = 0, .above_min = true});
    v.Field("blocks", blocks, {.help = "auto: what fits", .min = 1});
    v.Field("wait", wait, {.help = "auto: none", .max = 10});
    v.Field("inner", inner, {.help = "nested"});
    v.Field("extra", extra, {.help = "may be absent"});
    v.Field("sizes", sizes, {.help = "a list", .min = 0});
    v.Field("steps", steps, {.help = "times"});
    v.Field("parts", parts, {.help = "maps"});
    v.Field("length", length, {.help = "shorthand"});
  }
};

struct Required {
  std::string name;
  int64_t count = 0;
  template <class Visitor>
  void Describe(Visitor& v) {
    v.Field("name", name, {.help = "who", .required = true});
    v.Field("count", count, {.help = "how many", .required = true});
  }
};

template <class P>
P Read(std::string_view yaml, std::string* errors, const std::string& path = "s") {
  const auto node = ParseYaml(yaml, "f.yaml");
  EXPECT_TRUE(node.ok()) << node.status();
  P params;
  Problems problems;
  if (node.ok()) ReadParams(*node, path, &problems, &params);
  *errors = std::string(problems.ToStatus().message());
  return params;
}
template <class P = Settings>
P Good(std::string_view yaml) {
  std::string errors;
  P params = Read<P>(yaml, &errors);
  EXPECT_EQ(errors, "");
  return params;
}
template <class P = Settings>
std::string Errors(std::string_view yaml) {
  std::string errors;
  Read<P>(yaml, &errors);
  return errors;
}

TEST(Params, DefaultsStayWhenNothingIsGiven) {
  const Settings s = Good("{}");
  EXPECT_TRUE(s.enabled);
  EXPECT_EQ(s.limit, 256);
  EXPECT_EQ(s.colour, "red");
  EXPECT_EQ(s.deadline.value(), 0.5);
  EXPECT_FALSE(s.blocks.has_value());
  EXPECT_FALSE(s.extra.has_value());
  EXPECT_EQ(s.sizes, (std::vector<int64_t>{1, 2}));
}

TEST(Params, ReadsEveryType) {
  const Settings s = Good(
      "enabled: false\n"
      "ways: 8\n"
      "limit: 1e6\n"
      "ratio: 90 %\n"
      "colour: \"blue\"\n"
      "note: two words\n"
      "deadline: 18.4 ms\n"
      "rate: 30 /min\n"
      "blocks: 1_000\n"
      "wait: \"2 s\"\n"
      "inner: {share: 1, size: 80 GiB}\n"
      "extra: {share: 0.1}\n"
      "sizes: [3, 4, 5]\n"
      "steps: [1 s, 2 ms]\n"
      "parts: [{share: 0}, {size: 1 B}]\n"
      "length: 200\n");
  EXPECT_FALSE(s.enabled);
  EXPECT_EQ(s.ways, 8);
  EXPECT_EQ(s.limit, 1'000'000);
  EXPECT_EQ(s.ratio, 0.9);
  EXPECT_EQ(s.colour, "blue");
  EXPECT_EQ(s.note, "two words");
  EXPECT_EQ(s.deadline.value(), 0.0184);
  EXPECT_EQ(s.rate.value(), 0.5);
  EXPECT_EQ(s.blocks, 1000);
  EXPECT_EQ(s.wait->value(), 2);
  EXPECT_EQ(s.inner.size.value(), 80.0 * (1 << 30));
  EXPECT_EQ(s.extra->share, 0.1);
  EXPECT_EQ(s.extra->size.value(), 1e9);  // the rest of an optional struct has its defaults
  EXPECT_EQ(s.sizes, (std::vector<int64_t>{3, 4, 5}));
  ASSERT_EQ(s.steps.size(), 2u);
  EXPECT_EQ(s.steps[1].value(), 0.002);
  ASSERT_EQ(s.parts.size(), 2u);
  EXPECT_EQ(s.parts[0].share, 0);
  EXPECT_EQ(s.parts[1].share, 0.5);
  EXPECT_EQ(s.length.tokens, 200);
}

TEST(Params, AutoEmptiesAnOptional) {
  EXPECT_FALSE(Good("blocks: auto\nwait: auto\n").blocks.has_value());
  EXPECT_THAT(Errors("blocks: 'auto'\n"), HasSubstr("s.blocks: is text; write a whole number without quotes"));
  EXPECT_THAT(Errors("limit: auto\n"), HasSubstr("\"auto\" is not a whole number"));
}

TEST(Params, ShorthandAndFullFormAreBothRead) {
  const Settings s = Good("length: {tokens: 5, shape: geometric}\n");
  EXPECT_EQ(s.length.tokens, 5);
  EXPECT_EQ(s.length.shape, "geometric");
  EXPECT_EQ(Errors("length: many\n"), "f.yaml:1:9: s.length: \"many\" is not a whole number; write for example 4096");
}

struct BadCase {
  const char* yaml;
  const char* message;
};

TEST(Params, ErrorsSayWhereAndWhat) {
  const BadCase cases[] = {
      {"enabled: yes\n", "f.yaml:1:10: s.enabled: \"yes\" is neither true nor false"},
      {"enabled: 'true'\n", "s.enabled: is text; write true or false without quotes"},
      {"enabled:\n", "f.yaml:1:1: s.enabled: is empty; write true or false"},
      {"enabled: [true]\n", "s.enabled: must be true or false, not a list"},
      {"limit: 1.5\n", "f.yaml:1:8: s.limit: \"1.5\" is not a whole number; write for example 4096"},
      {"limit: 0\n", "f.yaml:1:8: s.limit: 0 is out of range; must be >= 1"},
      {"limit: {a: 1}\n", "s.limit: must be a whole number, not a map"},
      {"ways: 9\n", "s.ways: 9 is out of range; must be 1 to 8"},
      {"ways: 4294967297\n", "s.ways: is too large"},
      {"ratio: 0\n", "s.ratio: 0 is out of range; must be > 0 and <= 1"},
      {"ratio: 1.01\n", "s.ratio: 1.01 is out of range; must be > 0 and <= 1"},
      {"ratio: nan\n", "s.ratio: \"nan\" is not a number"},
      {"colour: gren\n", "f.yaml:1:9: s.colour: unknown name \"gren\"; did you mean \"green\"?"},
      {"colour: xxxxxx\n", "s.colour: unknown name \"xxxxxx\"; one of: red, green, blue"},
      {"colour:\n", "s.colour: must be a name or text"},
      {"note: [a]\n", "s.note: must be a name or text"},
      {"deadline: 500\n", "f.yaml:1:11: s.deadline: \"500\" has no unit; write for example \"500 ms\""},
      {"deadline: 5 GB\n", "s.deadline: \"5 GB\" is a size, not a time; use ns, us, ms, s, min, h or day"},
      {"deadline: -5 ms\n", "s.deadline: -5 ms is out of range; must be >= 0 s"},
      {"deadline:\n", "s.deadline: is empty; write a number with a unit"},
      {"rate: 0 /s\n", "s.rate: 0 /s is out of range; must be > 0 /s"},
      {"wait: 11 s\n", "s.wait: 11 s is out of range; must be <= 10 s"},
      {"blocks: 0\n", "s.blocks: 0 is out of range; must be >= 1"},
      {"inner: 5\n", "f.yaml:1:8: s.inner: must be a map of settings; write `key: value` lines under it"},
      {"inner: {shape: 1}\n", "f.yaml:1:9: s.inner.shape: unknown setting; did you mean \"share\"?"},
      {"extra: {share: 2}\n", "s.extra.share: 2 is out of range; must be 0 to 1"},
      {"sizes: 5\n", "s.sizes: must be a list; write [a, b]"},
      {"sizes: [1, -1]\n", "f.yaml:1:12: s.sizes.1: -1 is out of range; must be >= 0"},
      {"parts:\n  - share: 0\n  - share: x\n", "f.yaml:3:12: s.parts.1.share: \"x\" is not a number"},
      {"limits: 5\n", "f.yaml:1:1: s.limits: unknown setting; did you mean \"limit\"?"},
      {"- a\n", "f.yaml:1:1: s: must be a map of settings"},
  };
  for (const BadCase& c : cases) EXPECT_THAT(Errors(c.yaml), HasSubstr(c.message)) << c.yaml;
}

TEST(Params, AllProblemsAreReportedInTheOrderOfTheFile) {
  EXPECT_EQ(Errors("limt: 5\n"
                   "rate: 4\n"
                   "inner:\n"
                   "  share: 3\n"
                   "  colour: red\n"
                   "enabled: 1\n"),
            "f.yaml:1:1: s.limt: unknown setting; did you mean \"limit\"?\n"
            "f.yaml:2:7: s.rate: \"4\" has no unit; write for example \"4 /s\"\n"
            "f.yaml:4:10: s.inner.share: 3 is out of range; must be 0 to 1\n"
            "f.yaml:5:3: s.inner.colour: unknown setting; one of: share, size\n"
            "f.yaml:6:10: s.enabled: \"1\" is neither true nor false");
}

TEST(Params, AFailedFieldKeepsItsDefault) {
  std::string errors;
  const Settings s = Read<Settings>("limit: 0\ndeadline: 5\nwait: 11 s\n", &errors);
  EXPECT_EQ(s.limit, 256);
  EXPECT_EQ(s.deadline.value(), 0.5);
  EXPECT_FALSE(s.wait.has_value());
}

TEST(Params, RequiredSettings) {
  EXPECT_EQ(Errors<Required>("{}"), "f.yaml:1:1: s.name: is required; who\nf.yaml:1:1: s.count: is required; how many");
  EXPECT_EQ(Errors<Required>("name: x\n"), "f.yaml:1:1: s.count: is required; how many");
  EXPECT_EQ(Good<Required>("name: x\ncount: 3\n").count, 3);
}

TEST(Params, TheTopLevelNeedsNoPath) {
  std::string errors;
  Read<Settings>("limit: 0\n", &errors, "");
  EXPECT_EQ(errors, "f.yaml:1:8: limit: 0 is out of range; must be >= 1");
}

TEST(Params, WritingAndReadingGivesTheSameValues) {
  Settings s = Good(
      "{enabled: false, ways: 2, ratio: 0.30000000000000004, note: 'true', deadline: 18.4 ms, rate: 0.1 /s, blocks: 7, "
      "wait: 3 s, inner: {size: 123456789 B}, extra: {share: 0.125}, sizes: [], steps: [1 us], parts: [{share: 1}], "
      "length: {tokens: 9, shape: other}}");
  const YamlNode written = WriteParams(s);
  const auto text = ParseYaml(written.ToYaml(), "written");
  ASSERT_TRUE(text.ok()) << text.status();
  Settings back;
  Problems problems;
  ReadParams(*text, "s", &problems, &back);
  EXPECT_TRUE(problems.empty()) << problems.ToStatus();
  EXPECT_EQ(WriteParams(back), written);
  EXPECT_EQ(back.ratio, s.ratio);
  EXPECT_EQ(back.note, "true");
  EXPECT_EQ(back.deadline.value(), s.deadline.value());
  EXPECT_EQ(back.blocks, 7);
  EXPECT_EQ(back.extra->share, 0.125);
  EXPECT_TRUE(back.sizes.empty());
  EXPECT_EQ(back.length.shape, "other");
}

TEST(Params, WritingShowsEveryDefault) {
  EXPECT_EQ(WriteParams(Settings()).ToYaml(),
            "enabled: true\nways: 4\nlimit: 256\nratio: 0.25\ncolour: \"red\"\nnote: \"\"\ndeadline: 500 ms\nrate: 4 /s\n"
            "blocks: auto\nwait: auto\ninner:\n  share: 0.5\n  size: 1 GB\nsizes:\n  - 1\n  - 2\nsteps: []\nparts: []\n"
            "length: 1\n");
}

TEST(Params, DocumentationRows) {
  const std::vector<ParamDoc> rows = DocumentParams<Settings>("s");
  const auto row = [&](std::string_view path) {
    for (const ParamDoc& r : rows) {
      if (r.path == path) return r;
    }
    ADD_FAILURE() << "no row " << path;
    return ParamDoc{};
  };
  EXPECT_EQ(row("s.enabled").type, "true or false");
  EXPECT_EQ(row("s.enabled").fallback, "true");
  EXPECT_EQ(row("s.limit").type, "whole number");
  EXPECT_EQ(row("s.limit").range, ">= 1");
  EXPECT_EQ(row("s.limit").help, "most at once");
  EXPECT_EQ(row("s.ways").range, "1 to 8");
  EXPECT_EQ(row("s.ratio").range, "> 0 and <= 1");
  EXPECT_EQ(row("s.colour").range, "one of: red, green, blue");
  EXPECT_EQ(row("s.note").help, "any text (for example \"hello\")");
  EXPECT_EQ(row("s.deadline").type, "quantity (ns, us, ms, s, min, h, day)");
  EXPECT_EQ(row("s.deadline").fallback, "500 ms");
  EXPECT_EQ(row("s.deadline").range, ">= 0 s");
  EXPECT_EQ(row("s.blocks").type, "whole number or auto");
  EXPECT_EQ(row("s.blocks").fallback, "auto");
  EXPECT_EQ(row("s.wait").range, "<= 10 s");
  EXPECT_EQ(row("s.inner").type, "map");
  EXPECT_EQ(row("s.inner.size").range, "> 0 B");
  EXPECT_EQ(row("s.extra").fallback, "none");
  EXPECT_EQ(row("s.extra.share").fallback, "0.5");
  EXPECT_EQ(row("s.sizes").type, "list of whole number");
  EXPECT_EQ(row("s.steps").fallback, "[]");
  EXPECT_EQ(row("s.parts").type, "list of maps");
  EXPECT_EQ(row("s.parts[].share").range, "0 to 1");
  EXPECT_EQ(DocumentParams<Required>("r")[0].fallback, "required");
}

}  // namespace
}  // namespace simrun
