#!/bin/sh
# Runs the fuzz targets that are named, or all of them, each until it has been fed FUZZ_RUNS inputs, and prints a line
# for each. A target is named after its folder in fuzz/seeds. An input that breaks a promise ends it; libFuzzer says where it lies. With FUZZ_REPORT=on the lines become
# the table of docs/reliability.md.
set -eu
cd "$(dirname "$0")/.."
runs=${FUZZ_RUNS:-1000000}
host=$(rustc -vV | sed -n 's/^host: //p')
out=fuzz/target/fuzz
# What `cargo fuzz` sets too; without a sanitizer, a stable compiler does.
flags="--cfg fuzzing -Cpasses=sancov-module"
for flag in level=4 inline-8bit-counters pc-table trace-compares; do
  flags="$flags -Cllvm-args=-sanitizer-coverage-$flag"
done
RUSTFLAGS=$flags cargo build --manifest-path fuzz/Cargo.toml --target-dir fuzz/target --release --target "$host" --bins
[ "${1:-}" = --build ] && exit 0

if [ $# -eq 0 ]; then
  for folder in fuzz/seeds/*/; do set -- "$@" "$(basename "$folder")"; done
fi
mkdir -p "$out/rows"
for target in "$@"; do
  mkdir -p "$out/$target"
  log="$out/$target.log"
  if ! FUZZ_TARGET=$target nice -n 19 "fuzz/target/$host/release/targets" "$out/$target" "fuzz/seeds/$target" -runs="$runs" -seed=1 \
    -max_len=8192 -timeout=20 -rss_limit_mb=1024 -print_final_stats=1 -artifact_prefix="$out/$target-" >"$log" 2>&1; then
    tail -n 40 "$log"
    exit 1
  fi
  seconds=$(sed -n 's/^Done [0-9]* runs in \([0-9]*\) second.*/\1/p' "$log")
  cases=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  memory=$(sed -n 's/^stat::peak_rss_mb: *//p' "$log")
  added=$(sed -n 's/^stat::new_units_added: *//p' "$log")
  contained=$(grep -c '^a panic that is contained' "$log" || true)
  echo "| \`$target\` | $cases | $seconds | $memory | $added | 0 | $contained |" | tee "$out/rows/$target"
done

[ "${FUZZ_REPORT:-off}" = on ] || exit 0
section=$out/section
cat >"$section" <<END
<!-- fuzz -->
\`\`\`sh
FUZZ_RUNS=$runs FUZZ_REPORT=on sh scripts/fuzz.sh
\`\`\`

| target | cases | s | peak RSS, MB | inputs kept as new ground | broken promises | panics contained, places |
|---|---|---|---|---|---|---|
$(cat "$out"/rows/*)
<!-- /fuzz -->
END
awk -v section="$section" '
  /^<!-- fuzz -->$/ { while ((getline line <section) > 0) print line; inside = found = 1 }
  !inside { print }
  /^<!-- \/fuzz -->$/ { inside = 0 }
  END { if (!found) { print "\n## Fuzzing\n"; while ((getline line <section) > 0) print line } }
' docs/reliability.md >"$out/reliability.md"
cp "$out/reliability.md" docs/reliability.md
