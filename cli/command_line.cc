#include "cli/command_line.h"

#include <algorithm>
#include <filesystem>
#include <functional>
#include <system_error>
#include <utility>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "base/status.h"
#include "cli/calibrate_command.h"
#include "cli/explain_command.h"
#include "cli/explain_step_command.h"
#include "cli/list_command.h"
#include "cli/options.h"
#include "cli/planner_commands.h"
#include "cli/reference_command.h"
#include "cli/run_command.h"
#include "cli/together.h"
#include "cli/validate_command.h"

namespace simrun {
namespace {

// Declares a command's options and returns what to do once they are read.
using Declare = std::function<std::function<int(Terminal)>(CLI::App& app)>;

struct Command {
  const char* name;
  const char* summary;
  Declare declare;
};

std::function<int(Terminal)> DeclareRun(CLI::App& app) {
  auto options = std::make_shared<RunOptions>();
  AddScenario(app, &options->scenario);
  const CLI::Option* out = app.add_option("--out", options->out, "write report.json, summary.txt and the effective config.yaml to this directory")->type_name("DIR");
  app.add_flag("--requests", options->requests, "with --out: also write requests.csv, one row per finished request");
  app.add_option("--format", options->format, "what to print: text (default) or json")->type_name("FORMAT");
  app.add_flag("--quiet", options->quiet, "print no remarks on standard error, only errors");
  return [options, out](Terminal terminal) {
    if (const int code = CheckConfigGiven(options->scenario, "run", terminal); code != kDone) return code;
    const std::vector<std::string> formats = {"text", "json"};
    if (std::find(formats.begin(), formats.end(), options->format) == formats.end()) {
      return FailWith(kBadInput, fmt::format("--format: unknown name \"{}\"; {}", options->format, NameHint(options->format, formats)), terminal.err);
    }
    if (!out->empty() && options->out.empty()) return FailWith(kBadInput, "--out: is empty; name a directory", terminal.err);
    if (options->requests && options->out.empty()) {
      return FailWith(kBadInput, "--requests: needs a directory to write to; add --out DIR", terminal.err);
    }
    if (const int code = CheckAlone("run", terminal); code != kDone) return code;
    return RunCommand(*options, terminal);
  };
}

std::function<int(Terminal)> DeclareList(CLI::App& app) {
  auto options = std::make_shared<ListOptions>();
  app.add_option("SECTION", options->section, "models, gpus, ...; without it: the sections and their sizes")->type_name("");
  AddMany(app, "--catalog", &options->catalogs, "DIR", "directory with further catalogue entries; may be repeated");
  return [options](Terminal terminal) { return ListCommand(*options, terminal); };
}

std::function<int(Terminal)> DeclareExplain(CLI::App& app) {
  auto options = std::make_shared<ExplainOptions>();
  app.add_option("NAME", options->name, "a name from `simrun list`, or a setting such as scheduler.max_num_seqs")->type_name("");
  AddMany(app, "--catalog", &options->catalogs, "DIR", "directory with further catalogue entries; may be repeated");
  return [options](Terminal terminal) {
    if (options->name.empty()) return FailWith(kBadInput, "the name is missing; write: simrun explain NAME", terminal.err);
    return ExplainCommand(*options, terminal);
  };
}

std::function<int(Terminal)> DeclareExplainStep(CLI::App& app) {
  auto options = std::make_shared<ExplainStepOptions>();
  AddScenario(app, &options->scenario);
  app.add_option("--batch", options->batch, "sequences that generate a token in the step (default 32)")->type_name("N");
  app.add_option("--kv", options->kv, "tokens in the KV cache of each (default 1024)")->type_name("N");
  app.add_option("--prefill", options->prefill, "prompt tokens computed in the same step (default 0)")->type_name("N");
  app.add_option("--prompts", options->prompts, "prompts of that many tokens each; without --batch nothing is generated")->type_name("N");
  app.add_flag("--timeline", options->timeline, "kernel launches of an eager step: host or GPU bound, and from which size on");
  app.add_flag("--kernels", options->kernels, "the same with every kernel");
  app.add_option("--fuse-chain", options->fuse_chain, "the same, and what fusing chains of so many kernels would save")->type_name("N");
  app.add_option("--format", options->format, "text (default) or json")->type_name("FORMAT");
  return [options](Terminal terminal) {
    if (const int code = CheckConfigGiven(options->scenario, "explain-step", terminal); code != kDone) return code;
    return ExplainStepCommand(*options, terminal);
  };
}

std::function<int(Terminal)> DeclareValidate(CLI::App& app) {
  auto options = std::make_shared<ValidateCommandOptions>();
  app.add_option("CASES", options->cases, "measured cases: CSV files, or JSON results of vllm bench serve")->type_name("FILE");
  app.add_option("--settings", options->settings, "settings of the cases that their rows do not hold: CSV files with columns case_id and notes")->type_name("FILE ...");
  app.add_option("--flags", options->flags, "server flags of such results, as YAML (default: the .yaml beside each .json)")->type_name("FILE");
  app.add_option("--traces", options->traces, "folder of the traces that the cases name (default: ../traces beside each file)")->type_name("DIR");
  app.add_option("--out", options->out, "write one row per measured value to this CSV file")->type_name("FILE");
  app.add_option("--page", options->page, "write the accuracy page (docs/accuracy.md) to this file")->type_name("FILE");
  app.add_option("--errors", options->errors, "write the errors behind prediction intervals, an entry errors/NAME.yaml of a catalogue, to this file")->type_name("FILE");
  app.add_option("--check", options->check, "fail when this accuracy page is out of date or an error grew by more than 5 % of itself")->type_name("FILE");
  app.add_option("--threads", options->threads, "cases run at once (default: one per core)")->type_name("N");
  AddMany(app, "--catalog", &options->catalogs, "DIR", "directory with further catalogue entries; may be repeated");
  app.add_flag("--quiet", options->quiet, "no progress on standard error");
  auto ops = std::make_shared<ValidateOpsOptions>();
  app.add_option("--ops", ops->ops, "measured operator times instead of cases, one or more CSV files")->type_name("FILE");
  app.add_option("--device", ops->device, "with --ops: GPU or operator entry of the catalogue")->type_name("NAME");
  app.add_option("--backend", ops->backend, "with --ops: kernels to price with (default: those each row was measured with)")->type_name("NAME");
  return [options, ops](Terminal terminal) {
    if (!ops->ops.empty()) {
      if (!options->cases.empty()) return FailWith(kBadInput, "give either cases or --ops, not both", terminal.err);
      if (ops->device.empty()) return FailWith(kBadInput, "--ops: needs the GPU they were measured on; add --device NAME", terminal.err);
      ops->out = options->out;
      ops->catalogs = options->catalogs;
      return ValidateOpsCommand(*ops, terminal);
    }
    if (!ops->device.empty() || !ops->backend.empty()) return FailWith(kBadInput, "--device and --backend go with --ops", terminal.err);
    if (options->cases.empty()) return FailWith(kBadInput, "the measured cases are missing; write: simrun validate CASES.csv", terminal.err);
    return ValidateCommand(*options, terminal);
  };
}

std::function<int(Terminal)> DeclareCalibrate(CLI::App& app) {
  auto options = std::make_shared<CalibrateOptions>();
  app.add_option("OPS", options->ops, "measured operator times, one or more CSV files")->type_name("FILE");
  app.add_option("--device", options->device, "what to start from: GPU or operator entry of the catalogue, or an operator file")->type_name("BASE");
  app.add_option("--out", options->out, "operator file to write; DIR/operators/NAME.yaml is found with --catalog DIR")->type_name("FILE");
  app.add_option("--threads", options->threads, "operators fitted at once (default: one per core)")->type_name("N");
  app.add_flag("--no-cross-validation", options->no_cross_validation, "fit only: errors are then those of the fitted rows");
  AddMany(app, "--catalog", &options->catalogs, "DIR", "directory with further catalogue entries; may be repeated");
  app.add_flag("--quiet", options->quiet, "no progress on standard error");
  auto engine = std::make_shared<CalibrateEngineOptions>();
  app.add_option("--from-cases", engine->cases, "measured serving runs instead of operators: fit the host terms of an engine profile")->type_name("FILE");
  app.add_option("--flags", engine->flags, "server flags of JSON results of vllm bench serve, as YAML (default: the .yaml beside each)")->type_name("FILE");
  app.add_option("--profile", engine->profile, "with --from-cases: engine profile to start from")->type_name("NAME");
  AddMany(app, "--fit", &engine->fit, "FIELDS", "with --from-cases: what to fit, separated by commas (default: step_host,sequence_host,post_step,front_end,gpu_time_factor)");
  AddMany(app, "--where", &engine->where, "COLUMN=VALUE", "with --from-cases: only cases with this value, or one of several joined by |; may be repeated");
  AddMany(app, "--metric", &engine->metrics, "NAMES", "with --from-cases: metrics to fit to (default: all but power and energy)");
  app.add_option("--architecture", engine->architecture, "with --from-cases: fit the values of this GPU architecture only")->type_name("NAME");
  app.add_option("--traces", engine->traces, "with --from-cases: folder of the traces (default: ../traces beside each file)")->type_name("DIR");
  return [options, engine](Terminal terminal) {
    if (!engine->cases.empty()) {
      if (!options->ops.empty() || !options->device.empty()) return FailWith(kBadInput, "give either operator rows with --device, or --from-cases with --profile", terminal.err);
      if (engine->profile.empty()) return FailWith(kBadInput, "--from-cases: name the engine profile to start from with --profile", terminal.err);
      if (engine->fit.empty()) engine->fit = {"step_host,sequence_host,post_step,front_end,gpu_time_factor"};
      engine->out = options->out;
      engine->catalogs = options->catalogs;
      engine->threads = options->threads;
      engine->quiet = options->quiet;
      return CalibrateEngineCommand(*engine, terminal);
    }
    if (options->ops.empty()) return FailWith(kBadInput, "the measured rows are missing; write: simrun calibrate OPS.csv --device BASE --out NEW.yaml", terminal.err);
    if (options->device.empty()) return FailWith(kBadInput, "--device: name the GPU, or the operator file to start from", terminal.err);
    if (options->out.empty()) return FailWith(kBadInput, "--out: name the operator file to write", terminal.err);
    return CalibrateCommand(*options, terminal);
  };
}

std::function<int(Terminal)> DeclareReference(CLI::App&) { return ReferenceCommand; }

const std::vector<Command>& Commands() {
  static const std::vector<Command>* const commands = new std::vector<Command>{
      {"run", "simulate a scenario and print latency, throughput, energy and cost", DeclareRun},
      {"list", "models, GPUs, engines, policies and other names a scenario may use", DeclareList},
      {"explain", "what is known about one name or setting, and where it comes from", DeclareExplain},
      {"explain-step", "operators of one engine step, their times and what bounds them", DeclareExplainStep},
      {"plan", "search the parallel plans of a model on some hardware and rank them", DeclarePlan},
      {"capacity", "the smallest fleet for some traffic, or the most traffic for a fleet", DeclareCapacity},
      {"sweep", "simulate every combination of some settings, into a results file", DeclareSweep},
      {"query", "the best points and Pareto fronts of a results file", DeclareQuery},
      {"merge", "put the results files of a sweep's parts together", DeclareMerge},
      {"validate", "compare predictions with measured serving runs", DeclareValidate},
      {"calibrate", "fit operators, or an engine's host terms, to measurements", DeclareCalibrate},
      {"reference", "every setting of a scenario file, as Markdown", DeclareReference},
  };
  return *commands;
}

std::string Help() {
  std::string text =
      "simrun predicts latency, throughput, energy and cost of serving a language model.\n\n"
      "  simrun CONFIG [options]          the same as simrun run CONFIG\n"
      "  simrun COMMAND [options]\n\n"
      "Commands:\n";
  for (const Command& c : Commands()) text += fmt::format("  {:<13} {}\n", c.name, c.summary);
  text +=
      "\n`simrun COMMAND --help` lists the options of a command; `simrun --version` prints the version.\n"
      "Exit status: 0 done, 1 the run failed, 2 the input is wrong.\n";
  return text;
}

std::vector<std::string> CommandNames() {
  std::vector<std::string> names;
  for (const Command& c : Commands()) names.push_back(c.name);
  return names;
}

std::vector<std::string> OptionNames(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  }
  return names;
}

// Names the arguments that no option takes; kDone when there are none.
int CheckLeftOver(const CLI::App& app, const std::vector<std::string>& arguments, Terminal terminal) {
  const std::vector<std::string> left = app.remaining();
  if (left.empty()) return kDone;
  for (const std::string& argument : left) {
    if (argument.size() < 2 || argument[0] != '-') continue;
    const std::string name = argument.substr(0, argument.find('='));
    return FailWith(kBadInput, fmt::format("unknown option {}; {}", name, NameHint(name, OptionNames(app))), terminal.err);
  }
  const std::vector<std::string> commands = CommandNames();
  for (const std::string& argument : arguments) {
    if (std::find(commands.begin(), commands.end(), argument) == commands.end()) continue;
    return FailWith(kBadInput, fmt::format("the command stands before the options: simrun {} ...", argument), terminal.err);
  }
  return FailWith(kBadInput, fmt::format("unexpected argument \"{}\"; {} --help lists what it takes", left[0], app.get_name()), terminal.err);
}

int RunOne(const Command& command, const std::vector<std::string>& arguments, Terminal terminal) {
  CLI::App app(command.summary, fmt::format("simrun {}", command.name));
  app.allow_extras();
  const std::function<int(Terminal)> action = command.declare(app);
  try {
    app.parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));  // the order CLI11 takes
  } catch (const CLI::CallForHelp&) {
    terminal.out << app.help();
    return kDone;
  } catch (const CLI::ParseError& e) {
    return FailWith(kBadInput, e.what(), terminal.err);
  }
  if (const int code = CheckLeftOver(app, arguments, terminal); code != kDone) return code;
  return action(terminal);
}

}  // namespace

int RunCommandLine(const std::vector<std::string>& arguments, Terminal terminal) {
  const std::string first = arguments.empty() ? "" : arguments[0];
  if (first == "--version") {
    terminal.out << "simrun " << SIMRUN_VERSION << '\n';
    return kDone;
  }
  if (first == "-h" || first == "--help" || first == "help") {
    terminal.out << Help();
    return kDone;
  }
  if (first.empty()) {
    terminal.err << Help();
    return kBadInput;
  }
  for (const Command& command : Commands()) {
    if (first == command.name) return RunOne(command, {arguments.begin() + 1, arguments.end()}, terminal);
  }
  // `simrun CONFIG`: a word that is no file and looks like none is a misspelt command.
  std::error_code ignored;
  const bool is_word = first[0] != '-' && first.find_first_of("./") == std::string::npos;
  if (is_word && !std::filesystem::exists(first, ignored)) {
    return FailWith(kBadInput, fmt::format("\"{}\" is neither a command nor a file; {}", first, NameHint(first, CommandNames())), terminal.err);
  }
  return RunOne(Commands().front(), arguments, terminal);
}

}  // namespace simrun
