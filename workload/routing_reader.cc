#include "workload/routing_reader.h"

#include <algorithm>
#include <charconv>
#include <map>

#include <fmt/format.h>

#include "base/csv.h"
#include "base/status.h"

namespace simrun {
namespace {

constexpr size_t kMaxChoices = size_t{1} << 28;
constexpr int64_t kMaxExperts = 4096;
constexpr int64_t kMaxLayers = 4096;

std::string Printable(std::string_view text) {
  std::string out;
  for (const char c : text.substr(0, 40)) out += c >= ' ' && c <= '~' ? c : '?';
  return out;
}

absl::Status At(const std::string& name, int64_t line, const std::string& what) {
  return absl::InvalidArgumentError(fmt::format("{}:{}: {}", name, line, what));
}

bool ParseWhole(std::string_view text, int64_t* value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *value);
  return error == std::errc() && end == text.data() + text.size();
}

// Splits off the text before the next `separator`.
std::string_view Next(std::string_view* rest, char separator) {
  const size_t at = rest->find(separator);
  const std::string_view field = rest->substr(0, at);
  rest->remove_prefix(at == std::string_view::npos ? rest->size() : at + 1);
  return field;
}

}  // namespace

absl::StatusOr<RoutingRecording> ReadRoutingRecording(const std::string& path) {
  absl::StatusOr<std::unique_ptr<ByteSource>> bytes = OpenFile(path);
  if (!bytes.ok()) return bytes.status();
  return ReadRoutingRecording(*std::move(bytes), path);
}

absl::StatusOr<RoutingRecording> ReadRoutingRecording(std::unique_ptr<ByteSource> bytes, const std::string& name) {
  absl::StatusOr<std::unique_ptr<ByteSource>> unpacked = Unpack(std::move(bytes));
  if (!unpacked.ok()) return At(name, 1, std::string(unpacked.status().message()));
  LineReader lines(*std::move(unpacked));
  RoutingRecording r;
  std::string_view line;
  const auto next = [&]() -> absl::StatusOr<bool> {
    absl::StatusOr<bool> more = lines.Next(&line);
    if (!more.ok()) return absl::Status(more.status().code(), fmt::format("{}:{}: {}", name, lines.line(), std::string(more.status().message())));
    return more;
  };

  absl::StatusOr<bool> more = next();
  if (!more.ok()) return more.status();
  if (!*more) return At(name, 1, "is empty; expected a header seq,token,L1,...");
  std::string_view rest = line;
  if (Next(&rest, ',') != "seq" || Next(&rest, ',') != "token" || rest.empty()) {
    return At(name, 1, fmt::format("header is \"{}\"; expected seq,token and one column per layer", Printable(line)));
  }
  r.layers = 1 + static_cast<int>(std::min<int64_t>(std::count(rest.begin(), rest.end(), ','), kMaxLayers));
  if (r.layers > kMaxLayers) return At(name, 1, fmt::format("more than {} layers", kMaxLayers));

  int64_t last_seq = -1, last_token = -1;
  int64_t largest = -1;
  while (true) {
    more = next();
    if (!more.ok()) return more.status();
    if (!*more) break;
    if (line.empty()) continue;
    const int64_t at = lines.line();
    rest = line;
    int64_t seq = 0, token = 0;
    const std::string_view seq_text = Next(&rest, ','), token_text = Next(&rest, ',');
    if (!ParseWhole(seq_text, &seq) || seq < 0) return At(name, at, fmt::format("seq \"{}\" is not a whole number from 0", Printable(seq_text)));
    if (!ParseWhole(token_text, &token) || token < 0) return At(name, at, fmt::format("token \"{}\" is not a whole number from 0", Printable(token_text)));
    const size_t row = r.choices.size() / std::max<size_t>(1, static_cast<size_t>(r.layers) * static_cast<size_t>(r.top_k));
    if (seq != last_seq) {
      if (seq < last_seq) return At(name, at, fmt::format("sequence {} after {}; rows of a sequence must be together, in ascending order", seq, last_seq));
      if (token != 0) return At(name, at, fmt::format("sequence {} starts with token {} instead of 0", seq, token));
      r.starts.push_back(static_cast<uint32_t>(row));
    } else if (token != last_token + 1) {
      return At(name, at, fmt::format("token {} of sequence {} follows token {}", token, seq, last_token));
    }
    last_seq = seq;
    last_token = token;
    for (int l = 0; l < r.layers; ++l) {
      if (rest.empty()) return At(name, at, fmt::format("{} layers instead of the header's {}", l, r.layers));
      std::string_view cell = Next(&rest, ',');
      int chosen = 0;
      const size_t first = r.choices.size();
      while (!cell.empty()) {
        const std::string_view text = Next(&cell, ' ');
        if (text.empty()) continue;
        int64_t e = 0;
        if (!ParseWhole(text, &e) || e < 0 || e >= kMaxExperts) {
          return At(name, at, fmt::format("column {}: expert \"{}\" is not a number from 0 to {}", l + 3, Printable(text), kMaxExperts - 1));
        }
        if (std::find(r.choices.begin() + static_cast<std::ptrdiff_t>(first), r.choices.end(), static_cast<uint16_t>(e)) != r.choices.end()) {
          return At(name, at, fmt::format("column {}: expert {} is chosen twice", l + 3, e));
        }
        r.choices.push_back(static_cast<uint16_t>(e));
        largest = std::max(largest, e);
        ++chosen;
        if (chosen > 256) return At(name, at, fmt::format("column {}: more than 256 experts", l + 3));
      }
      if (r.top_k == 0) r.top_k = chosen;
      if (chosen != r.top_k || chosen == 0) {
        return At(name, at, fmt::format("column {}: {} experts instead of {}", l + 3, chosen, std::max(1, r.top_k)));
      }
    }
    if (!rest.empty() || (!line.empty() && line.back() == ',')) return At(name, at, fmt::format("more than {} layers", r.layers));
    if (r.choices.size() > kMaxChoices) return At(name, at, "more than 2^28 choices");
  }
  if (r.starts.empty()) return At(name, lines.line(), "no tokens");
  r.starts.push_back(static_cast<uint32_t>(r.choices.size() / (static_cast<size_t>(r.layers) * static_cast<size_t>(r.top_k))));
  r.experts = static_cast<int>(largest + 1);
  return r;
}

absl::StatusOr<PopularityTable> ReadPopularityTable(const std::string& path, const std::string& group) {
  absl::StatusOr<CsvTable> table = CsvTable::Read(path);
  if (!table.ok()) return table.status();
  return ReadPopularityTable(*table, group);
}

absl::StatusOr<PopularityTable> ReadPopularityTable(const CsvTable& table, const std::string& group) {
  const std::optional<size_t> layer = table.Column("layer"), expert = table.Column("expert"), tokens = table.Column("tokens_routed");
  if (!layer || !expert || !tokens) return At(table.file(), 1, "has no columns layer, expert and tokens_routed");
  PopularityTable out;
  out.group = group;
  std::vector<std::string> groups;
  std::map<int64_t, std::map<int64_t, double>> counts;
  for (size_t row = 0; row < table.rows(); ++row) {
    std::string of_row;
    for (size_t c = 0; c < std::min({*layer, *expert, *tokens}); ++c) of_row += (c > 0 ? "/" : "") + table.Cell(row, c);
    if (groups.empty() || groups.back() != of_row) {
      if (std::find(groups.begin(), groups.end(), of_row) == groups.end()) groups.push_back(of_row);
    }
    if (out.group.empty() && row == 0) out.group = of_row;
    if (of_row != out.group) continue;
    int64_t l = 0, e = 0, n = 0;
    const auto parse = [&](size_t column, int64_t most, int64_t* value) {
      return ParseWhole(table.Cell(row, column), value) && *value >= 0 && *value <= most;
    };
    if (!parse(*layer, kMaxLayers, &l)) return At(table.file(), table.Line(row), fmt::format("layer \"{}\" is not a number from 0 to {}", Printable(table.Cell(row, *layer)), kMaxLayers));
    if (!parse(*expert, kMaxExperts - 1, &e)) return At(table.file(), table.Line(row), fmt::format("expert \"{}\" is not a number from 0 to {}", Printable(table.Cell(row, *expert)), kMaxExperts - 1));
    if (!parse(*tokens, int64_t{1} << 50, &n)) return At(table.file(), table.Line(row), fmt::format("tokens_routed \"{}\" is not a count", Printable(table.Cell(row, *tokens))));
    if (!counts[l].emplace(e, static_cast<double>(n)).second) return At(table.file(), table.Line(row), fmt::format("layer {}, expert {} a second time", l, e));
  }
  if (counts.empty()) {
    std::string names;
    for (size_t i = 0; i < groups.size() && i < 12; ++i) names += (i > 0 ? ", " : "") + Printable(groups[i]);
    return absl::InvalidArgumentError(fmt::format("{}: has no group \"{}\"; it has {}", table.file(), group, names));
  }
  int64_t experts = 0;
  for (const auto& [l, row] : counts) experts = std::max(experts, row.rbegin()->first + 1);
  for (const auto& [l, row] : counts) {
    std::vector<double> shares(static_cast<size_t>(experts), 0.0);
    double sum = 0;
    for (const auto& [e, n] : row) {
      shares[static_cast<size_t>(e)] = n;
      sum += n;
    }
    if (sum <= 0) return absl::InvalidArgumentError(fmt::format("{}: layer {} of \"{}\" has no tokens", table.file(), l, out.group));
    out.layer_numbers.push_back(static_cast<int>(l));
    out.tokens.push_back(std::move(shares));
  }
  return out;
}

}  // namespace simrun
