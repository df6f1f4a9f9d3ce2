#include "calibration/fit_curves.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <utility>

#include <Eigen/Dense>

#include "base/rng.h"

namespace simrun {
namespace {

constexpr double kCurveTolerance = 0.02;
constexpr double kSameSize = 1e-3;      // of a logarithm
constexpr size_t kSearchPoints = 260;   // points that the covariance is found from, at most
constexpr int kSweeps = 6;
constexpr double kBeyond = 1.4;         // of a logarithm: how far relatives carry a curve past its own points

using Knots = std::vector<std::pair<double, double>>;   // log size, log time

// More bytes never take less time: neighbours that say otherwise are noise and meet at their mean.
void MakeMonotone(Knots* knots) {
  std::vector<std::pair<double, size_t>> level;   // mean log time, knots
  for (const auto& [x, y] : *knots) {
    level.emplace_back(y, 1);
    while (level.size() > 1 && level[level.size() - 2].first > level.back().first) {
      const auto [high, more] = level.back();
      level.pop_back();
      auto& [low, count] = level.back();
      low = (low * static_cast<double>(count) + high * static_cast<double>(more)) / static_cast<double>(count + more);
      count += more;
    }
  }
  size_t next = 0;
  for (const auto& [y, count] : level) {
    for (size_t i = 0; i < count; ++i) (*knots)[next++].second = y;
  }
}

// Greedily drops the knot that a straight line replaces best, while that is within the tolerance.
void DropStraight(Knots* knots) {
  while (knots->size() > 2) {
    size_t best = 0;
    double least = kCurveTolerance;
    for (size_t i = 1; i + 1 < knots->size(); ++i) {
      const auto& [x0, y0] = (*knots)[i - 1];
      const auto& [x1, y1] = (*knots)[i + 1];
      const double line = y0 + (y1 - y0) * ((*knots)[i].first - x0) / (x1 - x0);
      if (std::fabs(line - (*knots)[i].second) < least) least = std::fabs(line - (*knots)[i].second), best = i;
    }
    if (best == 0) break;
    knots->erase(knots->begin() + static_cast<std::ptrdiff_t>(best));
  }
}

OperatorCurve CurveOf(double key, const Knots& knots) {
  OperatorCurve curve;
  curve.key = key;
  for (const auto& [x, y] : knots) {
    curve.at.push_back(std::round(std::exp(x)));
    curve.time.push_back(Seconds(std::exp(y)));
  }
  return curve;
}

// Where a point lies for the covariance.
struct Place {
  double size = 0, ranks = 0;   // log of the buffer, log2
  size_t task = 0, kind = 0;
};

// Numbers of the covariance: standard deviations, lengths in natural logarithms of the size, and over how many doublings
// of ranks, versions and kinds of operators it falls by a factor e.
struct Kernel {
  enum { kConstant, kSmooth, kSmoothLength, kSmoothRanks, kSmoothTasks, kSmoothKinds,
         kRough, kRoughLength, kRoughRanks, kRoughTasks, kRoughKinds, kNoise };
  std::vector<double> v;   // kNoise: of the first task, then of the others

  explicit Kernel(const std::vector<double>& logs) {
    for (const double l : logs) v.push_back(std::exp(l));
  }
  static std::vector<double> Start(size_t tasks) {
    std::vector<double> logs;
    for (const double x : {0.1, 0.2, 3.0, 3.0, 2.0, 2.0, 0.1, 1.0, 2.0, 2.0, 2.0}) logs.push_back(std::log(x));
    logs.resize(kNoise + tasks, std::log(0.02));
    return logs;
  }
  double operator()(const Place& a, const Place& b) const {
    const double dx = std::fabs(a.size - b.size), dr = std::fabs(a.ranks - b.ranks);
    const double version = a.task == b.task ? 0 : 1, kind = a.kind == b.kind ? 0 : 1;
    const double s = std::sqrt(3.0) * dx / v[kSmoothLength];
    double k = v[kSmooth] * v[kSmooth] * (1 + s) *
               std::exp(-s - dr / v[kSmoothRanks] - version / v[kSmoothTasks] - kind / v[kSmoothKinds]);
    k += v[kRough] * v[kRough] * std::exp(-dx / v[kRoughLength] - dr / v[kRoughRanks] - version / v[kRoughTasks] - kind / v[kRoughKinds]);
    if (dr == 0 && version == 0) k += v[kConstant] * v[kConstant];
    return k;
  }
  double Noise(const Place& a) const { return v[kNoise + a.task] * v[kNoise + a.task] + 1e-8; }
};

Eigen::LLT<Eigen::MatrixXd> Factorise(const std::vector<Place>& at, const Kernel& kernel) {
  const Eigen::Index n = static_cast<Eigen::Index>(at.size());
  Eigen::MatrixXd k(n, n);
  for (Eigen::Index i = 0; i < n; ++i) {
    for (Eigen::Index j = 0; j <= i; ++j) k(i, j) = kernel(at[static_cast<size_t>(i)], at[static_cast<size_t>(j)]);
    k(i, i) += kernel.Noise(at[static_cast<size_t>(i)]);
  }
  return Eigen::LLT<Eigen::MatrixXd>(k);
}

// Minus the log marginal likelihood, with a wide prior around the start so that what the points do not show stays put.
double Loss(const std::vector<Place>& at, const Eigen::VectorXd& y, const std::vector<double>& logs) {
  const Eigen::LLT<Eigen::MatrixXd> llt = Factorise(at, Kernel(logs));
  if (llt.info() != Eigen::Success) return 1e30;
  double loss = 0.5 * y.dot(llt.solve(y));
  const auto& l = llt.matrixLLT();
  for (Eigen::Index i = 0; i < y.size(); ++i) loss += std::log(l(i, i));
  const std::vector<double> start = Kernel::Start(logs.size() - Kernel::kNoise);
  for (size_t i = 0; i < logs.size(); ++i) loss += 0.5 * (logs[i] - start[i]) * (logs[i] - start[i]);
  return loss;
}

std::vector<double> FindCovariance(std::vector<Place> at, Eigen::VectorXd y, size_t tasks) {
  if (at.size() > kSearchPoints) {
    Rng rng(1, "curves");
    for (size_t i = 0; i < kSearchPoints; ++i) {
      const size_t j = i + static_cast<size_t>(rng.Below(at.size() - i));
      std::swap(at[i], at[j]);
      std::swap(y[static_cast<Eigen::Index>(i)], y[static_cast<Eigen::Index>(j)]);
    }
    at.resize(kSearchPoints);
    y.conservativeResize(static_cast<Eigen::Index>(kSearchPoints));
  }
  std::vector<double> logs = Kernel::Start(tasks);
  double least = Loss(at, y, logs), step = 0.8;
  for (int sweep = 0; sweep < kSweeps; ++sweep) {
    bool moved = false;
    for (size_t i = 0; i < logs.size(); ++i) {
      for (const double by : {step, -step}) {
        std::vector<double> tried = logs;
        tried[i] += by;
        const double loss = Loss(at, y, tried);
        if (loss >= least) continue;
        least = loss, logs = tried, moved = true;
        break;
      }
    }
    if (!moved || sweep % 2 == 1) step /= 2;
  }
  return logs;
}

}  // namespace

std::vector<OperatorCurve> FitCurves(const std::vector<CurvePoint>& points) {
  std::map<double, std::map<double, std::vector<double>>> by_key;
  for (const CurvePoint& p : points) {
    if (p.size > 0 && p.seconds > 0) by_key[p.key][p.size].push_back(std::log(p.seconds));
  }
  std::vector<OperatorCurve> curves;
  for (auto& [key, sizes] : by_key) {
    // Sizes closer than a few per cent share a knot, so that noise does not become slope.
    Knots knots;
    std::vector<double> near_x, near_y;
    const auto flush = [&] {
      if (near_y.empty()) return;
      std::sort(near_y.begin(), near_y.end());
      double x = 0;
      for (const double v : near_x) x += v;
      knots.emplace_back(x / static_cast<double>(near_x.size()), near_y[near_y.size() / 2]);
      near_x.clear();
      near_y.clear();
    };
    const double step = sizes.size() > 40 ? 0.35 : 0.03;
    for (auto& [size, times] : sizes) {
      const double x = std::log(size);
      if (!near_x.empty() && x - near_x.front() > step) flush();
      for (const double t : times) near_x.push_back(x), near_y.push_back(t);
    }
    flush();
    if (knots.size() < 2) continue;
    MakeMonotone(&knots);
    DropStraight(&knots);
    curves.push_back(CurveOf(key, knots));
  }
  return curves;
}

std::vector<std::vector<OperatorCurve>> FitJointCurves(const std::vector<CurveTask>& tasks, CurveCovariance* covariance) {
  std::vector<std::vector<OperatorCurve>> out(tasks.size());
  std::vector<Place> at;
  std::vector<double> values;
  std::map<double, std::vector<double>> buffers;                    // by ranks: logs of the buffers measured
  std::vector<std::map<double, std::pair<double, double>>> ends(tasks.size());   // by ranks: first and last of a task
  std::map<std::string, size_t> kinds;
  for (size_t t = 0; t < tasks.size(); ++t) {
    const size_t kind = kinds.emplace(tasks[t].kind, kinds.size()).first->second;
    for (const CurvePoint& p : tasks[t].points) {
      const double formula = tasks[t].formula(p.key, p.size);
      if (p.size <= 0 || p.seconds <= 0 || formula <= 0) continue;
      const Place place{std::log(p.size * tasks[t].buffer_over_size(p.key)), std::log2(std::max(1.0, p.key)), t, kind};
      at.push_back(place);
      values.push_back(std::log(p.seconds / formula));
      buffers[p.key].push_back(place.size);
      const auto [end, fresh] = ends[t].emplace(p.key, std::pair(place.size, place.size));
      end->second = {std::min(end->second.first, place.size), std::max(end->second.second, place.size)};
    }
  }
  if (at.empty()) return out;
  const Eigen::VectorXd y = Eigen::Map<const Eigen::VectorXd>(values.data(), static_cast<Eigen::Index>(values.size()));
  if (!covariance->known) covariance->logs = FindCovariance(at, y, tasks.size());
  covariance->known = true;
  const Kernel kernel(covariance->logs);
  const Eigen::LLT<Eigen::MatrixXd> llt = Factorise(at, kernel);
  if (llt.info() != Eigen::Success) return out;
  const Eigen::VectorXd weights = llt.solve(y);
  for (auto& [key, sizes] : buffers) {
    std::sort(sizes.begin(), sizes.end());
    sizes.erase(std::unique(sizes.begin(), sizes.end(), [](double a, double b) { return b - a < kSameSize; }), sizes.end());
  }
  for (size_t t = 0; t < tasks.size(); ++t) {
    for (const auto& [key, end] : ends[t]) {
      Knots knots;
      for (const double size : buffers[key]) {
        if (size < end.first - kBeyond || size > end.second + kBeyond) continue;
        const Place here{size, std::log2(std::max(1.0, key)), t, kinds[tasks[t].kind]};
        double mean = 0;
        for (size_t i = 0; i < at.size(); ++i) mean += kernel(here, at[i]) * weights[static_cast<Eigen::Index>(i)];
        const double own = size - std::log(tasks[t].buffer_over_size(key));
        knots.emplace_back(own, mean + std::log(tasks[t].formula(key, std::exp(own))));
      }
      if (knots.size() < 2) continue;
      MakeMonotone(&knots);
      DropStraight(&knots);
      out[t].push_back(CurveOf(key, knots));
    }
  }
  return out;
}

}  // namespace simrun
