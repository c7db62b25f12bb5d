#!/bin/sh
# Runs the tests of brokers on a Redis Cluster: each test starts two primaries and works on the owner of its slot.
set -eu
cd "$(dirname "$0")/.."
redis-server --version
TEST_REDIS=cluster cargo nextest run --locked --no-fail-fast -E 'binary(integration) and
  (test(/^broker_contract::/) or test(/^large_results::/) or test(/^letters::/) or test(/^bullmq_outcomes::/) or test(/^ledger::/))'
