//! The helper's side: confine, then decode media from standard input until it closes.

use std::{
    io::{self, Read, Write},
    panic,
    process::ExitCode,
    time::Duration,
};

use bytes::Bytes;
use clap::Args;
use jobs::media::{decoder, image::reshape};

use super::{
    protocol::{self, HelperRequest, ReplyKind},
    sandbox,
};

/// The limits that the worker gives a helper.
#[derive(Debug, Clone, Copy, Args)]
pub struct HelperArgs {
    /// Bytes of memory that decoding may take.
    #[arg(long)]
    pub memory: u64,
    /// Seconds of CPU time for one recording.
    #[arg(long)]
    pub cpu: u64,
    /// Recordings until the worker replaces the helper.
    #[arg(long)]
    pub recordings: u64,
}

/// Decodes recordings until standard input closes.
pub fn serve(args: &HelperArgs) -> ExitCode {
    // The worker is told by an answer; a decoder's panic message does not help, and may quote the recording.
    panic::set_hook(Box::new(|_| {}));
    let hello = sandbox::confine(
        args.memory,
        args.cpu.saturating_add(1).saturating_mul(args.recordings),
    );
    let served = hello.and_then(|confinement| {
        let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
        output.write_all(protocol::HELLO)?;
        output.write_all(&[confinement.code()])?;
        output.flush()?;
        while answer(args, &mut input, &mut output)? {}
        Ok(())
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Answers one request; `false` at the end of the input.
fn answer(args: &HelperArgs, input: &mut impl Read, output: &mut impl Write) -> io::Result<bool> {
    let mut head = [0; protocol::REQUEST_HEAD];
    match input.read_exact(&mut head) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
        other => other?,
    }
    let Some((request, length)) = protocol::read_request_head(&head) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    sandbox::allow_cpu(args.cpu)?;
    let mut medium = Vec::new();
    let room = usize::try_from(length).map_err(io::Error::other)?;
    medium.try_reserve_exact(room).map_err(io::Error::other)?;
    // Read into the reserve: megabytes of zeros that are overwritten at once cost half a millisecond.
    if input.take(length).read_to_end(&mut medium)? != room {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let done = match request {
        HelperRequest::Audio(limit) => decoder::decode(Bytes::from(medium), limit)
            .map(|audio| (ReplyKind::Audio(audio.format), audio.duration, audio.bytes)),
        HelperRequest::Image(plan) => {
            reshape::reshape(&medium, plan).map(|image| (ReplyKind::Image, Duration::ZERO, image.into()))
        }
    };
    let (kind, duration, body) = done.unwrap_or_else(|why| (ReplyKind::Refused, Duration::ZERO, why.into()));
    output.write_all(&protocol::answer_head(kind, duration, body.len()))?;
    output.write_all(&body)?;
    output.flush()?;
    Ok(true)
}
