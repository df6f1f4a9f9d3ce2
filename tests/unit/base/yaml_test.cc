#include "base/yaml.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/rng.h"

namespace simrun {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

std::string ErrorOf(std::string_view text) {
  const auto parsed = ParseYaml(text, "f.yaml");
  if (parsed.ok()) return "no error; read as:\n" + parsed->ToYaml();
  EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(parsed.status().message());
}

YamlNode Parsed(std::string_view text) {
  auto parsed = ParseYaml(text, "f.yaml");
  EXPECT_TRUE(parsed.ok()) << parsed.status() << "\n" << text;
  return parsed.ok() ? *std::move(parsed) : YamlNode();
}

std::string Place(const YamlNode& node) {
  return node.location().file + ":" + std::to_string(node.location().line) + ":" + std::to_string(node.location().column);
}

TEST(Yaml, ReadsValuesWithTheirPlaces) {
  const YamlNode root = Parsed(
      "model: llama-3.1-70b  # comment\n"
      "plan: {tp: 4, pp: 1}\n"
      "slo:\n"
      "  ttft: 500 ms\n"
      "list:\n"
      "  - 'quoted'\n"
      "  - \"double\\n\"\n"
      "  - x: 1\n"
      "    y:\n"
      "text: |\n"
      "  two\n"
      "  lines\n");
  ASSERT_TRUE(root.IsMap());
  EXPECT_EQ(root.Get("model")->text(), "llama-3.1-70b");
  EXPECT_FALSE(root.Get("model")->quoted());
  EXPECT_EQ(Place(*root.Get("model")), "f.yaml:1:8");
  EXPECT_EQ(Place(*root.Get("plan")), "f.yaml:2:7");
  EXPECT_EQ(Place(*root.Get("plan.pp")), "f.yaml:2:19");
  EXPECT_EQ(root.Get("slo.ttft")->text(), "500 ms");
  EXPECT_EQ(Place(*root.Get("slo.ttft")), "f.yaml:4:9");
  EXPECT_EQ(root.entries()[2].key, "slo");
  EXPECT_EQ(root.entries()[2].key_location.line, 3);
  EXPECT_EQ(root.Get("slo")->entries()[0].key_location.column, 3);
  EXPECT_TRUE(root.Get("list.0")->quoted());
  EXPECT_EQ(root.Get("list.0")->text(), "quoted");
  EXPECT_EQ(root.Get("list.1")->text(), "double\n");
  EXPECT_EQ(root.Get("list.2.x")->text(), "1");
  EXPECT_TRUE(root.Get("list.2.y")->IsNull());
  EXPECT_EQ(Place(*root.Get("list.2.y")), "f.yaml:9:5");  // the key of a value that is not there
  EXPECT_EQ(root.Get("text")->text(), "two\nlines\n");
  EXPECT_TRUE(root.Get("text")->quoted());
  EXPECT_EQ(root.Get("list")->items().size(), 3u);
}

TEST(Yaml, AcceptsTheUsualForms) {
  EXPECT_TRUE(Parsed("").IsNull());
  EXPECT_TRUE(Parsed("# nothing\n").IsNull());
  EXPECT_EQ(Parsed("---\na: 1\n...\n"), Parsed("a: 1\n"));
  EXPECT_EQ(Parsed("%YAML 1.2\n---\na: 1\n"), Parsed("a: 1\n"));
  EXPECT_EQ(Parsed("\xEF\xBB\xBF" "a: 1\n"), Parsed("a: 1\n"));
  EXPECT_EQ(Parsed("a: 1\r\nb: 2\r\n"), Parsed("a: 1\nb: 2\n"));
  EXPECT_EQ(Parsed("{\"a\":1}"), Parsed("a: 1\n"));
  EXPECT_EQ(Parsed("a:\n- 1\n- 2\n"), Parsed("a: [1, 2]\n"));
  EXPECT_EQ(Parsed("'it''s' : 1"), Parsed("\"it's\": 1"));
  EXPECT_EQ(Parsed("? a\n: 1\n"), Parsed("a: 1\n"));
  EXPECT_EQ(Parsed("größe: ü").Find("größe")->text(), "ü");
  EXPECT_EQ(Parsed("\"<<\": 1\n").Find("<<")->text(), "1");  // in quotes it is a name like any other
}

TEST(Yaml, ReportsEveryDuplicateKey) {
  EXPECT_EQ(ErrorOf("a: 1\n"
                    "a: 2\n"
                    "b:\n"
                    "  c: 1\n"
                    "  'c': 2\n"
                    "l: [{x: 1, y: 2, x: 3}]\n"
                    "a: {c: 1}\n"),
            "f.yaml:2:1: duplicate key \"a\"; first given in line 1\n"
            "f.yaml:5:3: b: duplicate key \"c\"; first given in line 4\n"
            "f.yaml:6:18: l.0: duplicate key \"x\"; first given in line 6\n"
            "f.yaml:7:1: duplicate key \"a\"; first given in line 1");
  // The same key in different maps is no duplicate.
  EXPECT_EQ(Parsed("a: {x: 1}\nb: {x: 1}\nc: [{x: 1}, {x: 1}]\n").entries().size(), 3u);
}

TEST(Yaml, ReportsAllKindsOfProblemsAtOnce) {
  EXPECT_EQ(ErrorOf("a: &here 1\n"
                    "b: *here\n"
                    "c: !!str 5\n"
                    "<<: {d: 1}\n"
                    "[x, y]: 1\n"
                    "a: 7\n"),
            "f.yaml:1:4: a: anchors and aliases are not supported; write the value out\n"
            "f.yaml:2:4: b: anchors and aliases are not supported; write the value out\n"
            "f.yaml:3:4: c: tags are not supported; write the plain value, or text in quotes\n"
            "f.yaml:4:1: merge keys are not supported; write the settings out\n"
            "f.yaml:5:1: a key must be a name, not a list or map; write `key: value`\n"
            "f.yaml:6:1: duplicate key \"a\"; first given in line 1");
}

struct BadCase {
  std::string text, message;
};

TEST(Yaml, RejectsWhatGoesSilentlyWrong) {
  const std::string nul(1, '\0');
  const BadCase cases[] = {
      {"a: 1\n---\nb: 2\n", "f.yaml:2:1: a second document starts here"},
      {"a: 1\n...\nb: 2\n", "f.yaml:3:1: does not belong to what stands above"},
      {"- a\nb: c\n", "f.yaml:2:1: does not belong to what stands above"},
      {"a: 'x\n", "f.yaml:1:4: a: a quote is not closed"},
      {"a: 'it''s\n", "f.yaml:1:4: a: a quote is not closed"},
      {"a: \"x\\\"\n", "f.yaml:1:4: a: a quote is not closed"},
      {"a: b\nc\n", "f.yaml:2:1: no colon after \"c\""},
      {"a: {b: 1, c}\n", "f.yaml:1:11: a: no colon after \"c\""},
      {"a: {b: 1,, c: 2}\n", "f.yaml:1:10: a: a key is missing"},
      {"~: 1\n", "f.yaml:1:1: a key is missing"},
      {"'': 1\n", "f.yaml:1:1: a key is empty"},
      {"a:\n\tb: 1\n", "f.yaml:2:1: tab in the indentation; indent with spaces"},
      {"a: \"x\" y\n", "f.yaml:1:8: not valid YAML"},
      {"a: b: c\n", "f.yaml:1:5: not valid YAML: illegal map value"},
      {"a: [1, 2\n", "f.yaml:2:1: not valid YAML: end of sequence flow not found"},
      {"a: @x\n", "f.yaml:1:4: not valid YAML"},
      {"a: \"\\ud800\"\n", "f.yaml:1:11: not valid YAML: invalid unicode"},
      {"b: *nowhere\n", "f.yaml:1:4: b: anchors and aliases are not supported"},
      {"&a\n", "f.yaml:1:1: anchors and aliases"},
      {"!local {a: 1}\n", "f.yaml:1:1: tags are not supported"},
      {"a: ! 5\n", "f.yaml:1:4: a: tags are not supported"},
      {"{[a]: 1, b: 2}\n", "f.yaml:1:2: a key must be a name"},
      {"{{a: 1}: 1}\n", "f.yaml:1:2: a key must be a name"},
      {"a: 1\rb: 2\n", "f.yaml:1:5: control character U+000D"},
      {"ab: x" + nul + "\n", "f.yaml:1:6: control character U+0000"},
      {"a: \"\\0\"\n", "f.yaml:1:4: a: holds a control character"},
      {"a: \"\\x07\"\n", "f.yaml:1:4: a: holds a control character"},
      {"a: 1\nb: \x1b[0m\n", "f.yaml:2:4: control character U+001B"},
      {"a: \xC2\x85\n", "f.yaml:1:4: control character U+0085"},
      {"a: \xFF\xFE\n", "f.yaml:1:4: is not UTF-8 text"},
      {"a: \xC0\x80\n", "f.yaml:1:4: is not UTF-8 text"},       // overlong
      {"a: \xE0\x80\x80\n", "f.yaml:1:4: is not UTF-8 text"},   // overlong
      {"a: \xED\xA0\x80\n", "f.yaml:1:4: is not UTF-8 text"},   // surrogate
      {"a: \xF4\x90\x80\x80\n", "f.yaml:1:4: is not UTF-8 text"},
      {"a: \xE2\x82", "f.yaml:1:4: is not UTF-8 text"},         // cut short
      {"a: \x80\n", "f.yaml:1:4: is not UTF-8 text"},
      {"\x89PNG\r\n\x1a\n", "f.yaml:1:1: is not UTF-8 text"},
      {std::string(300, 'k') + ": 1\n", "f.yaml:1:1: a key has more than 256 bytes"},
      {std::string(65, '[') + std::string(65, ']'), "f.yaml:1:65: nested deeper than 64 levels"},
      {std::string((4 << 20) + 1, 'a'), "f.yaml: is larger than 4 MiB"},
      {"%YAML 2.0\n---\na: 1\n", "not valid YAML"},
  };
  for (const BadCase& c : cases) EXPECT_THAT(ErrorOf(c.text), HasSubstr(c.message)) << c.text.substr(0, 100);
}

TEST(Yaml, LimitsAreReachedButNotPassed) {
  EXPECT_TRUE(ParseYaml(std::string(64, '[') + std::string(64, ']'), "f").ok());
  std::string deep;
  for (int i = 0; i < 64; ++i) deep += std::string(static_cast<size_t>(2 * i), ' ') + "a:\n";
  EXPECT_TRUE(ParseYaml(deep, "f").ok());
  deep += std::string(128, ' ') + "a: 1\n";
  EXPECT_THAT(ErrorOf(deep), HasSubstr("f.yaml:65:129: nested deeper than 64 levels"));
  EXPECT_TRUE(ParseYaml("a: " + std::string((4 << 20) - 3, 'x'), "f").ok());
  EXPECT_TRUE(ParseYaml(std::string(256, 'k') + ": 1\n", "f").ok());
}

TEST(Yaml, HostileInputEndsSoonWithABoundedMessage) {
  const size_t size = 1 << 17;
  for (const std::string_view unit : {"[", "{", "- ", "? ", ": ", "a: 1\n", ",", "!a ", "&a ", "---\n", "\"a\" ",
                                      "{a: ", "\t\n", "[],", "*a "}) {
    std::string text;
    while (text.size() < size) text += unit;
    const auto parsed = ParseYaml(text, "f.yaml");
    EXPECT_FALSE(parsed.ok()) << unit;
    EXPECT_LT(parsed.status().message().size(), 200'000u) << unit;
  }
  std::string commas = "[";
  while (commas.size() < (4 << 20) - 100) commas += "a,";
  EXPECT_THAT(ErrorOf(commas + "]"), HasSubstr("more than 500000 values"));
}

TEST(Yaml, ToYamlReadsBackToAnEqualTree) {
  for (const char* text : {
           "a: 1\n", "a:\n  b: c\n  d: {}\n  e: []\n  f:\n", "- 1\n- [2, [3, []]]\n- {a: [{b: 1}]}\n", "a\n", "",
           "a: '5'\nb: 5\nc: 'null'\nd: null\ne: 'auto'\nf: auto\n", "a: \"\\\"\\\\\\n\\t\"\n", "a: |\n  x\n   y\n\n",
           "a: >-\n  folded\n  text\n", "'a: b': 'c # d'\n", "\"- x\": \"- y\"\n", "'?': '!'\n", "'<<': 1\n",
           "a: 4 /s\nb: ./x y.csv\nc: .5\nd: -.5\ne: 90 %\nf: $5\ng: ../x\n", "a: '-'\nb: '-x'\n", "größe: ü\n",
           "a: 'x '\nb: ' x'\n", "\"a\\nb\": 1\n", "a: x#y\nb: http://x\n", "a: '---'\n'...': b\n", "[[], {}, '']\n",
           "'true': true\n", "1: 2\n", "a: 1e5\nb: 0x10\nc: 1_000\n", "a: \"\xF0\x9F\x98\x80\"\n"}) {
    const YamlNode tree = Parsed(text);
    EXPECT_EQ(Parsed(tree.ToYaml()), tree) << text << "\nwas written as\n" << tree.ToYaml();
    EXPECT_EQ(Parsed(tree.ToYaml()).ToYaml(), tree.ToYaml());
  }
  EXPECT_EQ(Parsed("b: [1, {c: 'x'}]\na: {d: 4 /s}\n").ToYaml(), "b:\n  - 1\n  - c: \"x\"\na:\n  d: 4 /s\n");
}

// A tree with awkward names and texts.
YamlNode RandomTree(Rng& rng, int depth) {
  const auto text = [&] {
    constexpr std::string_view kParts[] = {"a", "B", "7", " ", ":", "#", "-", "'", "\"", "\\", "\n", ",", "[", "}", "?",
                                           "!", "&", "*", "%", "@", "`", "|", ">", "~", "null", ".", "/", "\t", "ü", "<<",
                                           "---", "...", "=", "+", "_", "$"};
    std::string s;
    for (uint64_t n = rng.Below(6); n > 0; --n) s += kParts[rng.Below(std::size(kParts))];
    return s;
  };
  const uint64_t kind = rng.Below(depth > 0 ? 5 : 3);
  if (kind == 0) return YamlNode();
  if (kind <= 2) {
    YamlNode node = YamlNode::Scalar(text());
    node.set_quoted(kind == 2);
    return node;
  }
  YamlNode node = kind == 3 ? YamlNode::Map() : YamlNode::Sequence();
  for (uint64_t n = rng.Below(4); n > 0; --n) {
    if (kind == 4) {
      node.items().push_back(RandomTree(rng, depth - 1));
    } else if (const std::string key = text(); !key.empty() && node.Find(key) == nullptr) {
      YamlNode::Entry entry;
      entry.key = key;
      entry.value = RandomTree(rng, depth - 1);
      node.entries().push_back(std::move(entry));
    }
  }
  return node;
}

TEST(Yaml, RandomTreesSurviveWritingAndReading) {
  Rng rng(1, "trees");
  for (int i = 0; i < 5000; ++i) {
    const YamlNode tree = RandomTree(rng, 4);
    const std::string text = tree.ToYaml();
    const auto back = ParseYaml(text, "f.yaml");
    ASSERT_TRUE(back.ok()) << text << back.status();
    ASSERT_EQ(*back, tree) << text << "\nread back as\n" << back->ToYaml();
  }
}

TEST(Yaml, EqualityIsAboutContent) {
  EXPECT_EQ(Parsed("a: 1\nb: 2\n"), Parsed("\n\n  {a: 1, b: 2}\n"));
  EXPECT_FALSE(Parsed("a: 1\n") == Parsed("a: '1'\n"));  // text is not a number
  EXPECT_FALSE(Parsed("a: 1\n") == Parsed("a: 2\n"));
  EXPECT_FALSE(Parsed("a: 1\n") == Parsed("b: 1\n"));
  EXPECT_FALSE(Parsed("a: []\n") == Parsed("a: {}\n"));
  EXPECT_FALSE(Parsed("a: [1]\n") == Parsed("a: [1, 1]\n"));
  EXPECT_FALSE(Parsed("a: 1\nb: 2\n") == Parsed("b: 2\na: 1\n"));  // the order of the file is content
}

TEST(YamlPath, GetWalksMapsAndLists) {
  const YamlNode root = Parsed("axes:\n  - {name: x, values: [1, 2, 3]}\nplan: {tp: 4, '0': zero}\n");
  EXPECT_EQ(root.Get("axes.0.values.2")->text(), "3");
  EXPECT_EQ(root.Get("plan.0")->text(), "zero");  // on a map, a number is a name
  for (const char* missing : {"", ".", "plan.", ".plan", "plan..tp", "axes.1", "axes.x", "axes.-1", "axes.00", "axes.0x",
                              "plan.tp.x", "axes.0.values.3", "axes.99999999999999999999", "Plan"}) {
    EXPECT_EQ(root.Get(missing), nullptr) << missing;
  }
}

TEST(YamlPath, SetReplacesAndCreates) {
  YamlNode root = Parsed("plan: {tp: 4}\naxes: [{values: [1, 2]}]\nempty:\n");
  EXPECT_TRUE(root.Set("plan.tp", YamlNode::Scalar("8")).ok());
  EXPECT_TRUE(root.Set("plan.new.deep", YamlNode::Scalar("x")).ok());
  EXPECT_TRUE(root.Set("axes.0.values.1", YamlNode::Scalar("7")).ok());
  EXPECT_TRUE(root.Set("empty.a", YamlNode::Scalar("1")).ok());
  EXPECT_TRUE(root.Set("top", YamlNode::Sequence()).ok());
  EXPECT_EQ(root.ToYaml(),
            "plan:\n  tp: 8\n  new:\n    deep: x\naxes:\n  - values:\n      - 1\n      - 7\nempty:\n  a: 1\ntop: []\n");
  YamlNode blank;
  EXPECT_TRUE(blank.Set("a.b", YamlNode::Scalar("1")).ok());
  EXPECT_EQ(blank, Parsed("a: {b: 1}"));
}

TEST(YamlPath, SetRefusesWhatIsInTheWayAndChangesNothing) {
  const YamlNode before = Parsed("plan: {tp: 4}\nlist: [1, 2]\n");
  YamlNode root = before;
  const auto message = [&](std::string_view path) {
    const absl::Status s = root.Set(path, YamlNode::Scalar("x"));
    EXPECT_EQ(s.code(), absl::StatusCode::kInvalidArgument) << path;
    return std::string(s.message());
  };
  EXPECT_EQ(message("plan.tp.x"), "cannot set \"plan.tp.x\": plan.tp is the value \"4\", not a map");
  EXPECT_EQ(message("list.2"), "cannot set \"list.2\": list is a list of 2, and \"2\" is not one of its positions (counted from 0)");
  EXPECT_THAT(message("list.x"), HasSubstr("\"x\" is not one of its positions"));
  for (const char* path : {"", ".", "a.", ".a", "a..b"}) EXPECT_THAT(message(path), HasSubstr("is not a path to a setting"));
  std::string deep = "a";
  for (int i = 0; i < 64; ++i) deep += ".a";
  EXPECT_THAT(message(deep), HasSubstr("deeper than 64 levels"));
  EXPECT_EQ(root, before);
}

class YamlFile : public testing::Test {
 protected:
  YamlFile() {
    char name[] = "/tmp/simrun-yaml-test-XXXXXX";
    dir_ = ::mkdtemp(name);
  }
  ~YamlFile() override { std::filesystem::remove_all(dir_); }
  std::string Write(const std::string& name, const std::string& text) const {
    std::ofstream(dir_ + "/" + name, std::ios::binary) << text;
    return dir_ + "/" + name;
  }
  std::string dir_;
};

TEST_F(YamlFile, IsReadWithItsNameInMessages) {
  const auto good = ReadYamlFile(Write("good.yaml", "a: 1\n"));
  ASSERT_TRUE(good.ok());
  EXPECT_EQ(good->Get("a")->location().file, dir_ + "/good.yaml");
  const auto bad = ReadYamlFile(Write("bad.yaml", "a: 1\na: 2\n"));
  EXPECT_THAT(std::string(bad.status().message()), StartsWith(dir_ + "/bad.yaml:2:1: duplicate key"));
}

TEST_F(YamlFile, ThatCannotBeReadIsSaidSo) {
  const auto missing = ReadYamlFile(dir_ + "/missing.yaml");
  EXPECT_EQ(missing.status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(std::string(missing.status().message()), dir_ + "/missing.yaml: no such file");
  EXPECT_EQ(ReadYamlFile(Write("x", "a") + "/y").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(ReadYamlFile("").status().code(), absl::StatusCode::kNotFound);

  const auto directory = ReadYamlFile(dir_);
  EXPECT_EQ(directory.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(std::string(directory.status().message()), dir_ + ": is a directory, not a file");

  const std::string pipe = dir_ + "/pipe";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_EQ(std::string(ReadYamlFile(pipe).status().message()), pipe + ": is not a regular file");  // and does not wait

  const std::string locked = Write("locked.yaml", "a: 1\n");
  ASSERT_EQ(::chmod(locked.c_str(), 0), 0);
  if (::geteuid() != 0) {
    EXPECT_EQ(ReadYamlFile(locked).status().code(), absl::StatusCode::kPermissionDenied);
  }
  EXPECT_EQ(ReadYamlFile(Write("big.yaml", std::string((4 << 20) + 1, 'x'))).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(YamlFile, ReadTextFileKeepsEveryByte) {
  const std::string bytes("a\0b\r\n\xFF", 6);
  const auto read = ReadTextFile(Write("bytes", bytes), 6);
  ASSERT_TRUE(read.ok());
  EXPECT_EQ(*read, bytes);
  EXPECT_FALSE(ReadTextFile(dir_ + "/bytes", 5).ok());
  EXPECT_EQ(*ReadTextFile(Write("empty", ""), 0), "");
}

}  // namespace
}  // namespace simrun
