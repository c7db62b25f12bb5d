#!/bin/sh
# Takes pictures of the dashboard, empty, busy, broken and without Redis, into the folder that is named
# (target/dashboard): two replicas, a private Redis and simulated providers.
set -eu
cd "$(dirname "$0")/.."
sh scripts/setup.sh
sh scripts/setup-node.sh
sh scripts/setup-chromium.sh
folder=${1:-target/dashboard}
mkdir -p "$folder"
DASHBOARD_SHOTS=$(cd "$folder" && pwd) exec cargo test --locked --test integration dashboard::browser
