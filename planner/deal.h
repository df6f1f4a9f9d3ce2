// Pieces of work dealt to the processes of a team as they ask for them.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "planner/team.h"

namespace simrun::planner {

// Who does which piece. Only the decisions: no clock, no messages.
class Dealer {
 public:
  Dealer(std::vector<int64_t> pieces, int ranks);

  // Up to `most` pieces for a rank, fewer near the end so that all ranks finish together. Empty: all pieces are dealt.
  std::vector<int64_t> Deal(int rank, size_t most);
  // Notes that a piece is finished. False when it was before: a piece is dealt again when its rank seemed lost.
  bool Finish(int64_t piece);
  // What a rank holds is dealt again, before anything else. Returns how many pieces that are. When the rank answers
  // after all, its results count if they come first.
  size_t Lose(int rank);
  // Pieces dealt to a rank and not finished.
  size_t held(int rank) const { return held_[static_cast<size_t>(rank)]; }
  size_t left() const { return unfinished_.size(); }
  bool done() const { return unfinished_.empty(); }

 private:
  std::deque<int64_t> queue_;                    // not dealt, or to be dealt again
  std::unordered_map<int64_t, int> unfinished_;  // who holds a piece; -1: nobody
  std::vector<size_t> held_;                     // by rank
};

struct TeamOptions {
  int threads = 1;             // of this process; 0 on rank 0: it only deals
  double lost_after_s = 5;     // a rank that has been silent for so long is taken for lost
  // Names the job, so that a process that read other input is told apart.
  std::string job;
  // Rank 0: a rank was lost, or reported an error; text for the user.
  std::function<void(const std::string&)> on_remark;
};

// Rank 0: deals `pieces`, works on them too, and calls consume(piece, result) once for each in the order in which they
// finish, and tick() often, both on the calling thread. When one of them returns false, what is running is finished
// where that takes no time, and the result is false. `work` runs on several threads at once.
absl::StatusOr<bool> DealOut(Team& team, std::vector<int64_t> pieces, const TeamOptions& options,
                             const std::function<std::string(int64_t)>& work,
                             const std::function<bool(int64_t, std::string)>& consume, const std::function<bool()>& tick);
// Other ranks: works on what is dealt until rank 0 says stop. Unavailable when rank 0 is gone.
absl::Status WorkFor(Team& team, const TeamOptions& options, const std::function<std::string(int64_t)>& work,
                     const std::function<bool()>& cancelled);
// Rank 0: tells the others to stop, when no DealOut did. Other ranks: tells rank 0 why this one cannot work.
void StopTeam(Team& team);
void ReportTrouble(Team& team, const std::string& message);

// Pieces of messages: numbers and texts one after the other.
class MessageWriter {
 public:
  MessageWriter& Add(int64_t number);
  MessageWriter& Add(double number);
  MessageWriter& Add(const std::string& text);
  std::string Take() { return std::move(bytes_); }

 private:
  std::string bytes_;
};
class MessageReader {
 public:
  explicit MessageReader(const std::string& bytes) : bytes_(bytes) {}
  // Zero or empty, and ok() false, when the message is shorter than it should be.
  int64_t Number();
  double Real();
  std::string Text();
  bool ok() const { return ok_; }

 private:
  const std::string& bytes_;
  size_t at_ = 0;
  bool ok_ = true;
};

}  // namespace simrun::planner
