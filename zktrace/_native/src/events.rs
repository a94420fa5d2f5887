//! Event rows, as the stream machines make them and the sinks take them.
//!
//! One struct per table; the fields are the table's columns (`zktrace/analysis/tables.py` is the
//! reference). Rows borrow everything they can, so that making one costs no allocation; a sink
//! copies what it keeps. This module knows nothing of how events are found and nothing of Arrow.
//!
//! What most rows do not have sits behind one reference (`stat`, `sub`, `watches`, `connect`),
//! which keeps a row small. What is shared by all rows of a connection sits in [`ConnInfo`].

use std::fmt;

use crate::ip::Ip;

/// An IP address with a port.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Endpoint {
    pub ip: Ip,
    pub port: u16,
}

impl Endpoint {
    pub fn new(ip: Ip, port: u16) -> Self {
        Endpoint { ip, port }
    }

    /// From the bytes of an IPv4 address.
    pub fn v4(ip: [u8; 4], port: u16) -> Self {
        Endpoint::new(Ip::from_v4(u32::from_be_bytes(ip)), port)
    }

    /// From the bytes of an IPv6 address.
    pub fn v6(ip: [u8; 16], port: u16) -> Self {
        let bits = u128::from_be_bytes(ip);
        Endpoint::new(Ip::from_v6((bits >> 64) as u64, bits as u64), port)
    }

    /// Address without the port, as text.
    pub fn ip_text(&self) -> String {
        self.ip.to_string()
    }
}

impl From<(Ip, u16)> for Endpoint {
    fn from((ip, port): (Ip, u16)) -> Self {
        Endpoint { ip, port }
    }
}

/// `ip:port`, `[ip]:port` for IPv6.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.ip.v6 {
            write!(f, "[{}]:{}", self.ip, self.port)
        } else {
            write!(f, "{}:{}", self.ip, self.port)
        }
    }
}

/// What all rows of a connection share. The addresses of an id never change.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ConnInfo {
    pub id: i64,
    pub client: Endpoint,
    pub server: Endpoint,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum State {
    #[default]
    Complete,
    NoReply,
    NoRequest,
}

impl State {
    pub fn as_str(self) -> &'static str {
        match self {
            State::Complete => "complete",
            State::NoReply => "no_reply",
            State::NoRequest => "no_request",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Direction {
    ToServer,
    ToClient,
}

impl Direction {
    pub fn as_str(self) -> &'static str {
        match self {
            Direction::ToServer => "to_server",
            Direction::ToClient => "to_client",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Role {
    Client,
    Quorum,
    Election,
    Tls,
    Unknown,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Client => "client",
            Role::Quorum => "quorum",
            Role::Election => "election",
            Role::Tls => "tls",
            Role::Unknown => "unknown",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum ConnectionEvent {
    Opened,
    Joined,
    Closed,
    Reset,
    /// The detail says as whom.
    Authenticated,
}

impl ConnectionEvent {
    pub const ALL: [ConnectionEvent; 5] = [
        ConnectionEvent::Opened,
        ConnectionEvent::Joined,
        ConnectionEvent::Closed,
        ConnectionEvent::Reset,
        ConnectionEvent::Authenticated,
    ];
}

impl ConnectionEvent {
    pub fn as_str(self) -> &'static str {
        match self {
            ConnectionEvent::Opened => "opened",
            ConnectionEvent::Joined => "joined",
            ConnectionEvent::Closed => "closed",
            ConnectionEvent::Reset => "reset",
            ConnectionEvent::Authenticated => "authenticated",
        }
    }
}

/// protocol.md 5.1.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stat {
    pub czxid: i64,
    pub mzxid: i64,
    pub ctime: i64,
    pub mtime: i64,
    pub version: i32,
    pub cversion: i32,
    pub aversion: i32,
    pub ephemeral_owner: i64,
    pub data_length: i32,
    pub num_children: i32,
    pub pzxid: i64,
}

/// A Stat as it came: few sinks want it, and those want it field by field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RawStat<'a>(pub &'a [u8; 68]);

impl RawStat<'_> {
    /// Length of the data and number of children.
    #[inline]
    pub fn sizes(self) -> (i32, i32) {
        let mut rest = self.0.get(52..60).unwrap_or_default();
        (take_int(&mut rest), take_int(&mut rest))
    }

    #[inline]
    pub fn decode(self) -> Stat {
        let mut rest: &[u8] = self.0;
        Stat {
            czxid: take_long(&mut rest),
            mzxid: take_long(&mut rest),
            ctime: take_long(&mut rest),
            mtime: take_long(&mut rest),
            version: take_int(&mut rest),
            cversion: take_int(&mut rest),
            aversion: take_int(&mut rest),
            ephemeral_owner: take_long(&mut rest),
            data_length: take_int(&mut rest),
            num_children: take_int(&mut rest),
            pzxid: take_long(&mut rest),
        }
    }
}

// The length is known: nothing is checked at run time, nothing can be missing.

#[inline]
fn take_long(rest: &mut &[u8]) -> i64 {
    let Some((value, behind)) = rest.split_first_chunk::<8>() else {
        return 0;
    };
    *rest = behind;
    i64::from_be_bytes(*value)
}

#[inline]
fn take_int(rest: &mut &[u8]) -> i32 {
    let Some((value, behind)) = rest.split_first_chunk::<4>() else {
        return 0;
    };
    *rest = behind;
    i32::from_be_bytes(*value)
}

/// One operation of a multi.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SubOp<'a> {
    pub op: Option<&'a str>,
    pub path: Option<&'a [u8]>,
    pub error: Option<i32>,
}

/// Counts per kind of watch in setWatches / setWatches2 (setWatches has no persistent ones: null).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Watches {
    pub data: Option<i32>,
    pub exist: Option<i32>,
    pub child: Option<i32>,
    pub persistent: Option<i32>,
    pub persistent_recursive: Option<i32>,
}

/// What only connect rows have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Connect {
    pub requested_timeout_ms: Option<i32>,
    pub timeout_ms: Option<i32>,
    pub last_zxid_seen: Option<i64>,
    pub read_only: Option<bool>,
    pub protocol_version: Option<i32>,
}

/// A request with its reply, or one of them alone. Paths are raw bytes: the sink replaces what is
/// not UTF-8.
#[derive(Clone, Copy, Debug)]
pub struct Exchange<'a> {
    pub seq: i64,
    pub ts_ns: i64,
    pub conn: &'a ConnInfo,
    /// Opcode and name; the name is a function of the opcode ("op<n>" for unknown ones).
    pub op: Option<(i32, &'a str)>,
    pub xid: Option<i64>,
    pub session: Option<i64>,
    pub path: Option<&'a [u8]>,
    pub watch: Option<bool>,
    pub error: Option<i32>,
    pub zxid: Option<i64>,
    pub latency_ns: Option<i64>,
    pub request_bytes: Option<i64>,
    pub reply_bytes: Option<i64>,
    pub state: State,
    pub flags: Option<i32>,
    pub mode: Option<i32>,
    pub version: Option<i32>,
    pub data_length: Option<i32>,
    pub children: Option<i32>,
    pub ttl: Option<i64>,
    pub created_path: Option<&'a [u8]>,
    pub stat: Option<RawStat<'a>>,
    pub sub: Option<&'a [SubOp<'a>]>,
    pub watches: Option<&'a Watches>,
    pub connect: Option<&'a Connect>,
}

impl<'a> Exchange<'a> {
    /// A row of which nothing is known yet but where and when.
    #[inline]
    pub fn new(seq: i64, ts_ns: i64, conn: &'a ConnInfo, state: State) -> Self {
        Exchange {
            seq,
            ts_ns,
            conn,
            op: None,
            xid: None,
            session: None,
            path: None,
            watch: None,
            error: None,
            zxid: None,
            latency_ns: None,
            request_bytes: None,
            reply_bytes: None,
            state,
            flags: None,
            mode: None,
            version: None,
            data_length: None,
            children: None,
            ttl: None,
            created_path: None,
            stat: None,
            sub: None,
            watches: None,
            connect: None,
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub struct WatchEvent<'a> {
    pub seq: i64,
    pub ts_ns: i64,
    pub conn: &'a ConnInfo,
    pub session: Option<i64>,
    pub event: Option<&'a str>,
    pub keeper_state: Option<&'a str>,
    pub path: Option<&'a [u8]>,
    /// None where the header says -1.
    pub zxid: Option<i64>,
    pub bytes: i64,
}

#[derive(Clone, Copy, Debug)]
pub struct Connection<'a> {
    pub seq: i64,
    pub ts_ns: i64,
    pub conn: &'a ConnInfo,
    pub role: Role,
    pub event: ConnectionEvent,
    pub detail: Option<&'a str>,
}

#[derive(Clone, Copy, Debug)]
pub struct FourLetter<'a> {
    pub seq: i64,
    pub ts_ns: i64,
    pub conn: &'a ConnInfo,
    pub word: &'a str,
    pub reply_bytes: Option<i64>,
}

#[derive(Clone, Copy, Debug)]
pub struct Anomaly<'a> {
    pub seq: i64,
    pub ts_ns: i64,
    pub conn: &'a ConnInfo,
    pub reason: &'a str,
    pub direction: Option<Direction>,
    pub bytes: Option<i64>,
    pub detail: Option<&'a str>,
}

/// A packet between a learner and its leader.
#[derive(Clone, Copy, Debug)]
pub struct Quorum<'a> {
    pub seq: i64,
    pub ts_ns: i64,
    pub conn: &'a ConnInfo,
    /// Number and name of its type; the name is a function of the number (a negative one says nothing).
    pub kind: i32,
    pub name: &'a str,
    pub to_leader: bool,
    /// None for -1.
    pub zxid: Option<i64>,
    pub bytes: Option<i64>,
    pub session: Option<i64>,
    pub cxid: Option<i64>,
    /// Type of the txn or of the forwarded request, and its name.
    pub txn: Option<(i32, &'a str)>,
    pub path: Option<&'a [u8]>,
    pub error: Option<i32>,
    pub sid: Option<i64>,
    pub epoch: Option<i64>,
    pub timeout_ms: Option<i32>,
    pub valid: Option<bool>,
    pub sessions: Option<i32>,
    pub digest: Option<i64>,
    pub sub: Option<&'a [SubOp<'a>]>,
    /// Bytes and nodes of the snapshot behind it.
    pub snapshot: Option<(i64, i64)>,
    /// Text of a NEWLEADER.
    pub config: Option<&'a [u8]>,
    /// It may have passed before `ts_ns`: what was captured may be a retransmission.
    pub late: bool,
    /// Keyed hash of a txn's bytes, its TxnDigest left out.
    pub txn_hash: Option<i64>,
}

impl Quorum<'_> {
    pub fn direction(&self) -> &'static str {
        if self.to_leader {
            "to_leader"
        } else {
            "to_learner"
        }
    }
}

/// A message of the leader election: an initial one or a notification.
#[derive(Clone, Copy, Debug)]
pub struct Election<'a> {
    pub seq: i64,
    pub ts_ns: i64,
    pub conn: &'a ConnInfo,
    pub initial: bool,
    pub from_opener: bool,
    pub sid: Option<i64>,
    pub address: Option<&'a [u8]>,
    pub state: Option<&'a str>,
    pub leader: Option<i64>,
    pub zxid: Option<i64>,
    pub election_epoch: Option<i64>,
    pub peer_epoch: Option<i64>,
    pub version: Option<i32>,
    pub bytes: i64,
}

impl Election<'_> {
    pub fn kind(&self) -> &'static str {
        if self.initial {
            "initial"
        } else {
            "notification"
        }
    }

    pub fn direction(&self) -> &'static str {
        if self.from_opener {
            "from_opener"
        } else {
            "to_opener"
        }
    }
}

/// What of an exchange is counted.
#[derive(Clone, Copy, Debug)]
pub struct Counted<'a> {
    pub conn: &'a ConnInfo,
    /// Requests in flight on its connection when it was sent, itself included; 0: not known.
    pub in_flight: u32,
    pub op: Option<(i32, &'a str)>,
    pub session: Option<i64>,
    pub path: Option<&'a [u8]>,
    pub error: Option<i32>,
    pub latency_ns: Option<i64>,
    pub request_bytes: Option<i64>,
    pub reply_bytes: Option<i64>,
    pub state: State,
}

impl<'a> Counted<'a> {
    #[inline(always)]
    pub fn of(row: &Exchange<'a>) -> Self {
        Counted {
            conn: row.conn,
            in_flight: 0,
            op: row.op,
            session: row.session,
            path: row.path,
            error: row.error,
            latency_ns: row.latency_ns,
            request_bytes: row.request_bytes,
            reply_bytes: row.reply_bytes,
            state: row.state,
        }
    }
}

/// What of the events a sink looks at, the same as long as it lives: what nobody looks at is not made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Looks {
    /// Rows of packets between servers, and what is said of damaged ones. Where nobody looks, their numbers are all that
    /// matters.
    pub quorum: bool,
    /// More of an exchange than is counted, or an anomaly; otherwise exchanges come by `count`, but for rare ones.
    pub rows: bool,
    /// The path of an exchange, if only to count by it; so wherever `rows` is.
    pub paths: bool,
}

impl Looks {
    pub const ALL: Looks = Looks {
        quorum: true,
        rows: true,
        paths: true,
    };
}

/// Takes rows. The default does nothing, so that a sink implements only the kinds it is for.
pub trait EventSink {
    fn looks(&self) -> Looks {
        Looks::ALL
    }
    /// Key of the hashes of txns, where they are wanted.
    fn txn_key(&self) -> Option<u64> {
        None
    }
    fn exchange(&mut self, _row: &Exchange<'_>) {}
    /// An exchange of which nobody looks at more.
    fn count(&mut self, _row: &Counted<'_>) {}
    fn watch_event(&mut self, _row: &WatchEvent<'_>) {}
    fn connection(&mut self, _row: &Connection<'_>) {}
    fn four_letter(&mut self, _row: &FourLetter<'_>) {}
    fn anomaly(&mut self, _row: &Anomaly<'_>) {}
    fn quorum(&mut self, _row: &Quorum<'_>) {}
    fn election(&mut self, _row: &Election<'_>) {}
}

/// Rows to nowhere (benchmarks of what is before the sinks).
impl EventSink for () {
    fn looks(&self) -> Looks {
        Looks {
            quorum: false,
            rows: false,
            paths: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoint_text() {
        assert_eq!(
            Endpoint::v4([10, 0, 0, 1], 2181).to_string(),
            "10.0.0.1:2181"
        );
        let mut ip = [0u8; 16];
        ip[15] = 1;
        assert_eq!(Endpoint::v6(ip, 80).to_string(), "[::1]:80");
        let mapped = std::net::Ipv4Addr::new(1, 2, 3, 4)
            .to_ipv6_mapped()
            .octets();
        assert_eq!(Endpoint::v6(mapped, 80).ip_text(), "::ffff:1.2.3.4");
    }
}
