#!/bin/bash
# How a sweep scales over threads and over processes: bench/scaling.sh [SIMRUN]
#
# Prints wall and processor seconds of one sweep with one thread, two threads and two processes. On a quiet machine with
# two cores the ratio of wall times is the speed-up. On a shared machine read the processor times: 2 x (processor time with
# one) / (processor time with two) is the speed-up that two free cores would give when none waits for the other.
set -euo pipefail
simrun=$(realpath "${1:-build/release/cli/simrun}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat >sweep.yaml <<'SWEEP'
base:
  model: llama-3.1-70b
  hardware: {node: dgx-h100}
  plan: {tp: 4, replicas: 2}
  workload: {requests: 30000, arrivals: {poisson: {rate: 4 /s}}, input_tokens: {lognormal: {mean: 1155, p99: 4142, max: 8192}}, output_tokens: {lognormal: {mean: 211, p99: 601, max: 2048}}}
axes:
  - {path: workload.arrivals.poisson.rate, range: {from: 1 /s, to: 6 /s, points: 25}}
  - {path: scheduler.max_num_seqs, values: [32, 64, 128, 256]}
SWEEP
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
TIMEFORMAT='%R %U %S'
measure() {
  local name=$1 best=''
  shift
  for _ in 1 2 3; do
    rm -f results.db
    read -r wall user system < <({ time "$@" sweep sweep.yaml --db results.db --quiet >log.txt 2>&1; } 2>&1 || { cat log.txt >&2; exit 1; })
    best=$(printf '%s\n%s\n' "$best" "$(echo "$wall $user $system" | awk '{printf "%.2f %.2f", $1, $2 + $3}')" | grep . | sort -n | head -n 1)
  done
  echo "$name $best"
}
run() { local threads=$1; shift; "$simrun" "$@" --threads "$threads"; }
one() { run 1 "$@"; }
two() { run 2 "$@"; }
ranks() { mpirun --oversubscribe -n 2 "$simrun" "$@" --threads 1; }
{
  measure "1_thread" one
  measure "2_threads" two
  if command -v mpirun >/dev/null; then measure "2_processes" ranks; fi
} | awk 'NR == 1 { w = $2; c = $3 }
  { printf "%-12s %6.2f s wall, %6.2f s processor", $1, $2, $3
    if (NR > 1) printf "; %.2f times as fast by wall, %.2f by processor time", w / $2, 2 * c / $3
    print "" }'
