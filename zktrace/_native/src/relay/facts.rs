//! What rules are asked about: fields of one frame and of its connection, read where they lie.
//!
//! Only what stands at the beginning of a frame: the header and, of ops whose first field is a path, the path and a watch flag
//! behind it. Which ops these are is told by the schema (`Ops`). Never fails: what a frame has not is not known.

use std::collections::HashSet;
use std::net::SocketAddr;

/// ConnectRequest has no opcode on the wire; createSession's stands for it (ZooDefs.OpCode).
pub const CONNECT: i32 = -10;
/// Where the reply's body begins: length, xid, zxid, err.
pub const REPLY_BODY: usize = 4 + 4 + 8 + 4;

/// Opcodes whose request begins with a path; and those of them where a watch flag follows it.
#[derive(Clone, Debug, Default)]
pub struct Ops {
    pub paths: HashSet<i32>,
    pub watches: HashSet<i32>,
}

/// A frame as rules see it. `kind`: see `EXCHANGE` and `EVENT`.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    pub kind: i64,
    pub client: SocketAddr,
    pub server: SocketAddr,
    pub session: Option<u64>,
    pub opcode: Option<i64>,
    pub path: Option<&'a str>,
    pub watch: Option<bool>,
    pub xid: Option<i64>,
    pub zxid: Option<i64>,
    pub error: Option<i64>,
    pub event: Option<i64>,
    pub request_bytes: Option<i64>,
    pub reply_bytes: Option<i64>,
    pub latency_ns: Option<i64>,
}

/// Values of `Facts::kind`.
pub const EXCHANGE: i64 = 0;
pub const EVENT: i64 = 1;

impl Facts<'_> {
    /// What is known of a connection without any frame.
    #[must_use]
    pub fn of(client: SocketAddr, server: SocketAddr, session: Option<u64>) -> Self {
        Self {
            kind: EXCHANGE,
            client,
            server,
            session,
            opcode: None,
            path: None,
            watch: None,
            xid: None,
            zxid: None,
            error: None,
            event: None,
            request_bytes: None,
            reply_bytes: None,
            latency_ns: None,
        }
    }
}

impl<'a> Facts<'a> {
    /// With what a request says.
    #[must_use]
    pub fn asked(mut self, request: &'a Request) -> Self {
        self.opcode = Some(i64::from(request.opcode));
        self.path = request.path.as_deref();
        self.watch = request.watch;
        self.xid = (request.opcode != CONNECT).then_some(i64::from(request.xid));
        self.request_bytes = Some(request.bytes);
        self
    }
}

/// A big-endian int of a frame.
#[must_use]
pub fn int(frame: &[u8], at: usize) -> Option<i32> {
    let bytes = frame.get(at..at + 4)?;
    Some(i32::from_be_bytes(bytes.try_into().ok()?))
}

/// A big-endian long of a frame.
#[must_use]
pub fn long(frame: &[u8], at: usize) -> Option<i64> {
    let bytes = frame.get(at..at + 8)?;
    Some(i64::from_be_bytes(bytes.try_into().ok()?))
}

/// A ustring that begins at `at`, and where it ends. Bytes that are no UTF-8 are shown as such.
#[must_use]
pub fn text(frame: &[u8], at: usize) -> Option<(String, usize)> {
    let length = usize::try_from(int(frame, at)?).ok()?;
    let end = (at + 4).checked_add(length)?;
    let bytes = frame.get(at + 4..end)?;
    Some((String::from_utf8_lossy(bytes).into_owned(), end))
}

/// What is known of a request until its reply has come.
#[derive(Clone, Debug)]
pub struct Request {
    pub xid: i32,
    pub opcode: i32,
    pub path: Option<String>,
    pub watch: Option<bool>,
    /// Bytes of the frame without its length.
    pub bytes: i64,
}

impl Request {
    /// Reads a frame (with its length) that is not the connection's first.
    #[must_use]
    pub fn read(frame: &[u8], ops: &Ops) -> Option<Self> {
        let (xid, opcode) = (int(frame, 4)?, int(frame, 8)?);
        let path = if ops.paths.contains(&opcode) {
            text(frame, 12)
        } else {
            None
        };
        let watch = match &path {
            Some((_, end)) if ops.watches.contains(&opcode) => {
                frame.get(*end).map(|byte| *byte != 0)
            }
            _ => None,
        };
        Some(Self {
            xid,
            opcode,
            path: path.map(|(path, _)| path),
            watch,
            bytes: frame.len() as i64 - 4,
        })
    }

    /// A ConnectRequest.
    #[must_use]
    pub fn connect(frame: &[u8]) -> Self {
        Self {
            xid: 0,
            opcode: CONNECT,
            path: None,
            watch: None,
            bytes: frame.len() as i64 - 4,
        }
    }
}
