// A team of threads of one process, for tests of what several processes do.
#pragma once

#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "planner/team.h"

namespace simrun::planner {

struct Mailboxes {
  explicit Mailboxes(int size) : boxes(static_cast<size_t>(size)) {}
  std::mutex mutex;
  std::vector<std::deque<std::pair<int, std::string>>> boxes;
};

class LocalTeam : public Team {
 public:
  LocalTeam(std::shared_ptr<Mailboxes> mail, int rank) : mail_(std::move(mail)), rank_(rank) {}
  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(mail_->boxes.size()); }
  void Send(int to, std::string message) override {
    const std::lock_guard<std::mutex> lock(mail_->mutex);
    mail_->boxes[static_cast<size_t>(to)].emplace_back(rank_, std::move(message));
  }
  bool Receive(int* from, std::string* message) override {
    const std::lock_guard<std::mutex> lock(mail_->mutex);
    auto& box = mail_->boxes[static_cast<size_t>(rank_)];
    if (box.empty()) return false;
    *from = box.front().first;
    *message = std::move(box.front().second);
    box.pop_front();
    return true;
  }

 private:
  std::shared_ptr<Mailboxes> mail_;
  int rank_;
};

}  // namespace simrun::planner
