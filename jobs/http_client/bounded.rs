//! A connection on which a server may send only so much to what it was sent.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use hyper_util::client::legacy::connect::{Connected, Connection};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// A connection that fails once more than `most` bytes have come without one that was written in between. It bounds what
/// HTTP/2 does not tell of: frames before an answer. An answer that is longer is acknowledged piece by piece.
#[derive(Debug)]
pub(super) struct BoundedConnection {
    stream: TcpStream,
    most: u64,
    /// Bytes since the last that were written.
    come: u64,
}

impl BoundedConnection {
    pub(super) fn new(stream: TcpStream, most: u64) -> Self {
        Self {
            stream,
            most,
            come: 0,
        }
    }

    fn wrote(&mut self, written: &Poll<io::Result<usize>>) {
        if matches!(written, Poll::Ready(Ok(1..))) {
            self.come = 0;
        }
    }
}

impl AsyncRead for BoundedConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        self.come += (buffer.filled().len() - before) as u64;
        Poll::Ready(match self.come > self.most {
            true => Err(io::Error::other(format!(
                "more than {} bytes came without a pause",
                self.most
            ))),
            false => Ok(()),
        })
    }
}

impl AsyncWrite for BoundedConnection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.wrote(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.wrote(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl Connection for BoundedConnection {
    fn connected(&self) -> Connected {
        self.stream.connected()
    }
}
