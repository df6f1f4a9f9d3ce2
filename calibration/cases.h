// Measured serving runs: one row per measured value, grouped into cases by case_id.
//
// Columns (others are ignored): case_id, class, model, weights_dtype, kv_dtype, engine, engine_version, gpu, n_gpus, tp, pp,
// ep, dp, load_kind, load_value, num_requests, isl, osl, trace, metric, statistic, value, unit, source, notes.
// `notes` holds key=value pairs separated by ';', then free text after '#'. "set:PATH=VALUE" is a setting of the scenario.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace simrun {

struct MeasuredValue {
  std::string metric;      // ttft, tpot, itl, e2e, throughput_out, throughput_total, request_rate, energy_per_out_token, energy_per_request, power
  std::string statistic;   // mean, p50, p90, p95, p99
  std::string unit;        // ms, s, tok/s, req/s, J, W: predictions are given in the same
  std::string class_name;  // the kind of comparison: static-batch, online-concurrency, energy, ...
  double value = 0;
  std::map<std::string, std::string> notes;
};

struct MeasuredCase {
  std::string id;
  std::string class_name;  // of its first row that is not an energy row
  std::string model, weights_dtype, kv_dtype, engine, engine_version, gpu;
  int n_gpus = 1, tp = 1, pp = 1, ep = 1, dp = 1;
  std::string load_kind;
  double load_value = 0;
  std::optional<double> num_requests, isl, osl;
  std::string trace;
  std::string file;        // of its first row
  int line = 0;
  std::vector<MeasuredValue> values;
  std::map<std::string, std::string> settings;  // notes that a settings file adds

  // The note of that name: the settings file's, else that of any row; or nothing.
  std::optional<std::string> Note(const std::string& key) const;
};

// Adds to cases what a file says about their settings beyond their rows: columns case_id and notes. A note "set:PATH" is the
// value of that setting of the scenario. InvalidArgument naming every bad row; rows of cases that are not there are left out.
absl::Status AddSettings(const std::string& path, std::vector<MeasuredCase>* cases);

// Cases in the order of the file. InvalidArgument naming every missing column, bad number or contradiction.
absl::StatusOr<std::vector<MeasuredCase>> ReadCases(const std::string& path);

}  // namespace simrun
