#!/bin/sh
# Compares the instructions that redis-server runs for scripts with the accepted ones; installs valgrind where it is missing.
set -eu
cd "$(dirname "$0")/.."
if ! command -v valgrind >/dev/null 2>&1 && command -v apt-get >/dev/null 2>&1; then
  as_root=""
  [ "$(id -u)" -eq 0 ] || as_root=sudo
  { $as_root apt-get update -qq && $as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends valgrind; } >/dev/null 2>&1 || true
fi
if ! command -v valgrind >/dev/null 2>&1; then
  echo "valgrind is not installed, and cannot be: the instructions of scripts are not compared"
  exit 0
fi
# A test writes the libraries of the scripts that run as functions.
[ -e target/script-libraries/bw_ledger_close.lua ] || cargo test --locked --quiet --lib script:: >/dev/null
exec python3 scripts/script-instructions.py gate
