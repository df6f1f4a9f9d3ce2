#include "hw/overlap.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "base/status.h"

namespace simrun {

Overlap::Overlap(FlowNetwork* network) : network_(network), ring_(256) {}

int Overlap::AddLane(std::string name) {
  lanes_.emplace_back();
  lanes_.back().name = std::move(name);
  return static_cast<int>(lanes_.size()) - 1;
}

bool Overlap::Done(Task task) const { return task < first_ || At(task).state == State::kDone; }

Overlap::Task Overlap::Add(int lane, int tag, std::initializer_list<Task> after) {
  SIM_CHECK(after.size() <= kMostAfter && tag >= 0 && tag < kTags);
  if (static_cast<size_t>(next_ - first_) == ring_.size()) {
    std::vector<Item> larger(ring_.size() * 2);
    for (Task t = first_; t < next_; ++t) larger[static_cast<size_t>(t) & (larger.size() - 1)] = At(t);
    ring_ = std::move(larger);
  }
  const Task task = next_++;
  Item& item = At(task);
  item.lane = lane;
  item.tag = tag;
  item.flow = -1;
  item.state = State::kQueued;
  item.after_count = 0;
  for (const Task t : after) {
    if (t != kNone && !Done(t)) item.after[item.after_count++] = t;
  }
  item.uses = {};
  item.seconds = 0;
  item.bytes = -1;
  item.next = kNone;
  Lane& l = lanes_[static_cast<size_t>(lane)];
  if (l.head == kNone) {
    l.head = task;
  } else {
    At(l.tail).next = task;
  }
  l.tail = task;
  return task;
}

Overlap::Task Overlap::Work(int lane, int tag, double seconds, std::initializer_list<Task> after) {
  SIM_CHECK(seconds >= 0);
  const Task task = Add(lane, tag, after);
  At(task).seconds = seconds;
  return task;
}

Overlap::Task Overlap::Move(int lane, int tag, std::span<const FlowNetwork::Use> uses, double bytes, double cap, double latency,
                            std::initializer_list<Task> after, double even, size_t own) {
  SIM_CHECK(bytes >= 0 && latency >= 0);
  const Task task = Add(lane, tag, after);
  Item& item = At(task);
  item.uses = uses;
  item.bytes = bytes;
  item.cap = cap;
  item.even = even;
  item.own = own;
  item.seconds = latency;
  return task;
}

bool Overlap::Ready(const Item& item) const {
  for (size_t i = 0; i < item.after_count; ++i) {
    if (!Done(item.after[i])) return false;
  }
  return true;
}

void Overlap::Finish(Task task) {
  Item& item = At(task);
  item.state = State::kDone;
  Lane& lane = lanes_[static_cast<size_t>(item.lane)];
  lane.busy += now() - lane.started;
  lane.head = item.next;
  if (lane.head == kNone) lane.tail = kNone;
  while (first_ < next_ && At(first_).state == State::kDone) ++first_;
}

void Overlap::StartFlow(Task task) {
  Item& item = At(task);
  item.state = State::kFlowing;
  if (item.even == 1) {
    item.flow = network_->Start(item.uses, item.bytes, item.cap);
  } else {
    std::array<FlowNetwork::Use, FlowNetwork::kMostUses> uses;
    for (size_t i = 0; i < item.uses.size(); ++i) {
      uses[i] = item.uses[i];
      if (i != item.own) uses[i].per_byte *= item.even;
    }
    item.flow = network_->Start({uses.data(), item.uses.size()}, item.bytes, item.cap);
  }
  if (static_cast<size_t>(item.flow) >= by_flow_.size()) by_flow_.resize(static_cast<size_t>(item.flow) + 1, kNone);
  by_flow_[static_cast<size_t>(item.flow)] = task;
}

void Overlap::StartReady() {
  for (bool again = true; again;) {
    again = false;
    for (Lane& lane : lanes_) {
      while (lane.head != kNone) {
        const Task task = lane.head;
        Item& item = At(task);
        if (item.state != State::kQueued || !Ready(item)) break;
        lane.started = now();
        if (item.seconds > 0) {
          item.state = State::kTimed;
          item.end = now() + item.seconds;
          break;
        }
        if (item.bytes > 0) {
          StartFlow(task);
          break;
        }
        Finish(task);
        again = true;
      }
    }
  }
}

int Overlap::Blocker() const {
  Task task = lanes_[0].head;
  if (task == kNone) return -1;
  while (true) {
    const Item& item = At(task);
    if (item.state != State::kQueued) return item.tag;
    if (const Task head = lanes_[static_cast<size_t>(item.lane)].head; head != task) {
      task = head;
      continue;
    }
    Task waited = kNone;
    for (size_t i = 0; i < item.after_count && waited == kNone; ++i) {
      if (!Done(item.after[i])) waited = item.after[i];
    }
    if (waited == kNone) return item.tag;
    task = waited;
  }
}

bool Overlap::Step() {
  double to = network_->NextCompletion();
  for (const Lane& lane : lanes_) {
    if (lane.head != kNone && At(lane.head).state == State::kTimed) to = std::min(to, At(lane.head).end);
  }
  if (to == std::numeric_limits<double>::infinity()) return false;
  const double before = now();
  if (to > before && (lanes_[0].head == kNone || At(lanes_[0].head).state == State::kQueued)) {
    if (const int tag = Blocker(); tag >= 0) waits_[static_cast<size_t>(tag)] += to - before;
  }
  network_->AdvanceTo(to);
  for (const int flow : network_->finished()) Finish(by_flow_[static_cast<size_t>(flow)]);
  for (Lane& lane : lanes_) {
    if (lane.head == kNone) continue;
    const Task task = lane.head;
    const Item& item = At(task);
    if (item.state != State::kTimed || item.end > to) continue;
    if (item.bytes > 0) {
      StartFlow(task);  // the latency is over
    } else {
      Finish(task);
    }
  }
  return true;
}

double Overlap::RunUntil(Task task) {
  while (!Done(task)) {
    StartReady();
    if (Done(task)) break;
    const bool moved = Step();
    SIM_CHECK(moved);  // or the task waits for itself
  }
  return now();
}

double Overlap::RunAll() {
  do {
    StartReady();
  } while (Step());
  return now();
}

void Overlap::Rebase() {
  const double origin = now();
  for (Lane& lane : lanes_) {
    lane.started -= origin;
    if (lane.head != kNone && At(lane.head).state == State::kTimed) At(lane.head).end -= origin;
  }
  network_->Rebase();
}

}  // namespace simrun
