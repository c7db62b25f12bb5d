#!/bin/sh
# Runs every test: in parallel under nextest where it is installed, by cargo test elsewhere.
set -eu
cd "$(dirname "$0")/.."
sh scripts/setup.sh
sh scripts/setup-node.sh
command -v openssl >/dev/null 2>&1 || { echo "openssl is missing: the tests make certificates with it" >&2; exit 1; }
sh scripts/setup-chromium.sh
sh scripts/setup-redis-6.2.sh
if cargo nextest --version >/dev/null 2>&1; then
  exec cargo nextest run --locked --no-fail-fast "$@"
fi
exec cargo test --locked --no-fail-fast "$@"
