#include "hw/step_cost_compiled.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

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

// Entries by count, in pages made on first use so that a wide range costs memory only where it is visited.
class LazyTable {
 public:
  explicit LazyTable(int64_t size = 0) : size_(size), pages_(static_cast<size_t>(size / kPage + 1)) {}
  // The entry of `count`, filled by `fill(count)` on first use.
  template <class Fill>
  const Entry& Get(int64_t count, const Fill& fill) {
    if (count < 0 || count >= size_) {
      beyond_ = fill(count);
      return beyond_;
    }
    std::unique_ptr<Entry[]>& page = pages_[static_cast<size_t>(count / kPage)];
    if (page == nullptr) page = std::make_unique<Entry[]>(kPage);
    Entry& entry = page[static_cast<size_t>(count % kPage)];
    if (entry.seconds < 0) entry = fill(count);
    return entry;
  }

 private:
  static constexpr int64_t kPage = 64;
  int64_t size_ = 0;
  std::vector<std::unique_ptr<Entry[]>> pages_;
  Entry beyond_;
};

struct Stage {
  std::vector<AttentionShape> shapes;
  std::vector<AttentionCost> attention;  // one per shape
  LazyTable rank;                        // by tokens of an attention rank
  LazyTable engine;                      // experts or shared MLP by tokens of all ranks, when the ranks exchange tokens
  LazyTable head;                        // by logits rows
  CommPath tensor, ffn, expert, pipeline;
  double launches = 0;  // kernels of a step in eager mode, attention included
  bool like_previous = false;  // costs what the stage before it costs, whatever the step
};

class Compiled final : public CompiledStepCost {
 public:
  Compiled(ModelSpec model, ParallelPlan plan, OperatorCosts costs, EngineProfile profile, double imbalance)
      : model_(std::move(model)),
        plan_(plan),
        costs_(std::move(costs)),
        profile_(std::move(profile)),
        imbalance_(imbalance),
        exchange_(plan.dp > 1 && (model_.moe.has_value() ? plan.ep > 1 : plan.separate_ffn())) {}

  void Build(const Machine& machine, const StepCostOptions& options);

  int stages() const override { return static_cast<int>(stages_.size()); }
  void Predict(std::span<const StepWork> ranks, StepCost* cost) override;
  std::vector<StepOperator> Explain(std::span<const StepWork> ranks) override;
  const std::vector<ProvenanceNote>& provenance() const override { return provenance_; }
  std::vector<std::string> Warnings() const override;

 private:
  std::vector<Operator> TokenOperators(int stage, int64_t rank_tokens, int64_t engine_tokens) const;
  const CommPath* PathOf(const Stage& stage, const Operator& op) const;
  bool OnEngine(const Operator& op) const { return exchange_ && op.on_engine; }
  const Entry& RankEntry(int s, int64_t tokens);
  const Entry& EngineEntry(int s, int64_t tokens);
  const Entry& HeadEntry(int s, int64_t rows);
  void AddAttention(const Stage& stage, const StepWork& work, Entry* out) const;
  // One attention rank on one stage, without the experts that all ranks share.
  void RankCost(int s, const StepWork& work, Entry* out);
  // The work of the slowest rank, and joules of all GPUs of the stage.
  void StageCost(int s, std::span<const StepWork> ranks, Entry* out);
  bool UsesGraph(const StepWork& work) const;
  int64_t Padded(const StepWork& work) const;
  struct Host {
    double prepare = 0, issue = 0, post = 0;
  };
  Host HostOf(int s, std::span<const StepWork> ranks) const;
  // True when stages s - 1 and s hold the same kinds of layers between the same kinds of links.
  bool IsLikePrevious(int s) const;
  void Note(ProvenanceNote note, double share);
  void NoteOperators();

  ModelSpec model_;
  ParallelPlan plan_;
  OperatorCosts costs_;
  EngineProfile profile_;
  double imbalance_;
  bool exchange_;
  std::vector<Stage> stages_;
  std::vector<int32_t> graph_tokens_;  // by tokens, up to the largest graph
  // Host terms as plain seconds.
  double step_host_ = 0, sequence_host_ = 0, token_host_ = 0, launch_ = 0, graph_launch_ = 0, post_step_ = 0,
         post_sequence_ = 0, factor_ = 1;
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
  step_host_ = profile_.step_host.value();
  sequence_host_ = profile_.sequence_host.value();
  token_host_ = profile_.token_host.value();
  launch_ = profile_.launch.value();
  graph_launch_ = profile_.graph_launch.value();
  post_step_ = profile_.post_step.value();
  post_sequence_ = profile_.post_sequence.value();
  factor_ = profile_.gpu_time_factor;
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
    stage.rank = LazyTable(tokens);
    stage.engine = LazyTable(exchange_ ? tokens * plan_.dp : 0);
    stage.head = LazyTable(options.max_rows + 1);
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
      ++count[static_cast<size_t>((model_.IsMoeLayer(l) ? 2 : 0) + (model_.IsWindowedLayer(l) ? 1 : 0))];
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
      if (!OnEngine(op)) entry.Add(costs_.Cost(op, PathOf(stage, op)), op.count * factor_);
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
      if (OnEngine(op)) entry.Add(costs_.Cost(op, PathOf(stage, op)), op.count * factor_);
    }
    return entry;
  });
}

const Entry& Compiled::HeadEntry(int s, int64_t rows) {
  Stage& stage = stages_[static_cast<size_t>(s)];
  return stage.head.Get(rows, [&](int64_t count) {
    Entry entry;
    entry.seconds = 0;
    if (count <= 0) return entry;
    for (const Operator& op : LowerHeadOperators(model_, plan_, s, count)) {
      entry.Add(costs_.Cost(op, PathOf(stage, op)), op.count * factor_);
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
void AddMixed(const AttentionCost& attention, const StepWork& work, AttentionSplit* split) {
  const DecodeKv kv = DecodeKvOf(attention, work);
  attention.AddMixed(static_cast<double>(work.decode_seqs), static_cast<double>(kv.sum), static_cast<double>(kv.longest), work.chunks, split);
}

void Compiled::AddAttention(const Stage& stage, const StepWork& work, Entry* out) const {
  AttentionSplit split;
  for (const AttentionCost& attention : stage.attention) {
    if (attention.fused() && work.decode_seqs > 0 && !work.chunks.empty()) {
      AddMixed(attention, work, &split);
      continue;
    }
    if (work.decode_seqs > 0) AddDecode(attention, work, &split);
    if (!work.chunks.empty()) attention.AddPrefill(work.chunks, &split);
  }
  split.launch *= factor_;
  split.compute *= factor_;
  split.memory *= factor_;
  split.serial *= factor_;
  split.joules *= factor_;
  out->Add(split);
}

bool Compiled::UsesGraph(const StepWork& work) const {
  return static_cast<size_t>(work.tokens) < graph_tokens_.size() && (work.chunks.empty() || profile_.piecewise_graphs);
}

int64_t Compiled::Padded(const StepWork& work) const {
  return UsesGraph(work) ? graph_tokens_[static_cast<size_t>(work.tokens)] : work.tokens;
}

void Compiled::RankCost(int s, const StepWork& work, Entry* out) {
  *out = RankEntry(s, Padded(work));
  if (s + 1 == static_cast<int>(stages_.size()) && work.logits_rows > 0) out->Add(HeadEntry(s, work.logits_rows));
  AddAttention(stages_[static_cast<size_t>(s)], work, out);
}

void Compiled::StageCost(int s, std::span<const StepWork> ranks, Entry* out) {
  double joules = 0;
  int64_t engine_tokens = 0;
  for (const StepWork& work : ranks) {
    if (work.tokens == 0) continue;  // waits for the others
    if (engine_tokens == 0) {
      RankCost(s, work, out);  // in place: most engines have one rank
      joules = out->joules;
    } else {
      Entry entry;
      RankCost(s, work, &entry);
      joules += entry.joules;
      if (entry.seconds > out->seconds) *out = entry;
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

Compiled::Host Compiled::HostOf(int s, std::span<const StepWork> ranks) const {
  Host host;
  const bool first = s == 0, last = s + 1 == static_cast<int>(stages_.size());
  // Each rank has its own host process; the busiest one is waited for. Those with no tokens all do the same.
  bool idle = false;
  for (const StepWork& work : ranks) {
    if (work.tokens == 0 && std::exchange(idle, true)) continue;
    const double sequences = static_cast<double>(work.decode_seqs) + static_cast<double>(work.chunks.size());
    if (first) {
      host.prepare = std::max(host.prepare,
                              step_host_ + sequence_host_ * sequences + token_host_ * static_cast<double>(work.tokens));
    }
    const double issue = UsesGraph(work) ? graph_launch_ : launch_ * stages_[static_cast<size_t>(s)].launches;
    host.issue = std::max(host.issue, issue);
    if (last) host.post = std::max(host.post, post_step_ + post_sequence_ * static_cast<double>(work.logits_rows));
  }
  return host;
}

void Compiled::Predict(std::span<const StepWork> ranks, StepCost* cost) {
  cost->dynamic_joules = 0;
  cost->bound_seconds.fill(0);
  for (const StepWork& work : ranks) {
    if (work.tokens == 0) continue;
    seen_tokens_ = std::max(seen_tokens_, work.tokens);
    seen_decode_kv_ = std::max(seen_decode_kv_, work.decode_kv_max);
    for (const PrefillChunk& chunk : work.chunks) {
      seen_prefill_kv_ = std::max(seen_prefill_kv_, chunk.past + chunk.tokens);
    }
  }
  Entry gpu;
  double seconds = 0;
  const double active = costs_.power().active_watts() * plan_.tp * plan_.dp;
  for (int s = 0; s < static_cast<int>(stages_.size()); ++s) {
    if (stages_[static_cast<size_t>(s)].like_previous) {
      cost->stage_seconds[static_cast<size_t>(s)] = seconds;
      cost->dynamic_joules += gpu.joules + active * seconds;
      for (size_t i = 0; i < gpu.bound.size(); ++i) cost->bound_seconds[i] += gpu.bound[i];
      cost->bound_seconds[Index(Bound::kHost)] += seconds - gpu.seconds;
      continue;
    }
    StageCost(s, ranks, &gpu);
    const Host host = HostOf(s, ranks);
    seconds = profile_.overlap ? std::max(gpu.seconds, host.prepare + host.issue) + host.post
                               : host.prepare + std::max(gpu.seconds, host.issue) + host.post;
    cost->stage_seconds[static_cast<size_t>(s)] = seconds;
    cost->dynamic_joules += gpu.joules + active * seconds;
    for (size_t i = 0; i < gpu.bound.size(); ++i) cost->bound_seconds[i] += gpu.bound[i];
    cost->bound_seconds[Index(Bound::kHost)] += seconds - gpu.seconds;
  }
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
      Entry entry;
      RankCost(s, ranks[r], &entry);
      engine_tokens += ranks[r].tokens;
      if (entry.seconds > longest) {
        longest = entry.seconds;
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
        text = fmt::format("{} sequences, {} KV tokens, longest {}", work.decode_seqs, kv.sum, kv.longest);
      }
      text += fmt::format(", {} heads, {} KV heads, width {}", shape.heads, shape.kv_heads, shape.head_dim);
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
      for (const Operator& op : LowerHeadOperators(model_, plan_, s, work.logits_rows)) {
        add(op.name, ShapeText(op), op.count, op.kernels, costs_.Cost(op, PathOf(stage, op)), op.count * factor_);
      }
    }
    const Host host = HostOf(s, ranks);
    const double seconds = profile_.overlap ? std::max(listed, host.prepare + host.issue) + host.post
                                            : host.prepare + std::max(listed, host.issue) + host.post;
    OpTime rest;
    rest.seconds = seconds - listed;
    rest.bound[Index(Bound::kHost)] = rest.seconds;
    rest.provenance = Provenance::kAssumed;
    if (rest.seconds > 0) {
      add("host",
          fmt::format("{} of preparation, {} of launches, {} afterwards; what the GPU does not hide",
                      Human(Seconds(host.prepare)), Human(Seconds(host.issue)), Human(Seconds(host.post))),
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
      for (const Operator& op : LowerHeadOperators(model_, plan_, s, prefill ? 1 : tokens)) ops.push_back(op);
      for (const Operator& op : ops) {
        const OperatorCosts::Origin origin = costs_.OriginOf(op, PathOf(stage, op));
        if (op.kind == OpKind::kGemm) measured_tokens_ = std::max(measured_tokens_, origin.max_size);
        const double seconds = costs_.Cost(op, PathOf(stage, op)).seconds * op.count;
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
      parts += fmt::format("{}{} ({:.0f} % of a step)", parts.empty() ? "" : ", ", n.note.part, 100 * n.share);
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

absl::StatusOr<OperatorCosts> OperatorCostsFor(const Machine& machine, const EngineProfile& profile, const Catalog& catalog,
                                               const StepCostOptions& options) {
  OperatorCostOptions cost_options;
  cost_options.backend = profile.backend;
  cost_options.custom_all_reduce = profile.custom_all_reduce;
  cost_options.deepep = profile.deepep;
  return options.operators != nullptr ? OperatorCosts::Create(machine, options.operators, cost_options)
                                      : OperatorCosts::Create(machine, catalog, cost_options);
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
  SIMRUN_ASSIGN_OR_RETURN(OperatorCosts costs, OperatorCostsFor(machine, profile, catalog, options));
  const double imbalance = options.expert_imbalance > 0 ? options.expert_imbalance : profile.expert_imbalance;
  auto compiled = std::make_unique<Compiled>(model, plan, std::move(costs), profile, imbalance);
  compiled->Build(machine, options);
  return compiled;
}

}  // namespace simrun
