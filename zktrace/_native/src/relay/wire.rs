//! One side of a connection: a socket, or TLS over one, with the calls that a loop wants of either.
//!
//! What TLS has encrypted and the socket does not take waits here (`poll_flushed`), at most `BUFFER` of it; whoever writes sees to
//! that before it writes more, or reads more of what is to be written. Knows nothing of what the bytes mean, nor of certificates.

use std::future::poll_fn;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::pin::Pin;
use std::task::{ready, Context, Poll};
use std::time::Duration;

use rustls::Connection;
use socket2::SockRef;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;

/// Encrypted bytes that wait for the socket: a read's worth.
const BUFFER: usize = 64 * 1024;

pub enum Wire {
    Plain(TcpStream),
    Tls(Box<Secured>),
}

pub struct Secured {
    socket: TcpStream,
    session: Connection,
    /// The other side has been told that no more will come.
    closed: bool,
    /// The connection ends with a reset: nothing is said any more.
    reset: bool,
}

/// The socket as TLS's library wants it.
struct Raw<'a>(&'a TcpStream);

impl Read for Raw<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(into)
    }
}

impl Write for Raw<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn blocked<T>() -> io::Result<T> {
    Err(ErrorKind::WouldBlock.into())
}

impl Secured {
    /// Reads from the socket and decrypts; 0: its end. An error of TLS is told to the other side.
    fn fill(&mut self) -> io::Result<usize> {
        let count = self.session.read_tls(&mut Raw(&self.socket))?;
        if let Err(error) = self.session.process_new_packets() {
            // The alert; whether it arrives does not matter any more.
            let _ = self.session.write_tls(&mut Raw(&self.socket));
            return Err(io::Error::new(ErrorKind::InvalidData, error));
        }
        Ok(count)
    }

    fn poll_flushed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.session.wants_write() {
            match self.session.write_tls(&mut Raw(&self.socket)) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    ready!(self.socket.poll_write_ready(cx))?;
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_flushed(cx))?;
            if !self.session.is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            ready!(self.socket.poll_read_ready(cx))?;
            match self.fill() {
                Ok(0) => return Poll::Ready(Err(ErrorKind::UnexpectedEof.into())),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            match self.session.reader().read(into) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // Without a word of goodbye, as many clients end: frames tell what is whole.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                    return Poll::Ready(Ok(0))
                }
                other => return Poll::Ready(other),
            }
            ready!(self.socket.poll_read_ready(cx))?;
            match self.fill() {
                Err(error) if error.kind() != ErrorKind::WouldBlock => {
                    return Poll::Ready(Err(error))
                }
                _ => {}
            }
        }
    }

    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        while self.session.wants_write() {
            self.session.write_tls(&mut Raw(&self.socket))?;
        }
        let count = self.session.writer().write(bytes)?;
        while self.session.wants_write() {
            match self.session.write_tls(&mut Raw(&self.socket)) {
                Ok(_) => {}
                // What was taken is sent when it can be.
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        if count == 0 && !bytes.is_empty() {
            return blocked();
        }
        Ok(count)
    }

    fn close(&mut self) {
        if !self.closed {
            self.closed = true;
            self.session.send_close_notify();
        }
    }
}

impl Drop for Secured {
    fn drop(&mut self) {
        if !self.reset && !self.session.is_handshaking() {
            self.close();
            // As far as it is taken: nobody waits for it any more.
            while self.session.wants_write() {
                if self.session.write_tls(&mut Raw(&self.socket)).is_err() {
                    break;
                }
            }
        }
    }
}

impl Wire {
    /// TLS over a socket, when both sides agree on it.
    pub async fn secured(socket: TcpStream, session: impl Into<Connection>) -> io::Result<Self> {
        let mut session = session.into();
        session.set_buffer_limit(Some(BUFFER));
        let mut secured = Box::new(Secured {
            socket,
            session,
            closed: false,
            reset: false,
        });
        poll_fn(|cx| secured.poll_handshake(cx)).await?;
        Ok(Self::Tls(secured))
    }

    #[must_use]
    pub fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(secured) => &secured.socket,
        }
    }

    /// Some bytes; 0: no more will come.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(socket) => {
                // This call, unlike `try_read`, takes a buffer that was not filled for a socket that is empty, and does
                // not ask the kernel once more.
                let mut buffer = ReadBuf::new(into);
                ready!(Pin::new(socket).poll_read(cx, &mut buffer))?;
                Poll::Ready(Ok(buffer.filled().len()))
            }
            Self::Tls(secured) => secured.poll_read(cx, into),
        }
    }

    /// What was taken is sent, or is by `poll_flushed`.
    pub fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.try_write(bytes),
            Self::Tls(secured) => secured.try_write(bytes),
        }
    }

    pub fn poll_write_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(socket) => socket.poll_write_ready(cx),
            Self::Tls(secured) => secured.poll_flushed(cx),
        }
    }

    /// Nothing waits here any more.
    pub fn poll_flushed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Tls(secured) => secured.poll_flushed(cx),
        }
    }

    /// Whether something waits here.
    #[must_use]
    pub fn holds(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(secured) => secured.session.wants_write(),
        }
    }

    /// Tells the other side that no more will come, behind what waits. An error: it is gone, which reading from it tells.
    pub fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Self::Tls(secured) = self {
            secured.close();
            ready!(secured.poll_flushed(cx))?;
        }
        Poll::Ready(SockRef::from(self.socket()).shutdown(Shutdown::Write))
    }

    /// Makes closing a reset: the other side learns that something was lost.
    pub fn reset(&mut self) {
        if let Self::Tls(secured) = self {
            secured.reset = true;
        }
        reset(self.socket());
    }
}

/// As `Wire::reset`.
pub fn reset(socket: &TcpStream) {
    // It fails only for a socket that has no connection any more.
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}
