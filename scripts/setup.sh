#!/bin/sh
# Installs what the demo and the tests need and the machine lacks: redis-server.
set -eu
check() {
  version=$(redis-server --version | sed -n 's/.* v=\([0-9]*\)\.\([0-9]*\).*/\1\2/p')
  if [ "${version:-0}" -lt 60 ]; then
    echo "redis-server is too old: Redis 6 or later is needed" >&2
    exit 1
  fi
}
if command -v redis-server >/dev/null 2>&1; then
  check
  exit 0
fi
if ! command -v apt-get >/dev/null 2>&1; then
  echo "redis-server is missing: install Redis 6 or later" >&2
  exit 1
fi
as_root=""
[ "$(id -u)" -eq 0 ] || as_root=sudo
$as_root apt-get update -qq
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends redis-server
# The package starts a service of its own, which nothing here uses.
$as_root sh -c 'command -v systemctl >/dev/null 2>&1 && systemctl disable --now redis-server >/dev/null 2>&1' || true
check
