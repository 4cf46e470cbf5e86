#!/usr/bin/env bash
# Jobs flow through a real cluster on this machine while processes are killed and stopped, nodes are taken away and links are cut, at
# random instants. Checks that every accepted job ends with the answer that it has where nothing happens, that nothing is left behind, and
# that the journal agrees; says what was done and how long recovery took. Ends with 1 where a promise was broken, and says what to
# run to see it again.
#
#   deploy/chaos.sh [--jobs 40] [--seed N] [--seconds 0] [--gap 2] [--at-once 4] [--precision both|bf16|fp32] [--loopback]
#
# After --seconds in all no more jobs begin (0: all of them do), --gap is the least mean time between faults. Without network namespaces (or with --loopback)
# the hosts are processes on 127.0.0.x: then no node and no link is cut off, and the summary says so. BATON names the program
# (build/release/baton).
set -euo pipefail
exec python3 "$(dirname "${BASH_SOURCE[0]}")/chaos.py" "$@"
