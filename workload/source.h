// Arrivals, pulled one at a time. Memory does not grow with the number of requests.
//
// A simulator keeps no arrival of its own. It compares next_time() with its event queue and takes the arrival when
// that comes first:
//
//   while (true) {
//     if (source->next_time() <= events.NextTime()) {
//       Arrival a;
//       SIMRUN_ASSIGN_OR_RETURN(NextResult r, source->Next(&a));
//       if (r != NextResult::kArrival) break;        // only when next_time() was infinite
//       ...
//     } else {
//       ... one event; for every request that completed or was refused in it: source->OnFinished(now);
//     }
//   }
//
// next_time() may move to an earlier point after OnFinished, because a closed loop's client answers to it, but never
// before the time given to OnFinished or returned by Next.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "workload/request.h"

namespace simrun {

struct WorkloadConfig;

enum class NextResult {
  kArrival,  // *out is the next request
  kWaiting,  // closed loop: nothing more before a request in flight finishes
  kEnd,      // no request will ever come again
};

class ArrivalSource {
 public:
  virtual ~ArrivalSource() = default;
  ArrivalSource(const ArrivalSource&) = delete;
  ArrivalSource& operator=(const ArrivalSource&) = delete;

  // When Next would return kArrival: the time of that arrival. Infinite when it would return kWaiting or kEnd.
  // When reading the input failed, the time of the last arrival, so that the caller meets the error at once.
  SimTime next_time() const { return next_time_; }

  // Takes the next arrival; times never decrease. InvalidArgument "file:line: what; hint" when a trace is broken,
  // another code when it cannot be read; the source then repeats that error.
  virtual absl::StatusOr<NextResult> Next(Arrival* out) = 0;

  // A request of this source completed, or was refused for good, at time `at`. Call it once for each request, in
  // order of time. Open-loop sources ignore it.
  virtual void OnFinished(SimTime at) { static_cast<void>(at); }

  // Trace rows left out so far because `skip_invalid` is set.
  virtual int64_t skipped() const { return 0; }

 protected:
  ArrivalSource() = default;
  void set_next_time(SimTime t) { next_time_ = t; }

 private:
  SimTime next_time_ = SimTime::Infinite();
};

// Builds the source of a workload. Relative file names are taken from `base_dir`, the folder of the configuration
// file ("" for the working directory). Equal configuration and seed give equal arrivals on every machine; times,
// input lengths, output lengths, priorities and think times come from random streams of their own, so changing one
// does not move the others.
// `texts`: requests say what their prompts have in common (Arrival::text), which costs time to read and is of use to
// engines with prefix caching only; lengths and times are the same.
// InvalidArgument as ValidateWorkload, or for a broken first line of a trace; NotFound and the like for files.
absl::StatusOr<std::unique_ptr<ArrivalSource>> MakeSource(const WorkloadConfig& config, uint64_t seed,
                                                          const std::string& base_dir, bool texts = false);

}  // namespace simrun
