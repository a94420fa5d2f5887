//! ConnectRequest and ConnectResponse: the first frames of a client connection. `zktrace/stream/handshake.py` is the
//! reference. Passwords are skipped, never kept.

use crate::framer::Frame;
use crate::probe::{keeper_flags, PASSWORD_MAX};
use crate::schema::{int, long};

/// What a connect row is shown as: createSession's number.
pub const CONNECT_OPCODE: i32 = -10;
const SESSION_EXPIRED: i32 = -112;

/// ClickHouse Keeper's protocol versions (see zktrace.wire.keeper).
const KEEPER_COMPRESSED: i32 = 10;
pub const KEEPER_REJECTED: i32 = 42;

/// What a ConnectRequest says; None is what was not captured.
#[derive(Default, Clone, Copy, Debug)]
pub struct ConnectRequest {
    pub version: Option<i32>,
    pub last_zxid: Option<i64>,
    pub timeout: Option<i32>,
    pub session: i64,
    pub read_only: Option<bool>,
    pub malformed: bool,
    /// 64-bit xids follow (ClickHouse Keeper).
    pub wide_xids: bool,
    /// What follows is compressed (ClickHouse Keeper).
    pub compressed: bool,
    /// Each request is followed by a tracing context that its length does not count (ClickHouse Keeper).
    pub tracing: bool,
}

/// What a ConnectResponse says; None is what was not captured, or is not in it.
#[derive(Default, Clone, Copy, Debug)]
pub struct ConnectResponse {
    pub version: Option<i32>,
    pub timeout: Option<i32>,
    /// 0 where no session was granted.
    pub session: i64,
    pub read_only: Option<bool>,
    pub error: Option<i32>,
    pub zxid: Option<i64>,
    pub malformed: bool,
}

/// A ConnectRequest, as much as there is of it.
pub fn parse_request(head: &[u8]) -> ConnectRequest {
    let mut connect = ConnectRequest::default();
    if body(head, &mut connect).is_none() {
        connect.malformed = true;
    }
    connect
}

fn body(head: &[u8], connect: &mut ConnectRequest) -> Option<()> {
    let version = int(head, 0)?;
    connect.version = Some(version);
    let flags = keeper_flags(version);
    let given = |at: usize| head.get(4 + at).is_some_and(|byte| *byte != 0);
    connect.tracing = flags == 2;
    connect.wide_xids = flags == 1 || (flags == 2 && given(0));
    connect.compressed = version == KEEPER_COMPRESSED || (flags > 0 && given(flags - 1));
    let body = head.get(4 + flags..)?;
    if body.len() < 24 {
        return None;
    }
    connect.last_zxid = long(body, 0);
    connect.timeout = int(body, 8);
    connect.session = long(body, 12)?;
    connect.read_only = flag_after_password(body, 20)?;
    Some(())
}

/// Bytes of a session's password.
const PASSWORD: i32 = 16;
/// The least that a handshake takes in the stream of either direction: without a password.
pub const CONNECT_BYTES: u64 = 32;
pub const CONNECTED_BYTES: u64 = 24;

/// Whether this is a ConnectRequest, which no connection has but as its first frame. A request whose xid is 0 has another
/// form.
pub fn is_request_again(head: &[u8], length: usize) -> bool {
    let (Some(last_zxid), Some(timeout), Some(_), Some(size)) =
        (long(head, 4), int(head, 12), long(head, 16), int(head, 24))
    else {
        return false;
    };
    (44..=45).contains(&length)
        && int(head, 0) == Some(0)
        && last_zxid >= 0
        && timeout > 0
        && size == PASSWORD
}

/// Whether this is a ConnectResponse that grants a session, by its form: a reply of this length has no error, where the
/// second half of the session is.
pub fn is_response_again(head: &[u8], length: usize) -> bool {
    let (Some(timeout), Some(session), Some(size)) = (int(head, 4), int(head, 12), int(head, 16))
    else {
        return false;
    };
    (36..=37).contains(&length)
        && int(head, 0) == Some(0)
        && timeout > 0
        && session != 0
        && size == PASSWORD
}

/// Whether a server's first frame can be the answer to a ConnectRequest of this version. It is not where the capture
/// missed the answer and begins with a later reply. What was not captured of a damaged frame cannot be held against it.
pub fn is_response(frame: &Frame<'_>, version: Option<i32>) -> bool {
    let head = frame.head;
    if frame.length == 16 {
        // a bare ReplyHeader refuses with an error; pings and errors of requests have other xids
        return head.len() < 16 || (int(head, 0) == Some(0) && int(head, 12) != Some(0));
    }
    let (Some(answered), Some(timeout), Some(size)) = (int(head, 0), int(head, 4), int(head, 16))
    else {
        return frame.length >= 20;
    };
    if !(answered == 0 || Some(answered) == version || answered == KEEPER_REJECTED) || timeout < 0 {
        return false;
    }
    let rest = 20 + size.max(0) as usize;
    (-1..=PASSWORD_MAX).contains(&size) && rest <= frame.length && frame.length <= rest + 1
}

/// A ConnectResponse, as much as there is of it.
pub fn parse_response(frame: &Frame<'_>) -> ConnectResponse {
    let head = frame.head;
    let mut connected = ConnectResponse::default();
    if frame.length == 16 && head.len() == 16 {
        // a read-only server without local sessions answers with a bare ReplyHeader (NotReadOnly)
        connected.zxid = long(head, 4);
        connected.error = int(head, 12);
        return connected;
    }
    if head.len() < 20 {
        connected.malformed = true;
        return connected;
    }
    connected.version = int(head, 0);
    connected.timeout = int(head, 4);
    connected.session = long(head, 8).unwrap_or(0);
    match flag_after_password(head, 16) {
        Some(read_only) => connected.read_only = read_only,
        None => connected.malformed = true,
    }
    connected.error = Some(if connected.session == 0 {
        SESSION_EXPIRED
    } else {
        0
    });
    connected
}

/// The byte after the password at `pos`, where there is one; None where the password does not fit.
fn flag_after_password(buf: &[u8], pos: usize) -> Option<Option<bool>> {
    let size = int(buf, pos)?;
    if size < -1 {
        return None;
    }
    let rest = (pos + 4).checked_add(usize::try_from(size.max(0)).ok()?)?;
    Some(buf.get(rest..)?.first().map(|byte| *byte != 0))
}
