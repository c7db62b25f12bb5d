#!/bin/sh
# Runs the tests that touch Redis most, and a short run of the chaos suite, on Redis 6.2: as the redis-server of the PATH, which
# each test starts for itself. Says so where that version cannot be had.
set -eu
cd "$(dirname "$0")/.."
sh scripts/setup-redis-6.2.sh
folder="$PWD/target/redis-6.2"
if [ ! -x "$folder/redis-server" ]; then
  echo "skipped: there is no redis-server 6.2 here" >&2
  exit 0
fi
PATH="$folder:$PATH"
redis-server --version
cargo nextest run --locked --no-fail-fast -E 'test(broker_contract) or test(outages) or test(large_results) or test(spool)
  or test(failover) or test(bullmq_layout) or test(apalis_layout)'
CHAOS_SECONDS="${CHAOS_SECONDS:-20}" cargo test --locked --test chaos everything -- --nocapture
