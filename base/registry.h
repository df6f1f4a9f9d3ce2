// A table of named implementations, each with a one-line description. No static registration: a folder fills its
// table in one function, and a program adds its own with Add before building scenarios.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include <fmt/format.h>

namespace simrun {

// Factory: any copyable callable type, e.g. std::function<std::unique_ptr<BatchingPolicy>(const SchedulerParams&)>.
template <class Factory>
class Registry {
 public:
  struct Entry {
    std::string name;         // kebab-case
    std::string description;  // one sentence
    Factory factory;
  };
  explicit Registry(std::string kind) : kind_(std::move(kind)) {}

  // AlreadyExists when the name is taken.
  absl::Status Add(std::string name, std::string description, Factory factory) {
    for (const Entry& e : entries_) {
      if (e.name == name) return absl::AlreadyExistsError(fmt::format("{} \"{}\" is already registered", kind_, name));
    }
    entries_.push_back({std::move(name), std::move(description), std::move(factory)});
    return absl::OkStatus();
  }
  // NotFound with the nearest valid name.
  absl::StatusOr<Factory> Find(std::string_view name) const {
    for (const Entry& e : entries_) {
      if (e.name == name) return e.factory;
    }
    return absl::NotFoundError(fmt::format("unknown {} \"{}\"; {}", kind_, name, NameHint(name, Names())));
  }
  std::vector<std::string> Names() const {
    std::vector<std::string> names;
    for (const Entry& e : entries_) names.push_back(e.name);
    return names;
  }
  const std::vector<Entry>& entries() const { return entries_; }
  const std::string& kind() const { return kind_; }

 private:
  std::string kind_;
  std::vector<Entry> entries_;
};

}  // namespace simrun
