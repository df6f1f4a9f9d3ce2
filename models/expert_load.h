// Which experts tokens choose, in expectation: how many experts a step touches, and how uneven expert ranks are.
//
// Popularity model: over one batch the expected number of tokens of an expert is proportional to a gamma variable of
// mean 1 and standard deviation `popularity_cv`; given the popularities, choices are independent. Token counts of an
// expert or of a rank of experts then follow a negative binomial law, whose moments the formulas below use.
// Assumptions: experts are placed in the order of their numbers, and number and popularity are unrelated; no
// replicas of hot experts; popularity does not change within a step.
// Measured: the 26 MoE layers of DeepSeek-V2-Lite over four tasks (deepseek-ai/ESFT) have a mean cv of 0.83. With that
// one number the model gives an EP imbalance of 1.22 / 1.46 / 1.88 for 4 / 8 / 16 ranks (routing data: 1.24 / 1.48 /
// 1.93) and 42 / 58 of 64 experts touched by 16 / 64 tokens (42.6 / 59.7).
#pragma once

#include <cstdint>

namespace simrun {

// Load of the busiest of `ep` expert ranks over the mean load, expected, for a step of `tokens` tokens; 1 when ep is 1.
// With v = cv^2 ep/experts the variance of a rank's popularity and s = ep/(tokens topk) * (experts-topk)/(experts-1)
// that of its token count, skewness g = (s^2 + 3 s v + 2 v^2)/(s+v)^1.5, and e1, e2 the first two moments of the
// largest of ep standard normals: 1 + sqrt(s+v) (e1 + g (e2-1)/6), the Cornish-Fisher expansion to first order in g.
// At most ep min(topk, experts/ep)/topk, all choices on one rank.
double ExpertImbalance(int64_t experts, int64_t topk, int ep, int64_t tokens, double popularity_cv);

// Share of the experts chosen by at least one of `tokens` tokens: 1 - (1 + cv^2 l)^(-1/cv^2), where
// l = -tokens ln(1 - topk/experts); with cv = 0 this is 1 - (1 - topk/experts)^tokens.
double ActiveExpertShare(int64_t experts, int64_t topk, int64_t tokens, double popularity_cv);

// Ranks, of ep with equally many experts each, that hold at least one expert of a token under uniform routing:
// ep (1 - C(experts - experts/ep, topk)/C(experts, topk)).
double RanksPerToken(int64_t experts, int64_t topk, int ep);

// For models without routing data: 0.13 with fewer than 32 experts (measured on Mixtral-8x7B), 0.83 with more
// (DeepSeek-V2-Lite; OLMoE has 0.85). Confidence C.
double TypicalPopularityCv(int64_t experts);

}  // namespace simrun
