#include "sim/expert_routing.h"

#include <utility>

#include <fmt/format.h>

#include "base/paths.h"
#include "workload/routing_reader.h"

namespace simrun {

int MoeLayers(const ModelSpec& model) {
  int n = 0;
  for (int l = 0; l < model.layers; ++l) n += model.IsMoeLayer(l) ? 1 : 0;
  return n;
}

absl::StatusOr<ExpertRouting> ExpertRouting::Make(const RoutingConfig* config, const ModelSpec& model, const std::string& base_dir) {
  if (!model.moe) return absl::InvalidArgumentError(fmt::format(": {} has no experts; leave it out", model.name));
  const MoeSpec& moe = *model.moe;
  ExpertRouting r;
  r.layers_ = MoeLayers(model);
  r.experts_ = static_cast<int>(moe.experts);
  r.top_k_ = static_cast<int>(moe.top_k);
  r.repeat_ = moe.token_repeat;
  r.memory_ = moe.token_memory;
  r.affinity_ = moe.layer_affinity;
  r.cv_ = moe.popularity_cv;
  const bool measured = moe.popularity_source.rfind("A", 0) == 0;
  r.provenance_ = measured ? "measured" : "assumed";
  r.detail_ = fmt::format("popularity of experts with a cv of {:.2f}: {}", r.cv_,
                          moe.popularity_source.empty() ? "typical of models with as many experts" : moe.popularity_source);
  if (config == nullptr) return r;

  r.provenance_ = "assumed";
  if (config->uniform) {
    r.cv_ = 0;
    r.detail_ = "every expert equally likely, as asked for";
  } else if (config->gamma) {
    r.cv_ = config->gamma->cv;
    r.detail_ = fmt::format("popularity of experts with a cv of {:.2f}, as asked for", r.cv_);
  } else if (config->zipf) {
    r.kind_ = Kind::kZipf;
    r.exponent_ = config->zipf->exponent;
    r.cv_ = PopularityCv(ZipfPopularity(1, r.experts_, r.top_k_, r.exponent_, Rng(0, "cv")));
    r.detail_ = fmt::format("popularity of experts falls as rank^-{:.2g} (a cv of {:.2f}), as asked for", r.exponent_, r.cv_);
  } else if (config->popularity) {
    absl::StatusOr<PopularityTable> table =
        ReadPopularityTable(ResolvePath(base_dir, config->popularity->file), config->popularity->group);
    if (!table.ok()) return absl::InvalidArgumentError(".popularity: " + std::string(table.status().message()));
    if (static_cast<int>(table->tokens.front().size()) != r.experts_) {
      return absl::InvalidArgumentError(fmt::format(".popularity: the table has {} experts, {} has {}",
                                                    table->tokens.front().size(), model.name, r.experts_));
    }
    if (static_cast<int>(table->tokens.size()) > r.layers_) {
      return absl::InvalidArgumentError(fmt::format(".popularity: the table has {} layers, {} has {} with experts",
                                                    table->tokens.size(), model.name, r.layers_));
    }
    r.kind_ = Kind::kTable;
    // A table of some layers: the others take the nearest.
    const size_t rows = table->tokens.size();
    for (int l = 0; l < r.layers_; ++l) {
      const size_t row = rows == static_cast<size_t>(r.layers_) || rows == 1
                             ? std::min(static_cast<size_t>(l), rows - 1)
                             : (static_cast<size_t>(l) * (rows - 1) * 2 + static_cast<size_t>(r.layers_ - 1)) / (2 * static_cast<size_t>(std::max(1, r.layers_ - 1)));
      r.table_.push_back(SharesOf(table->tokens[std::min(row, rows - 1)], r.top_k_));
    }
    r.cv_ = PopularityCv(r.table_);
    r.provenance_ = "measured";
    r.detail_ = fmt::format("popularity of experts (a cv of {:.2f}) from {}{}", r.cv_, config->popularity->file,
                            table->group.empty() ? "" : ", " + table->group);
  } else if (config->recorded) {
    absl::StatusOr<RoutingRecording> recording = ReadRoutingRecording(ResolvePath(base_dir, config->recorded->file));
    if (!recording.ok()) return absl::InvalidArgumentError(".recorded: " + std::string(recording.status().message()));
    if (recording->layers != r.layers_ || recording->top_k != r.top_k_ || recording->experts > r.experts_) {
      return absl::InvalidArgumentError(fmt::format(
          ".recorded: the recording has {} layers and {} of at least {} experts per token, {} has {} layers and {} of {}", recording->layers,
          recording->top_k, recording->experts, model.name, r.layers_, r.top_k_, r.experts_));
    }
    auto data = std::make_shared<ExpertRecording>();
    data->layers = recording->layers;
    data->experts = r.experts_;
    data->top_k = recording->top_k;
    data->starts = std::move(recording->starts);
    data->choices = std::move(recording->choices);
    r.kind_ = Kind::kRecorded;
    r.cv_ = PopularityCv(PopularityOf(*data));
    r.provenance_ = "measured";
    r.detail_ = fmt::format("choices of {} tokens (popularity with a cv of {:.2f}) from {}", data->tokens(), r.cv_, config->recorded->file);
    r.recording_ = std::move(data);
  }
  return r;
}

std::vector<std::vector<double>> ExpertRouting::Popularity(uint64_t seed) const {
  if (prepared_ != nullptr && prepared_->seed == seed) return prepared_->law.popularity;
  const Rng rng(seed, "expert popularity");
  switch (kind_) {
    case Kind::kGamma:
      return GammaPopularity(layers_, experts_, top_k_, cv_, rng);
    case Kind::kZipf:
      return ZipfPopularity(layers_, experts_, top_k_, exponent_, rng);
    case Kind::kTable:
      return table_;
    case Kind::kRecorded:
      return PopularityOf(*recording_);
  }
  return {};
}

std::unique_ptr<ExpertRouter> ExpertRouting::MakeRouter(uint64_t seed, uint64_t engine) const {
  Rng rng(seed, "expert routing", engine);
  if (kind_ == Kind::kRecorded) return MakeRecordedRouter(recording_, rng);
  return MakeLawRouter(prepared_ != nullptr && prepared_->seed == seed ? prepared_->law : LawOf(seed), rng);
}

RoutingLaw ExpertRouting::LawOf(uint64_t seed) const { return {top_k_, Popularity(seed), repeat_, memory_, affinity_}; }

void ExpertRouting::Prepare(uint64_t seed) {
  if (kind_ == Kind::kRecorded || (prepared_ != nullptr && prepared_->seed == seed)) return;
  auto prepared = std::make_shared<Prepared>(Prepared{seed, LawOf(seed)});
  prepared->law.fresh = FreshWeights(prepared->law);
  prepared_ = std::move(prepared);
}

}  // namespace simrun
