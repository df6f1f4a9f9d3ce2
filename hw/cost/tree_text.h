// The short text form of residual trees: their symbols through an adaptive arithmetic coder, six bits to a character.
//
// Each symbol is coded with the shares its context has had so far (Krichevsky and Trofimov's estimate, 2/5 of a count to
// begin with). Contexts: a question's feature has one, its edge the feature, a leaf the two leaves before it. About 20
// characters for a tree of depth 5 instead of 28. Twelve bits of checksum end the text.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace simrun {

inline constexpr std::string_view kBase64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

struct TreeAlphabet {
  int depth = 0;
  std::vector<int> edges;   // per feature in use: how many it has
  // Values per tree: a feature and an edge per level, two of 64 for the scale, pairs of leaves.
  size_t length() const { return 2 * static_cast<size_t>(depth) + 2 + ((size_t{1} << depth) + 1) / 2; }
};

// `values`: whole trees, each value below 64, features and edges within the alphabet.
std::string PackTrees(const std::vector<int>& values, const TreeAlphabet& alphabet);
// The values of `trees` trees. InvalidArgument for a character outside the alphabet and when the checksum differs.
// White space is skipped. Precondition: `alphabet` has features, each with an edge.
absl::StatusOr<std::vector<int>> UnpackTrees(std::string_view text, size_t trees, const TreeAlphabet& alphabet);

}  // namespace simrun
