#!/bin/sh
# Stands in for redis-server where the tests run on Dragonfly: the arguments that the tests give, in Dragonfly's words. It
# ignores those that it has no word for, so that a test of such a setting fails.
set -eu
if [ "${1:-}" = --version ]; then
  exec dragonfly --version
fi
set -- "$@" --end
port=6379
dir=.
while [ "$1" != --end ]; do
  case "$1" in
    --port) port=$2; shift 2 ;;
    --dir) dir=$2; shift 2 ;;
    *) shift ;;
  esac
done
exec dragonfly --bind 127.0.0.1 --port "$port" --dir "$dir" --dbfilename= --proactor_threads=1 \
  --default_lua_flags=allow-undeclared-keys
