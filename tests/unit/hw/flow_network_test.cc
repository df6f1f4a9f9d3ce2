#include "hw/flow_network.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/rng.h"
#include "gtest/gtest.h"

namespace simrun {
namespace {

using Use = FlowNetwork::Use;

// When each flow ends, in the order of `flows`; all start at their time.
struct Plan {
  double start = 0, bytes = 0, cap = FlowNetwork::kNoCap;
  std::vector<Use> uses;
};
std::vector<double> EndsOf(FlowNetwork& net, const std::vector<Plan>& flows) {
  std::vector<double> ends(flows.size(), -1);
  std::vector<size_t> order(flows.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return flows[a].start < flows[b].start; });
  std::vector<int> owner(64, -1);
  size_t next = 0;
  while (next < order.size() || net.active() > 0) {
    double to = net.NextCompletion();
    if (next < order.size()) to = std::min(to, flows[order[next]].start);
    net.AdvanceTo(to);
    for (const int f : net.finished()) ends[static_cast<size_t>(owner[static_cast<size_t>(f)])] = net.now();
    while (next < order.size() && flows[order[next]].start <= net.now()) {
      const Plan& p = flows[order[next]];
      owner[static_cast<size_t>(net.Start(p.uses, p.bytes, p.cap))] = static_cast<int>(order[next]);
      ++next;
    }
  }
  return ends;
}

TEST(FlowNetwork, TwoGpusOnOneRoot) {
  // Each GPU has a link of 25 GB/s, both hang on a root of 32 GB/s. A alone runs at 25; from t = 1 both get 16; when A
  // ends B gets 25. A moves 41 GB: 25 in the first second, 16 in the next. B has 16 of its 41 GB at t = 2, and 1 s more.
  FlowNetwork net;
  const int root = net.AddResource("root", 32e9), a = net.AddResource("a", 25e9), b = net.AddResource("b", 25e9);
  const auto ends = EndsOf(net, {{0, 41e9, FlowNetwork::kNoCap, {{root}, {a}}}, {1, 41e9, FlowNetwork::kNoCap, {{root}, {b}}}});
  EXPECT_DOUBLE_EQ(ends[0], 2);
  EXPECT_DOUBLE_EQ(ends[1], 3);
  EXPECT_DOUBLE_EQ(net.moved(root), 82e9);
  EXPECT_DOUBLE_EQ(net.moved(a), 41e9);
}

TEST(FlowNetwork, DmaAgainstCpuReads) {
  // One DRAM system of 150 GB/s. DMA over a link of 20 takes what the link lets it; the CPU, able to read 200, gets 130
  // beside it and 150 alone. DMA of 40 GB ends at t = 2; the CPU has read 260 of 410 GB then and needs 150/150 s more.
  FlowNetwork net;
  const int dram = net.AddResource("dram", 150e9), link = net.AddResource("link", 20e9);
  const auto ends = EndsOf(net, {{0, 40e9, FlowNetwork::kNoCap, {{dram}, {link}}}, {0, 410e9, 200e9, {{dram}}}});
  EXPECT_DOUBLE_EQ(ends[0], 2);
  EXPECT_DOUBLE_EQ(ends[1], 3);
}

TEST(FlowNetwork, CapacitiesMayChangeOnTheWay) {
  // 60 GB at 20 GB/s; after a second a neighbour takes half of the link, and from t = 3 it is the flow's own again:
  // 20 + 2 x 10 GB by then, 20 more in one second.
  FlowNetwork net;
  const int link = net.AddResource("link", 20e9);
  const int flow = net.Start(std::vector<Use>{{link, 1}}, 60e9);
  net.AdvanceTo(1);
  net.SetCapacity(link, 10e9);
  EXPECT_DOUBLE_EQ(net.Rate(flow), 10e9);
  EXPECT_DOUBLE_EQ(net.NextCompletion(), 5);
  net.AdvanceTo(3);
  net.SetCapacity(link, 20e9);
  EXPECT_DOUBLE_EQ(net.NextCompletion(), 4);
  net.AdvanceTo(4);
  EXPECT_DOUBLE_EQ(net.moved(link), 60e9);
}

TEST(FlowNetwork, CapsAndMultipleUse) {
  // Unpinned memory: staged through a second buffer, three passes over DRAM for one over the link. DRAM of 60 allows
  // 20 of the link's 25.
  FlowNetwork net;
  const int dram = net.AddResource("dram", 60e9), link = net.AddResource("link", 25e9);
  const int flow = net.Start(std::vector<Use>{{dram, 3}, {link, 1}}, 40e9);
  EXPECT_DOUBLE_EQ(net.Rate(flow), 20e9);
  EXPECT_DOUBLE_EQ(net.NextCompletion(), 2);
  net.AdvanceTo(1);
  net.Rebase();
  EXPECT_DOUBLE_EQ(net.now(), 0);
  EXPECT_DOUBLE_EQ(net.NextCompletion(), 1);
  net.AdvanceTo(5);
  EXPECT_EQ(net.finished().size(), 1u);
  EXPECT_DOUBLE_EQ(net.moved(dram), 120e9);
  // Nothing limits it, and nothing is moved: both end where they start.
  net.Start({}, 1e9);
  net.Start(std::vector<Use>{{dram}}, 0);
  EXPECT_DOUBLE_EQ(net.NextCompletion(), 5);
}

// Max-min by definition, by brute force: raise all rates in tiny steps, a flow stopping for good when one of its
// resources has no room for the next step.
std::vector<double> SteppedRates(const std::vector<double>& capacity, const std::vector<Plan>& flows, double step) {
  std::vector<double> rate(flows.size(), 0);
  std::vector<char> stopped(flows.size(), 0);
  std::vector<double> used = capacity;
  for (double& u : used) u = 0;
  for (size_t left = flows.size(); left > 0;) {
    std::vector<double> wanted = used;
    for (size_t i = 0; i < flows.size(); ++i) {
      if (stopped[i]) continue;
      for (const Use& u : flows[i].uses) wanted[static_cast<size_t>(u.resource)] += step * u.per_byte;
    }
    bool any = false;
    for (size_t i = 0; i < flows.size(); ++i) {
      if (stopped[i]) continue;
      bool stop = rate[i] + step > flows[i].cap;
      for (const Use& u : flows[i].uses) {
        stop = stop || wanted[static_cast<size_t>(u.resource)] > capacity[static_cast<size_t>(u.resource)];
      }
      if (stop) stopped[i] = 1, --left, any = true;
    }
    if (any) continue;
    for (size_t i = 0; i < flows.size(); ++i) {
      if (!stopped[i]) rate[i] += step;
    }
    used = wanted;
  }
  return rate;
}

std::vector<Plan> RandomFlows(Rng& rng, size_t resources, size_t count) {
  std::vector<Plan> flows(count);
  for (Plan& p : flows) {
    p.start = rng.Uniform() < 0.5 ? 0 : rng.Uniform() * 3;
    p.bytes = 1 + rng.Uniform() * 20;
    if (rng.Uniform() < 0.3) p.cap = 0.5 + rng.Uniform() * 5;
    for (size_t r = 0; r < resources; ++r) {
      if (rng.Uniform() < 0.4) p.uses.push_back({static_cast<int>(r), rng.Uniform() < 0.7 ? 1.0 : 0.5 + 2 * rng.Uniform()});
    }
    if (p.uses.empty()) p.uses.push_back({0, 1});
  }
  return flows;
}

TEST(FlowNetwork, RandomNetworksAreMaxMinFair) {
  Rng rng(7, "flows");
  for (int round = 0; round < 100; ++round) {
    std::vector<double> capacity(1 + static_cast<size_t>(rng.Uniform() * 6));
    FlowNetwork net;
    for (double& c : capacity) c = 1 + rng.Uniform() * 9, net.AddResource("r", c);
    const auto flows = RandomFlows(rng, capacity.size(), 1 + static_cast<size_t>(rng.Uniform() * 7));
    std::vector<int> ids;
    for (const Plan& p : flows) ids.push_back(net.Start(p.uses, p.bytes, p.cap));
    const double step = 2e-4;
    const auto expected = SteppedRates(capacity, flows, step);
    std::vector<double> used(capacity.size(), 0);
    for (size_t i = 0; i < flows.size(); ++i) {
      // A flow may stop a step early for every other flow and use; that is the resolution of the reference.
      EXPECT_NEAR(net.Rate(ids[i]), expected[i], 60 * step) << "round " << round << " flow " << i;
      for (const Use& u : flows[i].uses) used[static_cast<size_t>(u.resource)] += net.Rate(ids[i]) * u.per_byte;
    }
    for (size_t r = 0; r < capacity.size(); ++r) EXPECT_LE(used[r], capacity[r] * (1 + 1e-9));
  }
}

TEST(FlowNetwork, BytesPerResourceAreThoseOfTheFlows) {
  Rng rng(11, "flows");
  for (int round = 0; round < 200; ++round) {
    std::vector<double> capacity(2 + static_cast<size_t>(rng.Uniform() * 4));
    FlowNetwork net;
    for (double& c : capacity) c = 1 + rng.Uniform() * 9, net.AddResource("r", c);
    const auto flows = RandomFlows(rng, capacity.size(), 12);
    const auto ends = EndsOf(net, flows);
    std::vector<double> moved(capacity.size(), 0);
    double last = 0;
    for (size_t i = 0; i < flows.size(); ++i) {
      EXPECT_GE(ends[i], flows[i].start + flows[i].bytes / flows[i].cap - 1e-12);
      last = std::max(last, ends[i]);
      for (const Use& u : flows[i].uses) moved[static_cast<size_t>(u.resource)] += flows[i].bytes * u.per_byte;
    }
    for (size_t r = 0; r < capacity.size(); ++r) {
      EXPECT_NEAR(net.moved(static_cast<int>(r)), moved[r], 1e-9 * moved[r]);
      EXPECT_LE(moved[r], capacity[r] * last * (1 + 1e-9));  // never above the rate, on average over the run
    }
  }
}

// Packets on one shared link with a private link each, served round-robin: what fluid sharing stands for.
TEST(FlowNetwork, AgreesWithPacketsServedRoundRobin) {
  Rng rng(3, "packets");
  for (int round = 0; round < 20; ++round) {
    const double shared = 32, own = 25, packet = 0.02;
    const size_t count = 2 + static_cast<size_t>(rng.Uniform() * 4);
    std::vector<Plan> flows(count);
    FlowNetwork net;
    const int root = net.AddResource("root", shared);
    for (Plan& p : flows) {
      p.start = rng.Uniform() * 2;
      p.bytes = 10 + rng.Uniform() * 30;
      p.uses = {{root}, {net.AddResource("own", own)}};
    }
    const auto ends = EndsOf(net, flows);
    // The root sends one packet at a time, turn about among those whose own link is free to take the next one.
    std::vector<double> sent(count, 0), free_at(count, 0), done(count, -1);
    double now = 0;
    size_t turn = 0;
    for (size_t left = count; left > 0;) {
      size_t chosen = count;
      double earliest = 1e300;
      for (size_t k = 0; k < count; ++k) {
        const size_t i = (turn + k) % count;
        if (sent[i] >= flows[i].bytes) continue;
        // A link may have one packet waiting while another is on it.
        const double ready = std::max(flows[i].start, free_at[i] - packet / own);
        earliest = std::min(earliest, ready);
        if (ready <= now && chosen == count) chosen = i;
      }
      if (chosen == count) {
        now = earliest;
        continue;
      }
      now += packet / shared;
      free_at[chosen] = std::max(free_at[chosen], now - packet / shared) + packet / own;
      sent[chosen] += packet;
      turn = chosen + 1;
      if (sent[chosen] >= flows[chosen].bytes) done[chosen] = std::max(now, free_at[chosen]), --left;
    }
    for (size_t i = 0; i < count; ++i) {
      EXPECT_NEAR(ends[i] - flows[i].start, done[i] - flows[i].start, 0.03 * (done[i] - flows[i].start)) << round << " " << i;
    }
  }
}

}  // namespace
}  // namespace simrun
