#include "planner/deal.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#include <fmt/format.h>

#include "base/status.h"

namespace simrun::planner {
namespace {

using Clock = std::chrono::steady_clock;
double Since(Clock::time_point t) { return std::chrono::duration<double>(Clock::now() - t).count(); }

// Kinds of messages, the first number of each.
enum Kind : int64_t {
  kHello,    // to rank 0: job, host, pieces wanted
  kResults,  // to rank 0: pieces wanted, then pairs of piece and result
  kAlive,    // both ways: nothing else to say
  kTrouble,  // to rank 0: text
  kBye,      // to rank 0: nothing more will come
  kDeal,     // from rank 0: pieces
  kStop,     // from rank 0: 1 when a rank was lost
};

// A rank with nothing to say lets itself be heard well before it is taken for lost.
double AliveEvery(const TeamOptions& options) { return std::min(1.0, options.lost_after_s / 4); }
// Pieces that wait at a rank are meant to last this long.
constexpr double kWaitingWork = 0.05;
constexpr int64_t kMostWaiting = 4096;
// After a stop, results of pieces that were running are waited for so long.
constexpr double kStopWait = 0.5;
constexpr auto kShortestSleep = std::chrono::microseconds(100);
constexpr auto kLongestSleep = std::chrono::microseconds(5000);

// The threads of this process and the pieces they have and had.
class Workers {
 public:
  Workers(int threads, const std::function<std::string(int64_t)>& work) : work_(work), start_(Clock::now()) {
    for (int t = 0; t < threads; ++t) {
      try {
        threads_.emplace_back([this] { Loop(); });
      } catch (const std::system_error&) {
        break;  // the system has no more threads: go on with those there are
      }
    }
  }
  ~Workers() { Stop(); }

  bool any() const { return !threads_.empty(); }
  // Lets what is running finish and drops the rest.
  void Stop() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      stop_ = true;
    }
    pieces_ready_.notify_all();
    for (std::thread& t : threads_) t.join();
    threads_.clear();
  }
  void Push(const std::vector<int64_t>& pieces) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      waiting_.insert(waiting_.end(), pieces.begin(), pieces.end());
    }
    pieces_ready_.notify_all();
  }
  std::deque<std::pair<int64_t, std::string>> TakeResults() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return std::exchange(results_, {});
  }
  // Waits until there are results, at most so long.
  void Wait(std::chrono::microseconds time) {
    std::unique_lock<std::mutex> lock(mutex_);
    results_ready_.wait_for(lock, time, [&] { return !results_.empty(); });
  }
  // How many pieces this process could take: enough to be busy until the next deal.
  int64_t Wanted() {
    const std::lock_guard<std::mutex> lock(mutex_);
    const double rate = static_cast<double>(finished_) / std::max(Since(start_), 1e-3);
    const auto target = static_cast<int64_t>(threads_.size()) + std::clamp(static_cast<int64_t>(rate * kWaitingWork), int64_t{1}, kMostWaiting);
    return std::max<int64_t>(0, target - static_cast<int64_t>(waiting_.size()) - running_);
  }

 private:
  void Loop() {
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
      pieces_ready_.wait(lock, [&] { return stop_ || !waiting_.empty(); });
      if (stop_) return;
      const int64_t piece = waiting_.front();
      waiting_.pop_front();
      ++running_;
      lock.unlock();
      std::string result = work_(piece);
      lock.lock();
      --running_;
      ++finished_;
      results_.emplace_back(piece, std::move(result));
      results_ready_.notify_one();
    }
  }

  const std::function<std::string(int64_t)>& work_;
  const Clock::time_point start_;
  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::condition_variable pieces_ready_, results_ready_;
  std::deque<int64_t> waiting_;
  std::deque<std::pair<int64_t, std::string>> results_;
  int64_t running_ = 0, finished_ = 0;
  bool stop_ = false;
};

// Sleeps longer while nothing happens.
class Backoff {
 public:
  void Reset() { sleep_ = kShortestSleep; }
  std::chrono::microseconds Next() {
    const auto now = sleep_;
    sleep_ = std::min(sleep_ * 2, std::chrono::duration_cast<std::chrono::microseconds>(kLongestSleep));
    return now;
  }

 private:
  std::chrono::microseconds sleep_ = kShortestSleep;
};

std::string HostName() {
  char name[256] = {};
  return ::gethostname(name, sizeof name - 1) == 0 ? name : "?";
}

std::string Message(Kind kind) { return MessageWriter().Add(static_cast<int64_t>(kind)).Take(); }

}  // namespace

MessageWriter& MessageWriter::Add(int64_t number) {
  bytes_.append(reinterpret_cast<const char*>(&number), sizeof number);
  return *this;
}
MessageWriter& MessageWriter::Add(double number) {
  bytes_.append(reinterpret_cast<const char*>(&number), sizeof number);
  return *this;
}
MessageWriter& MessageWriter::Add(const std::string& text) {
  Add(static_cast<int64_t>(text.size()));
  bytes_ += text;
  return *this;
}

int64_t MessageReader::Number() {
  int64_t number = 0;
  ok_ = ok_ && bytes_.size() - at_ >= sizeof number;
  if (!ok_) return 0;
  std::memcpy(&number, bytes_.data() + at_, sizeof number);
  at_ += sizeof number;
  return number;
}
double MessageReader::Real() {
  double number = 0;
  const int64_t bits = Number();
  std::memcpy(&number, &bits, sizeof number);
  return number;
}
std::string MessageReader::Text() {
  const int64_t size = Number();
  ok_ = ok_ && size >= 0 && static_cast<size_t>(size) <= bytes_.size() - at_;
  if (!ok_) return "";
  std::string text = bytes_.substr(at_, static_cast<size_t>(size));
  at_ += static_cast<size_t>(size);
  return text;
}

Dealer::Dealer(std::vector<int64_t> pieces, int ranks) : queue_(pieces.begin(), pieces.end()), held_(static_cast<size_t>(ranks)) {
  unfinished_.reserve(pieces.size());
  for (const int64_t piece : pieces) unfinished_.emplace(piece, -1);
}

std::vector<int64_t> Dealer::Deal(int rank, size_t most) {
  // The last pieces are dealt one by one: none should wait at a busy rank while another has nothing to do.
  const size_t share = std::max<size_t>(1, queue_.size() / (4 * held_.size()));
  std::vector<int64_t> pieces;
  while (!queue_.empty() && pieces.size() < std::min(most, share)) {
    const int64_t piece = queue_.front();
    queue_.pop_front();
    const auto it = unfinished_.find(piece);
    if (it == unfinished_.end()) continue;  // its first rank answered after all
    it->second = rank;
    ++held_[static_cast<size_t>(rank)];
    pieces.push_back(piece);
  }
  return pieces;
}

bool Dealer::Finish(int64_t piece) {
  const auto it = unfinished_.find(piece);
  if (it == unfinished_.end()) return false;
  if (it->second >= 0) --held_[static_cast<size_t>(it->second)];
  unfinished_.erase(it);
  return true;
}

size_t Dealer::Lose(int rank) {
  std::vector<int64_t> pieces;
  for (auto& [piece, holder] : unfinished_) {
    if (holder != rank) continue;
    holder = -1;
    pieces.push_back(piece);
  }
  std::sort(pieces.begin(), pieces.end());
  queue_.insert(queue_.begin(), pieces.begin(), pieces.end());
  held_[static_cast<size_t>(rank)] = 0;
  return pieces.size();
}

absl::StatusOr<bool> DealOut(Team& team, std::vector<int64_t> pieces, const TeamOptions& options,
                             const std::function<std::string(int64_t)>& work,
                             const std::function<bool(int64_t, std::string)>& consume, const std::function<bool()>& tick) {
  Dealer dealer(std::move(pieces), team.size());
  struct Peer {
    bool seen = false, lost = false, left = false;
    int64_t wanted = 0;
    std::string host;
    Clock::time_point heard, told;
  };
  std::vector<Peer> peers(static_cast<size_t>(team.size()));
  Workers workers(options.threads, work);
  const bool works = workers.any();
  const double alive_every = AliveEvery(options);
  Backoff backoff;
  bool go_on = true;
  absl::Status trouble;
  Clock::time_point checked = Clock::now();
  const auto remark = [&](const std::string& text) {
    if (options.on_remark != nullptr) options.on_remark(text);
  };
  const auto take = [&](int64_t piece, std::string result) {
    if (dealer.Finish(piece)) go_on = consume(piece, std::move(result)) && go_on;
  };
  const auto handle = [&](int from, const std::string& message) {
    Peer& peer = peers[static_cast<size_t>(from)];
    peer.heard = Clock::now();
    peer.lost = false;
    MessageReader in(message);
    switch (in.Number()) {
      case kHello: {
        const std::string job = in.Text();
        peer.host = in.Text();
        peer.wanted = in.Number();
        peer.seen = in.ok();
        if (job != options.job && trouble.ok()) {
          trouble = absl::FailedPreconditionError(fmt::format(
              "process {} on {} read other input than process 0: are the files and the simrun there the same?", from, peer.host));
          go_on = false;
        }
        break;
      }
      case kResults: {
        peer.wanted = in.Number();
        const int64_t count = in.Number();
        for (int64_t i = 0; i < count && in.ok(); ++i) {
          const int64_t piece = in.Number();
          std::string result = in.Text();
          if (in.ok()) take(piece, std::move(result));
        }
        break;
      }
      case kTrouble:
        remark(fmt::format("process {} does not work: {}", from, in.Text()));
        [[fallthrough]];
      case kBye:
        peer.left = true;
        dealer.Lose(from);
        break;
      default:
        break;
    }
  };
  const auto deal = [&](int rank, Peer& peer) {
    if (peer.wanted <= 0 || peer.lost || peer.left || !peer.seen) return false;
    const std::vector<int64_t> hand = dealer.Deal(rank, static_cast<size_t>(peer.wanted));
    if (hand.empty()) return false;
    peer.wanted -= static_cast<int64_t>(hand.size());
    MessageWriter out;
    out.Add(static_cast<int64_t>(kDeal)).Add(static_cast<int64_t>(hand.size()));
    for (const int64_t piece : hand) out.Add(piece);
    team.Send(rank, out.Take());
    peer.told = Clock::now();
    return true;
  };

  while (!dealer.done() && go_on) {
    bool busy = false;
    int from = 0;
    std::string message;
    // Answers go out often even when messages keep coming.
    for (int i = 0; i < 256 && team.Receive(&from, &message); ++i) {
      handle(from, message);
      deal(from, peers[static_cast<size_t>(from)]);
      busy = true;
    }
    for (auto& [piece, result] : workers.TakeResults()) {
      take(piece, std::move(result));
      busy = true;
    }
    if (works) {
      if (const std::vector<int64_t> own = dealer.Deal(0, static_cast<size_t>(workers.Wanted())); !own.empty()) {
        workers.Push(own);
        busy = true;
      }
    }
    if (Since(checked) > alive_every / 4) {
      checked = Clock::now();
      for (int rank = 1; rank < team.size(); ++rank) {
        Peer& peer = peers[static_cast<size_t>(rank)];
        if (!peer.seen || peer.left) continue;
        if (!peer.lost && Since(peer.heard) > options.lost_after_s) {
          peer.lost = true;
          const size_t again = dealer.Lose(rank);
          remark(fmt::format("process {} on {} has been silent for {:.0f} s and is taken for lost; its {} pieces are dealt again", rank,
                             peer.host, options.lost_after_s, again));
        }
        // Pieces that came back are for those who asked before.
        busy = deal(rank, peer) || busy;
        if (!peer.lost && Since(peer.told) > alive_every) {
          team.Send(rank, Message(kAlive));
          peer.told = Clock::now();
        }
      }
    }
    go_on = tick() && go_on;
    if (busy) {
      backoff.Reset();
    } else {
      workers.Wait(backoff.Next());
    }
  }
  const bool finished = dealer.done();
  const bool lost = std::any_of(peers.begin(), peers.end(), [](const Peer& p) { return p.lost; });
  if (lost) team.LeaveAtOnce();
  for (int rank = 1; rank < team.size(); ++rank) {
    team.Send(rank, MessageWriter().Add(static_cast<int64_t>(kStop)).Add(static_cast<int64_t>(lost)).Take());
  }
  workers.Stop();
  if (!finished && trouble.ok()) {
    // What was running has not been for nothing.
    for (auto& [piece, result] : workers.TakeResults()) take(piece, std::move(result));
    const Clock::time_point stopped = Clock::now();
    const auto waiting = [&] {
      return std::any_of(peers.begin(), peers.end(), [](const Peer& p) { return p.seen && !p.lost && !p.left; });
    };
    while (waiting() && Since(stopped) < kStopWait) {
      int from = 0;
      std::string message;
      if (team.Receive(&from, &message)) {
        handle(from, message);
      } else {
        std::this_thread::sleep_for(kShortestSleep);
      }
    }
  }
  SIMRUN_RETURN_IF_ERROR(trouble);
  return finished;
}

absl::Status WorkFor(Team& team, const TeamOptions& options, const std::function<std::string(int64_t)>& work,
                     const std::function<bool()>& cancelled) {
  Workers workers(options.threads, work);
  if (!workers.any()) return absl::ResourceExhaustedError("no thread is left to work with");
  const double alive_every = AliveEvery(options);
  int64_t asked = workers.Wanted();
  team.Send(0, MessageWriter().Add(static_cast<int64_t>(kHello)).Add(options.job).Add(HostName()).Add(asked).Take());
  Clock::time_point told = Clock::now(), heard = told;
  Backoff backoff;
  const auto answer = [&](std::deque<std::pair<int64_t, std::string>> results) {
    asked = workers.Wanted();
    MessageWriter out;
    out.Add(static_cast<int64_t>(kResults)).Add(asked).Add(static_cast<int64_t>(results.size()));
    for (const auto& [piece, result] : results) out.Add(piece).Add(result);
    team.Send(0, out.Take());
    told = Clock::now();
  };
  while (true) {
    bool busy = false;
    int from = 0;
    std::string message;
    while (team.Receive(&from, &message)) {
      busy = true;
      heard = Clock::now();
      MessageReader in(message);
      const int64_t kind = in.Number();
      if (kind == kStop) {
        if (in.Number() != 0) team.LeaveAtOnce();
        workers.Stop();
        if (auto results = workers.TakeResults(); !results.empty()) answer(std::move(results));
        team.Send(0, Message(kBye));
        return absl::OkStatus();
      }
      if (kind != kDeal) continue;
      std::vector<int64_t> pieces;
      const int64_t count = in.Number();
      for (int64_t i = 0; i < count && in.ok(); ++i) pieces.push_back(in.Number());
      workers.Push(pieces);
    }
    if (auto results = workers.TakeResults(); !results.empty()) {
      answer(std::move(results));
      busy = true;
    }
    if (Since(told) > alive_every) {
      team.Send(0, Message(kAlive));
      told = Clock::now();
    }
    // Rank 0 may be reading its input or closing its files: it is given longer than it gives.
    if (Since(heard) > 12 * options.lost_after_s) {
      return absl::UnavailableError("process 0, which deals the work, has been silent for too long; what it finished is in the results file");
    }
    if (cancelled != nullptr && cancelled() && Since(heard) > kStopWait) return absl::CancelledError("stopped");
    if (busy) {
      backoff.Reset();
    } else {
      workers.Wait(backoff.Next());
    }
  }
}

void StopTeam(Team& team) {
  if (team.rank() != 0) return;
  for (int rank = 1; rank < team.size(); ++rank) team.Send(rank, MessageWriter().Add(static_cast<int64_t>(kStop)).Add(int64_t{0}).Take());
}

void ReportTrouble(Team& team, const std::string& message) {
  if (team.rank() != 0) team.Send(0, MessageWriter().Add(static_cast<int64_t>(kTrouble)).Add(message).Take());
}

}  // namespace simrun::planner
