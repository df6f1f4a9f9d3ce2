// Helpers shared by the tests of models/.
#pragma once

#include <cstdlib>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/catalog.h"
#include "models/model_spec.h"

namespace simrun {

inline const Catalog& TestCatalog() {
  static const Catalog* const catalog = [] {
    auto* c = new Catalog;
    c->AddEmbedded(ModelCatalogFiles());
    return c;
  }();
  return *catalog;
}

inline ModelSpec Model(const std::string& name) {
  absl::StatusOr<ModelSpec> model = LoadModel(name, TestCatalog());
  EXPECT_TRUE(model.ok()) << name << ": " << model.status();
  return model.ok() ? *model : ModelSpec();
}

inline std::vector<std::string> ModelNames() { return TestCatalog().Names("models"); }

// Folder of the reference data, or empty when it is not there.
inline std::string DataDir() {
  const char* dir = std::getenv("SIMRUN_DATA_DIR");
  return dir != nullptr ? dir : SIMRUN_SOURCE_DIR "/../shared/data";
}

// Rows of a comma-separated file, quotes understood, header first. Empty when the file cannot be read.
std::vector<std::vector<std::string>> ReadCsv(const std::string& path);

}  // namespace simrun
