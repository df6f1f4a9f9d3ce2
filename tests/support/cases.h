// Measured cases for tests.
#pragma once

#include <string>
#include <utility>

#include "calibration/cases.h"

namespace simrun {

// A static batch of a model under vLLM 0.6 on one H100, without values.
inline MeasuredCase StaticBatchCase(std::string model, std::string weights, double batch, double input, double output) {
  MeasuredCase c;
  c.model = std::move(model);
  c.weights_dtype = std::move(weights);
  c.engine = "vllm";
  c.engine_version = "0.6.0";
  c.gpu = "h100-sxm-80gb";
  c.load_kind = "static_batch";
  c.load_value = batch;
  c.isl = input;
  c.osl = output;
  return c;
}

}  // namespace simrun
