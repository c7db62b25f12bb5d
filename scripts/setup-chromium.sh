#!/bin/sh
# Installs what the dashboard's test in a browser needs and the machine lacks: Chromium, some 100 MB. CHROMIUM names another
# one.
set -eu
if [ -z "${CHROMIUM:-}" ] && [ ! -x /usr/bin/chromium ]; then
  if ! command -v apt-get >/dev/null 2>&1; then
    echo "chromium is missing: install it, and name it in CHROMIUM" >&2
    exit 1
  fi
  as_root=""
  [ "$(id -u)" -eq 0 ] || as_root=sudo
  $as_root apt-get update -qq
  $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core
fi
