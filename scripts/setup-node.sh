#!/bin/sh
# Installs what the tests against BullMQ's own library need and the machine lacks: node, and the locked packages of
# tests/node, or of the folder that is named.
set -eu
cd "$(dirname "$0")/../${1:-tests/node}"
if ! command -v npm >/dev/null 2>&1; then
  if ! command -v apt-get >/dev/null 2>&1; then
    echo "node is missing: install Node 18 or later with npm" >&2
    exit 1
  fi
  as_root=""
  [ "$(id -u)" -eq 0 ] || as_root=sudo
  $as_root apt-get update -qq
  $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends nodejs npm
fi
# npm writes this file last: newer than the lock means that all of it is there.
[ -n "$(find node_modules/.package-lock.json -newer package-lock.json 2>/dev/null)" ] || npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
