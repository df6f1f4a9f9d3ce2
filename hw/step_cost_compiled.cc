#include "hw/step_cost_compiled.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <tuple>
#include <utility>

#include "hw/host_work.h"
#include "models/lowering.h"

namespace simrun {
namespace {

// Parts below this share of a step are listed in the provenance but not warned about.
constexpr double kWorthAWarning = 0.05;

constexpr size_t Index(Bound b) { return static_cast<size_t>(b); }

// The operators of one token (or row) count on one GPU of one stage, summed. seconds < 0: not filled yet.
struct Entry {
  double seconds = -1;
  double joules = 0;
  std::array<double, kNumBounds> bound{};
  void Add(const OpTime& t, double times) {
    seconds += t.seconds * times;
    joules += t.joules * times;
    for (size_t i = 0; i < bound.size(); ++i) bound[i] += t.bound[i] * times;
  }
  void Add(const Entry& e) {
    seconds += e.seconds;
    joules += e.joules;
    for (size_t i = 0; i < bound.size(); ++i) bound[i] += e.bound[i];
  }
  void Add(const AttentionSplit& a) {
    seconds += a.seconds();
    joules += a.joules;
    bound[Index(Bound::kLaunch)] += a.launch;
    bound[Index(Bound::kCompute)] += a.compute;
    bound[Index(Bound::kMemory)] += a.memory;
    bound[Index(Bound::kSerial)] += a.serial;
  }
};

// A step of `count` sequences that generates one token for each, whatever their lengths: attention apart.
struct DecodeEntry {
  double seconds = -1;  // not filled yet
  Entry rest;           // token and head operators
  HostSpan host;
  const AttentionCost::DecodeOfCount* attention = nullptr;  // one per shape
};
struct DecodeAttention {
  double seconds = -1;  // not filled yet
  std::unique_ptr<AttentionCost::DecodeOfCount[]> of;  // one per shape
};

// Entries by count, in pages made on first use so that a wide range costs memory only where it is visited.
template <class T>
class LazyTable {
 public:
  explicit LazyTable(int64_t size = 0) : size_(static_cast<size_t>(size)), pages_(size_ / kPage + 1) {}
  bool Holds(int64_t count) const { return static_cast<size_t>(count) < size_; }
  // Null until it is filled.
  [[gnu::always_inline]] inline const T* Find(int64_t count) const {
    const auto at = static_cast<size_t>(count);
    if (at >= size_) return nullptr;
    const T* page = pages_[at / kPage].get();
    return page != nullptr && page[at % kPage].seconds >= 0 ? &page[at % kPage] : nullptr;
  }
  // The entry of `count`, filled by `fill(count)` on first use.
  template <class Fill>
  [[gnu::always_inline]] inline const T& Get(int64_t count, const Fill& fill) {
    const T* found = Find(count);
    return found != nullptr ? *found : Make(count, fill);
  }

 private:
  static constexpr size_t kPage = 64;
  template <class Fill>
  [[gnu::noinline]] const T& Make(int64_t count, const Fill& fill) {
    const auto at = static_cast<size_t>(count);
    if (at >= size_) return beyond_ = fill(count);
    std::unique_ptr<T[]>& page = pages_[at / kPage];
    if (page == nullptr) page = std::make_unique<T[]>(kPage);
    return page[at % kPage] = fill(count);
  }
  size_t size_ = 0;
  std::vector<std::unique_ptr<T[]>> pages_;
  T beyond_;
};

struct Stage {
  std::vector<AttentionShape> shapes;
  std::vector<AttentionCost> attention;  // one per shape
  LazyTable<Entry> rank;                 // by tokens of an attention rank
  LazyTable<Entry> engine;               // experts or shared MLP by tokens of all ranks, when the ranks exchange tokens
  LazyTable<Entry> head;                 // by logits rows
  LazyTable<DecodeEntry> decode;         // by sequences, of steps that only decode
  LazyTable<DecodeAttention> counted;    // by sequences
  CommPath tensor, ffn, expert, pipeline;
  double launches = 0;  // kernels of a step in eager mode, attention included
  bool like_previous = false;  // costs what the stage before it costs, whatever the step
  bool same_attention = false;  // as the stage before it
};

bool SameShapes(const std::vector<AttentionShape>& a, const std::vector<AttentionShape>& b) {
  const auto all = [](const AttentionShape& s) {
    return std::tuple(s.layers, s.mla, s.linear, s.indexer, s.top_k, s.heads, s.kv_heads, s.head_dim, s.v_head_dim, s.mla_latent, s.mla_rope, s.window, s.chunked,
                      s.causal, s.kv, s.compute);
  };
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [&](const auto& x, const auto& y) { return all(x) == all(y); });
}

class Compiled final : public CompiledStepCost {
 public:
  Compiled(ModelSpec model, ParallelPlan plan, OperatorCosts costs, EngineProfile profile, double imbalance)
      : model_(std::move(model)),
        plan_(plan),
        costs_(std::move(costs)),
        profile_(std::move(profile)),
        imbalance_(imbalance),
        exchange_(plan.dp > 1 && (model_.moe.has_value() ? plan.ep > 1 : plan.separate_ffn())),
        overlap_(profile_.overlap && plan.pp == 1) {}

  void Build(const Machine& machine, const StepCostOptions& options);

  int stages() const override { return static_cast<int>(stages_.size()); }
  void Predict(std::span<const StepWork> ranks, StepCost* cost) override;
  std::vector<StepOperator> Explain(std::span<const StepWork> ranks) override;
  const std::vector<ProvenanceNote>& provenance() const override { return provenance_; }
  std::vector<std::string> Warnings() const override;

 private:
  std::vector<Operator> TokenOperators(int stage, int64_t rank_tokens, int64_t engine_tokens) const;
  const CommPath* PathOf(const Stage& stage, const Operator& op) const;
  OpTime Price(const Stage& stage, const Operator& op) const {
    return memo_ != nullptr ? memo_->Cost(costs_, op, PathOf(stage, op)) : costs_.Cost(op, PathOf(stage, op));
  }
  bool OnEngine(const Operator& op) const { return exchange_ && op.on_engine; }
  const Entry& RankEntry(int s, int64_t tokens);
  const Entry& EngineEntry(int s, int64_t tokens);
  const Entry& HeadEntry(int s, int64_t rows);
  // Of the last stage, with what sampling takes beyond picking the largest.
  std::vector<Operator> HeadOperators(int s, int64_t rows) const;
  const DecodeEntry& DecodeEntryOf(int s, int64_t seqs);
  const AttentionCost::DecodeOfCount* DecodeAttentionOf(Stage& stage, int64_t seqs);
  void AddAttention(Stage& stage, const StepWork& work, AttentionSplit* split);
  // One attention rank on one stage, without the experts that all ranks share.
  struct RankPrice {
    double seconds = 0, joules = 0;        // joules of one GPU
    const DecodeEntry* decode = nullptr;   // of a step that only decodes
    const Entry *tokens = nullptr, *head = nullptr;
    AttentionSplit attention;              // joules without the engine's factor
    // Seconds by resource, `host` seconds of the host besides.
    template <bool kWithHead = true>
    void Bounds(double host, std::array<double, kNumBounds>* out) const;
    void Scale(double factor) {
      attention.launch *= factor;
      attention.compute *= factor;
      attention.memory *= factor;
      attention.serial *= factor;
    }
  };
  // `attention`: what it was on the stage before, when the same work was priced there.
  RankPrice PriceRank(int s, const StepWork& work, const AttentionSplit* attention = nullptr);
  bool PredictDecode(const StepWork& work, StepCost* cost);
  // The work of the slowest rank, and joules of all GPUs of the stage.
  void StageCost(int s, std::span<const StepWork> ranks, Entry* out);
  bool UsesGraph(const StepWork& work) const;
  int64_t Padded(const StepWork& work) const;
  HostWork HostOf(std::span<const StepWork> ranks) const {
    return HostWork::Of(profile_, ranks, [this](const StepWork& work) { return UsesGraph(work); });
  }
  HostSpan SpanOf(const HostWork& host, int s) const {
    return host.SpanOf(profile_, s == 0, s + 1 == stages(), stages_[static_cast<size_t>(s)].launches);
  }
  // Seconds of a step of stage s; steps of one stage follow one another, and the host may be ahead.
  double SecondsOf(const HostSpan& span, double gpu, StepCost* cost) const {
    return (overlap_ ? span.StartedEarly(cost, gpu) : span).Around(gpu);
  }
  // True when stages s - 1 and s hold the same kinds of layers between the same kinds of links.
  bool IsLikePrevious(int s) const;
  void Note(ProvenanceNote note, double share);
  void NoteOperators();

  ModelSpec model_;
  ParallelPlan plan_;
  OperatorCosts costs_;
  OperatorMemo* memo_ = nullptr;
  EngineProfile profile_;
  double imbalance_;
  bool exchange_;
  bool overlap_;  // the host is ahead of the GPU by up to a step
  std::vector<Stage> stages_;
  std::vector<AttentionSplit> attention_;  // scratch: of each rank on the stage before
  std::vector<int32_t> graph_tokens_;  // by tokens, up to the largest graph
  // Host terms as plain seconds.
  double factor_ = 1;
  double active_watts_ = 0;  // of all GPUs of a stage
  struct Noted {
    ProvenanceNote note;
    double share = 0;
  };  // largest share of a usual step
  std::vector<Noted> noted_;
  std::vector<ProvenanceNote> provenance_;
  // Largest sizes seen, and those measured (0: not stated).
  int64_t seen_tokens_ = 0, seen_decode_kv_ = 0, seen_prefill_kv_ = 0;
  double measured_tokens_ = 0, measured_decode_kv_ = 0, measured_prefill_kv_ = 0;
};

void Compiled::Build(const Machine& machine, const StepCostOptions& options) {
  memo_ = options.memo;
  factor_ = profile_.gpu_time_factor;
  active_watts_ = costs_.power().active_watts() * plan_.tp * plan_.dp;
  graph_tokens_.clear();
  for (int64_t t = 0; t <= profile_.graph_max_tokens && profile_.cuda_graphs; ++t) {
    graph_tokens_.push_back(static_cast<int32_t>(GraphTokens(profile_, t)));
  }
  const int64_t tokens = std::max(options.max_tokens, static_cast<int64_t>(graph_tokens_.size())) + 1;
  const int per_stage = plan_.tp * plan_.dp;
  for (int s = 0; s < plan_.pp; ++s) {
    Stage stage;
    stage.shapes = AttentionShapes(model_, plan_, s);
    for (const AttentionShape& shape : stage.shapes) stage.attention.push_back(costs_.Attention(shape));
    stage.rank = LazyTable<Entry>(tokens);
    stage.engine = LazyTable<Entry>(exchange_ ? tokens * plan_.dp : 0);
    stage.head = LazyTable<Entry>(options.max_rows + 1);
    stage.decode = LazyTable<DecodeEntry>(std::min(options.max_rows + 1, tokens));
    stage.counted = LazyTable<DecodeAttention>(tokens);
    const int first = s * per_stage;
    stage.expert = GroupPath(machine, per_stage, 1, first);
    for (int d = 0; d < plan_.dp; ++d) {
      const CommPath path = GroupPath(machine, plan_.tp, 1, first + d * plan_.tp);
      if (d == 0 || path.nodes > stage.tensor.nodes) stage.tensor = path;
    }
    for (int g = 0; g < per_stage / plan_.ffn_ranks(); ++g) {
      const CommPath path = GroupPath(machine, plan_.ffn_ranks(), 1, first + g * plan_.ffn_ranks());
      if (g == 0 || path.nodes > stage.ffn.nodes) stage.ffn = path;
    }
    // Every rank sends to its peer of the next stage at once; the slowest link decides.
    stage.pipeline = GroupPath(machine, 2, per_stage, first);
    for (int r = 1; r < per_stage; ++r) {
      const CommPath path = GroupPath(machine, 2, per_stage, first + r);
      if (path.nodes > stage.pipeline.nodes) stage.pipeline = path;
    }
    for (const Operator& op : TokenOperators(s, 1, plan_.dp)) stage.launches += op.count * op.kernels;
    for (const Operator& op : LowerHeadOperators(model_, plan_, s, 1)) stage.launches += op.count * op.kernels;
    for (const AttentionShape& shape : stage.shapes) stage.launches += shape.layers;
    stages_.push_back(std::move(stage));
    stages_.back().like_previous = IsLikePrevious(s);
    stages_.back().same_attention = s > 0 && SameShapes(stages_[static_cast<size_t>(s - 1)].shapes, stages_.back().shapes);
  }
  NoteOperators();
}

bool Compiled::IsLikePrevious(int s) const {
  // The first stage has the embedding, the last one the head.
  if (s < 2 || s + 1 >= plan_.pp) return false;
  const auto kinds = [&](int stage) {
    const StageLayers layers = LayersOfStage(model_, plan_, stage);
    std::array<int, 4> count{};
    for (int l = layers.first; l < layers.first + layers.count; ++l) {
      ++count[static_cast<size_t>((model_.IsMoeLayer(l) ? 2 : 0) + (model_.IsWindowedLayer(l) || model_.IsLinearLayer(l) ? 1 : 0))];
    }
    return count;
  };
  if (kinds(s) != kinds(s - 1)) return false;
  // Links differ where a group crosses nodes.
  const auto same = [](const CommPath& a, const CommPath& b) {
    return a.ranks == b.ranks && a.ranks_per_node == b.ranks_per_node && a.nodes == b.nodes;
  };
  const Stage& a = stages_[static_cast<size_t>(s)];
  const Stage& b = stages_[static_cast<size_t>(s - 1)];
  return same(a.tensor, b.tensor) && same(a.ffn, b.ffn) && same(a.expert, b.expert) && same(a.pipeline, b.pipeline) && a.launches == b.launches;
}

std::vector<Operator> Compiled::TokenOperators(int stage, int64_t rank_tokens, int64_t engine_tokens) const {
  std::vector<Operator> ops = LowerTokenOperators(model_, plan_, stage, rank_tokens, engine_tokens);
  if (imbalance_ > 0) {
    for (Operator& op : ops) {
      if (op.kind == OpKind::kMoe && op.ep > 1) op.imbalance = imbalance_;
    }
  }
  return ops;
}

const CommPath* Compiled::PathOf(const Stage& stage, const Operator& op) const {
  switch (op.group) {
    case CommGroup::kTensor:
      return &stage.tensor;
    case CommGroup::kFfn:
      return &stage.ffn;
    case CommGroup::kExpert:
      return &stage.expert;
    case CommGroup::kPipeline:
      return &stage.pipeline;
    case CommGroup::kData:
      return nullptr;
  }
  return nullptr;
}

const Entry& Compiled::RankEntry(int s, int64_t tokens) {
  Stage& stage = stages_[static_cast<size_t>(s)];
  return stage.rank.Get(tokens, [&](int64_t count) {
    Entry entry;
    entry.seconds = 0;
    if (count <= 0) return entry;
    for (const Operator& op : TokenOperators(s, count, count)) {
      if (!OnEngine(op)) entry.Add(Price(stage, op), op.count * factor_);
    }
    return entry;
  });
}

const Entry& Compiled::EngineEntry(int s, int64_t tokens) {
  Stage& stage = stages_[static_cast<size_t>(s)];
  return stage.engine.Get(tokens, [&](int64_t count) {
    Entry entry;
    entry.seconds = 0;
    if (count <= 0) return entry;
    for (const Operator& op : TokenOperators(s, (count + plan_.dp - 1) / plan_.dp, count)) {
      if (OnEngine(op)) entry.Add(Price(stage, op), op.count * factor_);
    }
    return entry;
  });
}

std::vector<Operator> Compiled::HeadOperators(int s, int64_t rows) const {
  std::vector<Operator> ops = LowerHeadOperators(model_, plan_, s, rows);
  for (Operator& op : ops) {
    if (op.kind != OpKind::kSampling) continue;
    // A pass reads and writes the logits in fp32.
    op.bytes += profile_.sampling_passes * 8 * static_cast<double>(op.m) * static_cast<double>(op.n);
  }
  return ops;
}

const Entry& Compiled::HeadEntry(int s, int64_t rows) {
  Stage& stage = stages_[static_cast<size_t>(s)];
  return stage.head.Get(rows, [&](int64_t count) {
    Entry entry;
    entry.seconds = 0;
    if (count <= 0) return entry;
    for (const Operator& op : HeadOperators(s, count)) {
      entry.Add(Price(stage, op), op.count * factor_);
    }
    return entry;
  });
}

// KV tokens that the decodes of a step read in one layer of a kind, and the longest of them.
struct DecodeKv {
  int64_t sum, longest;
};
DecodeKv DecodeKvOf(const AttentionCost& attention, const StepWork& work) {
  if (attention.window() == 0) return {work.decode_kv_sum, work.decode_kv_max};
  return {work.decode_kv_sum_windowed, std::min(work.decode_kv_max, attention.window())};
}
void AddDecode(const AttentionCost& attention, const StepWork& work, AttentionSplit* split) {
  const DecodeKv kv = DecodeKvOf(attention, work);
  attention.AddDecode(static_cast<double>(work.decode_seqs), static_cast<double>(kv.sum), static_cast<double>(kv.longest), split);
}
[[gnu::always_inline]] inline void AddDecode(const AttentionCost& attention, const AttentionCost::DecodeOfCount& of,
                                             const StepWork& work, AttentionSplit* split) {
  const DecodeKv kv = DecodeKvOf(attention, work);
  attention.AddDecode(of, static_cast<double>(kv.sum), static_cast<double>(kv.longest), split);
}
void AddMixed(const AttentionCost& attention, const StepWork& work, AttentionSplit* split) {
  const DecodeKv kv = DecodeKvOf(attention, work);
  attention.AddMixed(static_cast<double>(work.decode_seqs), static_cast<double>(kv.sum), static_cast<double>(kv.longest), work.chunks, split);
}

bool Compiled::UsesGraph(const StepWork& work) const {
  return static_cast<size_t>(work.tokens) < graph_tokens_.size() && (work.chunks.empty() || profile_.piecewise_graphs);
}

int64_t Compiled::Padded(const StepWork& work) const {
  return UsesGraph(work) ? graph_tokens_[static_cast<size_t>(work.tokens)] : work.tokens;
}

const DecodeEntry& Compiled::DecodeEntryOf(int s, int64_t seqs) {
  Stage& stage = stages_[static_cast<size_t>(s)];
  return stage.decode.Get(seqs, [&](int64_t count) {
    DecodeEntry entry;
    StepWork work;
    work.tokens = work.logits_rows = work.decode_seqs = count;
    entry.rest = RankEntry(s, Padded(work));
    if (s + 1 == stages()) entry.rest.Add(HeadEntry(s, count));
    entry.seconds = entry.rest.seconds;
    entry.host = SpanOf(HostOf({&work, 1}), s);
    entry.attention = DecodeAttentionOf(stage, count);
    return entry;
  });
}

const AttentionCost::DecodeOfCount* Compiled::DecodeAttentionOf(Stage& stage, int64_t seqs) {
  const auto fill = [&](int64_t count) {
    DecodeAttention entry;
    entry.seconds = 0;
    entry.of = std::make_unique<AttentionCost::DecodeOfCount[]>(stage.attention.size());
    for (size_t i = 0; i < stage.attention.size(); ++i) entry.of[i] = stage.attention[i].DecodeOf(static_cast<double>(count));
    return entry;
  };
  return stage.counted.Get(seqs, fill).of.get();
}

void Compiled::AddAttention(Stage& stage, const StepWork& work, AttentionSplit* split) {
  const AttentionCost::DecodeOfCount* of = work.decode_seqs > 0 ? DecodeAttentionOf(stage, work.decode_seqs) : nullptr;
  for (size_t i = 0; i < stage.attention.size(); ++i) {
    const AttentionCost& attention = stage.attention[i];
    if (attention.fused() && work.decode_seqs > 0 && !work.chunks.empty()) {
      AddMixed(attention, work, split);
      continue;
    }
    if (work.decode_seqs > 0) AddDecode(attention, of[i], work, split);
    if (!work.chunks.empty()) attention.AddPrefill(work.chunks, split);
  }
}

[[gnu::always_inline]] inline Compiled::RankPrice Compiled::PriceRank(int s, const StepWork& work, const AttentionSplit* known) {
  static constexpr Entry kNothing{0, 0, {}};
  Stage& stage = stages_[static_cast<size_t>(s)];
  RankPrice price;
  if (work.chunks.empty() && work.decode_seqs == work.tokens && work.logits_rows == work.tokens && stage.decode.Holds(work.tokens)) {
    price.decode = &DecodeEntryOf(s, work.tokens);
    price.tokens = &price.decode->rest;
    price.head = &kNothing;
    if (known == nullptr) {
      const AttentionCost::DecodeOfCount* of = price.decode->attention;
      for (const AttentionCost& attention : stage.attention) AddDecode(attention, *of++, work, &price.attention);
    }
  } else {
    price.tokens = &RankEntry(s, Padded(work));
    price.head = s + 1 == stages() && work.logits_rows > 0 ? &HeadEntry(s, work.logits_rows) : &kNothing;
    if (known == nullptr) AddAttention(stage, work, &price.attention);
  }
  if (known != nullptr) {
    price.attention = *known;
  } else {
    price.Scale(factor_);
  }
  price.seconds = price.tokens->seconds + price.head->seconds + price.attention.seconds();
  price.joules = price.tokens->joules + price.head->joules + price.attention.joules * factor_;
  return price;
}

template <bool kWithHead>
inline void Compiled::RankPrice::Bounds(double host, std::array<double, kNumBounds>* out) const {
  // In pairs, as the simulator's sum over steps reads them: a load of two numbers stored apart waits for both stores.
  using Pair = double __attribute__((vector_size(16)));
  const auto pair = [](const double* at) {
    Pair p;
    std::memcpy(&p, at, sizeof p);
    return p;
  };
  static_assert(Index(Bound::kCompute) == 0 && Index(Bound::kMemory) == 1 && Index(Bound::kSerial) == 2 && Index(Bound::kLaunch) == 4 &&
                Index(Bound::kHost) == 5 && kNumBounds == 9);
  const Pair more[3] = {{attention.compute, attention.memory}, {attention.serial, 0}, {attention.launch, host}};
  for (size_t i = 0; i < 4; ++i) {
    Pair sum = pair(&tokens->bound[2 * i]);
    if constexpr (kWithHead) sum += pair(&head->bound[2 * i]);
    if (i < 3) sum += more[i];
    std::memcpy(&(*out)[2 * i], &sum, sizeof sum);
  }
  (*out)[8] = tokens->bound[8];
  if constexpr (kWithHead) (*out)[8] += head->bound[8];
}

void Compiled::StageCost(int s, std::span<const StepWork> ranks, Entry* out) {
  double joules = 0;
  int64_t engine_tokens = 0;
  out->seconds = -1;
  for (const StepWork& work : ranks) {
    if (work.tokens == 0) continue;  // waits for the others
    AttentionSplit& attention = attention_[static_cast<size_t>(&work - ranks.data())];
    const RankPrice price = PriceRank(s, work, stages_[static_cast<size_t>(s)].same_attention ? &attention : nullptr);
    attention = price.attention;
    joules += price.joules;
    if (price.seconds > out->seconds) {
      out->seconds = price.seconds;
      price.Bounds(0, &out->bound);
    }
    engine_tokens += work.tokens;
  }
  if (engine_tokens == 0) {
    *out = Entry();
    out->seconds = 0;
  }
  if (exchange_) {
    const Entry& shared = EngineEntry(s, engine_tokens);
    out->Add(shared);
    joules += shared.joules * static_cast<double>(ranks.size());
  }
  out->joules = joules * plan_.tp;
}

// The step that most of a run consists of: one rank, one stage, decode alone.
[[gnu::noinline]] bool Compiled::PredictDecode(const StepWork& work, StepCost* cost) {
  Stage& stage = stages_.front();
  const DecodeEntry* entry = stage.decode.Find(work.decode_seqs);
  if (entry == nullptr) return false;
  seen_tokens_ = std::max(seen_tokens_, work.tokens);
  seen_decode_kv_ = std::max(seen_decode_kv_, work.decode_kv_max);
  RankPrice price;
  const AttentionCost::DecodeOfCount* of = entry->attention;
  for (const AttentionCost& attention : stage.attention) AddDecode(attention, *of++, work, &price.attention);
  price.tokens = &entry->rest;
  price.Scale(factor_);
  const double gpu = entry->rest.seconds + price.attention.seconds();
  const double seconds = SecondsOf(entry->host, gpu, cost);
  price.Bounds<false>(seconds - gpu, &cost->bound_seconds);
  cost->stage_seconds[0] = seconds;
  cost->dynamic_joules = (entry->rest.joules + price.attention.joules * factor_) * plan_.tp + active_watts_ * seconds;
  return true;
}

void Compiled::Predict(std::span<const StepWork> ranks, StepCost* cost) {
  if (ranks.size() == 1 && stages_.size() == 1) {
    const StepWork& work = ranks.front();
    if (work.chunks.empty() && work.decode_seqs == work.tokens && work.logits_rows == work.tokens && PredictDecode(work, cost)) return;
  }
  for (const StepWork& work : ranks) {
    if (work.tokens == 0) continue;
    seen_tokens_ = std::max(seen_tokens_, work.tokens);
    seen_decode_kv_ = std::max(seen_decode_kv_, work.decode_kv_max);
    for (const PrefillChunk& chunk : work.chunks) {
      seen_prefill_kv_ = std::max(seen_prefill_kv_, chunk.past + chunk.tokens);
    }
  }
  const HostWork host = HostOf(ranks);
  const bool single = ranks.size() == 1 && ranks[0].tokens > 0;
  if (attention_.size() < ranks.size()) attention_.resize(ranks.size());
  double all_joules = 0;
  for (int s = 0; s < stages();) {
    const Stage& stage = stages_[static_cast<size_t>(s)];
    std::array<double, kNumBounds> bound;
    double seconds, joules;
    if (single) {
      const RankPrice price = PriceRank(s, ranks[0], stage.same_attention ? &attention_[0] : nullptr);
      attention_[0] = price.attention;
      seconds = SecondsOf(price.decode != nullptr ? price.decode->host : SpanOf(host, s), price.seconds, cost);
      joules = price.joules * plan_.tp;
      price.Bounds(seconds - price.seconds, &bound);
    } else {
      Entry entry;
      StageCost(s, ranks, &entry);
      seconds = SecondsOf(SpanOf(host, s), entry.seconds, cost);
      joules = entry.joules;
      bound = entry.bound;
      bound[Index(Bound::kHost)] += seconds - entry.seconds;
    }
    joules += active_watts_ * seconds;
    const int first = s;
    do {
      cost->stage_seconds[static_cast<size_t>(s++)] = seconds;
    } while (s < stages() && stages_[static_cast<size_t>(s)].like_previous);
    const double times = s - first;
    all_joules += times * joules;
    if (first == 0) {
      for (size_t i = 0; i < bound.size(); ++i) cost->bound_seconds[i] = times * bound[i];
    } else {
      for (size_t i = 0; i < bound.size(); ++i) cost->bound_seconds[i] += times * bound[i];
    }
  }
  cost->dynamic_joules = all_joules;
}

std::string ShapeText(const Operator& op) {
  switch (op.kind) {
    case OpKind::kGemm:
      return fmt::format("m {}, n {}, k {}, {} x {}", op.m, op.n, op.k, DTypeName(op.activations),
                         DTypeName(op.weights));
    case OpKind::kMoe:
      return fmt::format("{} tokens, {} of {} experts, {} x {}, tp {}, ep {}, imbalance {:.2f}", op.tokens, op.topk,
                         op.experts, op.hidden, op.inter, op.tp, op.ep, op.imbalance);
    case OpKind::kAllReduce:
    case OpKind::kAllGather:
    case OpKind::kReduceScatter:
    case OpKind::kAllToAll:
    case OpKind::kSendRecv:
      return fmt::format("{} over {} ranks", Human(Bytes(op.bytes)), op.ranks);
    default:
      return Human(Bytes(op.bytes));
  }
}

std::vector<StepOperator> Compiled::Explain(std::span<const StepWork> ranks) {
  std::vector<StepOperator> out;
  for (int s = 0; s < static_cast<int>(stages_.size()); ++s) {
    Stage& stage = stages_[static_cast<size_t>(s)];
    size_t slowest = 0;
    double longest = -1;
    int64_t engine_tokens = 0;
    for (size_t r = 0; r < ranks.size(); ++r) {
      const double rank_seconds = PriceRank(s, ranks[r]).seconds;
      engine_tokens += ranks[r].tokens;
      if (rank_seconds > longest) {
        longest = rank_seconds;
        slowest = r;
      }
    }
    const StepWork& work = ranks[slowest];
    double listed = 0;
    const auto add = [&](std::string name, std::string shape, double count, int kernels, OpTime time, double times) {
      time.seconds *= times;
      time.joules *= times;
      for (double& b : time.bound) b *= times;
      listed += time.seconds;
      out.push_back({s, std::move(name), std::move(shape), count, kernels, time});
    };
    const auto add_attention = [&](size_t i, bool prefill, bool both) {
      AttentionSplit a;
      const AttentionCost& attention = stage.attention[i];
      const AttentionShape& shape = stage.shapes[i];
      std::string text;
      if (prefill) {
        if (both) {
          AddMixed(attention, work, &a);
        } else {
          attention.AddPrefill(work.chunks, &a);
        }
        int64_t tokens = 0;
        for (const PrefillChunk& chunk : work.chunks) tokens += chunk.tokens;
        text = fmt::format("{} chunks, {} new tokens", work.chunks.size(), tokens);
        if (both) text += fmt::format(" and {} sequences, {} KV tokens", work.decode_seqs, work.decode_kv_sum);
      } else {
        AddDecode(attention, work, &a);
        const DecodeKv kv = DecodeKvOf(attention, work);
        text = fmt::format("{} sequences", work.decode_seqs);
        if (!shape.linear) text += fmt::format(", {} KV tokens, longest {}", kv.sum, kv.longest);
      }
      text += fmt::format(", {} heads, {} {} heads, width {}", shape.heads, shape.kv_heads, shape.linear ? "key" : "KV", shape.head_dim);
      Entry entry;
      entry.seconds = 0;
      entry.Add(a);
      OpTime time;
      time.seconds = entry.seconds;
      time.joules = entry.joules;
      time.bound = entry.bound;
      const OperatorCosts::Origin origin = costs_.OriginOf(shape, prefill);
      time.provenance = origin.note.provenance;
      add(origin.note.part, text, shape.layers, 1, time, factor_);
    };

    const int64_t padded = Padded(work);
    const std::vector<Operator> token_ops = TokenOperators(s, padded, padded);
    const std::vector<Operator> engine_ops =
        exchange_ ? TokenOperators(s, (engine_tokens + plan_.dp - 1) / plan_.dp, engine_tokens)
                  : std::vector<Operator>();
    size_t engine_next = 0;
    bool attention_done = false;
    const auto add_all_attention = [&] {
      attention_done = true;
      for (size_t i = 0; i < stage.attention.size(); ++i) {
        if (stage.attention[i].fused() && work.decode_seqs > 0 && !work.chunks.empty()) {
          add_attention(i, true, true);
          continue;
        }
        if (work.decode_seqs > 0) add_attention(i, false, false);
        if (!work.chunks.empty()) add_attention(i, true, false);
      }
    };
    if (padded > 0) {
      for (const Operator& op : token_ops) {
        if (!attention_done && std::string_view(op.name) == "o_proj") add_all_attention();
        const Operator* priced = &op;
        if (OnEngine(op)) {
          while (engine_next < engine_ops.size() && !OnEngine(engine_ops[engine_next])) ++engine_next;
          priced = &engine_ops[engine_next++];
        }
        add(priced->name, ShapeText(*priced), priced->count, priced->kernels, costs_.Cost(*priced, PathOf(stage, *priced)),
            priced->count * factor_);
      }
    }
    if (!attention_done) add_all_attention();
    if (s + 1 == static_cast<int>(stages_.size())) {
      for (const Operator& op : HeadOperators(s, work.logits_rows)) {
        add(op.name, ShapeText(op), op.count, op.kernels, costs_.Cost(op, PathOf(stage, op)), op.count * factor_);
      }
    }
    const HostWork host = HostOf(ranks);
    const double seconds = SpanOf(host, s).Around(listed);
    OpTime rest;
    rest.seconds = seconds - listed;
    rest.bound[Index(Bound::kHost)] = rest.seconds;
    rest.provenance = Provenance::kAssumed;
    if (rest.seconds > 0) {
      add("host",
          fmt::format("{} of preparation, {} of launches, {} afterwards; what the GPU does not hide",
                      Human(Seconds(s == 0 ? host.prepare : 0)), Human(Seconds(host.IssueSeconds(profile_, stage.launches))),
                      Human(Seconds(s + 1 == stages() ? host.post : 0))),
          1, 0, rest, 1);
    }
  }
  return out;
}

void Compiled::Note(ProvenanceNote note, double share) {
  for (Noted& n : noted_) {
    if (n.note.part == note.part && n.note.detail == note.detail) {
      n.share = std::max(n.share, share);
      return;
    }
  }
  noted_.push_back({std::move(note), share});
}

void Compiled::NoteOperators() {
  // Two usual steps tell which parts matter: 64 sequences of 1 k tokens, and a prompt of 1 k tokens.
  constexpr int64_t kSequences = 64, kLength = 1024;
  for (const bool prefill : {false, true}) {
    const int64_t tokens = prefill ? kLength : kSequences;
    const PrefillChunk chunk{kLength, 0};
    for (int s = 0; s < static_cast<int>(stages_.size()); ++s) {
      const Stage& stage = stages_[static_cast<size_t>(s)];
      std::vector<std::pair<ProvenanceNote, double>> parts;
      double total = 0;
      const auto add = [&](ProvenanceNote note, double seconds) {
        total += seconds;
        for (auto& [known, sum] : parts) {
          if (known.part == note.part && known.detail == note.detail) {
            sum += seconds;
            return;
          }
        }
        parts.emplace_back(std::move(note), seconds);
      };
      std::vector<Operator> ops = TokenOperators(s, tokens, tokens * plan_.dp);
      for (const Operator& op : HeadOperators(s, prefill ? 1 : tokens)) ops.push_back(op);
      for (const Operator& op : ops) {
        const OperatorCosts::Origin origin = costs_.OriginOf(op, PathOf(stage, op));
        if (op.kind == OpKind::kGemm) measured_tokens_ = std::max(measured_tokens_, origin.max_size);
        const double seconds = Price(stage, op).seconds * op.count;
        if (seconds > 0) add(origin.note, seconds);
      }
      for (size_t i = 0; i < stage.shapes.size(); ++i) {
        if (!prefill && model_.is_encoder()) continue;
        const OperatorCosts::Origin origin = costs_.OriginOf(stage.shapes[i], prefill);
        double& measured = prefill ? measured_prefill_kv_ : measured_decode_kv_;
        measured = std::max(measured, origin.max_size);
        AttentionSplit split;
        if (prefill) {
          stage.attention[i].AddPrefill({&chunk, 1}, &split);
        } else {
          stage.attention[i].AddDecode(kSequences, static_cast<double>(kSequences * kLength), kLength, &split);
        }
        add(origin.note, split.seconds());
      }
      for (auto& [note, seconds] : parts) Note(std::move(note), total > 0 ? seconds / total : 0);
    }
  }
  Note({"power", costs_.power_spec().provenance, costs_.power_spec().source}, 0);
  for (const EngineSource& source : profile_.sources) {
    Note(NoteOf(profile_, source), 0);
  }
  for (const Noted& n : noted_) provenance_.push_back(n.note);
}

std::vector<std::string> Compiled::Warnings() const {
  std::vector<std::string> out;
  for (const Provenance level : {Provenance::kTransferred, Provenance::kDatasheet, Provenance::kAssumed}) {
    std::string parts;
    for (const Noted& n : noted_) {
      if (n.note.provenance != level || n.share < kWorthAWarning) continue;
      parts += fmt::format("{}{} (up to {:.0f} % of a step)", parts.empty() ? "" : ", ", n.note.part, 100 * n.share);
    }
    if (!parts.empty()) {
      out.push_back(fmt::format("not calibrated on this GPU, {}: {}", ProvenanceName(level), parts));
    }
  }
  const auto beyond = [&](const char* what, double seen, double measured) {
    if (measured > 0 && seen > measured) {
      out.push_back(
          fmt::format("{} of up to {:.0f} tokens, measured up to {:.0f}: extrapolated", what, seen, measured));
    }
  };
  beyond("steps", static_cast<double>(seen_tokens_), measured_tokens_);
  beyond("decode attention over KV", static_cast<double>(seen_decode_kv_), measured_decode_kv_);
  beyond("prefill attention over KV", static_cast<double>(seen_prefill_kv_), measured_prefill_kv_);
  return out;
}

}  // namespace

OperatorCostOptions OperatorOptionsOf(const EngineProfile& profile) {
  OperatorCostOptions o;
  o.backend = profile.backend;
  o.moe_backend = profile.moe_backend;
  o.streaming_decode = profile.streaming_decode;
  o.shared_group = profile.shared_group;
  o.decode_query_heads = profile.decode_query_heads;
  o.fused_quantize = profile.fused_quantize;
  o.custom_all_reduce = profile.custom_all_reduce;
  o.fused_all_reduce = profile.fused_all_reduce;
  o.deepep = profile.deepep;
  o.time_factor = profile.gpu_time_factor;
  o.widen_weight_bytes = profile.widen_weight_bytes;
  o.widen_kv_bytes = profile.widen_kv_bytes;
  o.widen_start = profile.widen_start;
  o.copy_kv_bytes = profile.copy_kv_bytes;
  return o;
}

absl::StatusOr<OperatorCosts> OperatorCostsFor(const Machine& machine, const EngineProfile& profile, const Catalog& catalog) {
  return OperatorCosts::Create(machine, catalog, OperatorOptionsOf(profile));
}

ProvenanceNote NoteOf(const EngineProfile& profile, const EngineSource& source) {
  return {fmt::format("engine {}, {}", profile.name, source.of), ParseProvenance(source.provenance), source.source};
}

absl::StatusOr<std::unique_ptr<CompiledStepCost>> CompileStepCost(const ModelSpec& model, const ParallelPlan& plan,
                                                                  const Machine& machine, const EngineProfile& profile,
                                                                  const Catalog& catalog,
                                                                  const StepCostOptions& options) {
  if (plan.pp < 1 || plan.pp > kMaxStages || plan.tp < 1 || plan.dp < 1 || plan.ep < 1) {
    return absl::InvalidArgumentError(fmt::format("plan: tp, dp and ep must be at least 1 and pp 1 to {}", kMaxStages));
  }
  SIMRUN_ASSIGN_OR_RETURN(OperatorCosts costs, OperatorCostsFor(machine, profile, catalog));
  const double imbalance = options.expert_imbalance > 0 ? options.expert_imbalance : profile.expert_imbalance;
  auto compiled = std::make_unique<Compiled>(model, plan, std::move(costs), profile, imbalance);
  compiled->Build(machine, options);
  return compiled;
}

}  // namespace simrun
