#!/bin/sh
# Old and new replicas side by side on the same queues, with everything going wrong: builds the binary of another commit,
# and has every second replica of a scenario of the chaos suite run it: `everything`, or another one (`money`, `budget`,
# `kills`). The suite's other variables are passed on.
#   sh scripts/mixed-versions.sh <commit> [scenario]
set -eu
cd "$(dirname "$0")/.."
commit=$(git rev-parse --verify --short "${1:?usage: mixed-versions.sh <commit> [scenario]}^{commit}")
tree="target/mixed/$commit"
if [ ! -d "$tree" ]; then
  git worktree prune
  git worktree add --detach "$tree" "$commit"
fi
# One target folder for all of them: the dependencies are mostly the same.
cargo build --locked --manifest-path "$tree/Cargo.toml" --bin backend-worker --target-dir target/mixed/target
cp target/mixed/target/debug/backend-worker "target/mixed/backend-worker-$commit"
CHAOS_NEIGHBOUR="$PWD/target/mixed/backend-worker-$commit" \
  cargo test --locked --test chaos "${2:-everything}" -- --nocapture
