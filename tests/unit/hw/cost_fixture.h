// Machines and catalogues for the tests of operator and step cost.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <string_view>

#include "hw/machine.h"
#include "models/model_spec.h"

namespace simrun {

inline const Catalog& TestCatalog() {
  static const auto* const catalog = [] {
    auto* c = new Catalog;
    c->AddEmbedded(HardwareCatalogFiles());
    c->AddEmbedded(ModelCatalogFiles());
    return c;
  }();
  return *catalog;
}

// The catalogue with operator entries of formulas alone, for expectations worked out by hand.
inline const Catalog& FormulaCatalog() {
  static const auto* const catalog = [] {
    auto* c = new Catalog(TestCatalog());
    EXPECT_TRUE(c->AddDirectory(SIMRUN_SOURCE_DIR "/tests/unit/hw/formula_catalog").ok());
    return c;
  }();
  return *catalog;
}

inline Machine TestMachine(HardwareConfig config) {
  Problems problems;
  Machine machine = BuildMachine(config, TestCatalog(), {}, &problems);
  EXPECT_TRUE(problems.empty()) << problems.ToStatus();
  return machine;
}

inline Machine TestMachine(std::string gpu) {
  HardwareConfig config;
  config.gpu = std::move(gpu);
  return TestMachine(std::move(config));
}

inline ModelSpec TestModel(std::string_view name) {
  auto model = LoadModel(name, TestCatalog());
  EXPECT_TRUE(model.ok()) << model.status();
  return *model;
}

}  // namespace simrun
