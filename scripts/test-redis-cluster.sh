#!/bin/sh
# Runs the tests of brokers, of equal jobs and of their bookings on a Redis Cluster: each test starts two primaries and works on
# the owner of its slot. Other tests name keys without a tag.
set -eu
cd "$(dirname "$0")/.."
redis-server --version
TEST_REDIS=cluster cargo nextest run --locked --no-fail-fast -E 'binary(integration) and (test(/^broker_contract::/)
  or test(a_hundred_equal_jobs_are_paid_for_once) or test(a_killed_leader_is_followed) or test(/^equal_jobs::waiting::/))'
