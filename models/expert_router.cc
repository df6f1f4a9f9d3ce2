#include "models/expert_router.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <type_traits>

namespace simrun {
namespace {

constexpr double kMaxShare = 0.98;
constexpr uint16_t kNone = 0xffff;

// Walker's alias method over 32-bit draws. Below `keep` a cell is its first expert, else its second.
struct Alias {
  uint32_t keep = 0xffffffffu;
  uint16_t experts[2] = {0, 0};
};
std::vector<Alias> MakeAlias(std::span<const double> weights) {
  const size_t n = weights.size();
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  std::vector<double> scaled(n);
  std::vector<uint16_t> small, large;
  for (size_t i = 0; i < n; ++i) {
    scaled[i] = weights[i] / sum * static_cast<double>(n);
    (scaled[i] < 1 ? small : large).push_back(static_cast<uint16_t>(i));
  }
  std::vector<Alias> table(n);
  for (size_t i = 0; i < n; ++i) table[i].experts[0] = table[i].experts[1] = static_cast<uint16_t>(i);
  while (!small.empty() && !large.empty()) {
    const uint16_t s = small.back(), l = large.back();
    small.pop_back();
    table[s] = {static_cast<uint32_t>(std::min(scaled[s] * 4294967296.0, 4294967295.0)), {s, l}};
    scaled[l] -= 1 - scaled[s];
    if (scaled[l] < 1) {
      large.pop_back();
      small.push_back(l);
    }
  }
  return table;
}

std::vector<uint16_t> ByPopularity(const std::vector<double>& shares) {
  std::vector<uint16_t> order(shares.size());
  std::iota(order.begin(), order.end(), uint16_t{0});
  std::stable_sort(order.begin(), order.end(), [&](uint16_t a, uint16_t b) { return shares[a] > shares[b]; });
  return order;
}

// What sequences have chosen, token by token, to be walked again from other places. Whoever walks sequences from start to
// end, the next one taken at random, meets every token equally often.
class KeptChoices {
 public:
  static constexpr uint32_t kEnd = 0xffffffffu;

  KeptChoices(size_t layers, size_t top_k, size_t experts) : row_(layers * top_k), top_k_(top_k), narrow_(experts <= 256) {}

  size_t tokens() const { return next_.size(); }
  size_t BytesPerToken() const { return row_ * (narrow_ ? sizeof(uint8_t) : sizeof(uint16_t)); }
  // The token behind `token` of the same sequence, or kEnd.
  uint32_t Next(uint32_t token) const { return next_[token]; }
  std::span<const uint32_t> starts() const { return starts_; }  // the first tokens of sequences

  // Makes room for one token of each of `n` sequences, the first ones those of the call before.
  void Add(size_t n) {
    first_ = tokens();
    next_.resize(first_ + n, kEnd);
    for (size_t i = 0; i < n; ++i) {
      const uint32_t token = static_cast<uint32_t>(first_ + i);
      if (i < last_) {
        next_[first_ - last_ + i] = token;
      } else {
        starts_.push_back(token);
      }
    }
    narrow_ ? bytes_.resize((first_ + n) * row_) : words_.resize((first_ + n) * row_);
    last_ = n;
  }
  // The choices of these tokens in a layer.
  void Keep(size_t layer, const uint16_t* choices) {
    const auto copy = [&](auto* all) {
      for (size_t i = 0; i < last_; ++i) {
        for (size_t j = 0; j < top_k_; ++j) {
          all[(first_ + i) * row_ + layer * top_k_ + j] = static_cast<std::remove_pointer_t<decltype(all)>>(choices[i * top_k_ + j]);
        }
      }
    };
    narrow_ ? copy(bytes_.data()) : copy(words_.data());
  }
  // Asks the memory for a token's choices.
  void Fetch(uint32_t token) const {
    const char* const first = narrow_ ? reinterpret_cast<const char*>(bytes_.data()) : reinterpret_cast<const char*>(words_.data());
    const size_t bytes = BytesPerToken();
    for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch(first + token * bytes + i, 0, 2);
  }
  // Counts the first `draws` choices of each token.
  void Count(size_t layer, std::span<const uint32_t> tokens, size_t draws, uint32_t* counts) const {
    const auto count = [&](const auto* all, auto n) {
      for (const uint32_t token : tokens) {
        const auto* const choice = all + token * row_ + layer * top_k_;
        for (size_t j = 0; j < n; ++j) ++counts[choice[j]];
      }
    };
    if (!narrow_) return count(words_.data(), draws);
    if (draws == 8) return count(bytes_.data(), std::integral_constant<size_t, 8>());  // without a loop
    count(bytes_.data(), draws);
  }

 private:
  size_t row_, top_k_, first_ = 0, last_ = 0;
  bool narrow_;
  std::vector<uint8_t> bytes_;    // [token][layer][top_k], or
  std::vector<uint16_t> words_;
  std::vector<uint32_t> next_, starts_;
};

class LawRouter final : public ExpertRouter {
 public:
  LawRouter(const RoutingLaw& law, Rng rng, size_t kept_bytes)
      : top_k_(static_cast<size_t>(law.top_k)),
        repeat_(Limit(law.repeat)),
        follow_(Limit(law.repeat + law.affinity)),
        remember_(Limit(law.memory)),
        rng_(rng),
        bits_(rng_.NextBits()) {
    const double decay = 1 - law.memory * (1 - law.repeat);
    const double first = law.repeat * (law.memory + (1 - law.memory) * law.repeat);
    spread_ = 1 + 2 * (decay < 1 ? first / (1 - decay) : 0);
    std::vector<std::vector<double>> solved;
    if (law.fresh.empty()) solved = FreshWeights(law);
    const std::vector<std::vector<double>>& weights = law.fresh.empty() ? solved : law.fresh;
    for (const std::vector<double>& shares : law.popularity) {
      LayerLaw layer;
      layer.alias = MakeAlias(weights[layers_.size()]);
      layer.share.assign(shares.begin(), shares.end());
      std::vector<uint16_t> order = ByPopularity(shares);
      if (!layers_.empty()) {
        layer.partner.resize(shares.size());
        for (size_t i = 0; i < shares.size(); ++i) layer.partner[layers_.back().order[i]] = order[i];
      }
      layer.order = std::move(order);
      layers_.push_back(std::move(layer));
    }
    experts_ = layers_.empty() ? 0 : layers_.front().alias.size();
    counts_.assign(experts_, 0);
    identity_.resize(experts_);
    std::iota(identity_.begin(), identity_.end(), uint16_t{0});
    memory_.resize(layers_.size());
    kept_ = std::make_shared<KeptChoices>(layers_.size(), top_k_, experts_);
    enough_ = kept_bytes / std::max<size_t>(1, kept_->BytesPerToken());
    // A token cannot avoid what it has chosen when every expert with a share is chosen already.
    for (LayerLaw& layer : layers_) {
      size_t possible = 0;
      for (const double share : layer.share) possible += share > 0 ? 1 : 0;
      layer.draws = std::min(top_k_, possible);
    }
  }

  int layers() const override { return static_cast<int>(layers_.size()); }
  int experts() const override { return static_cast<int>(experts_); }

  void Begin(int64_t decodes, int64_t prefill) override {
    decodes_ = static_cast<size_t>(decodes);
    prefill_ = static_cast<size_t>(prefill);
    prefill_drawn_ = prefill * static_cast<int64_t>(top_k_) <= kDrawnChoices * static_cast<int64_t>(experts_);
    decodes_drawn_ = decodes_ <= kMaxSlots;
    if (!walking_ && kept_->tokens() >= std::max(enough_, kLeastSteps * decodes_)) {
      walking_ = true;
      for (std::vector<uint16_t>& memory : memory_) std::vector<uint16_t>().swap(memory);
    }
    if (walking_) {
      const size_t before = at_.size();
      at_.resize(decodes_drawn_ ? decodes_ : 0);
      for (size_t i = 0; i < at_.size(); ++i) at_[i] = i < before ? After(at_[i]) : Anywhere();
      prompt_at_.resize(prefill_drawn_ ? prefill_ : 0);
      for (size_t i = 0; i < prompt_at_.size(); ++i) prompt_at_[i] = i == 0 ? Anywhere() : After(prompt_at_[i - 1]);
      for (const uint32_t token : at_) kept_->Fetch(token);
      return;
    }
    kept_->Add(decodes_drawn_ ? decodes_ : 0);
    const size_t drawn = (decodes_drawn_ ? decodes_ : 0) + (prefill_drawn_ ? prefill_ : 0);
    if (choices_.size() < drawn * top_k_) choices_.resize(drawn * top_k_);
    first_ = true;
  }

  std::span<const uint32_t> Layer(int l) override {
    const LayerLaw& layer = layers_[static_cast<size_t>(l)];
    std::fill(counts_.begin(), counts_.end(), 0u);
    if (walking_) {
      kept_->Count(static_cast<size_t>(l), at_, layer.draws, counts_.data());
      kept_->Count(static_cast<size_t>(l), prompt_at_, layer.draws, counts_.data());
      if (!decodes_drawn_) Aggregate(layer, decodes_, 1);
      if (!prefill_drawn_) Aggregate(layer, prefill_, spread_);
      return counts_;
    }
    const int16_t follow = first_ || layer.partner.empty() ? repeat_ : follow_;
    first_ = false;
    if (decodes_drawn_) {
      std::vector<uint16_t>& memory = memory_[static_cast<size_t>(l)];
      memory.resize(decodes_ * top_k_, kNone);  // sequences that end take their memory along
      Draw(layer, follow, decodes_, false, memory.data(), choices_.data());
      kept_->Keep(static_cast<size_t>(l), choices_.data());
    } else {
      Aggregate(layer, decodes_, 1);
    }
    if (prefill_drawn_) {
      prompt_memory_.assign(top_k_, kNone);
      const size_t base = decodes_drawn_ ? decodes_ : 0;
      Draw(layer, follow, prefill_, true, prompt_memory_.data(), choices_.data() + base * top_k_);
    } else {
      Aggregate(layer, prefill_, spread_);
    }
    return counts_;
  }

  std::unique_ptr<ExpertRouter> Clone() const override {
    auto copy = std::make_unique<LawRouter>(*this);
    if (!walking_) copy->kept_ = std::make_shared<KeptChoices>(*kept_);  // each adds to its own
    return copy;
  }

 private:
  static constexpr size_t kMaxSlots = 4096, kLanes = 8;
  // Choices are kept of at least so many steps: n sequences that walk over N tokens then meet at the same token rarely enough
  // (their counts vary by 1 + n / N more than the law's), and sequences are long enough for their tokens to agree.
  static constexpr size_t kLeastSteps = 16;
  struct LayerLaw {
    std::vector<Alias> alias;
    std::vector<double> share;
    std::vector<uint16_t> order;    // by popularity
    std::vector<uint16_t> partner;  // of the experts of the layer before
    size_t draws = 0;
  };

  uint32_t Anywhere() { return static_cast<uint32_t>(rng_.Below(kept_->tokens())); }
  uint32_t After(uint32_t token) {
    const uint32_t next = kept_->Next(token);
    return next != KeptChoices::kEnd ? next : kept_->starts()[rng_.Below(kept_->starts().size())];
  }

  // What 15 random bits do not exceed with probability p; -1 for never.
  static int16_t Limit(double p) { return static_cast<int16_t>(std::clamp(p, 0.0, 1.0) * 32768 - 1); }

  // Without a branch on random bits, which no processor foresees.
  static uint16_t Fresh(const Alias* alias, uint64_t experts, uint32_t bits) {
    const uint64_t product = bits * experts;
    const Alias& cell = alias[product >> 32];
    return cell.experts[static_cast<uint32_t>(product) >= cell.keep ? 1 : 0];
  }

  // The choices of `tokens` tokens, in passes over all of them, most of which the compiler turns into vector code. `choices`
  // holds those of the layer before. Sequences have a memory each; the tokens of a prompt share one and come in turn.
  void Draw(const LayerLaw& layer, int16_t follow, size_t tokens, bool prompt, uint16_t* memory, uint16_t* choices) {
    const size_t n = tokens * top_k_;
    if (fresh_bits_.size() < n + 8) {
      fresh_bits_.resize(n + 8);
      kinds_.resize(n + 8);
      remembered_.resize(n + 8);
      fresh_.resize(n);
      candidates_.resize(n + 2 * kLanes);
    }
    BulkRng bits = bits_;
    bits.Fill(fresh_bits_.data(), n);
    bits.Fill(kinds_.data(), n);
    bits.Fill(remembered_.data(), n);

    const Alias* const alias = layer.alias.data();
    const uint64_t experts = experts_;
    const uint16_t* const partner = layer.partner.empty() ? identity_.data() : layer.partner.data();
    const uint32_t* const fresh_bits = fresh_bits_.data();
    uint16_t* const __restrict fresh = fresh_.data();
    uint16_t* const __restrict candidates = candidates_.data();
    for (size_t i = 0; i < n; ++i) {
      fresh[i] = Fresh(alias, experts, fresh_bits[i]);
      candidates[i] = partner[choices[i]];
    }
    const uint16_t* const kinds = kinds_.data();
    const uint16_t* const remembered = remembered_.data();
    if (!prompt) Mix(kinds, n, repeat_, follow, memory, fresh, candidates);

    const size_t draws = layer.draws, k = top_k_;
    const Repeats repeats(draws);
    uint32_t* const counts = counts_.data();
    for (size_t t = 0; t < tokens; ++t) {
      const size_t first = t * k;
      if (prompt) Mix(kinds + first, k, repeat_, follow, memory, fresh + first, candidates + first);
      // A token chooses an expert once.
      if (repeats.Any(candidates + first)) {
        for (size_t i = first + 1; i < first + draws; ++i) {
          uint16_t e = candidates[i];
          while (std::find(candidates + first, candidates + i, e) != candidates + i) e = Fresh(alias, experts, bits.Next32());
          candidates[i] = e;
        }
      }
      for (size_t i = first; i < first + draws; ++i) {
        ++counts[candidates[i]];
        choices[i] = candidates[i];
      }
      if (prompt) Remember(remembered + first, k, remember_, choices + first, memory);
    }
    if (!prompt) Remember(remembered, n, remember_, choices, memory);
    bits_ = bits;
  }

  // Finds tokens that would choose an expert twice: all pairs of up to kLanes choices at once.
  class Repeats {
   public:
    explicit Repeats(size_t draws) : draws_(draws) {
      const Lanes lane = {0, 1, 2, 3, 4, 5, 6, 7};
      for (size_t apart = 1; apart < std::min(draws, kLanes); ++apart) {
        pairs_[apart] = static_cast<Lanes>(lane < static_cast<uint16_t>(draws - apart));
      }
    }
    // Reads 2 kLanes - 1 experts.
    bool Any(const uint16_t* experts) const {
      if (draws_ > kLanes) {
        for (size_t i = 1; i < draws_; ++i) {
          if (std::find(experts, experts + i, experts[i]) != experts + i) return true;
        }
        return false;
      }
      Lanes same = {}, first, second;
      std::memcpy(&first, experts, sizeof first);
      for (size_t apart = 1; apart < kLanes; ++apart) {
        std::memcpy(&second, experts + apart, sizeof second);
        same |= static_cast<Lanes>(first == second) & pairs_[apart];
      }
      uint64_t halves[2];
      std::memcpy(halves, &same, sizeof halves);
      return (halves[0] | halves[1]) != 0;
    }

   private:
    using Lanes = uint16_t __attribute__((vector_size(2 * kLanes)));
    const size_t draws_;
    Lanes pairs_[kLanes] = {};  // by distance: the lanes whose partner is a choice of the same token
  };
  // What each choice would be if its token had no other: from the memory, `candidate` (which follows the layer before), or
  // fresh.
  static void Mix(const uint16_t* __restrict kinds, size_t n, int16_t repeat, int16_t follow, const uint16_t* __restrict memory,
                  const uint16_t* __restrict fresh, uint16_t* __restrict candidates) {
    for (size_t i = 0; i < n; ++i) {
      const int16_t kind = static_cast<int16_t>(kinds[i] & 0x7fff);
      const uint16_t f = fresh[i], m = memory[i], c = candidates[i];
      const uint16_t old = m == kNone ? f : m;
      const uint16_t e = kind > follow ? f : c;
      candidates[i] = kind > repeat ? e : old;
    }
  }
  static void Remember(const uint16_t* __restrict bits, size_t n, int16_t remember, const uint16_t* __restrict choices,
                       uint16_t* __restrict memory) {
    for (size_t i = 0; i < n; ++i) {
      const uint16_t m = memory[i], c = choices[i];
      memory[i] = static_cast<int16_t>(bits[i] & 0x7fff) > remember ? m : c;
    }
  }

  void Aggregate(const LayerLaw& layer, size_t tokens, double spread) {
    if (tokens == 0) return;
    const double n = static_cast<double>(tokens);
    int64_t left = static_cast<int64_t>(tokens * layer.draws);
    for (size_t e = 0; e < experts_; ++e) {
      const double share = layer.share[e], mean = n * share, variance = mean * (1 - share) * spread;
      int64_t count;
      if (mean < 12) {
        count = 0;
        for (double p = rng_.Uniform(), term = Exp(-mean), sum = term; p > sum && count < 100; sum += term) {
          ++count;
          term *= mean / static_cast<double>(count);
        }
      } else {
        count = static_cast<int64_t>(std::floor(mean + std::sqrt(variance) * rng_.Normal() + 0.5));
      }
      count = std::clamp<int64_t>(count, 0, static_cast<int64_t>(tokens));
      drawn_.push_back(static_cast<uint32_t>(count));
      left -= count;
    }
    // Make them add up, in proportion to popularity.
    for (size_t i = 0; left != 0 && i < 4 * experts_; ++i) {
      const size_t e = layer.order[i % experts_];
      const int64_t share = std::max<int64_t>(1, static_cast<int64_t>(std::fabs(static_cast<double>(left)) * layer.share[e] /
                                                                       static_cast<double>(top_k_)));
      const int64_t room = left > 0 ? static_cast<int64_t>(tokens) - drawn_[e] : -static_cast<int64_t>(drawn_[e]);
      const int64_t by = left > 0 ? std::min({share, left, room}) : std::max({-share, left, room});
      drawn_[e] = static_cast<uint32_t>(drawn_[e] + by);
      left -= by;
    }
    for (size_t e = 0; e < experts_; ++e) counts_[e] += drawn_[e];
    drawn_.clear();
  }

  size_t top_k_, experts_ = 0;
  int16_t repeat_, follow_, remember_;
  double spread_ = 1;
  Rng rng_;
  BulkRng bits_;  // of single choices
  std::vector<LayerLaw> layers_;
  std::vector<std::vector<uint16_t>> memory_;  // [layer][sequence][top_k]
  std::vector<uint16_t> prompt_memory_, choices_, identity_;
  std::vector<uint32_t> counts_, drawn_;
  std::vector<uint32_t> fresh_bits_;
  std::vector<uint16_t> kinds_, remembered_, fresh_, candidates_;
  size_t decodes_ = 0, prefill_ = 0;
  bool decodes_drawn_ = true, prefill_drawn_ = true, first_ = true;
  // Choices are drawn and kept until there are enough; from then on sequences and prompts walk over those.
  std::shared_ptr<KeptChoices> kept_;  // shared by copies once nothing is added
  size_t enough_ = 0;                  // tokens
  bool walking_ = false;
  std::vector<uint32_t> at_, prompt_at_;  // the token of each sequence, and those of the prompt
};

class RecordedRouter final : public ExpertRouter {
 public:
  RecordedRouter(std::shared_ptr<const ExpertRecording> recording, Rng rng)
      : recording_(std::move(recording)), rng_(rng), counts_(static_cast<size_t>(recording_->experts), 0) {}

  int layers() const override { return recording_->layers; }
  int experts() const override { return recording_->experts; }

  void Begin(int64_t decodes, int64_t prefill) override {
    const std::vector<uint32_t>& starts = recording_->starts;
    const size_t n = static_cast<size_t>(decodes), kept = std::min(n, at_.size());
    at_.resize(n);
    for (size_t i = 0; i < n; ++i) {
      if (i < kept && ++at_[i].token < at_[i].end) continue;
      const size_t s = static_cast<size_t>(rng_.Below(starts.size() - 1));
      at_[i] = {starts[s], starts[s + 1]};
    }
    prompt_ = prefill > 0 ? static_cast<size_t>(rng_.Below(recording_->tokens())) : 0;
    prefill_ = static_cast<size_t>(prefill);
  }

  std::span<const uint32_t> Layer(int l) override {
    std::fill(counts_.begin(), counts_.end(), 0u);
    for (const Place& p : at_) Add(p.token, l, 1);
    // Whole rounds through the recording, then the rest.
    const size_t tokens = recording_->tokens();
    const uint32_t rounds = static_cast<uint32_t>(prefill_ / tokens);
    if (rounds > 0) {
      for (size_t t = 0; t < tokens; ++t) Add(t, l, rounds);
    }
    for (size_t i = 0; i < prefill_ % tokens; ++i) Add((prompt_ + i) % tokens, l, 1);
    return counts_;
  }

  std::unique_ptr<ExpertRouter> Clone() const override { return std::make_unique<RecordedRouter>(*this); }

 private:
  struct Place {
    uint32_t token = 0, end = 0;
  };
  void Add(size_t token, int layer, uint32_t times) {
    const size_t k = static_cast<size_t>(recording_->top_k);
    const uint16_t* choice = &recording_->choices[(token * static_cast<size_t>(recording_->layers) + static_cast<size_t>(layer)) * k];
    for (size_t j = 0; j < k; ++j) counts_[choice[j]] += times;
  }

  std::shared_ptr<const ExpertRecording> recording_;
  Rng rng_;
  std::vector<Place> at_;
  std::vector<uint32_t> counts_;
  size_t prompt_ = 0, prefill_ = 0;
};

}  // namespace

std::vector<std::vector<double>> FreshWeights(const RoutingLaw& law) {
  constexpr int kRounds = 6;
  std::vector<std::vector<double>> weights;
  const auto k = static_cast<size_t>(law.top_k);
  // By rank of popularity: the chance that the i-th choice of a token is this expert, in this layer and the one before.
  std::vector<std::vector<double>> chance(k), before(k);
  std::vector<double> wanted, fresh, taken, candidate, twice, remembered, followed;
  for (size_t l = 0; l < law.popularity.size(); ++l) {
    const std::vector<double>& shares = law.popularity[l];
    const std::vector<uint16_t> order = ByPopularity(shares);
    const size_t n = shares.size();
    weights.emplace_back(n);
    std::vector<double>& out = weights.back();
    for (size_t e = 0; e < n; ++e) out[e] = -Ln(1 - std::min(shares[e], kMaxShare));
    if (law.repeat <= 0 && law.affinity <= 0) continue;
    wanted.resize(n), fresh.resize(n);
    for (std::vector<double>* v : {&taken, &candidate, &twice, &remembered, &followed}) v->resize(n);
    for (size_t r = 0; r < n; ++r) wanted[r] = shares[order[r]], fresh[r] = out[order[r]];
    const double affinity = l > 0 ? law.affinity : 0;
    for (size_t i = 0; i < k; ++i) {
      chance[i].resize(n);
      for (size_t r = 0; r < n; ++r) chance[i][r] = wanted[r] / static_cast<double>(k);
    }
    for (int round = 0; round < kRounds; ++round) {
      const double sum = std::accumulate(fresh.begin(), fresh.end(), 0.0);
      if (!(sum > 0)) break;
      for (double& f : fresh) f /= sum;
      for (std::vector<double>* sums : {&taken, &remembered, &followed}) std::fill(sums->begin(), sums->end(), 0.0);
      for (size_t i = 0; i < k; ++i) {
        // The memory and the layer before have an expert in one place: where it was not taken earlier it is the likelier here.
        // A candidate that the token has chosen already is drawn afresh from those it has not: for an expert that it has not, by
        // chances that know as much.
        double again = 1, open = 0, sum_again = 0;
        for (size_t r = 0; r < n; ++r) {
          const double old = law.repeat * chance[i][r], follow = l > 0 ? affinity * before[i][r] : 0, own = (1 - law.repeat - affinity) * fresh[r];
          const double here = (1 - taken[r]) * (old / (1 - remembered[r]) + follow / (1 - followed[r]) + own);
          remembered[r] += old;
          followed[r] += follow;
          again -= here;
          open += fresh[r] * (1 - taken[r]);
          twice[r] = old + follow + own - here;
          candidate[r] = here;
        }
        again = std::max(0.0, again);
        for (size_t r = 0; r < n; ++r) {
          chance[i][r] = (1 - taken[r]) * fresh[r] * std::max(0.0, again - twice[r]) / std::max(open + fresh[r] * taken[r], 1e-12);
          sum_again += chance[i][r];
        }
        const double scale = sum_again > 0 ? again / sum_again : 0;
        for (size_t r = 0; r < n; ++r) {
          chance[i][r] = candidate[r] + scale * chance[i][r];
          taken[r] += chance[i][r];
        }
      }
      if (round + 1 == kRounds) break;
      // What is missing, over what one more drawn afresh adds.
      for (size_t r = 0; r < n; ++r) {
        if (taken[r] > 0) fresh[r] *= std::clamp(wanted[r] / taken[r] * std::sqrt((1 - std::min(taken[r], kMaxShare)) / (1 - std::min(wanted[r], kMaxShare))), 0.25, 4.0);
      }
    }
    for (size_t r = 0; r < n; ++r) out[order[r]] = fresh[r];
    std::swap(chance, before);
  }
  return weights;
}

std::unique_ptr<ExpertRouter> MakeLawRouter(const RoutingLaw& law, Rng rng, size_t kept_bytes) {
  return std::make_unique<LawRouter>(law, rng, kept_bytes);
}

std::unique_ptr<ExpertRouter> MakeRecordedRouter(std::shared_ptr<const ExpertRecording> recording, Rng rng) {
  return std::make_unique<RecordedRouter>(std::move(recording), rng);
}

std::vector<double> SharesOf(std::span<const double> weights, int top_k) {
  std::vector<double> shares(weights.begin(), weights.end());
  // What the largest ones have above the cap goes to the others.
  std::vector<bool> capped(shares.size(), false);
  for (bool over = true; over;) {
    over = false;
    double fixed = 0, free = 0;
    for (size_t i = 0; i < shares.size(); ++i) (capped[i] ? fixed : free) += shares[i];
    if (free <= 0) break;
    const double scale = (top_k - fixed) / free;
    for (size_t i = 0; i < shares.size(); ++i) {
      if (capped[i]) continue;
      shares[i] *= scale;
      if (shares[i] > kMaxShare) {
        shares[i] = kMaxShare;
        capped[i] = over = true;
      }
    }
  }
  return shares;
}

std::vector<std::vector<double>> UniformPopularity(int layers, int experts, int top_k) {
  return {static_cast<size_t>(layers),
          std::vector<double>(static_cast<size_t>(experts), static_cast<double>(top_k) / experts)};
}

std::vector<std::vector<double>> GammaPopularity(int layers, int experts, int top_k, double cv, Rng rng) {
  if (cv < 1e-3) return UniformPopularity(layers, experts, top_k);
  std::vector<std::vector<double>> popularity;
  std::vector<double> weights(static_cast<size_t>(experts));
  for (int l = 0; l < layers; ++l) {
    for (double& w : weights) w = rng.Gamma(1 / (cv * cv), 1) / (1 / (cv * cv));
    popularity.push_back(SharesOf(weights, top_k));
  }
  return popularity;
}

std::vector<std::vector<double>> ZipfPopularity(int layers, int experts, int top_k, double exponent, Rng rng) {
  std::vector<std::vector<double>> popularity;
  std::vector<double> weights(static_cast<size_t>(experts));
  for (int l = 0; l < layers; ++l) {
    for (size_t i = 0; i < weights.size(); ++i) weights[i] = Exp(-exponent * Ln(static_cast<double>(i + 1)));
    for (size_t i = weights.size(); i > 1; --i) std::swap(weights[i - 1], weights[rng.Below(i)]);
    popularity.push_back(SharesOf(weights, top_k));
  }
  return popularity;
}

double PopularityCv(std::span<const std::vector<double>> popularity) {
  double sum = 0;
  for (const std::vector<double>& shares : popularity) {
    const double n = static_cast<double>(shares.size());
    const double mean = std::accumulate(shares.begin(), shares.end(), 0.0) / n;
    double squares = 0;
    for (const double s : shares) squares += (s - mean) * (s - mean);
    sum += mean > 0 ? std::sqrt(squares / n) / mean : 0;
  }
  return popularity.empty() ? 0 : sum / static_cast<double>(popularity.size());
}

std::vector<std::vector<double>> PopularityOf(const ExpertRecording& r) {
  std::vector<std::vector<double>> popularity(static_cast<size_t>(r.layers),
                                              std::vector<double>(static_cast<size_t>(r.experts), 0.0));
  const size_t k = static_cast<size_t>(r.top_k), layers = static_cast<size_t>(r.layers);
  for (size_t i = 0; i < r.choices.size(); ++i) popularity[i / k % layers][r.choices[i]] += 1;
  for (std::vector<double>& shares : popularity) {
    for (double& s : shares) s /= static_cast<double>(r.tokens());
  }
  return popularity;
}

}  // namespace simrun
