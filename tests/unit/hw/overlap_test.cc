#include "hw/overlap.h"

#include <vector>

#include "gtest/gtest.h"

namespace simrun {
namespace {

using Use = FlowNetwork::Use;

TEST(Overlap, LanesWorkInOrderAndWaitForOthers) {
  FlowNetwork net;
  Overlap o(&net);
  const int gpu = o.AddLane("gpu"), cpu = o.AddLane("cpu");
  const auto a = o.Work(gpu, 0, 2);
  const auto b = o.Work(cpu, 1, 3, {a});     // 2 .. 5
  const auto c = o.Work(gpu, 0, 1);          // 2 .. 3
  const auto d = o.Work(gpu, 0, 1, {b, c});  // 5 .. 6
  EXPECT_DOUBLE_EQ(o.RunUntil(c), 3);
  EXPECT_FALSE(o.Done(b));
  EXPECT_DOUBLE_EQ(o.RunUntil(d), 6);
  EXPECT_DOUBLE_EQ(o.busy(gpu), 4);
  EXPECT_DOUBLE_EQ(o.busy(cpu), 3);
  EXPECT_DOUBLE_EQ(o.waits()[1], 2);  // the GPU waits from 3 to 5 for the CPU
  EXPECT_DOUBLE_EQ(o.RunUntil(o.Work(cpu, 1, 0)), 6);
}

// Weights of L layers stream through a window of n buffers while layers compute: with transfer x and compute c per
// layer, the first transfer is seen whole, then each layer takes max(x, c), and the last compute is seen whole.
TEST(Overlap, StreamedLayersTakeTheLongerOfTransferAndCompute) {
  for (const double transfer : {0.5, 1.0, 3.0}) {
    FlowNetwork net;
    const int link = net.AddResource("link", 10);
    const std::vector<Use> way = {{link}};
    Overlap o(&net);
    const int gpu = o.AddLane("gpu"), mover = o.AddLane("mover");
    const int layers = 20, window = 2;
    std::vector<Overlap::Task> computed;
    for (int l = 0; l < layers; ++l) {
      const auto slot = l >= window ? computed[static_cast<size_t>(l - window)] : Overlap::kNone;
      const auto moved = o.Move(mover, 1, way, 10 * transfer, FlowNetwork::kNoCap, 0, {slot});
      computed.push_back(o.Work(gpu, 0, 1, {moved}));
    }
    EXPECT_NEAR(o.RunUntil(computed.back()), transfer + (layers - 1) * std::max(transfer, 1.0) + 1, 1e-9);
    EXPECT_NEAR(o.waits()[1] + o.busy(gpu), o.now(), 1e-9);
  }
}

// A task left over from before goes on while later ones are added, across Rebase and a growing backlog.
TEST(Overlap, LongTasksOutliveManyShortOnes) {
  FlowNetwork net;
  const int link = net.AddResource("link", 1);
  const std::vector<Use> way = {{link}};
  Overlap o(&net);
  const int gpu = o.AddLane("gpu"), mover = o.AddLane("mover");
  const auto slow = o.Move(mover, 1, way, 1000, FlowNetwork::kNoCap, 5);
  double total = 0;
  Overlap::Task last = Overlap::kNone;
  for (int i = 0; i < 900; ++i) {
    last = o.Work(gpu, 0, 1, {last});
    total += o.RunUntil(last);
    o.Rebase();
  }
  EXPECT_DOUBLE_EQ(total, 900);
  EXPECT_FALSE(o.Done(slow));
  EXPECT_NEAR(o.RunUntil(slow), 105, 1e-9);
  EXPECT_NEAR(net.moved(link), 1000, 1e-9);
}

}  // namespace
}  // namespace simrun
