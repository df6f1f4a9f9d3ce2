#include "cli/planner_commands.h"

#include <memory>

#include <CLI/CLI.hpp>

#include "cli/capacity_command.h"
#include "cli/options.h"
#include "cli/plan_command.h"
#include "cli/query_command.h"
#include "cli/sweep_command.h"
#include "cli/together.h"

namespace simrun {
std::function<int(Terminal)> DeclarePlan(CLI::App& app) {
  auto options = std::make_shared<PlanOptions>();
  AddScenario(app, &options->scenario);
  app.add_option("--objective", options->objective, "latency, ttft, throughput (default), goodput, energy, cost, carbon, or a metric")->type_name("NAME");
  app.add_option("--pareto", options->pareto, "show the plans that no other beats in all of these objectives")->type_name("NAME,NAME");
  app.add_option("--min-attainment", options->min_attainment, "plans below this share of requests in the SLO rank last, for example 0.99")->type_name("SHARE");
  app.add_option("--top", options->top, "plans to show (default 10)")->type_name("N");
  app.add_option("--space", options->space, "simrun (default), or apex: the plans that APEX counts")->type_name("NAME");
  app.add_flag("--dry-run", options->dry_run, "only count and list the plans, with the reason for each impossible one");
  app.add_flag("--prune", options->prune, "stop plans as soon as they cannot win; the best one is the same");
  app.add_option("--out", options->out, "write one ready-to-run scenario per plan to this directory")->type_name("DIR");
  app.add_option("--format", options->format, "what to print: text (default) or json")->type_name("FORMAT");
  app.add_option("--threads", options->threads, "runs at the same time; default: one per processor, under mpirun one per process")->type_name("N");
  app.add_flag("--quiet", options->quiet, "no progress on standard error, only errors");
  return [options](Terminal terminal) {
    if (const int code = CheckConfigGiven(options->scenario, "plan", terminal); code != kDone) return code;
    return RunTogether(terminal, [&](Terminal t, planner::Team* team) { return PlanCommand(*options, t, team); });
  };
}

std::function<int(Terminal)> DeclareCapacity(CLI::App& app) {
  auto options = std::make_shared<CapacityCommandOptions>();
  AddScenario(app, &options->scenario);
  AddMany(app, "--slo", &options->slos, "METRIC=LIMIT", "limit on a metric, for example ttft.p99=500ms or attainment=0.99; may be repeated");
  app.add_option("--find", options->find, "replicas (default): the fewest for the traffic; rate: the highest for the fleet")->type_name("NAME");
  app.add_option("--minimize", options->minimize, "replicas, gpus, cost or energy: search the engines of the scenario's `search` section (plans, GPU types) for the fleet "
                 "with the least")->type_name("NAME");
  app.add_option("--confidence", options->confidence, "of each decision, from runs with different seeds (default 0.95)")->type_name("P");
  app.add_option("--runs", options->runs, "most seeds per size (default 5)")->type_name("N");
  app.add_option("--max-replicas", options->max_replicas, "give up above this (default 4096)")->type_name("N");
  app.add_flag("--what-if", options->what_if, "also: the smallest change of each single setting with which the scenario as it is meets the limits");
  app.add_option("--format", options->format, "what to print: text (default) or json")->type_name("FORMAT");
  app.add_flag("--quiet", options->quiet, "no progress on standard error, only errors");
  return [options](Terminal terminal) {
    if (const int code = CheckConfigGiven(options->scenario, "capacity", terminal); code != kDone) return code;
    if (const int code = CheckAlone("capacity", terminal); code != kDone) return code;
    return CapacityCommand(*options, terminal);
  };
}

std::function<int(Terminal)> DeclareSweep(CLI::App& app) {
  auto options = std::make_shared<SweepCommandOptions>();
  app.add_option("SWEEP", options->sweep, "sweep file (YAML): base, axes, repeats, sampling")->type_name("");
  app.add_option("--db", options->db, "results file (SQLite); finished points in it are not run again; default: the sweep's name with .db")->type_name("FILE");
  app.add_option("--csv", options->csv, "also write the results as CSV")->type_name("FILE");
  app.add_option("--threads", options->threads, "runs at the same time; default: one per processor, under mpirun one per process")->type_name("N");
  app.add_option("--shard", options->shard, "run only the i-th of n parts; simrun merge puts the files together")->type_name("I/N");
  app.add_option("--by", options->by, "metric: show the best so far, and the best points at the end")->type_name("METRIC");
  app.add_flag("--dry-run", options->dry_run, "only count the points");
  app.add_flag("--yes", options->yes, "run a sweep of more than 100,000 points");
  app.add_flag("--quiet", options->quiet, "no progress and no remarks on standard error, only errors");
  AddMany(app, "--catalog", &options->catalogs, "DIR", "directory with further catalogue entries; may be repeated");
  return [options](Terminal terminal) {
    if (options->sweep.empty()) return FailWith(kBadInput, "the sweep file is missing; write: simrun sweep SWEEP", terminal.err);
    return RunTogether(terminal, [&](Terminal t, planner::Team* team) { return SweepCommand(*options, t, team); });
  };
}

std::function<int(Terminal)> DeclareQuery(CLI::App& app) {
  auto options = std::make_shared<QueryOptions>();
  app.add_option("DB", options->db, "results file of simrun sweep")->type_name("");
  app.add_option("--by", options->by, "metric to sort by, best first")->type_name("METRIC");
  app.add_option("--top", options->top, "rows to show (default 10)")->type_name("N");
  app.add_option("--pareto", options->pareto, "show the points that no other beats in all of these metrics")->type_name("METRIC,METRIC");
  app.add_option("--csv", options->csv, "write every row as CSV")->type_name("FILE");
  return [options](Terminal terminal) {
    if (options->db.empty()) return FailWith(kBadInput, "the results file is missing; write: simrun query DB", terminal.err);
    return QueryCommand(*options, terminal);
  };
}

std::function<int(Terminal)> DeclareMerge(CLI::App& app) {
  auto options = std::make_shared<MergeOptions>();
  app.add_option("FILES", options->files, "the file to write, then the results files to read")->type_name("");
  return [options](Terminal terminal) {
    if (options->files.size() < 2) return FailWith(kBadInput, "the files are missing; write: simrun merge ALL.db PART1.db PART2.db", terminal.err);
    return MergeCommand(*options, terminal);
  };
}

}  // namespace simrun
