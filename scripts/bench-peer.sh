#!/bin/sh
# Measures backend-worker beside the Node worker that it replaces, alternately, and prints a table of figures and aims.
# A few minutes on a quiet machine; `--long` takes more rounds and more jobs. Ports are free ones, and nothing is left
# running.
set -eu
cd "$(dirname "$0")/.."
sh scripts/setup.sh
sh scripts/setup-node.sh benches/peer
# The bench profile is the release profile, and builds the worker with its benchmark.
built=$(cargo bench --locked --no-run --bench worker --message-format=json)
executable() { printf '%s\n' "$built" | sed -n "s/.*\"name\":\"$1\".*\"executable\":\"\([^\"]*\)\".*/\1/p"; }
exec node benches/peer/bench.js "$(executable backend-worker)" "$(executable worker)" "$@"
