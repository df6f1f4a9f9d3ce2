// What an expert in GPU memory is worth keeping. See expert_cache.h.
#pragma once

#include <memory>

#include "schedulers/expert_cache.h"

namespace simrun {

std::unique_ptr<ExpertRanking> MakePinnedRanking(const ExpertRankingParams& params);
std::unique_ptr<ExpertRanking> MakeLruRanking(const ExpertRankingParams& params);
// Steps in which the expert was used; among equals the one used last is kept.
std::unique_ptr<ExpertRanking> MakeLfuRanking(const ExpertRankingParams& params);
// HybriMoE (arXiv 2504.05897): S <- a s + (1 - a) S, s the expert's share of the step's routing choices. Experts that
// were not chosen decay. The original takes s from the router's scores of the best 2k experts of a token; recordings
// hold only which k were chosen.
std::unique_ptr<ExpertRanking> MakeScoreRanking(const ExpertRankingParams& params);
// Belady (1966): the farthest next use goes first.
std::unique_ptr<ExpertRanking> MakeOracleRanking(const ExpertRankingParams& params);

}  // namespace simrun
