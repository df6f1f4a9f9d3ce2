#!/bin/sh
# The fixture tree holds one violation of every kind beside includes that are allowed: exactly those in
# arrows_fixture/expected.txt must be named.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
sh "$here/check_arrows.sh" "$here/arrows_fixture" | diff "$here/arrows_fixture/expected.txt" -
