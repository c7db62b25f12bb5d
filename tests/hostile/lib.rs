//! Hostile input, shared by the fuzz targets (`fuzz/`) and the tests.
//!
//! A [`Target`] is one parser of foreign data with its promise. libFuzzer calls [`Target::check`] with generated input;
//! the tests call [`Target::run`], which derives a fixed number of cases from the committed seeds, the same ones each
//! time.
//!
//! # Layout
//! - `edit`: how a good document is made a bad one.
//! - `meter`: counts the memory that a parser takes.
//! - `panics`: lets through the panics that the worker is built to survive.

mod edit;
mod meter;
mod panics;

use std::{fs, path::Path, sync::Once};

use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner},
};

pub use panics::contained;

/// Cases that a test makes for each target, where it says nothing else.
const CASES: u32 = 2_000;
/// Memory that any parser may take, whatever the size of its input, bytes.
const ROOM: usize = 256 * 1024;
/// Memory that a parser may take for each byte of its input: `[0]` within a list takes 4 bytes, and as a `Value` one
/// list with room for four, and its place in another, which exists thrice while that grows.
const FACTOR: usize = 192;

/// A parser of foreign data, and what it promises.
#[derive(Debug)]
pub struct Target {
    name: &'static str,
    property: fn(&[u8]),
    room: usize,
    factor: usize,
    cases: u32,
    warm: Once,
}

impl Target {
    /// A parser; `property` feeds it, and panics when a promise is broken.
    pub const fn new(name: &'static str, property: fn(&[u8])) -> Self {
        Self {
            name,
            property,
            room: ROOM,
            factor: FACTOR,
            cases: CASES,
            warm: Once::new(),
        }
    }

    /// Sets how much memory it may take, whatever the size of its input, bytes.
    #[must_use]
    pub const fn with_room(mut self, bytes: usize) -> Self {
        self.room = bytes;
        self
    }

    /// Sets how much memory it may take for each byte of its input: less where it builds no tree.
    #[must_use]
    pub const fn with_factor(mut self, factor: usize) -> Self {
        self.factor = factor;
        self
    }

    /// Sets how many cases a test makes: fewer for what is slow.
    #[must_use]
    pub const fn with_cases(mut self, cases: u32) -> Self {
        self.cases = cases;
        self
    }

    /// Its name, which its seeds and its binary bear.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Feeds it one input.
    ///
    /// # Panics
    /// When it breaks a promise, or takes more memory than it may.
    pub fn check(&self, input: &[u8]) {
        // What is made once and kept, a client or a runtime, does not count.
        self.warm.call_once(|| (self.property)(b""));
        let taken = meter::peak_of(|| (self.property)(input));
        let most = self.room + self.factor * input.len();
        assert!(
            taken <= most,
            "{}: {taken} bytes of memory for an input of {} bytes, {most} are allowed",
            self.name,
            input.len()
        );
    }

    /// Feeds it its seeds, and a fixed number of inputs made out of them.
    ///
    /// # Panics
    /// As [`Self::check`], with the smallest input that was found.
    pub fn run(&self) {
        let seeds = seeds(self.name);
        for (name, seed) in &seeds {
            println!("seed {name}");
            self.check(seed);
        }
        let seeds = seeds.into_iter().map(|(_, seed)| seed).collect();
        let outcome = runner(self.cases).run(&edit::inputs(seeds), |input| {
            self.check(&input);
            Ok(())
        });
        match outcome {
            Ok(()) => {}
            Err(TestError::Fail(why, input)) => {
                panic!("{}: {why}\ninput: b\"{}\"", self.name, input.escape_ascii())
            }
            Err(TestError::Abort(why)) => panic!("{}: {why}", self.name),
        }
    }
}

/// A fixed number of inputs made out of these seeds, the same ones each time.
///
/// # Panics
/// When there are no seeds.
pub fn inputs(seeds: Vec<Vec<u8>>, count: usize) -> Vec<Vec<u8>> {
    stream(seeds).take(count).collect()
}

/// Inputs made out of these seeds without end, the same ones each time.
///
/// # Panics
/// When there are no seeds.
pub fn stream(seeds: Vec<Vec<u8>>) -> impl Iterator<Item = Vec<u8>> {
    let (strategy, mut runner) = (edit::inputs(seeds), runner(CASES));
    std::iter::repeat_with(move || {
        strategy
            .new_tree(&mut runner)
            .expect("nothing is filtered")
            .current()
    })
}

/// The seeds of a target, by name.
///
/// # Panics
/// When there are none.
pub fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/seeds")
        .join(target);
    let files = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut seeds: Vec<_> = files
        .map(|file| {
            let path = file.expect("the folder can be read").path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            (name, fs::read(&path).expect("a seed can be read"))
        })
        .collect();
    assert!(!seeds.is_empty(), "{}: no seeds", folder.display());
    seeds.sort();
    seeds
}

fn runner(cases: u32) -> TestRunner {
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 5_000,
        ..Config::default()
    };
    TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha))
}
