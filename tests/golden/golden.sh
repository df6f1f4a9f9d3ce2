#!/bin/sh
# Runs a command and compares what it prints with a committed file, leaving out what may differ between two runs: the
# time the simulation took, the version and the hash of the settings.
#
#   golden.sh EXPECTED_FILE COMMAND [ARGUMENT...]
#
# With UPDATE_GOLDEN=1 in the environment a file that differs is written anew:
#   UPDATE_GOLDEN=1 ctest --test-dir build/release -L golden
set -eu
expected=$1
shift
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$@" >"$work/actual"

# The lines of a summary wrap where the numbers end, so the whole entry goes.
masked() {
  awk '/^Simulation / { print "Simulation"; skip = 1; next } skip && /^ / { next } { skip = 0; print }' "$1" |
    sed -e 's/"wall_s": .*/"wall_s"/' -e 's/"config_hash": .*/"config_hash"/' -e 's/"version": .*/"version"/'
}
[ -e "$expected" ] || : >"$expected"
masked "$expected" >"$work/expected.masked"
masked "$work/actual" >"$work/actual.masked"
if diff -u "$work/expected.masked" "$work/actual.masked"; then
  exit 0
elif [ "${UPDATE_GOLDEN:-0}" = 1 ]; then
  cp "$work/actual" "$expected"
  echo "wrote $expected"
else
  echo "differs from $expected; when the change is wanted: UPDATE_GOLDEN=1 ctest -L golden" >&2
  exit 1
fi
