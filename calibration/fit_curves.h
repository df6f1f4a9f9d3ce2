// Curves of time over size through measured points.
//
// Two ways. FitCurves takes the points as they are: for kernels measured at many sizes. FitJointCurves smooths few points
// of related operators together, collectives of one library or versions of one kernel:
//
//     log(time / formula) = GP over (log size, log2 ranks, operator) + noise
//
// a Gaussian process whose covariance is a constant per operator and ranks, a smooth part (Matern 3/2) and a rough part
// (exponential), both over the size and shared between ranks and operators to a degree found from the points: libraries
// change protocol at nearly the same message size whatever the ranks and the operator, so that a point which was not
// measured is known from its relatives. The numbers of the covariance, and a noise per operator, maximise the marginal
// likelihood.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "hw/cost/operator_params.h"

namespace simrun {

// Log-log curves through measured (size, time) points, one per rank count, without points that a straight line between
// their neighbours replaces to within two per cent.
struct CurvePoint { double key = 0, size = 0, seconds = 0; };
std::vector<OperatorCurve> FitCurves(const std::vector<CurvePoint>& points);

// One operator of several that are smoothed together.
struct CurveTask {
  std::vector<CurvePoint> points;                              // key: ranks, at least 1
  std::string kind;                                            // tasks of one kind differ in the version of their software
  // Bytes of the buffer over `size`, by ranks: protocols change at the same buffer, while sizes may count a part of it.
  std::function<double(double key)> buffer_over_size;
  std::function<double(double key, double size)> formula;      // seconds
};
// Numbers of the covariance; `known` skips their search.
struct CurveCovariance {
  bool known = false;
  std::vector<double> logs;
};
// Per task one curve per rank count that has two or more points, at the sizes measured for any task with as many ranks.
std::vector<std::vector<OperatorCurve>> FitJointCurves(const std::vector<CurveTask>& tasks, CurveCovariance* covariance);

}  // namespace simrun
