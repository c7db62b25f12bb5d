//! A connection whose server's chunks are merged.

use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, ready},
};

use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};

use super::chunk_merger::ChunkMerger;

/// Most bytes that are read at once: a sixteenth more than hyper's largest buffer.
const READ_AT_ONCE: usize = 68 * 1024;

/// A connection whose server's chunks are merged.
#[derive(Debug)]
pub(super) struct MergedStream<S> {
    inner: S,
    merger: ChunkMerger,
    /// Bytes for which the last buffer had no room.
    left: Vec<u8>,
}

impl<S> MergedStream<S> {
    pub(super) fn new(inner: S) -> Self {
        Self {
            inner,
            merger: ChunkMerger::default(),
            left: Vec::new(),
        }
    }
}

impl<S: Read + Unpin> Read for MergedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let room = buffer.remaining();
        let kept = this.left.len().min(room);
        buffer.put_slice(&this.left[..kept]);
        this.left.drain(..kept);
        if this.merger.is_idle() && kept == 0 {
            return Pin::new(&mut this.inner).poll_read(context, buffer);
        }
        while buffer.remaining() > 0 && !this.merger.is_idle() {
            // Size lines fall away: hyper reads more at once as long as it gets whole buffers.
            let most = (buffer.remaining() + buffer.remaining() / 16).min(READ_AT_ONCE);
            let mut space = [const { MaybeUninit::uninit() }; READ_AT_ONCE];
            let mut raw = ReadBuf::uninit(&mut space[..most]);
            match Pin::new(&mut this.inner).poll_read(context, raw.unfilled()) {
                Poll::Pending if buffer.remaining() < room => break,
                answer => ready!(answer)?,
            }
            if raw.filled().is_empty() {
                buffer_or_keep(&this.merger.held_back(), &mut buffer, &mut this.left);
                break;
            }
            let left = &mut this.left;
            this.merger.take(raw.filled(), &mut |bytes| {
                buffer_or_keep(bytes, &mut buffer, left);
            });
            // Nothing yet: a size line is held back.
            if buffer.remaining() < room {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}

fn buffer_or_keep(bytes: &[u8], buffer: &mut ReadBufCursor<'_>, left: &mut Vec<u8>) {
    let (now, later) = bytes.split_at(bytes.len().min(buffer.remaining()));
    buffer.put_slice(now);
    left.extend_from_slice(later);
}

impl<S: Write + Unpin> Write for MergedStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.merger.request();
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.merger.request();
        Pin::new(&mut self.inner).poll_write_vectored(context, parts)
    }
}

impl<S: Connection> Connection for MergedStream<S> {
    fn connected(&self) -> Connected {
        self.inner.connected()
    }
}
