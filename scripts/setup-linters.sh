#!/bin/sh
# Installs the linters of the other languages where the machine lacks them: shellcheck and luacheck (Debian), typos (PyPI),
# Biome and StyLua (npm). A linter that cannot be had is skipped by scripts/lint.sh, with a line.
set -u
cd "$(dirname "$0")/.." || exit 1
tools=target/tools
mkdir -p "$tools/bin"

missing=""
command -v shellcheck >/dev/null 2>&1 || missing="$missing shellcheck"
command -v luacheck >/dev/null 2>&1 || missing="$missing lua-check"
if [ -n "$missing" ] && command -v apt-get >/dev/null 2>&1; then
  as_root=""
  [ "$(id -u)" -eq 0 ] || as_root=sudo
  # shellcheck disable=SC2086 # one word a package
  { $as_root apt-get update -qq && $as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends $missing; } >/dev/null 2>&1
fi

# Wheels hold a binary, so neither Rust nor a Python environment is needed.
typos=1.52.0
if [ "$("$tools/bin/typos" --version 2>/dev/null)" != "typos-cli $typos" ]; then
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  if python3 -m pip download --quiet --no-deps --only-binary :all: --dest "$work" "typos==$typos" 2>/dev/null; then
    python3 -c 'import sys, zipfile; zipfile.ZipFile(sys.argv[1]).extractall(sys.argv[2])' "$work"/typos-*.whl "$work"
    install -m 755 "$work/typos-$typos.data/scripts/typos" "$tools/bin/typos"
  fi
fi

biome=2.6.8
if command -v npm >/dev/null 2>&1 && [ "$("$tools/bin/biome" --version 2>/dev/null)" != "Version: $biome" ]; then
  npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$tools/biome" "@biomejs/biome@$biome" >/dev/null 2>&1 &&
    ln -sf ../biome/node_modules/.bin/biome "$tools/bin/biome"
fi

stylua=2.5.2
if command -v npm >/dev/null 2>&1 &&
  ! grep -q "\"version\": \"$stylua\"" "$tools/stylua/node_modules/@johnnymorganz/stylua/package.json" 2>/dev/null; then
  npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$tools/stylua" "@johnnymorganz/stylua@$stylua" >/dev/null 2>&1
fi
exit 0
