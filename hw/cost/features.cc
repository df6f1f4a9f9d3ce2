#include "hw/cost/features.h"

#include <algorithm>
#include <cmath>

#include "base/rng.h"

namespace simrun {
namespace {

constexpr double kPerOctave = 1.4426950408889634;   // 1 / ln 2

double Log2(double x) { return Ln(std::max(x, 1e-12)) * kPerOctave; }
double Blocks(double size, double tile) { return std::ceil(size / tile); }
// Octaves by which the last, partly filled wave stretches the work.
double Unfilled(double waves) { return waves > 0 ? Log2(std::ceil(waves) / waves) : 0; }

// Log2 of the largest power of two that divides a width. Kernels that do not know theirs to be a multiple of 16 elements
// fetch weights in small pieces, at half the speed or less.
double Alignment(double width) {
  constexpr int kMost = 8;
  int octaves = 0;
  for (int64_t left = std::max<int64_t>(1, std::llround(width)); left % 2 == 0 && octaves < kMost; left /= 2) ++octaves;
  return octaves;
}

// Into how many parts decode kernels split the keys of a sequence, so that few blocks fill the multiprocessors: as
// FlashAttention 3 chooses, the fewest with at least 85 % of the best filling of waves (num_splits_heuristic).
double KeyParts(double blocks, double key_tiles, double sms) {
  constexpr double kFewTiles = 4, kMostParts = 128, kFull = 0.8, kGoodEnough = 0.85;
  if (blocks >= kFull * sms || key_tiles <= kFewTiles) return 1;
  const int most = static_cast<int>(std::min({kMostParts, sms, key_tiles}));
  double best = 0;
  const auto filled = [&](int parts) { const double waves = blocks * parts / sms; return waves / std::ceil(waves); };
  for (int parts = 1; parts <= most; ++parts) best = std::max(best, filled(parts));
  for (int parts = 1; parts <= most; ++parts) {
    if (filled(parts) >= kGoodEnough * best) return parts;
  }
  return 1;
}

struct Writer {
  Features values{};
  size_t next = 0;
  void Add(double x) { values[next++] = x; }
  void AddShares(const FormulaParts& parts) {
    const double total = std::max(parts.seconds, 1e-12);
    Add(parts.compute / total);
    Add(parts.memory / total);
    Add(parts.serial / total);
    Add(Log2(parts.seconds * 1e6));
  }
};

constexpr std::array<std::string_view, 22> kGemm = {
    "m",      "n",      "k",         "mn",         "nk",         "mnk",       "compute",    "memory",
    "serial", "time",   "waves64",   "waves128",   "waves256",   "fill64",    "fill64x128", "fill128",
    "fill256n", "fill256m", "pad64", "pad128",     "n/k",        "m/n"};
constexpr std::array<std::string_view, 25> kAttention = {
    "sequences", "queries", "keys",      "heads",  "kv_heads", "group",   "head_dim", "kv_bytes", "compute", "memory", "serial",
    "time",      "rows",    "blocks",    "fill",   "tiles",    "tiles_fill", "pad",   "splits",   "kv_size", "seq_heads",
    "parts",     "walk",    "parts_fill", "walk_pad"};
constexpr std::array<std::string_view, 29> kMoe = {
    "tokens", "hidden", "inter",  "topk",   "experts", "local", "ep",      "tp",      "rows",    "rows/expert", "active", "spread", "imbalance",
    "compute", "memory", "serial", "time", "waves16", "waves64", "waves128", "fill64", "pad16",  "pad64",  "weights", "imbalanced_rows", "weight_bytes", "skew", "peak_rows",
    "alignment"};
constexpr std::array<std::string_view, 7> kRow = {"rows", "width", "size", "compute", "memory", "serial", "time"};

}  // namespace

std::span<const std::string_view> GemmFeatureNames() { return kGemm; }
std::span<const std::string_view> AttentionFeatureNames() { return kAttention; }
std::span<const std::string_view> MoeFeatureNames() { return kMoe; }
std::span<const std::string_view> RowFeatureNames() { return kRow; }

std::span<const std::string_view> FeatureNames(std::string_view op) {
  if (op == "gemm") return kGemm;
  if (op == "prefill" || op == "decode" || op == "mla_prefill" || op == "mla_decode") return kAttention;
  if (op == "moe") return kMoe;
  if (op == "quantize") return kRow;
  return {};
}

Features GemmFeatures(const GemmShape& shape, const FormulaParts& parts, double multiprocessors) {
  const double m = shape.m, n = shape.n, k = shape.k, sms = std::max(1.0, multiprocessors);
  const auto waves = [&](double tile_m, double tile_n) { return Blocks(m, tile_m) * Blocks(n, tile_n) / sms; };
  const double lm = Log2(m), ln = Log2(n), lk = Log2(k);
  Writer w;
  for (const double x : {lm, ln, lk, lm + ln, ln + lk, lm + ln + lk}) w.Add(x);
  w.AddShares(parts);
  for (const double x : {Log2(waves(64, 64)), Log2(waves(128, 128)), Log2(waves(128, 256)), Unfilled(waves(64, 64)),
                         Unfilled(waves(64, 128)), Unfilled(waves(128, 128)), Unfilled(waves(128, 256)),
                         Unfilled(waves(256, 128)), Blocks(m, 64) * 64 / m, Blocks(m, 128) * 128 / m, ln - lk, lm - ln}) {
    w.Add(x);
  }
  return w.values;
}

Features AttentionFeatures(const AttentionPoint& p, const FormulaParts& parts, double multiprocessors) {
  const double sms = std::max(1.0, multiprocessors);
  const double blocks = p.sequences * p.kv_heads / sms;
  const double tiles = p.sequences * p.heads * Blocks(p.queries, 128) / sms;
  Writer w;
  for (const double x : {Log2(p.sequences), Log2(p.queries), Log2(p.keys), Log2(p.heads), Log2(p.kv_heads),
                         Log2(p.heads / p.kv_heads), p.head_dim, p.kv_bytes}) {
    w.Add(x);
  }
  w.AddShares(parts);
  for (const double x : {Log2(p.sequences * p.queries), Log2(blocks), Unfilled(blocks), Log2(tiles), Unfilled(tiles),
                         Blocks(p.queries, 128) * 128 / p.queries, Log2(blocks * Blocks(p.keys, 512)),
                         Log2(p.sequences * p.keys * p.kv_heads * p.head_dim * p.kv_bytes), Log2(p.sequences * p.heads)}) {
    w.Add(x);
  }
  // Query heads of one key-value head share a tile of 64 rows; keys come in tiles of 128, of wide heads 64.
  const double key_tile = p.head_dim > 256 ? 64 : 128, key_tiles = Blocks(p.keys, key_tile);
  const double row_blocks = p.sequences * p.kv_heads * Blocks(p.heads / p.kv_heads * p.queries, 64);
  const double splits = p.queries > 1 ? 1 : KeyParts(row_blocks, key_tiles, sms);
  for (const double x : {Log2(splits), Log2(Blocks(key_tiles, splits)), Unfilled(row_blocks * splits / sms), key_tiles * key_tile / p.keys}) w.Add(x);
  return w.values;
}

Features MoeFeatures(const MoePoint& p, const FormulaParts& parts, double multiprocessors) {
  const double sms = std::max(1.0, multiprocessors);
  const double local = p.experts / p.ep, rows = p.tokens * p.topk / p.ep;
  const double active = std::max(p.active, 1e-3), each = rows * p.imbalance / active;
  const auto waves = [&](double tile) { return active * Blocks(each, tile) * Blocks(2 * p.inter, 128) / sms; };
  Writer w;
  for (const double x : {Log2(p.tokens), Log2(p.hidden), Log2(p.inter), p.topk, Log2(p.experts), Log2(local), Log2(p.ep),
                         Log2(p.tp), Log2(rows), Log2(each), Log2(active), active / std::min(local, std::max(rows, 1e-3)),
                         p.imbalance}) {
    w.Add(x);
  }
  w.AddShares(parts);
  for (const double x : {Log2(waves(16)), Log2(waves(64)), Log2(waves(128)), Unfilled(waves(64)), Blocks(each, 16) * 16 / each,
                         Blocks(each, 64) * 64 / each, Log2(active * p.hidden * p.inter), Log2(rows * p.imbalance), p.weight_bytes, Log2(p.skew),
                         Log2(rows * p.imbalance / local * p.skew), std::min(Alignment(p.hidden), Alignment(p.inter))}) {
    w.Add(x);
  }
  return w.values;
}

Features RowFeatures(double rows, double width, const FormulaParts& parts) {
  Writer w;
  w.Add(Log2(rows));
  w.Add(Log2(width));
  w.Add(Log2(rows * width));
  w.AddShares(parts);
  return w.values;
}

}  // namespace simrun
