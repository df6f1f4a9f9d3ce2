#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <list>
#include <thread>
#include <utility>
#include <vector>

#include "base/quantity_text.h"
#include "planner/team.h"

#ifdef SIMRUN_HAS_MPI
#define OMPI_SKIP_MPICXX 1  // only the C interface
#define MPICH_SKIP_MPICXX 1
#include <mpi.h>
#endif

namespace simrun::planner {
namespace {

// What Open MPI, and the process managers of MPICH and Slurm, tell the processes they start.
int FromEnvironment(const std::vector<const char*>& names, int fallback) {
  for (const char* name : names) {
    const char* text = std::getenv(name);
    if (text == nullptr) continue;
    const absl::StatusOr<int64_t> number = ParseInteger(text);
    if (number.ok() && *number >= 0 && *number <= 10'000'000) return static_cast<int>(*number);
  }
  return fallback;
}

#ifdef SIMRUN_HAS_MPI
class MpiTeam : public Team {
 public:
  MpiTeam() {
    // A rank that is gone is noticed by its silence; nothing here should end the others.
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
    MPI_Comm_size(MPI_COMM_WORLD, &size_);
  }
  ~MpiTeam() override {
    Reap();
    if (!at_once_) {
      MPI_Finalize();
      return;
    }
    // MPI_Finalize may wait for ever for a process that is gone. What is still to be sent gets a moment.
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(1);
    while (!pending_.empty() && std::chrono::steady_clock::now() < until) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      Reap();
    }
  }
  void LeaveAtOnce() override { at_once_ = true; }
  int rank() const override { return rank_; }
  int size() const override { return size_; }
  void Send(int to, std::string message) override {
    Reap();
    Pending& p = pending_.emplace_back();
    p.bytes = std::move(message);
    if (MPI_Isend(p.bytes.data(), static_cast<int>(p.bytes.size()), MPI_BYTE, to, 0, MPI_COMM_WORLD, &p.request) != MPI_SUCCESS) {
      pending_.pop_back();
    }
  }
  bool Receive(int* from, std::string* message) override {
    Reap();
    // Whatever is on its way is taken without waiting: a sender that dies in the middle never ends its message.
    int there = 0;
    MPI_Message handle;
    MPI_Status status;
    while (MPI_Improbe(MPI_ANY_SOURCE, 0, MPI_COMM_WORLD, &there, &handle, &status) == MPI_SUCCESS && there != 0) {
      int size = 0;
      MPI_Get_count(&status, MPI_BYTE, &size);
      Pending& p = arriving_.emplace_back();
      p.peer = status.MPI_SOURCE;
      p.bytes.resize(static_cast<size_t>(size));
      if (MPI_Imrecv(p.bytes.data(), size, MPI_BYTE, &handle, &p.request) != MPI_SUCCESS) arriving_.pop_back();
    }
    for (auto it = arriving_.begin(); it != arriving_.end(); ++it) {
      // Those of one sender in their order.
      const bool behind = std::any_of(arriving_.begin(), it, [&](const Pending& p) { return p.peer == it->peer; });
      int done = 0;
      if (behind || MPI_Test(&it->request, &done, MPI_STATUS_IGNORE) != MPI_SUCCESS || done == 0) continue;
      *from = it->peer;
      *message = std::move(it->bytes);
      arriving_.erase(it);
      return true;
    }
    return false;
  }

 private:
  struct Pending {
    int peer = 0;
    std::string bytes;
    MPI_Request request = MPI_REQUEST_NULL;
  };
  // Forgets the messages that have left.
  void Reap() {
    for (auto it = pending_.begin(); it != pending_.end();) {
      int sent = 0;
      const bool failed = MPI_Test(&it->request, &sent, MPI_STATUS_IGNORE) != MPI_SUCCESS;
      it = failed || sent != 0 ? pending_.erase(it) : std::next(it);
    }
  }

  int rank_ = 0, size_ = 1;
  bool at_once_ = false;
  std::list<Pending> pending_, arriving_;
};
#endif

}  // namespace

int MpiSize() { return FromEnvironment({"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"}, 1); }
int MpiRank() { return FromEnvironment({"OMPI_COMM_WORLD_RANK", "PMI_RANK"}, 0); }

absl::StatusOr<std::unique_ptr<Team>> JoinMpi() {
#ifdef SIMRUN_HAS_MPI
  int provided = 0;
  if (MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS || provided < MPI_THREAD_FUNNELED) {
    return absl::UnavailableError("MPI could not be started with threads");
  }
  return std::unique_ptr<Team>(new MpiTeam());
#else
  return absl::UnimplementedError(
      "started by mpirun, but this simrun was built without MPI; install libopenmpi-dev and build again, or use --shard i/n and simrun merge");
#endif
}

}  // namespace simrun::planner
