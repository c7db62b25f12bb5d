//! Inserts faults into the scripts, one at a time: the scenarios, or a few sequences against the model, must find each.
//! An undetected fault shows a gap in the tests.

use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

use super::{
    breaking, limiting,
    rig::{Rig, T0},
    sequences, together,
};

/// Script, text, what is put in its place.
const MUTATIONS: &[(&str, &str, &str)] = &[
    ("common", "call('DEL', PROBES)", ""),
    ("common", "epoch = max(epoch + 1, now)", ""),
    (
        "common",
        "if meta[2] ~= state or epoch == 0 then",
        "if epoch == 0 then",
    ),
    ("common", "or epoch == 0 then", "then"),
    (
        "common",
        "if not ahead.breaker then now = max(now, breaker_mark) end",
        "",
    ),
    (
        "common",
        "if not ahead.limits then now = max(now, limits_mark) end",
        "",
    ),
    ("common", "breaker_mark - now > BIG_STEP", "false"),
    ("common", "limits_mark - now > BIG_STEP", "false"),
    ("common", "  draw_back(LEASES)\n", ""),
    ("common", "call('DEL', SUCCESSES)", ""),
    ("common", "n >= 0 and n < 1e15", "true"),
    (
        "common",
        "if not calls or tonumber(calls_epoch) ~= epoch then",
        "if not calls then",
    ),
    (
        "common",
        "opens_epoch == epoch and last_open_time(open_for) or open_for",
        "last_open_time(open_for)",
    ),
    (
        "common",
        "opens_epoch == epoch and last_open_time(open_for) or open_for",
        "open_for",
    ),
    (
        "common",
        "min(LONGEST_OPEN, open_for * 2 ^ min(max(opens - 1, 0), 20))",
        "open_for * 2 ^ min(max(opens - 1, 0), 20)",
    ),
    ("common", "or ramp_epoch ~= epoch or", "or"),
    ("common", "since < RAMP_STEP and 0.25 or 0.5", "0.5"),
    ("common", "since >= 2 * RAMP_STEP", "since >= RAMP_STEP"),
    (
        "common",
        "opens, opens_epoch, ramp_epoch, fault = 0, 0, 0, nil",
        "",
    ),
    (
        "admit",
        "opened_at + open_time(open_for) - now",
        "opened_at + open_for - now",
    ),
    (
        "admit",
        "fault and successes == 0 and 1 or half_open_max",
        "half_open_max",
    ),
    (
        "limits",
        "local limit = ramped(max_concurrent)",
        "local limit = max_concurrent",
    ),
    (
        "limits",
        "if not fault or state ~= 'CLOSED' or not failure_threshold then",
        "if true then",
    ),
    ("settle", "failed * 100 >= share * of_calls", "true"),
    (
        "settle",
        "failed * 100 >= share * of_calls",
        "failed * 100 > share * of_calls",
    ),
    (
        "settle",
        "string.sub(calls .. ended, -LAST_CALLS)",
        "calls .. ended",
    ),
    ("settle", "if state == 'CLOSED' then note_call('S') end", ""),
    ("settle", "table.remove(ring, 1)", "break"),
    ("settle", "local stable = state == 'CLOSED' and", "local stable ="),
    ("settle", "max(window, last_open_time(open_for))", "window"),
    ("settle", "local n = stable and 1 or opens + 1", "local n = 1"),
    ("settle", "call('HSET', META, 'ramp', epoch)", ""),
    ("settle", "note_fault(nil)", ""),
    ("settle", "note_fault(word)", ""),
    ("admit", "if lease_epoch and expires > now then", "if false then"),
    (
        "admit",
        "half_open_max = max(half_open_max, success_threshold)",
        "",
    ),
    (
        "admit",
        "if state == 'HALF_OPEN' and successes >= success_threshold then",
        "if false then",
    ),
    (
        "admit",
        "if not opened_at or opened_at > now then",
        "opened_at = opened_at or 0\n  if false then",
    ),
    ("admit", "if left > 0", "if left >= 0"),
    ("admit", "call('ZREMRANGEBYSCORE', PROBES, '-inf', now)", "0"),
    (
        "admit",
        "live_probes + successes >= (fault",
        "live_probes >= (fault",
    ),
    (
        "admit",
        "if wait > longest then",
        "if why == nil and wait > 0 then",
    ),
    (
        "limits",
        "call('ZCOUNT', LEASES, '(' .. now, '+inf')",
        "call('ZCARD', LEASES)",
    ),
    (
        "limits",
        "local first_counted = bucket - BUCKETS",
        "local first_counted = bucket - BUCKETS + 2",
    ),
    (
        "limits",
        "(number + 1) * SLICE + WINDOW + GRACE - now",
        "number * SLICE + WINDOW + GRACE - now",
    ),
    (
        "admit",
        "if estimate > 0 and tpm > 0 and estimate > tpm then",
        "if false then",
    ),
    (
        "limits",
        "used.in_flight and used.in_flight + 1",
        "used.in_flight",
    ),
    ("limits", "used.requests + 1", "used.requests + 2"),
    ("limits", "used.q + 1", "used.q + 2"),
    ("limits", "total = total - left(slice_kind)", ""),
    ("settle", "call('HEXISTS', WIN, 'r' .. bucket) == 1", "true"),
    ("settle", "owe(bucket, 'r', 'q' .. slice, 'requests', -1)", ""),
    ("settle", "leases[id] = nil", ""),
    (
        "settle",
        "now + throttle > (whole(call('HGET', WIN, 'throttled')) or 0)",
        "true",
    ),
    (
        "settle",
        "local was_probe = probe ~= '0' and call('ZREM', PROBES, id) == 1",
        "local was_probe = false",
    ),
    (
        "settle",
        "if was_probe and state == 'HALF_OPEN' then",
        "if false then",
    ),
    (
        "settle",
        "if tonumber(lease_epoch) ~= epoch then",
        "if false then",
    ),
    ("settle", "elseif expires <= now then", "elseif false then"),
    ("settle", "call('EXISTS', FAILURES) == 1", "true"),
    ("settle", "at > now - window", "true"),
    (
        "settle",
        "if count >= failure_threshold and",
        "if count > failure_threshold and",
    ),
    (
        "settle",
        "if count >= success_threshold then",
        "if count > success_threshold then",
    ),
    (
        "renew",
        "(whole(call('ZSCORE', LEASES, id)) or 0) > now",
        "(whole(call('ZSCORE', LEASES, id)) or 0) > 0",
    ),
    ("renew", "call('ZADD', PROBES, now + lease_ttl, id)", ""),
];

#[test]
fn every_fault_in_the_scripts_is_found() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let rig = runtime.block_on(Rig::start());
    assert_eq!(first_failure(&rig, &runtime), None, "the scripts as they are");
    let mut survivors = Vec::new();
    for (script, text, fault) in MUTATIONS {
        let found_text = std::cell::Cell::new(false);
        let faulty = rig.with_scripts(|name, source| {
            if name != *script {
                return source.to_owned();
            }
            found_text.set(source.contains(text));
            source.replacen(text, fault, 1)
        });
        assert!(found_text.get(), "{script}.lua has no {text:?}");
        if first_failure(&faulty, &runtime).is_none() {
            survivors.push(*text);
        }
    }
    assert_eq!(survivors, [""; 0], "nobody found these");
    assert_eq!(
        first_failure(&rig, &runtime),
        None,
        "the scripts as they are, at the end"
    );
}

fn first_failure(faulty: &Rig, runtime: &tokio::runtime::Runtime) -> Option<String> {
    let scenarios = async {
        faulty.set_clock(T0).await;
        breaking::all(faulty).await?;
        limiting::all(faulty).await?;
        together::check(faulty, 20).await
    };
    if let Err(failure) = runtime.block_on(scenarios) {
        return Some(format!("{failure:#}"));
    }
    // Shrinking would take longer than finding.
    let config = proptest::test_runner::Config {
        max_shrink_iters: 0,
        ..sequences::config(15)
    };
    let runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    sequences::check(faulty, runtime, runner, 250).err()
}
