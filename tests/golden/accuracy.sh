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

if [ "${UPDATE_GOLDEN:-0}" = 1 ]; then
  "$simrun" validate --quiet "$cases"/*.csv --page "$source/docs/accuracy.md"
else
  "$simrun" validate --quiet "$cases"/*.csv --check "$source/docs/accuracy.md"
fi

sed -n '/<!-- begin summary -->/,/<!-- end summary -->/p' "$source/docs/accuracy.md" | sed '1d;$d' >"$work/summary"
awk -v summary="$work/summary" '
  /^<!-- begin accuracy -->$/ { print; while ((getline line < summary) > 0) print line; inside = 1; next }
  /^<!-- end accuracy -->$/ { inside = 0 }
  !inside { print }' "$source/README.md" >"$work/README.md"
if [ "${UPDATE_GOLDEN:-0}" = 1 ]; then
  cat "$work/README.md" >"$source/README.md"
elif ! diff -u "$source/README.md" "$work/README.md"; then
  echo "README.md does not show the summary of docs/accuracy.md; UPDATE_GOLDEN=1 ctest -L golden renews it" >&2
  exit 1
fi
