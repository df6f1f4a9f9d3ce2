// Processes that share the work of one command, on one machine or many. Rank 0 deals the work and keeps the results.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace simrun::planner {

// How the processes reach one another. Used from one thread of each process.
class Team {
 public:
  virtual ~Team() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  // Hands a message over; does not wait until it is received. Messages between two ranks arrive in order, or not at all
  // when the receiver is gone.
  virtual void Send(int to, std::string message) = 0;
  // The next message, if one has arrived. False otherwise, at once.
  virtual bool Receive(int* from, std::string* message) = 0;
  // A rank is gone for good: leaving must not wait for the others.
  virtual void LeaveAtOnce() {}
};

// Processes that `mpirun -n N` started: their number, 1 when this process was not started so. From the environment.
int MpiSize();
int MpiRank();
// Joins them over MPI; call once, from the main thread. Leaving (the destructor) waits for the others. Unimplemented
// when simrun was built without MPI.
absl::StatusOr<std::unique_ptr<Team>> JoinMpi();

}  // namespace simrun::planner
