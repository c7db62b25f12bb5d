//! The worker's side: starts helpers, hands them recordings, ends and replaces them.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use jobs::media::{
    audio::PreparedAudio,
    decoder::{DecodeError, MediaDecoder},
    image::{ImagePlan, MAX_BYTES},
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
    protocol::{self, HelperRequest, ReplyKind},
    verdict::{judge, last_words, plain},
};
use crate::locks::locked;

/// Memory that decoding takes at most beside the recording itself: 30 s at 192 kHz as numbers, three times.
const WORKING_MEMORY: u64 = 160 * 1024 * 1024;
/// Longest wait for a helper to start.
const LONGEST_START: Duration = Duration::from_secs(20);
/// Recordings after which a helper is replaced: what one of them may have damaged does not last.
const RECORDINGS: u64 = 64;
/// Bytes of a reason that are read.
pub(super) const LONGEST_REASON: u64 = 1024;
/// Bytes of audio for a second: 32,000 of WAV, 63,750 of Opus at its highest rate.
const BYTES_PER_SECOND: u64 = 64_000;
/// Bytes of an audio file beyond its seconds: headers, and Opus packets before the rate evens out.
const EXTRA_BYTES: u64 = 64 * 1024;

/// The limits of a helper for one recording.
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
    /// The limits for images of up to [`MOST_PIXELS`](jobs::media::image::reshape::MOST_PIXELS).
    pub const FOR_IMAGES: Self = Self {
        memory: 512 * 1024 * 1024,
        cpu_seconds: 20,
        wait: Duration::from_secs(60),
    };

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

/// Helpers for one kind of medium, which have the same limits.
#[derive(Debug)]
struct HelperGroup {
    /// The medium, in messages.
    medium: &'static str,
    limits: HelperLimits,
    places: Semaphore,
    idle: Mutex<Vec<HelperProcess>>,
}

impl HelperGroup {
    fn new(medium: &'static str, limits: HelperLimits, places: usize) -> Self {
        Self {
            medium,
            limits,
            places: Semaphore::new(places),
            idle: Mutex::default(),
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<HelperProcess>> {
        locked(&self.idle)
    }
}

/// Decodes media in helpers. Each takes one medium at a time. As many decode recordings as the host has cores, two at
/// least; one changes images, because that takes more memory.
#[derive(Debug)]
pub struct HelperPool {
    program: HelperProgram,
    recordings: HelperGroup,
    images: HelperGroup,
}

impl HelperPool {
    /// A pool that starts no helper before the first medium. `limits` are those for recordings.
    pub fn new(program: HelperProgram, limits: HelperLimits) -> Arc<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Arc::new(Self {
            program,
            recordings: HelperGroup::new("audio", limits, cores.max(2)),
            images: HelperGroup::new("image", HelperLimits::FOR_IMAGES, 1),
        })
    }

    /// Starts a helper, and tells what confines it.
    ///
    /// # Errors
    /// When none can be started.
    pub async fn probe(&self) -> Result<SandboxReport, HelperError> {
        let helper = self.start(&self.recordings).await?;
        let confinement = helper.confinement;
        self.recordings.idle().push(helper);
        Ok(confinement)
    }

    /// The limits of a helper for a recording.
    pub const fn limits(&self) -> HelperLimits {
        self.recordings.limits
    }

    /// Process ids of the helpers that wait for a medium.
    pub fn waiting(&self) -> Vec<u32> {
        let ids = |group: &HelperGroup| -> Vec<u32> {
            let idle = group.idle();
            idle.iter().filter_map(|helper| helper.child.id()).collect()
        };
        [ids(&self.recordings), ids(&self.images)].concat()
    }

    async fn start(&self, group: &HelperGroup) -> Result<HelperProcess, HelperError> {
        let mut child = Command::new(&self.program.0)
            .arg(SUBCOMMAND)
            .args(["--memory", &group.limits.memory.to_string()])
            .args(["--cpu", &group.limits.cpu_seconds.to_string()])
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
    async fn take(&self, group: &HelperGroup) -> Result<HelperProcess, DecodeError> {
        loop {
            let waiting = group.idle().pop();
            match waiting {
                Some(mut helper) => {
                    if matches!(helper.child.try_wait(), Ok(None)) {
                        return Ok(helper);
                    }
                    debug!("a media helper ended while it waited, and is replaced");
                }
                None => {
                    return self.start(group).await.map_err(|error| {
                        warn!(%error, "no medium can be decoded; check the limits on processes and memory of this host");
                        DecodeError::Interrupted(error.to_string())
                    });
                }
            }
        }
    }

    /// Why a helper gave no answer. Ends it if it has not ended.
    async fn verdict(group: &HelperGroup, mut helper: HelperProcess, broke: ExchangeError) -> DecodeError {
        let (medium, limits) = (group.medium, group.limits);
        if let ExchangeError::TooSlow = broke {
            return DecodeError::Interrupted(format!(
                "{medium} was not decoded within {} s: its helper was ended",
                limits.wait.as_secs()
            ));
        }
        if let ExchangeError::Answer(why) = broke {
            return DecodeError::Medium(format!("{medium} cannot be decoded: its helper {why}"));
        }
        drop(helper.input);
        let words = last_words(&mut helper.child).await;
        let status = timeout(Duration::from_secs(5), helper.child.wait()).await;
        let verdict = judge(status.ok().and_then(Result::ok), &words, (medium, limits));
        warn!("a media helper died and is replaced; its job alone is affected: {verdict}");
        verdict
    }
}

impl HelperPool {
    /// Hands a medium to a helper of this group.
    async fn run(
        &self,
        group: &HelperGroup,
        medium: &Bytes,
        request: HelperRequest,
    ) -> Result<HelperResult, DecodeError> {
        let Ok(_place) = group.places.acquire().await else {
            return Err(DecodeError::Stopped); // The semaphore is never closed.
        };
        // Dropped on the way, with this future, the helper is killed.
        let mut helper = self.take(group).await?;
        let exchanged = timeout(group.limits.wait, helper.exchange(medium, request)).await;
        match exchanged.unwrap_or(Err(ExchangeError::TooSlow)) {
            Ok(done) => {
                helper.recordings += 1;
                if helper.recordings < RECORDINGS {
                    group.idle().push(helper);
                }
                done.map_err(DecodeError::Medium)
            }
            Err(broke) => Err(Self::verdict(group, helper, broke).await),
        }
    }
}

#[async_trait]
impl MediaDecoder for HelperPool {
    async fn decode(&self, recording: Bytes, limit: Duration) -> Result<PreparedAudio, DecodeError> {
        let request = HelperRequest::Audio(limit);
        match self.run(&self.recordings, &recording, request).await? {
            HelperResult::Audio(audio) => Ok(audio),
            HelperResult::Image(_) => Err(DecodeError::Interrupted(
                "a helper answered with an image".to_owned(),
            )),
        }
    }

    async fn reshape(&self, image: Bytes, plan: ImagePlan) -> Result<Bytes, DecodeError> {
        match self.run(&self.images, &image, HelperRequest::Image(plan)).await? {
            HelperResult::Image(image) => Ok(image),
            HelperResult::Audio(_) => Err(DecodeError::Interrupted(
                "a helper answered with audio".to_owned(),
            )),
        }
    }
}

/// The result of a helper's work on a medium.
enum HelperResult {
    Audio(PreparedAudio),
    Image(Bytes),
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
    /// Has a medium decoded. A helper is not trusted: what it answers is held to the bounds of an honest answer.
    async fn exchange(
        &mut self,
        medium: &Bytes,
        request: HelperRequest,
    ) -> Result<Result<HelperResult, String>, ExchangeError> {
        self.input
            .write_all(&protocol::request_head(request, medium.len()))
            .await?;
        self.send(medium).await?;
        let mut head = [0; protocol::ANSWER_HEAD];
        self.output.read_exact(&mut head).await?;
        let Some((kind, duration, length)) = protocol::read_answer_head(&head) else {
            return Err(ExchangeError::Answer("gave no valid answer"));
        };
        let (most, longest) = match (kind, request) {
            (ReplyKind::Audio(_), HelperRequest::Audio(limit)) => {
                let seconds = limit.as_secs().saturating_add(1);
                (seconds * BYTES_PER_SECOND + EXTRA_BYTES, limit)
            }
            (ReplyKind::Image, HelperRequest::Image(_)) => (MAX_BYTES as u64, Duration::ZERO),
            (ReplyKind::Refused, _) => (LONGEST_REASON, Duration::MAX),
            _ => return Err(ExchangeError::Answer("gave no valid answer")),
        };
        if length > most || duration > longest {
            return Err(ExchangeError::Answer(
                "answered with more than the medium may become",
            ));
        }
        let mut body = vec![0; usize::try_from(length).unwrap_or_default()];
        self.output.read_exact(&mut body).await?;
        Ok(match kind {
            ReplyKind::Audio(format) => Ok(HelperResult::Audio(PreparedAudio {
                bytes: body.into(),
                format,
                duration,
            })),
            ReplyKind::Image => Ok(HelperResult::Image(body.into())),
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

/// Capacity of a pipe, bytes: as much as Linux lets any process ask for. By the usual 64 KB a long recording wakes
/// both sides eighty times.
const PIPE: usize = 1024 * 1024;

/// Lets a pipe hold more at a time. One that cannot carries the same bytes, in more pieces.
fn widen(pipe: &impl AsFd) {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::pipe::fcntl_setpipe_size(pipe, PIPE) {
        debug!(%error, "a media helper's pipe keeps its size");
    }
}
