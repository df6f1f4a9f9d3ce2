#!/bin/sh
# docs/accuracy.md is what a fresh run of every measured case says, and README.md shows its summary. Skipped without the
# measurements.
#
#   accuracy.sh SIMRUN SOURCE_DIR
#
# UPDATE_GOLDEN=1 writes both anew.
set -eu
simrun=$1
source=$2
cases=${SIMRUN_DATA_DIR:-$source/../shared/data}/cases
if [ ! -d "$cases" ]; then
  echo "skipped: no measured cases in $cases; set SIMRUN_DATA_DIR"
  exit 77
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

published="$source/tests/validation/trtllm_offline.csv $source/tests/validation/trtllm_0.17.csv $source/tests/validation/trtllm_0.21.csv $source/tests/validation/trtllm_online.csv
  $source/tests/validation/sglang_cookbook.csv $source/tests/validation/lmdeploy_a100.csv $source/tests/validation/linear_attention.csv $source/tests/validation/vllm_b300_steps.csv
  $source/tests/validation/qwen_speed.csv
  $source/tests/validation/offload_published.csv"
settings="$source/tests/validation/offload_settings.csv"
errors=$source/sim/catalog/errors/serving.yaml
if [ "${UPDATE_GOLDEN:-0}" = 1 ]; then
  "$simrun" validate --quiet "$cases"/*.csv $published --settings "$settings" --page "$source/docs/accuracy.md" --errors "$errors"
else
  "$simrun" validate --quiet "$cases"/*.csv $published --settings "$settings" --check "$source/docs/accuracy.md" --errors "$work/errors"
  # The same figures to a unit of the last digit.
  paste -d '\n' "$errors" "$work/errors" | awk '
    NR % 2 { before = $0; next }
    {
      n = split(before, a, /[][, {}]+/); m = split($0, b, /[][, {}]+/); same = n == m
      for (i = 1; same && i <= n; ++i) {
        same = a[i] == b[i] || (a[i] ~ /^[0-9.]+$/ && b[i] ~ /^[0-9.]+$/ && (a[i] - b[i]) ^ 2 <= (0.0101 * a[i]) ^ 2)
      }
      if (!same) { print "out of date: " before; bad = 1 }
    }
    END { exit bad }' || { echo "$errors is out of date; UPDATE_GOLDEN=1 ctest -L golden renews it" >&2; exit 1; }
fi

# Intervals that are meant to hold 80 % of measured values hold 70 to 90 % of those of models they have not seen.
awk -F '[| ]+' '
  /^## / { inside = /Prediction intervals/ }
  inside && $3 == "all" { ++metrics; if ($5 < 70 || $5 > 90) { print "intervals of " $2 " hold " $5 " %"; bad = 1 } }
  END { exit bad || metrics < 5 }' "$source/docs/accuracy.md"

# The mean errors of the operators of a step on the GPUs most often asked for.
awk -F ' *[|] *' '
  BEGIN {
    gpus = split("a100 h100 h200 b200", gpu, " ")
    names = split("gemm prefill decode mla_prefill mla_decode moe all_reduce all_gather", name, " ")
    split("GEMM;attention, prefill;attention, decode;MLA, prefill;MLA, decode;MoE;all-reduce (NCCL);all-gather (NCCL)", title, ";")
  }
  /^## / { inside = /Operators/ }
  inside && ($4 == "bf16" || $4 == "any") && !(($3, $2) in error) { error[$3, $2] = $7 }
  END {
    print "| | A100 | H100 | H200 | B200 |\n|---|---:|---:|---:|---:|"
    for (i = 1; i <= names; ++i) {
      printf "| %s |", title[i]
      for (g = 1; g <= gpus; ++g) printf " %s |", (name[i], gpu[g]) in error ? error[name[i], gpu[g]] : "-"
      print ""
    }
  }' "$source/docs/accuracy.md" >"$work/operators"

sed -n '/<!-- begin summary -->/,/<!-- end summary -->/p' "$source/docs/accuracy.md" | sed '1d;$d' >"$work/summary"
awk -v summary="$work/summary" -v operators="$work/operators" '
  /^<!-- begin accuracy -->$/ { print; while ((getline line < summary) > 0) print line; inside = 1; next }
  /^<!-- begin operators -->$/ { print; while ((getline line < operators) > 0) print line; inside = 1; next }
  /^<!-- end (accuracy|operators) -->$/ { inside = 0 }
  !inside { print }' "$source/README.md" >"$work/README.md"
if [ "${UPDATE_GOLDEN:-0}" = 1 ]; then
  cat "$work/README.md" >"$source/README.md"
elif ! diff -u "$source/README.md" "$work/README.md"; then
  echo "README.md does not show the summary of docs/accuracy.md; UPDATE_GOLDEN=1 ctest -L golden renews it" >&2
  exit 1
fi
