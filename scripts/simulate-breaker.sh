#!/bin/sh
# Simulates the breaker's rule at full size and prints the figures: false openings an hour, calls and seconds until an
# outage is seen, and what a provider sees after one. Takes a minute or two.
set -eu
cd "$(dirname "$0")/.."
GATE_EXPLORE=long cargo test --locked --lib -- --nocapture --test-threads=1 gate::tests::simulation
