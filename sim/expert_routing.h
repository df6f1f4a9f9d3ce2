// The routing that a scenario asks for: `workload.routing` and the model's own figures.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "base/rng.h"
#include "models/expert_router.h"
#include "models/model_spec.h"
#include "workload/config.h"

namespace simrun {

// Layers with routed experts.
int MoeLayers(const ModelSpec& model);

class ExpertRouting {
 public:
  // Reads the files that `config` (may be null: the model's own popularity) names. InvalidArgument when they do not
  // fit the model; messages begin with the setting below "workload.routing".
  static absl::StatusOr<ExpertRouting> Make(const RoutingConfig* config, const ModelSpec& model, const std::string& base_dir);

  // Standard deviation over mean of expert popularity, averaged over layers.
  double popularity_cv() const { return cv_; }
  // Where the choices come from: "measured", "fitted" or "assumed", and a sentence.
  const std::string& provenance() const { return provenance_; }
  const std::string& detail() const { return detail_; }

  // Works out once what all engines of a run with this seed have in common; copies share it.
  void Prepare(uint64_t seed);
  // Popularity of every expert of every layer, as `seed` draws it. What a placement of experts is chosen by.
  std::vector<std::vector<double>> Popularity(uint64_t seed) const;
  // The choices of one engine.
  std::unique_ptr<ExpertRouter> MakeRouter(uint64_t seed, uint64_t engine) const;

 private:
  RoutingLaw LawOf(uint64_t seed) const;
  enum class Kind { kGamma, kZipf, kTable, kRecorded };
  Kind kind_ = Kind::kGamma;
  int layers_ = 0, experts_ = 0, top_k_ = 0;
  double cv_ = 0, exponent_ = 0, repeat_ = 0, memory_ = 1, affinity_ = 0;
  std::vector<std::vector<double>> table_;
  std::shared_ptr<const ExpertRecording> recording_;
  struct Prepared {
    uint64_t seed;
    RoutingLaw law;
  };
  std::shared_ptr<const Prepared> prepared_;
  std::string provenance_, detail_;
};

}  // namespace simrun
