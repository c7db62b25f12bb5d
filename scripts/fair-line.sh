#!/bin/sh
# Measures how long students wait for a limit, with everything at its defaults: replicas, the simulator and a Redis as
# processes, jobs added by BullMQ's own Queue.
#   sh scripts/fair-line.sh burst 3         one student adds 700 jobs (BURST), then 20 others one each; ALL=1: until all are done
#   sh scripts/fair-line.sh steady 3        40 students add 20 jobs a minute, one adds 200 at once; 9 minutes (MINUTES)
#   sh scripts/fair-line.sh crowd 2         50 students add BURST jobs; prints Redis's CPU a job (LAYOUT=apalis: in that layout)
# IDLE=20 measures Redis's CPU of idle replicas for 20 s first, and prints what a job costs beyond that.
# FAIRNESS_KEY=off measures first come, first served; RPM is the limit, LATENCY the provider's.
set -eu
cd "$(dirname "$0")/.."
cargo build --locked --bin backend-worker
exec node tests/node/fair-line.mjs "$PWD/target/debug/backend-worker" "$@"
