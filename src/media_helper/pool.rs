//! The worker's side: starts helpers, hands them recordings, ends and replaces them.

use std::{
    fs::File,
    io::{self, Write},
    os::{fd::AsFd, unix::process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use jobs::media::{
    audio::PreparedAudio,
    decoder::{AudioDecoder, DecodeError},
};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::Semaphore,
    task::spawn_blocking,
    time::timeout,
};
use tracing::{debug, warn};

use super::{
    SUBCOMMAND, SandboxReport,
    protocol::{self, ReplyKind},
};
use crate::locks::locked;

/// Memory that decoding takes at most beside the recording itself: 30 s at 192 kHz as numbers, three times.
const WORKING_MEMORY: u64 = 160 * 1024 * 1024;
/// Longest wait for a helper to start.
const LONGEST_START: Duration = Duration::from_secs(20);
/// Recordings after which a helper is replaced: what one of them may have damaged does not last.
const RECORDINGS: u64 = 64;
/// Bytes of a reason that are read.
const LONGEST_REASON: u64 = 1024;
/// Bytes of audio for a second: 32,000 of WAV, 63,750 of Opus at its highest rate.
const BYTES_PER_SECOND: u64 = 64_000;
/// Bytes of an audio file beyond its seconds: headers, and Opus packets before the rate evens out.
const EXTRA_BYTES: u64 = 64 * 1024;

/// What a helper may take for one recording.
#[derive(Debug, Clone, Copy)]
pub struct HelperLimits {
    /// Memory, bytes.
    pub memory: u64,
    /// CPU time, seconds. Honest recordings of 30 s take a tenth of one.
    pub cpu_seconds: u64,
    /// Longest wait for the answer, on a host whose CPU is shared by many.
    pub wait: Duration,
}

impl HelperLimits {
    /// The limits for recordings of up to `max_bytes`.
    pub const fn for_recordings_of(max_bytes: u64) -> Self {
        Self {
            memory: WORKING_MEMORY.saturating_add(max_bytes),
            cpu_seconds: 10,
            wait: Duration::from_secs(60),
        }
    }
}

/// The program that helpers run.
#[derive(Debug, Clone)]
pub struct HelperProgram(PathBuf);

impl HelperProgram {
    /// The program of this process, even after its file was replaced by a deployment.
    pub fn of_this_process() -> Self {
        let link = Path::new("/proc/self/exe");
        if link.exists() {
            return Self(link.to_owned());
        }
        Self(std::env::current_exe().unwrap_or_else(|_| PathBuf::from("backend-worker")))
    }

    /// A program at this path: tests run in a binary that has no subcommands.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }
}

/// A helper cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum HelperError {
    /// The operating system refuses.
    #[error("a media helper cannot be started: {0}")]
    Start(#[from] io::Error),
    /// It started and said nothing that a helper says.
    #[error("a media helper started and did not get ready: {0}")]
    NotReady(String),
}

/// Decodes recordings in helpers. Each takes one recording at a time; as many run as the host has cores, two at least.
#[derive(Debug)]
pub struct HelperPool {
    program: HelperProgram,
    limits: HelperLimits,
    places: Semaphore,
    idle: Mutex<Vec<HelperProcess>>,
}

impl HelperPool {
    /// A pool that starts no helper before the first recording.
    pub fn new(program: HelperProgram, limits: HelperLimits) -> Arc<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Arc::new(Self {
            program,
            limits,
            places: Semaphore::new(cores.max(2)),
            idle: Mutex::default(),
        })
    }

    /// Starts a helper, and tells what confines it.
    ///
    /// # Errors
    /// When none can be started.
    pub async fn probe(&self) -> Result<SandboxReport, HelperError> {
        let helper = self.start().await?;
        let confinement = helper.confinement;
        self.idle().push(helper);
        Ok(confinement)
    }

    /// What a helper may take.
    pub const fn limits(&self) -> HelperLimits {
        self.limits
    }

    /// Process ids of the helpers that wait for a recording.
    pub fn waiting(&self) -> Vec<u32> {
        self.idle()
            .iter()
            .filter_map(|helper| helper.child.id())
            .collect()
    }

    async fn start(&self) -> Result<HelperProcess, HelperError> {
        let mut child = Command::new(&self.program.0)
            .arg(SUBCOMMAND)
            .args(["--memory", &self.limits.memory.to_string()])
            .args(["--cpu", &self.limits.cpu_seconds.to_string()])
            .args(["--recordings", &RECORDINGS.to_string()])
            .env_clear()
            // The allocator would reserve a gigabyte at once, within which no limit on memory holds.
            .env("MIMALLOC_ARENA_RESERVE", "0")
            // Memory that the last recording took is used for the next, and not given back in between.
            .env("MIMALLOC_PURGE_DELAY", "-1")
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let (Some(input), Some(mut output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(HelperError::NotReady("it has no pipes".to_owned()));
        };
        widen(&input);
        widen(&output);
        let mut hello = [0; protocol::HELLO.len() + 1];
        match timeout(LONGEST_START, output.read_exact(&mut hello)).await {
            Ok(Ok(_)) if hello.starts_with(protocol::HELLO) => Ok(HelperProcess {
                child,
                input,
                output,
                confinement: SandboxReport::of(hello[protocol::HELLO.len()]),
                recordings: 0,
            }),
            Ok(_) => Err(HelperError::NotReady(last_words(&mut child).await)),
            Err(_) => Err(HelperError::NotReady(format!("no word in {LONGEST_START:?}"))),
        }
    }

    /// A helper that waits, or a new one.
    async fn take(&self) -> Result<HelperProcess, DecodeError> {
        loop {
            let waiting = self.idle().pop();
            match waiting {
                Some(mut helper) => {
                    if matches!(helper.child.try_wait(), Ok(None)) {
                        return Ok(helper);
                    }
                    debug!("a media helper ended while it waited, and is replaced");
                }
                None => {
                    return self.start().await.map_err(|error| {
                        warn!(%error, "no recording can be decoded; check the limits on processes and memory of this host");
                        DecodeError::Interrupted(error.to_string())
                    });
                }
            }
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<HelperProcess>> {
        locked(&self.idle)
    }

    /// Why a helper gave no answer. Ends it if it has not ended.
    async fn verdict(&self, mut helper: HelperProcess, broke: ExchangeError) -> DecodeError {
        if let ExchangeError::TooSlow = broke {
            return DecodeError::Interrupted(format!(
                "audio was not decoded within {} s: its helper was ended",
                self.limits.wait.as_secs()
            ));
        }
        if let ExchangeError::Answer(why) = broke {
            return DecodeError::Recording(format!("audio cannot be decoded: its helper {why}"));
        }
        drop(helper.input);
        let words = last_words(&mut helper.child).await;
        let status = timeout(Duration::from_secs(5), helper.child.wait()).await;
        let verdict = judge(status.ok().and_then(Result::ok), &words, self.limits);
        warn!("a media helper died and is replaced; its job alone is affected: {verdict}");
        verdict
    }
}

#[async_trait]
impl AudioDecoder for HelperPool {
    async fn decode(&self, recording: Bytes, limit: Duration) -> Result<PreparedAudio, DecodeError> {
        let Ok(_place) = self.places.acquire().await else {
            return Err(DecodeError::Stopped); // The semaphore is never closed.
        };
        // Dropped on the way, with this future, the helper is killed.
        let mut helper = self.take().await?;
        let exchanged = timeout(self.limits.wait, helper.exchange(&recording, limit)).await;
        match exchanged.unwrap_or(Err(ExchangeError::TooSlow)) {
            Ok(decoded) => {
                helper.recordings += 1;
                if helper.recordings < RECORDINGS {
                    self.idle().push(helper);
                }
                decoded.map_err(DecodeError::Recording)
            }
            Err(broke) => Err(self.verdict(helper, broke).await),
        }
    }
}

/// How an exchange with a helper went wrong.
enum ExchangeError {
    /// A pipe broke: the helper has ended.
    Pipe,
    /// No answer in time.
    TooSlow,
    /// An answer that no helper gives.
    Answer(&'static str),
}

impl From<io::Error> for ExchangeError {
    fn from(_: io::Error) -> Self {
        Self::Pipe
    }
}

/// A helper process. Dropped, it is killed.
#[derive(Debug)]
struct HelperProcess {
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
    confinement: SandboxReport,
    recordings: u64,
}

impl HelperProcess {
    /// Has a recording decoded. A helper is not trusted: what it answers is held to the bounds of an honest answer.
    async fn exchange(
        &mut self,
        recording: &Bytes,
        limit: Duration,
    ) -> Result<Result<PreparedAudio, String>, ExchangeError> {
        self.input
            .write_all(&protocol::request_head(limit, recording.len()))
            .await?;
        self.send(recording).await?;
        let mut head = [0; protocol::ANSWER_HEAD];
        self.output.read_exact(&mut head).await?;
        let Some((kind, duration, length)) = protocol::read_answer_head(&head) else {
            return Err(ExchangeError::Answer("gave no valid answer"));
        };
        let most = match kind {
            ReplyKind::Audio(_) => limit.as_secs().saturating_add(1) * BYTES_PER_SECOND + EXTRA_BYTES,
            ReplyKind::Refused => LONGEST_REASON,
        };
        if length > most || duration > limit {
            return Err(ExchangeError::Answer(
                "answered with more than the recording may become",
            ));
        }
        let mut body = vec![0; usize::try_from(length).unwrap_or_default()];
        self.output.read_exact(&mut body).await?;
        Ok(match kind {
            ReplyKind::Audio(format) => Ok(PreparedAudio {
                bytes: body.into(),
                format,
                duration,
            }),
            ReplyKind::Refused => Err(plain(&body)),
        })
    }
}

impl HelperProcess {
    /// Writes a recording into the helper's pipe. One that does not fit is written by a thread that blocks: the pipe is
    /// emptied page by page, and each page would wake the worker. The end of the helper ends the thread.
    async fn send(&mut self, recording: &Bytes) -> io::Result<()> {
        if recording.len() <= PIPE / 2 {
            return self.input.write_all(recording).await;
        }
        let mut pipe = File::from(self.input.as_fd().try_clone_to_owned()?);
        let recording = recording.clone();
        let written = spawn_blocking(move || {
            let flags = fcntl_getfl(&pipe)?;
            fcntl_setfl(&pipe, flags - OFlags::NONBLOCK)?;
            pipe.write_all(&recording)?;
            fcntl_setfl(&pipe, flags)?;
            Ok(())
        });
        written.await.map_err(io::Error::other)?
    }
}

/// What a pipe holds, bytes: as much as Linux lets any process ask for. By the usual 64 KB a long recording wakes
/// both sides eighty times.
const PIPE: usize = 1024 * 1024;

/// Lets a pipe hold more at a time. One that cannot carries the same bytes, in more pieces.
fn widen(pipe: &impl AsFd) {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::pipe::fcntl_setpipe_size(pipe, PIPE) {
        debug!(%error, "a media helper's pipe keeps its size");
    }
}

/// A helper's text without control characters.
fn plain(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    text.chars().filter(|c| !c.is_control()).collect()
}

/// What a helper wrote to standard error before it ended.
async fn last_words(child: &mut Child) -> String {
    let mut words = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        let mut stderr = stderr.take(LONGEST_REASON);
        let _ = timeout(Duration::from_secs(5), stderr.read_to_end(&mut words)).await;
    }
    plain(&words)
}

/// What a helper died of, from its exit status and its last words, which are those of Rust's runtime.
fn judge(status: Option<ExitStatus>, words: &str, limits: HelperLimits) -> DecodeError {
    const SIGKILL: i32 = 9;
    const SIGTERM: i32 = 15;
    const SIGXCPU: i32 = 24;
    let megabytes = limits.memory / 1_000_000;
    let recording = |why: String| DecodeError::Recording(format!("audio cannot be decoded: {why}"));
    if words.contains("memory allocation of") || words.contains("memory allocation failed") {
        return recording(format!("it takes more than {megabytes} MB of memory"));
    }
    if words.contains("overflowed its stack") {
        return recording("it nests too deeply".to_owned());
    }
    match status.and_then(|status| status.signal()) {
        Some(SIGXCPU) => recording(format!("it takes more than {} s of CPU time", limits.cpu_seconds)),
        // Nothing in a helper does that: the host ran out of memory, or another process ended it.
        Some(SIGKILL | SIGTERM) => DecodeError::Interrupted(
            "the process that decoded the audio was killed; the host may be out of memory".to_owned(),
        ),
        Some(signal) => recording(format!("its decoder died of signal {signal}")),
        None => recording("its decoder ended".to_owned()),
    }
}
