//! A helper process, as the worker sees it: its start, one exchange for each medium, and its end.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use bytes::Bytes;
use jobs::media::{audio::PreparedAudio, decoder::DecodeError, image::MAX_BYTES};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, ChildStdin, ChildStdout, Command},
    task::spawn_blocking,
    time::timeout,
};
use tracing::{debug, warn};

use super::{
    HelperLimits, SUBCOMMAND, SandboxReport,
    protocol::{self, HelperRequest, ReplyKind},
    verdict::{HelperVerdict, judge, last_words, plain},
};

/// Longest wait for a helper to start.
const LONGEST_START: Duration = Duration::from_secs(20);
/// Media after which a helper is replaced: what one of them may have damaged does not last.
pub(super) const RECORDINGS: u64 = 64;
/// Bytes of a reason that are read.
pub(super) const LONGEST_REASON: u64 = 1024;
/// Bytes of audio for a second: 32,000 of WAV, 63,750 of Opus at its highest rate.
const BYTES_PER_SECOND: u64 = 64_000;
/// Bytes of an audio file beyond its seconds: headers, and Opus packets before the rate evens out.
const EXTRA_BYTES: u64 = 64 * 1024;

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

/// The result of a helper's work on a medium.
pub(super) enum HelperResult {
    Audio(PreparedAudio),
    Image(Bytes),
}

/// How an exchange with a helper went wrong.
pub(super) enum ExchangeError {
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
pub(super) struct HelperProcess {
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
    confinement: SandboxReport,
    media: u64,
}

impl HelperProcess {
    /// Starts a helper, and waits until it has confined itself.
    ///
    /// # Errors
    /// The operating system's, or that the helper does not get ready.
    pub(super) async fn start(program: &HelperProgram, limits: HelperLimits) -> Result<Self, HelperError> {
        let mut command = Command::new(&program.0);
        command
            .arg(SUBCOMMAND)
            .args(["--memory", &limits.memory.to_string()])
            .args(["--cpu", &limits.cpu_seconds.to_string()])
            .args(["--recordings", &RECORDINGS.to_string()])
            .env_clear()
            // The allocator would reserve a gigabyte at once, within which no limit on memory holds.
            .env("MIMALLOC_ARENA_RESERVE", "0")
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        if limits.keeps_memory {
            command.env("MIMALLOC_PURGE_DELAY", "-1");
        }
        let mut child = command.spawn()?;
        let (Some(input), Some(mut output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(HelperError::NotReady("it has no pipes".to_owned()));
        };
        widen(&input);
        widen(&output);
        let mut hello = [0; protocol::HELLO.len() + 1];
        match timeout(LONGEST_START, output.read_exact(&mut hello)).await {
            Ok(Ok(_)) if hello.starts_with(protocol::HELLO) => Ok(Self {
                child,
                input,
                output,
                confinement: SandboxReport::of(hello[protocol::HELLO.len()]),
                media: 0,
            }),
            Ok(_) => Err(HelperError::NotReady(last_words(&mut child).await)),
            Err(_) => Err(HelperError::NotReady(format!("no word in {LONGEST_START:?}"))),
        }
    }

    pub(super) const fn confinement(&self) -> SandboxReport {
        self.confinement
    }

    pub(super) fn id(&self) -> Option<u32> {
        self.child.id()
    }

    pub(super) fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Counts a medium, and tells how many there were.
    pub(super) fn worked(&mut self) -> u64 {
        self.media += 1;
        self.media
    }

    /// Finds out why it gave no answer. Ends it if it has not ended.
    pub(super) async fn verdict(
        mut self,
        broke: ExchangeError,
        (medium, limits): (&'static str, HelperLimits),
    ) -> HelperVerdict {
        match broke {
            ExchangeError::TooSlow => HelperVerdict::OutOfTime(DecodeError::Interrupted(format!(
                "{medium} was not decoded within {} s: its helper was ended",
                limits.wait.as_secs()
            ))),
            ExchangeError::Answer(why) => HelperVerdict::Final(DecodeError::Medium(format!(
                "{medium} cannot be decoded: its helper {why}"
            ))),
            ExchangeError::Pipe => {
                drop(self.input);
                let words = last_words(&mut self.child).await;
                let status = timeout(Duration::from_secs(5), self.child.wait()).await;
                let verdict = judge(status.ok().and_then(Result::ok), &words, (medium, limits));
                if let HelperVerdict::Final(error) = &verdict {
                    warn!("a media helper died and is replaced; its job alone is affected: {error}");
                }
                verdict
            }
        }
    }

    /// Has a medium decoded. A helper is not trusted: what it answers is held to the bounds of an honest answer.
    pub(super) async fn exchange(
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
