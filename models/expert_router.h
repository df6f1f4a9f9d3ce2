// Which experts the tokens of a step choose, layer by layer: drawn from a law, or replayed from a recording.
//
// The law. Expert e of a layer is chosen by a share pi_e of the tokens (sum over e: top_k). A token's choices are
// distinct. One choice of a token of a sequence
//   - repeats an expert of the sequence's memory of this layer, with probability `repeat`;
//   - follows the token's choice in the layer before, with probability `affinity`: it takes the expert of the same rank
//     by popularity;
//   - else is drawn afresh in proportion to w_e. Were all choices, w_e = -ln(1 - pi_e) would make successive draws without
//     repetition choose e with probability pi_e (Rosen, 1972); since partners differ in popularity and choices already made
//     are replaced, FreshWeights has the w_e that do.
// A choice already made by the same token is drawn afresh. Each choice then enters the memory with probability `memory`.
// Tokens d apart agree in repeat (memory + (1 - memory) repeat) (1 - memory (1 - repeat))^(d-1) of their choices above
// chance, less the few per cent that a token had chosen already.
//
// Measured on DeepSeek-V2-Lite (deepseek-ai/ESFT, 16,701 tokens of two tasks): neighbouring tokens of a sequence share
// 0.28 of their choices where chance gives 0.15, tokens two apart 0.21, eight apart 0.18; the best partner of an expert
// in the next layer is chosen 0.24 more often than chance, measured on one task with partners found on the other.
// Not modelled: that a sequence prefers some experts for all of its length (agreement 0.02 to 0.03 above chance at any
// distance).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/rng.h"

namespace simrun {

class ExpertRouter {
 public:
  virtual ~ExpertRouter() = default;
  virtual int layers() const = 0;
  virtual int experts() const = 0;
  // Starts a step of `decodes` sequences with one token each, the first ones those of the step before, and
  // `prefill` prompt tokens of new sequences.
  virtual void Begin(int64_t decodes, int64_t prefill) = 0;
  // Tokens of each expert of a layer; layers are asked for in order, each once. Valid until the next call.
  virtual std::span<const uint32_t> Layer(int layer) = 0;
  // A copy that will make the same choices.
  virtual std::unique_ptr<ExpertRouter> Clone() const = 0;
};

struct RoutingLaw {
  int top_k = 1;
  // Share of the tokens that choose each expert, by layer; each layer's shares sum to top_k.
  std::vector<std::vector<double>> popularity;
  double repeat = 0;
  double memory = 1;
  double affinity = 0;
  std::vector<std::vector<double>> fresh = {};  // FreshWeights of all this; empty: routers work it out, each anew
};
// Counts of more than kDrawnChoices choices per expert are not drawn token by token: each is Poisson or normal with the
// law's mean and variance, and they are made to add up.
inline constexpr int64_t kDrawnChoices = 8;
// The choices of sequences are kept as they are drawn, a byte each (two of more than 256 experts). Once they fill
// `kept_bytes`, and 16 steps, nothing more is drawn: sequences and prompts walk over the kept ones from random places.
inline constexpr size_t kKeptChoiceBytes = size_t{8} << 20;
// In proportion to which each layer's experts are drawn afresh, so that they are chosen by the law's shares: solved in mean field,
// the chances of one choice after the other. Shares that following alone exceeds stay above.
std::vector<std::vector<double>> FreshWeights(const RoutingLaw& law);
std::unique_ptr<ExpertRouter> MakeLawRouter(const RoutingLaw& law, Rng rng, size_t kept_bytes = kKeptChoiceBytes);

// Popularities of `layers` layers, each summing to top_k, none above 0.98 (unless too few
// experts are left).
std::vector<std::vector<double>> UniformPopularity(int layers, int experts, int top_k);
// Gamma variables of mean 1 and standard deviation `cv`, drawn for each layer: the law of expert_load.h.
std::vector<std::vector<double>> GammaPopularity(int layers, int experts, int top_k, double cv, Rng rng);
// rank^-exponent, the ranks dealt at random in each layer.
std::vector<std::vector<double>> ZipfPopularity(int layers, int experts, int top_k, double exponent, Rng rng);
// Scales weights to shares.
std::vector<double> SharesOf(std::span<const double> weights, int top_k);
// Standard deviation over mean of the shares, averaged over the layers.
double PopularityCv(std::span<const std::vector<double>> popularity);

// Recorded choices of tokens of several sequences.
struct ExpertRecording {
  int layers = 0, experts = 0, top_k = 0;
  std::vector<uint32_t> starts;   // first token of each sequence, and the number of tokens
  std::vector<uint16_t> choices;  // [token][layer][top_k]
  size_t tokens() const { return starts.empty() ? 0 : starts.back(); }
};
// Each sequence of a step reads a sequence of the recording, drawn at random, token by token, then another one; prompts
// read consecutive tokens from a random place.
std::unique_ptr<ExpertRouter> MakeRecordedRouter(std::shared_ptr<const ExpertRecording> recording, Rng rng);
// Shares of the tokens of a recording that choose each expert.
std::vector<std::vector<double>> PopularityOf(const ExpertRecording& recording);

}  // namespace simrun
