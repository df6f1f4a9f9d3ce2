#include "cli/run_command.h"

#include <filesystem>
#include <optional>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "base/paths.h"
#include "cli/output_dir.h"
#include "cli/summary.h"
#include "sim/simulation.h"

namespace simrun {
namespace {

// Writes one row per finished request, in the order in which they finish.
class RequestsCsv : public EngineObserver {
 public:
  explicit RequestsCsv(FileWriter file) : file_(std::move(file)) {
    file_.Append("id,arrival_s,input_tokens,output_tokens,ttft_s,tpot_s,e2e_s,queue_s,preemptions,replica,cached_tokens\n");
  }
  void OnFinish(const RequestRecord& r) override {
    // Ten digits after the point: one tick of simulated time.
    file_.Append(fmt::format("{},{:.10f},{},{},{:.10f},{:.10f},{:.10f},{:.10f},{},{},{}\n", r.id, r.arrival.seconds().value(),
                             r.input_tokens, r.output_tokens, r.ttft.seconds().value(), r.tpot.seconds().value(),
                             r.e2e.seconds().value(), r.queue.seconds().value(), r.preemptions, r.replica, r.cached_tokens));
  }
  absl::Status Close() { return file_.Close(); }

 private:
  FileWriter file_;
};

bool SameFile(const std::string& a, const std::filesystem::path& b) {
  std::error_code ignored;
  return std::filesystem::equivalent(a, b, ignored);
}

// A result must not replace what the run reads.
absl::Status CheckOverwrite(const RunOptions& options, const Scenario& scenario) {
  const std::filesystem::path out(options.out);
  const auto refuse = [&](const std::string& file, std::string_view what) {
    return absl::InvalidArgumentError(fmt::format("--out {}: would overwrite the {} {}; choose another directory", options.out, what, file));
  };
  if (SameFile(options.scenario.config, out / "config.yaml")) return refuse(options.scenario.config, "configuration");
  const std::string& trace = scenario.config().workload.trace;
  if (!trace.empty() && options.requests && SameFile(ResolvePath(scenario.base_dir(), trace), out / "requests.csv")) {
    return refuse(trace, "trace");
  }
  return absl::OkStatus();
}

// A file of the workload that is not there, with the setting that names it and the place it was looked for.
absl::Status NameSetting(const absl::Status& status, const Scenario& scenario) {
  if (status.code() != absl::StatusCode::kNotFound) return status;
  for (const char* path : {"workload.trace", "workload.input_tokens.empirical.file", "workload.output_tokens.empirical.file"}) {
    const YamlNode* node = scenario.node().Get(path);
    if (node == nullptr || node->text().empty()) continue;
    std::error_code ignored;
    if (std::filesystem::exists(ResolvePath(scenario.base_dir(), node->text()), ignored)) continue;
    Problems problems;
    problems.Add(node->location(), path, std::string(status.message()), "paths are relative to the folder of the scenario file");
    return problems.ToStatus();
  }
  return status;
}

}  // namespace

int RunCommand(const RunOptions& options, Terminal terminal) {
  const absl::StatusOr<Scenario> scenario = ReadScenario(options.scenario);
  if (!scenario.ok()) return Fail(scenario.status(), terminal.err);

  std::unique_ptr<OutputDir> files;
  std::optional<RequestsCsv> requests;
  SimulateOptions simulate;
  if (!options.out.empty()) {
    if (const absl::Status s = CheckOverwrite(options, *scenario); !s.ok()) return Fail(s, terminal.err);
    absl::StatusOr<std::unique_ptr<OutputDir>> made = OutputDir::Create(options.out);
    if (!made.ok()) return Fail(made.status(), terminal.err);
    files = *std::move(made);
    if (options.requests) {
      absl::StatusOr<FileWriter> csv = FileWriter::Open(files->StagingPath("requests.csv"));
      if (!csv.ok()) return Fail(csv.status(), terminal.err);
      requests.emplace(*std::move(csv));
      simulate.observer = &*requests;
    }
  }

  const absl::StatusOr<Report> report = Simulate(*scenario, std::move(simulate));
  if (!report.ok()) return Fail(NameSetting(report.status(), *scenario), terminal.err);
  const std::string summary = SummaryText(*scenario, *report);
  const std::string json = report->ToJson();

  if (files != nullptr) {
    absl::Status written = requests ? requests->Close() : absl::OkStatus();
    if (written.ok()) written = files->Write("report.json", json);
    if (written.ok()) written = files->Write("summary.txt", summary);
    if (written.ok()) written = files->Write("config.yaml", EffectiveConfig(*scenario, options.scenario));
    if (written.ok()) written = files->Commit();
    if (!written.ok()) return Fail(written, terminal.err);
    std::error_code ignored;
    if (!options.quiet && !options.requests && std::filesystem::exists(std::filesystem::path(options.out) / "requests.csv", ignored)) {
      terminal.err << fmt::format("simrun: {}/requests.csv is not from this run; add --requests to write it\n", options.out);
    }
  }
  terminal.out << (options.format == "json" ? json : summary);
  return kDone;
}

}  // namespace simrun
