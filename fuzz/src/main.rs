//! Every fuzz target in one binary: `FUZZ_TARGET` names the one that libFuzzer feeds.
#![no_main]

use std::{process, sync::LazyLock};

use hostile::Target;

static TARGET: LazyLock<&Target> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    let all = || {
        jobs::fuzzing::TARGETS
            .iter()
            .chain(backend_worker::fuzzing::TARGETS)
    };
    all()
        .find(|target| target.name() == name)
        .copied()
        .unwrap_or_else(|| {
            let known: Vec<_> = all().map(|target| target.name()).collect();
            eprintln!("FUZZ_TARGET is {name:?}; the targets are {}", known.join(", "));
            process::exit(2)
        })
});

libfuzzer_sys::fuzz_target!(|input: &[u8]| TARGET.check(input));
