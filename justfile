# Recipes for the work on backend-worker. `just` lists them.

default:
    @just --list

# A fleet at work, with Redis and simulated providers of its own.
demo:
    cargo run --locked -- demo

# The job types and the providers' protocols: seconds after the build.
test-jobs:
    cargo nextest run --locked -E 'package(jobs)'

# What needs neither Node nor Chromium and is quick: under two minutes after the build on two cores (.config/nextest.toml).
test:
    cargo nextest run --locked --profile quick

# Everything, as CI and the README's command run it.
test-all:
    sh scripts/test.sh

# Tests, format, licences, lints and documentation.
ci:
    .ci/run

# Shell, Lua, JavaScript, spelling and prose; installs the linters that are missing.
lint:
    sh scripts/setup-linters.sh
    sh scripts/lint.sh

# Instructions of the scripts in Redis, beside the accepted ones (benches/script-instructions.json).
check-instructions:
    sh scripts/check-instructions.sh

# Words that STYLE.md excludes.
lint-prose:
    sh scripts/lint-prose.sh --list

# Writes the generated documents again: schemas, metrics, alerts, configuration, command line.
generate:
    UPDATE_SCHEMAS=1 cargo nextest run --locked -E 'test(schema) or test(metrics_table) or test(alert_rules) or test(docs_)'

# The gate's model, explorer and simulations at full size: minutes.
gate-long:
    GATE_EXPLORE=long cargo nextest run --locked --no-capture -E 'test(gate::)'

# The breaker's rule at full size, with figures.
simulate-breaker:
    sh scripts/simulate-breaker.sh

# The fair line's scenarios, with figures.
fair-line:
    sh scripts/fair-line.sh

# This worker beside Node's on the same Redis.
bench-peer:
    sh scripts/bench-peer.sh

# Old and new replicas side by side.
mixed-versions commit scenario="everything":
    sh scripts/mixed-versions.sh {{commit}} {{scenario}}

# The parsers through libFuzzer.
fuzz:
    sh scripts/fuzz.sh
