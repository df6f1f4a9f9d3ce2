// Status helpers and the collector of problems in a user's input.
//
// Library functions return absl::Status or absl::StatusOr; no exception leaves the library.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define SIMRUN_CONCAT_INNER(a, b) a##b
#define SIMRUN_CONCAT(a, b) SIMRUN_CONCAT_INNER(a, b)
// Returns from the enclosing function when `expr` is not OK.
#define SIMRUN_RETURN_IF_ERROR(expr)                   \
  do {                                                 \
    if (absl::Status status_ = (expr); !status_.ok()) return status_; \
  } while (false)
// SIMRUN_ASSIGN_OR_RETURN(auto x, F()): declares x from F()'s value, or returns F()'s status.
#define SIMRUN_ASSIGN_OR_RETURN(decl, expr) SIMRUN_ASSIGN_OR_RETURN_(SIMRUN_CONCAT(status_or_, __LINE__), decl, expr)
#define SIMRUN_ASSIGN_OR_RETURN_(tmp, decl, expr) \
  auto tmp = (expr);                              \
  if (!tmp.ok()) return tmp.status();             \
  decl = *std::move(tmp)

// For the library's own invariants, never for user input: prints the condition and aborts.
#define SIM_CHECK(cond) \
  ((cond) ? static_cast<void>(0) : ::simrun::internal::CheckFailed(#cond, __FILE__, __LINE__))

namespace simrun {

namespace internal {
[[noreturn]] void CheckFailed(const char* condition, const char* file, int line);
}  // namespace internal

// A place in a file, 1-based; line 0 means "the file as a whole", an empty file "no place" (built in code).
struct SourceLocation {
  std::string file;
  int line = 0;
  int column = 0;
};

// Collects every problem of an input so that all are reported at once.
class Problems {
 public:
  // One line `file:line:col: path: what; hint`. Empty parts are left out.
  void Add(const SourceLocation& where, std::string_view path, std::string_view what, std::string_view hint = {});
  bool empty() const { return lines_.empty(); }
  size_t size() const { return lines_.size(); }
  const std::vector<std::string>& lines() const { return lines_; }
  // OK when empty, else InvalidArgument with one problem per line, in the order of the file.
  absl::Status ToStatus() const;

 private:
  struct Entry { int line, column; };
  std::vector<std::string> lines_;
  std::vector<Entry> order_;
};

// The candidate closest to `name` by edit distance when that is close enough to be a likely typo, else "".
std::string NearestName(std::string_view name, const std::vector<std::string>& candidates);
// "did you mean "x"?" when a near name exists, else "one of: a, b, c" (at most 12, then "..."); "" without candidates.
std::string NameHint(std::string_view name, const std::vector<std::string>& candidates);

}  // namespace simrun
