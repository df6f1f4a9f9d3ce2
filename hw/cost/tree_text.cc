#include "hw/cost/tree_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>

namespace simrun {
namespace {

constexpr uint32_t kFirst = 2, kAgain = 5;      // counts: a symbol not seen yet, and each time it is
constexpr uint32_t kLargestTotal = 1u << 16;
constexpr int kLeafLevels = 8;
constexpr uint32_t kChecksums = 4096;

// Counts of the symbols of one context.
class Shares {
 public:
  explicit Shares(int symbols) : counts_(static_cast<size_t>(symbols), kFirst), total_(kFirst * static_cast<uint32_t>(symbols)) {}
  uint32_t total() const { return total_; }
  uint32_t count(size_t symbol) const { return counts_[symbol]; }
  uint32_t Below(size_t symbol) const {
    uint32_t sum = 0;
    for (size_t s = 0; s < symbol; ++s) sum += counts_[s];
    return sum;
  }
  // The symbol that `at` of the total falls on, and what lies below it.
  size_t Find(uint32_t at, uint32_t* below) const {
    size_t symbol = 0;
    *below = 0;
    while (symbol + 1 < counts_.size() && *below + counts_[symbol] <= at) *below += counts_[symbol++];
    return symbol;
  }
  void Saw(size_t symbol) {
    counts_[symbol] += kAgain;
    total_ += kAgain;
    if (total_ < kLargestTotal) return;
    total_ = 0;
    for (uint32_t& c : counts_) total_ += c = (c + 1) / 2;
  }

 private:
  std::vector<uint32_t> counts_;
  uint32_t total_;
};

// Range coder with carry (Schindler, 1998, as in LZMA).
class Encoder {
 public:
  void Put(uint32_t below, uint32_t count, uint32_t total) {
    range_ /= total;
    low_ += uint64_t{range_} * below;
    range_ *= count;
    while (range_ < (1u << 24)) range_ <<= 8, Shift();
  }
  std::string Finish() {
    for (int i = 0; i < 5; ++i) Shift();
    // The first byte is always zero; a reader takes zeros for what is cut off.
    bytes_.erase(bytes_.begin());
    while (!bytes_.empty() && bytes_.back() == 0) bytes_.pop_back();
    std::string text;
    for (size_t bit = 0; bit < 8 * bytes_.size(); bit += 6) {
      uint32_t v = 0;
      for (size_t b = bit; b < bit + 6; ++b) {
        v = 2 * v + (b < 8 * bytes_.size() ? static_cast<uint32_t>(bytes_[b / 8] >> (7 - b % 8)) & 1u : 0u);
      }
      text += kBase64[v];
    }
    return text;
  }

 private:
  void Shift() {
    if (low_ < 0xff000000u || low_ > 0xffffffffu) {
      const uint8_t carry = static_cast<uint8_t>(low_ >> 32);
      do {
        bytes_.push_back(static_cast<uint8_t>(held_ + carry));
        held_ = 0xff;
      } while (--pending_ > 0);
      held_ = static_cast<uint8_t>(low_ >> 24);
    }
    ++pending_;
    low_ = (low_ & 0x00ffffffu) << 8;
  }
  uint64_t low_ = 0;
  uint32_t range_ = 0xffffffffu;
  uint8_t held_ = 0;
  size_t pending_ = 1;
  std::vector<uint8_t> bytes_;
};

class Decoder {
 public:
  explicit Decoder(std::vector<uint8_t> bytes) : bytes_(std::move(bytes)) {
    for (int i = 0; i < 4; ++i) code_ = code_ << 8 | Next();
  }
  uint32_t At(uint32_t total) {
    range_ /= total;
    return std::min(total - 1, code_ / range_);
  }
  void Take(uint32_t below, uint32_t count) {
    code_ -= below * range_;
    range_ *= count;
    while (range_ < (1u << 24)) range_ <<= 8, code_ = code_ << 8 | Next();
  }
  // No more than the last bits of a character are left over.
  bool AtEnd() const { return next_ + 1 >= bytes_.size(); }

 private:
  uint32_t Next() { return next_ < bytes_.size() ? bytes_[next_++] : (++next_, 0u); }
  std::vector<uint8_t> bytes_;
  size_t next_ = 0;
  uint32_t code_ = 0, range_ = 0xffffffffu;
};

// Walks the symbols of trees in their order; `code(shares, symbol)` writes the symbol, or reads and returns it.
class TreeCoder {
 public:
  explicit TreeCoder(const TreeAlphabet& alphabet)
      : alphabet_(alphabet), features_(static_cast<int>(alphabet.edges.size())), scales_(2, Shares(64)), leaves_(kLeafLevels * kLeafLevels, Shares(kLeafLevels)) {
    for (const int edges : alphabet.edges) edges_.emplace_back(edges);
  }
  template <class Code>
  void Tree(int* v, Code code) {
    for (int level = 0; level < alphabet_.depth; ++level, v += 2) {
      v[0] = code(&features_, v[0]);
      v[1] = code(&edges_[static_cast<size_t>(v[0])], v[1]);
    }
    for (Shares& s : scales_) *v = code(&s, *v), ++v;
    const int leaves = 1 << alphabet_.depth;
    int before = 0, two_before = 0;
    for (int i = 0; i < leaves; i += 2, ++v) {
      const auto leaf = [&](int value) {
        const int now = code(&leaves_[static_cast<size_t>(two_before * kLeafLevels + before)], value);
        two_before = before;
        return before = now;
      };
      const int first = leaf(*v / kLeafLevels), second = i + 1 < leaves ? leaf(*v % kLeafLevels) : 0;
      *v = first * kLeafLevels + second;
    }
  }

 private:
  const TreeAlphabet& alphabet_;
  Shares features_;
  std::vector<Shares> edges_, scales_, leaves_;
};

uint32_t Checksum(const std::vector<int>& values) {
  uint32_t a = 1, b = 0;
  for (const int v : values) a = (a + static_cast<uint32_t>(v)) % 65521, b = (b + a) % 65521;
  return (a ^ (b << 3)) % kChecksums;
}

}  // namespace

std::string PackTrees(const std::vector<int>& values, const TreeAlphabet& alphabet) {
  std::vector<int> copy = values;
  Encoder encoder;
  TreeCoder coder(alphabet);
  for (size_t at = 0; at + alphabet.length() <= copy.size(); at += alphabet.length()) {
    coder.Tree(copy.data() + at, [&](Shares* shares, int symbol) {
      const size_t s = static_cast<size_t>(symbol);
      encoder.Put(shares->Below(s), shares->count(s), shares->total());
      shares->Saw(s);
      return symbol;
    });
  }
  encoder.Put(Checksum(copy), 1, kChecksums);
  return encoder.Finish();
}

absl::StatusOr<std::vector<int>> UnpackTrees(std::string_view text, size_t trees, const TreeAlphabet& alphabet) {
  std::array<int, 256> digit;
  digit.fill(-1);
  for (size_t i = 0; i < kBase64.size(); ++i) digit[static_cast<unsigned char>(kBase64[i])] = static_cast<int>(i);
  std::vector<uint8_t> bytes;
  uint32_t bits = 0;
  int held = 0;
  for (const char c : text) {
    if (c == ' ' || c == '\n' || c == '\t' || c == '\r') continue;
    const int v = digit[static_cast<unsigned char>(c)];
    if (v < 0) return absl::InvalidArgumentError(fmt::format("'{}' is no base-64 character", c));
    bits = bits << 6 | static_cast<uint32_t>(v);
    held += 6;
    if (held >= 8) {
      held -= 8;
      bytes.push_back(static_cast<uint8_t>(bits >> held));
      bits &= (1u << held) - 1;
    }
  }
  if (held > 0) bytes.push_back(static_cast<uint8_t>(bits << (8 - held)));
  std::vector<int> values(trees * alphabet.length());
  Decoder decoder(std::move(bytes));
  TreeCoder coder(alphabet);
  for (size_t at = 0; at < values.size(); at += alphabet.length()) {
    coder.Tree(values.data() + at, [&](Shares* shares, int) {
      uint32_t below = 0;
      const size_t s = shares->Find(decoder.At(shares->total()), &below);
      decoder.Take(below, shares->count(s));
      shares->Saw(s);
      return static_cast<int>(s);
    });
  }
  const uint32_t checksum = decoder.At(kChecksums);
  decoder.Take(checksum, 1);
  if (checksum != Checksum(values) || !decoder.AtEnd()) {
    return absl::InvalidArgumentError(fmt::format("the text is not that of {} trees: a character was lost or changed", trees));
  }
  return values;
}

}  // namespace simrun
