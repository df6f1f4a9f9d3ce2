#!/bin/sh
# Usage: check_arrows.sh ROOT. Checks the includes of every C++ file of the tree at ROOT:
#  - a folder includes only itself and the folders it may use (the table below);
#  - includes are written from the root, never relative to the including file;
#  - public headers, which are all headers of the library folders, do not include what users of the library should
#    not have to install or compile: yaml-cpp, Boost, Protocol Buffers, CLI11, MPI, JSON and SQLite headers.
# Prints one line `file:line: problem` per violation; exit status 1 when there is one. Needs only sh, find and awk.
set -eu
cd "$1"
export LC_ALL=C

# shellcheck disable=SC2016
find base models hw workload schedulers proto sim planner calibration cli examples bench \
  \( -name '*.h' -o -name '*.cc' \) -type f 2>/dev/null | sort | awk '
  BEGIN {
    # Who may include whom, beside itself.
    may["base"] = ""
    may["models"] = "base"
    may["hw"] = "models base"
    may["workload"] = "base"
    may["schedulers"] = "base"
    may["proto"] = ""
    below_sim = "schedulers workload hw models proto base"
    may["sim"] = below_sim
    may["planner"] = "sim " below_sim
    may["calibration"] = "sim " below_sim
    above = "planner calibration sim " below_sim
    may["cli"] = above
    may["examples"] = "cli " above
    may["bench"] = "cli " above
    library_folders = "base models hw workload schedulers proto sim planner calibration"
    hidden = "^(yaml-cpp/|boost/|google/protobuf/|.*\\.pb\\.h$|CLI/|mpi\\.h$|rapidjson/|sqlite3\\.h$|zlib\\.h$)"
  }
  function contains(list, word) { return index(" " list " ", " " word " ") > 0 }
  function problem(text) { printf "%s:%d: %s\n", file, line, text; problems++ }
  {
    file = $0
    folder = file
    sub(/\/.*/, "", folder)
    files++
    line = 0
    while ((getline text < file) > 0) {
      line++
      if (text !~ /^[ \t]*#[ \t]*include[ \t]*["<]/) continue
      sub(/^[ \t]*#[ \t]*include[ \t]*["<]/, "", text)
      sub(/[">].*/, "", text)
      if (text ~ /(^|\/)\.\.?\//) {
        problem("includes \"" text "\" relative to itself; write the path from the root")
        continue
      }
      target = text
      # Examples are written as a user of the installed library would write them.
      if (sub(/^simrun\//, "", target) && folder != "examples") {
        problem("includes the installed header \"" text "\"; inside the tree write \"" target "\"")
      }
      if (file ~ /\.h$/ && contains(library_folders, folder) && text ~ hidden) {
        problem("public header includes \"" text "\"; keep it in a .cc")
      }
      if (!sub(/\/.*/, "", target)) continue
      if ((target in may) && target != folder && !contains(may[folder], target)) {
        problem(folder " may not include " target ": \"" text "\"")
      }
    }
    close(file)
  }
  END {
    if (!files) { print "no sources found"; exit 1 }
    if (problems) { printf "%d includes against the arrows\n", problems; exit 1 }
    printf "%d files, every include follows the arrows\n", files
  }'
