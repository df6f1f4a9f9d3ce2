#!/bin/sh
# Usage: bench/renew.sh [BUILD_DIR]. Measures on this machine and puts the tables between the markers
# <!-- begin bench/throughput --> and <!-- end bench/throughput --> of README.md and docs/performance.md.
set -eu
cd "$(dirname "$0")/.."
build=${1:-build/release}
table=$(mktemp)
trap 'rm -f "$table" "$table.new"' EXIT
"$build/bench/throughput" --markdown > "$table"
for page in README.md docs/performance.md; do
  awk -v table="$table" '
    /<!-- end bench\/throughput -->/ { inside = 0 }
    !inside { print }
    /<!-- begin bench\/throughput -->/ {
      inside = 1
      while ((getline line < table) > 0) print line
      close(table)
    }
  ' "$page" > "$table.new"
  cp "$table.new" "$page"
done
