#!/bin/sh
# The output shown in README.md is that of the first example. UPDATE_GOLDEN=1 copies it there.
set -eu
readme=$1
expected=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

awk -v expected="$expected" '
  /^```text$/ { print; while ((getline line < expected) > 0) print line; inside = 1; next }
  /^```$/ { inside = 0 }
  !inside { print }' "$readme" >"$work/README.md"
if [ "${UPDATE_GOLDEN:-0}" = 1 ]; then
  cat "$work/README.md" >"$readme"
elif ! diff -u "$readme" "$work/README.md"; then
  echo "README.md does not show $expected; UPDATE_GOLDEN=1 ctest -L golden renews it" >&2
  exit 1
fi
