#include "planner/deal.h"

#include <atomic>
#include <chrono>
#include <map>
#include <numeric>
#include <set>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/local_team.h"

namespace simrun::planner {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::vector<int64_t> Pieces(int64_t n) {
  std::vector<int64_t> pieces(static_cast<size_t>(n));
  std::iota(pieces.begin(), pieces.end(), 0);
  return pieces;
}

TEST(Dealer, DealsEveryPieceOnceAndTheLastOnesSingly) {
  Dealer dealer(Pieces(100), 2);
  std::set<int64_t> seen;
  size_t largest = 0, last = 0;
  while (true) {
    const std::vector<int64_t> hand = dealer.Deal(static_cast<int>(seen.size() % 2), 64);
    if (hand.empty()) break;
    largest = std::max(largest, hand.size());
    last = hand.size();
    for (const int64_t piece : hand) EXPECT_TRUE(seen.insert(piece).second);
  }
  EXPECT_EQ(seen.size(), 100u);
  EXPECT_EQ(largest, 100u / 8);  // a quarter of an equal share
  EXPECT_EQ(last, 1u);
  for (const int64_t piece : seen) EXPECT_TRUE(dealer.Finish(piece));
  EXPECT_TRUE(dealer.done());
}

TEST(Dealer, DealsAgainWhatALostRankHeldAndCountsNothingTwice) {
  Dealer dealer(Pieces(4), 3);
  EXPECT_THAT(dealer.Deal(1, 1), ElementsAre(0));
  EXPECT_THAT(dealer.Deal(1, 1), ElementsAre(1));
  EXPECT_THAT(dealer.Deal(2, 1), ElementsAre(2));
  EXPECT_TRUE(dealer.Finish(0));
  EXPECT_EQ(dealer.held(1), 1u);
  EXPECT_EQ(dealer.Lose(1), 1u);
  EXPECT_THAT(dealer.Deal(2, 1), ElementsAre(1));  // before what nobody had
  EXPECT_TRUE(dealer.Finish(1));                   // rank 1 answers after all
  EXPECT_FALSE(dealer.Finish(1));
  EXPECT_EQ(dealer.held(2), 1u);
  // Lost again before it was dealt again: still once.
  EXPECT_EQ(dealer.Lose(2), 1u);
  EXPECT_EQ(dealer.Lose(2), 0u);
  EXPECT_TRUE(dealer.Finish(2));
  EXPECT_THAT(dealer.Deal(0, 9), ElementsAre(3));
  EXPECT_THAT(dealer.Deal(0, 9), IsEmpty());
  EXPECT_TRUE(dealer.Finish(3));
  EXPECT_TRUE(dealer.done());
}

TEST(Messages, ComeBackAsTheyWereAndShortOnesAreNoticed) {
  const std::string bytes = MessageWriter().Add(int64_t{-7}).Add(0.1).Add("text").Add("").Take();
  MessageReader in(bytes);
  EXPECT_EQ(in.Number(), -7);
  EXPECT_EQ(in.Real(), 0.1);
  EXPECT_EQ(in.Text(), "text");
  EXPECT_EQ(in.Text(), "");
  EXPECT_TRUE(in.ok());
  EXPECT_EQ(in.Number(), 0);
  EXPECT_FALSE(in.ok());
  const std::string cut = bytes.substr(0, 18);
  MessageReader damaged(cut);
  damaged.Number();
  damaged.Real();
  EXPECT_EQ(damaged.Text(), "");
  EXPECT_FALSE(damaged.ok());
}

// Runs rank 0 here and the others on threads. `serve` replaces what a rank does.
struct TeamRun {
  std::map<int64_t, std::string> results;
  std::vector<std::string> remarks;
  absl::StatusOr<bool> finished = false;
  std::atomic<int> worked{0};
  std::atomic<bool> may_work{true};
};
void RunTeam(int size, int64_t pieces, const std::map<int, std::function<void(Team&)>>& serve, TeamRun* run, double lost_after = 5,
         const std::function<bool()>& tick = [] { return true; }) {
  const auto mail = std::make_shared<Mailboxes>(size);
  TeamOptions options{.threads = 1, .lost_after_s = lost_after, .job = "job"};
  options.on_remark = [&](const std::string& text) { run->remarks.push_back(text); };
  const auto work = [&](int64_t piece) {
    do {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    } while (!run->may_work);
    ++run->worked;
    return std::to_string(piece * piece);
  };
  std::vector<std::thread> others;
  for (int rank = 1; rank < size; ++rank) {
    others.emplace_back([&, rank] {
      LocalTeam team(mail, rank);
      if (const auto it = serve.find(rank); it != serve.end()) return it->second(team);
      EXPECT_TRUE(WorkFor(team, options, work, nullptr).ok());
    });
  }
  LocalTeam team(mail, 0);
  const auto consume = [&](int64_t piece, std::string result) {
    EXPECT_TRUE(run->results.emplace(piece, std::move(result)).second) << piece;
    return true;
  };
  run->finished = DealOut(team, Pieces(pieces), options, work, consume, tick);
  for (std::thread& t : others) t.join();
}

TEST(DealOut, EveryResultArrivesOnce) {
  TeamRun run;
  RunTeam(4, 200, {}, &run);
  ASSERT_TRUE(run.finished.ok());
  EXPECT_TRUE(*run.finished);
  ASSERT_EQ(run.results.size(), 200u);
  for (const auto& [piece, result] : run.results) EXPECT_EQ(result, std::to_string(piece * piece));
  EXPECT_EQ(run.worked, 200);
  EXPECT_THAT(run.remarks, IsEmpty());
}

TEST(DealOut, PiecesOfARankThatGoesSilentAreDealtAgain) {
  TeamRun run;
  // Asks for work, gets some, and is never heard again. The others leave it some, however late its thread starts.
  run.may_work = false;
  const auto mute = [&](Team& team) {
    team.Send(0, MessageWriter().Add(int64_t{0}).Add("job").Add("host7").Add(int64_t{5}).Take());
    run.may_work = true;
  };
  RunTeam(3, 60, {{2, mute}}, &run, 0.3);
  ASSERT_TRUE(run.finished.ok());
  EXPECT_TRUE(*run.finished);
  EXPECT_EQ(run.results.size(), 60u);
  // Under load another may be silent for so long too.
  EXPECT_THAT(run.remarks, Contains(AllOf(HasSubstr("process 2 on host7 has been silent"), HasSubstr("pieces are dealt again"))));
}

TEST(DealOut, ARankThatReadOtherInputEndsIt) {
  TeamRun run;
  const auto other = [](Team& team) {
    TeamOptions options{.job = "another job"};
    EXPECT_TRUE(WorkFor(team, options, [](int64_t) { return std::string(); }, nullptr).ok());
  };
  RunTeam(2, 2000, {{1, other}}, &run);
  EXPECT_EQ(run.finished.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(run.finished.status().message()), HasSubstr("process 1"));
}

TEST(DealOut, AStopKeepsWhatIsFinished) {
  TeamRun run;
  int ticks = 0;
  RunTeam(3, 100000, {}, &run, 5, [&] { return run.results.size() < 20 || ++ticks < 2; });
  ASSERT_TRUE(run.finished.ok());
  EXPECT_FALSE(*run.finished);
  EXPECT_GE(run.results.size(), 20u);
  // Every piece that was worked on has its result here.
  EXPECT_EQ(run.results.size(), static_cast<size_t>(run.worked));
}

}  // namespace
}  // namespace simrun::planner
