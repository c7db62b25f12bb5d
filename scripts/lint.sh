#!/bin/sh
# Lints shell, Lua, JavaScript, CSS, JSON, spelling and prose. scripts/setup-linters.sh installs the linters; one that is
# missing is skipped with a line.
set -u
cd "$(dirname "$0")/.." || exit 1
PATH="$PATH:$PWD/target/tools/bin"
failed=""
lint() { # what it lints, the program, its arguments
  what=$1 program=$2
  shift 2
  if ! command -v "$program" >/dev/null 2>&1; then
    echo "lint: $program is not installed: $what is not linted (sh scripts/setup-linters.sh installs it)"
    return
  fi
  echo "lint: $what ($program)"
  "$@" || failed="$failed $program"
}
# shellcheck disable=SC2046 # no path has a blank
lint shell shellcheck shellcheck --external-sources $(git ls-files '*.sh') .ci/run
lint Lua luacheck sh scripts/lint-lua.sh
if [ -d target/tools/stylua/node_modules ]; then
  lint "format of Lua" node node scripts/format-lua.cjs --check
else
  echo "lint: StyLua is not installed: the format of Lua is not looked at (sh scripts/setup-linters.sh installs it)"
fi
lint "JavaScript, CSS and JSON" biome biome lint --error-on-warnings --no-errors-on-unmatched
lint spelling typos typos
if command -v cargo-machete >/dev/null 2>&1; then
  lint "unused dependencies" cargo-machete cargo machete --skip-target-dir
else
  echo "lint: cargo-machete is not installed: unused dependencies are looked for by the workflow on GitHub only"
fi
lint prose python3 sh scripts/lint-prose.sh
[ -z "$failed" ] || { echo "lint: failed:$failed" >&2; exit 1; }
