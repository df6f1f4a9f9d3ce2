#include <fmt/format.h>

#include <cmath>
#include <string>

#include "calibration/fit_device.h"

namespace simrun {
namespace {

constexpr size_t kColumns = 118;

std::string Quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + "\"";
}

std::string Micro(Seconds t) { return fmt::format("{:.5g} us", t.value() * 1e6); }

// Parts joined by ", " and broken into lines that start with `indent`.
std::string Wrapped(const std::vector<std::string>& parts, const std::string& first, const std::string& indent) {
  std::string out = first, line = first;
  for (size_t i = 0; i < parts.size(); ++i) {
    const std::string piece = parts[i] + (i + 1 < parts.size() ? "," : "");
    if (line.size() + piece.size() + 1 > kColumns && line.size() > indent.size()) {
      while (!out.empty() && out.back() == ' ') out.pop_back();
      out += "\n" + indent;
      line = indent;
    }
    out += piece;
    line += piece;
    if (i + 1 < parts.size()) out += ' ', line += ' ';
  }
  return out;
}

// A double-quoted scalar over several lines: breaks read back as spaces, which the reader of these texts ignores.
std::string Folded(const std::string& text, const std::string& indent) {
  std::string out = "\"";
  size_t column = indent.size() + 16;
  size_t at = 0;
  while (at < text.size()) {
    size_t stop = text.find(' ', at);
    if (stop == std::string::npos) stop = text.size();
    const std::string word = text.substr(at, stop - at);
    if (at > 0) {
      if (column + word.size() + 1 > kColumns) {
        out += "\n" + indent;
        column = indent.size();
      } else {
        out += ' ';
        ++column;
      }
    }
    out += word;
    column += word.size();
    at = stop + 1;
  }
  return out + "\"";
}

std::string Entry(const OperatorParams& p) {
  std::vector<std::string> parts;
  const auto add = [&](const char* name, const std::string& value) { parts.push_back(fmt::format("{}: {}", name, value)); };
  const auto number = [&](const char* name, double value, double normal) {
    if (value != normal) add(name, fmt::format("{:.6g}", value));
  };
  const auto time = [&](const char* name, Seconds value) {
    if (value.value() != 0) add(name, Micro(value));
  };
  const OperatorParams normal;
  add("op", p.op);
  if (!p.dtype.empty()) add("dtype", p.dtype);
  if (p.backend != normal.backend) add("backend", p.backend.empty() ? "\"\"" : p.backend);
  add("q", fmt::format("{}", p.q));
  time("t0", p.t0);
  time("t0_ep", p.t0_ep);
  number("ec", p.ec, 1);
  number("em", p.em, 1);
  time("d", p.d);
  number("k0", p.k0, 0);
  number("kappa", p.kappa, 0);
  number("parts", p.parts, 0);
  number("split", p.split, 0);
  number("eq", p.eq, 0);
  number("bm", p.bm, 0);
  number("r2", p.r2, 0);
  number("kh", p.kh, 0);
  number("others", p.others, 1);
  if (p.own_rows) add("own_rows", "true");
  time("a", p.a);
  time("b", p.b);
  number("eb", p.eb, 1);
  time("s", p.s);
  number("en", p.en, 1);
  if (p.l2_gain != 1) {
    number("l2_gain", p.l2_gain, 1);
    number("l2_share", p.l2_share, normal.l2_share);
  }
  if (!p.link.empty()) add("link", p.link);
  number("max_size", p.max_size, 0);
  if (p.provenance != normal.provenance) add("provenance", p.provenance);
  if (p.lasting) add("lasting", "true");
  if (p.exclusive) add("exclusive", "true");
  if (p.hold) add("hold", "true");
  add("source", Quoted(p.source));
  if (p.confidence != normal.confidence) add("confidence", p.confidence);
  number("mape", p.mape, 0);
  number("median_ape", p.median_ape, 0);
  number("p90_ape", p.p90_ape, 0);
  number("new_shape_mape", p.new_shape_mape, 0);
  if (p.rows != 0) add("rows", fmt::format("{}", p.rows));
  if (!p.learned.empty()) add("learned", Quoted(p.learned));
  if (!p.note.empty()) add("note", Quoted(p.note));
  const std::string indent = "     ";
  if (p.curves.empty() && p.anchors.empty() && p.residuals.empty()) return Wrapped(parts, "  - {", indent) + "}\n";
  std::string out = Wrapped(parts, "  - {", indent);
  if (!p.curves.empty()) {
    out += ",\n     curves: [";
    for (size_t i = 0; i < p.curves.size(); ++i) {
      const OperatorCurve& c = p.curves[i];
      out += fmt::format("{}{{key: {:.6g},\n        points: {}}}", i == 0 ? "" : ",\n       ", c.key, Folded(c.at.empty() ? c.points : CurvePointsText(c), "          "));
    }
    out += "]";
  }
  if (!p.anchors.empty()) {
    out += ",\n     anchors: [";
    std::vector<std::string> anchors;
    for (const ResidualAnchor& a : p.anchors) {
      std::string at;
      for (const double x : a.at) at += fmt::format("{}{:.6g}", at.empty() ? "" : ", ", x);
      anchors.push_back(fmt::format("{{at: [{}], factor: {:.4g}}}", at, a.factor));
    }
    out += Wrapped(anchors, "", "       ") + "]";
  }
  if (!p.residuals.empty()) {
    out += ",\n     residuals: [";
    for (size_t i = 0; i < p.residuals.size(); ++i) {
      const ResidualTable& t = p.residuals[i];
      std::string range;
      if (!t.same_as.empty()) {
        out += fmt::format("{}{{same_as: {}}}", i == 0 ? "" : ", ", t.same_as);
        continue;
      }
      for (const std::string& r : t.range) range += (range.empty() ? "" : ", ") + Quoted(r);
      out += fmt::format("{}{{{}{}depth: {}, {}range: [{}],\n", i == 0 ? "" : ",\n       ",
                         t.of.empty() ? "" : fmt::format("of: {}, ", t.of),
                         t.weight == 1 ? "" : fmt::format("weight: {:.4g}, ", t.weight), t.depth,
                         t.count > 0 ? fmt::format("count: {}, ", t.count) : "", range);
      out += "        features: " + Folded(t.features, "     ") + ",\n";
      out += "        trees: " + Folded(t.trees, "     ") + "}";
    }
    out += "]";
  }
  return out + "}\n";
}

}  // namespace

std::string OperatorFileYaml(const OperatorFile& file, const std::string& comment) {
  std::string out;
  if (!comment.empty()) out += "# " + comment + "\n";
  if (!file.description.empty()) out += "description: " + Quoted(file.description) + "\n";
  if (!file.fallback.empty()) out += "fallback: " + file.fallback + "\n";
  const OperatorReference& r = file.reference;
  if (r.memory_bandwidth.value() > 0) {
    out += fmt::format("reference: {{peak_bf16: {:.6g} TFLOP/s, peak_fp8: {:.6g} TFLOP/s, memory_bandwidth: {:.6g} GB/s, link_bandwidth: {:.6g} GB/s}}\n",
                       r.peak_bf16.value() * 1e-12, r.peak_fp8.value() * 1e-12, r.memory_bandwidth.value() * 1e-9, r.link_bandwidth.value() * 1e-9);
  }
  out += "operators:\n";
  for (const OperatorParams& p : file.operators) out += Entry(p);
  return out;
}

}  // namespace simrun
