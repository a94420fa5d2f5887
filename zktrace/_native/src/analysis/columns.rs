//! The columns of a whole capture by name, and what texts mean as numbers. Knows no analysis.

use crate::arrays::{ArraySink, Table};
use crate::intern::Interner;
use crate::numbers::Numbers;

pub use crate::arrays::NONE;

/// Types of quorum packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Other,
    Request,
    Proposal,
    Ack,
    Commit,
    Ping,
    Inform,
    CommitAndActivate,
    NewLeader,
    FollowerInfo,
    UpToDate,
    Diff,
    Trunc,
    Snap,
    ObserverInfo,
    LeaderInfo,
    AckEpoch,
    InformAndActivate,
}

impl Kind {
    fn of(name: &[u8]) -> Kind {
        match name {
            b"REQUEST" => Kind::Request,
            b"PROPOSAL" => Kind::Proposal,
            b"ACK" => Kind::Ack,
            b"COMMIT" => Kind::Commit,
            b"PING" => Kind::Ping,
            b"INFORM" => Kind::Inform,
            b"COMMITANDACTIVATE" => Kind::CommitAndActivate,
            b"NEWLEADER" => Kind::NewLeader,
            b"FOLLOWERINFO" => Kind::FollowerInfo,
            b"UPTODATE" => Kind::UpToDate,
            b"DIFF" => Kind::Diff,
            b"TRUNC" => Kind::Trunc,
            b"SNAP" => Kind::Snap,
            b"OBSERVERINFO" => Kind::ObserverInfo,
            b"LEADERINFO" => Kind::LeaderInfo,
            b"ACKEPOCH" => Kind::AckEpoch,
            b"INFORMANDACTIVATE" => Kind::InformAndActivate,
            _ => Kind::Other,
        }
    }

    /// It carries a txn.
    pub fn is_txn(self) -> bool {
        matches!(self, Kind::Proposal) || self.is_inform()
    }

    pub fn is_commit(self) -> bool {
        matches!(self, Kind::Commit | Kind::CommitAndActivate)
    }

    pub fn is_inform(self) -> bool {
        matches!(self, Kind::Inform | Kind::InformAndActivate)
    }

    pub fn is_sync(self) -> bool {
        matches!(self, Kind::Diff | Kind::Trunc | Kind::Snap)
    }

    pub fn is_handshake(self) -> bool {
        self.is_sync()
            || matches!(
                self,
                Kind::FollowerInfo
                    | Kind::ObserverInfo
                    | Kind::LeaderInfo
                    | Kind::AckEpoch
                    | Kind::NewLeader
                    | Kind::UpToDate
            )
    }
}

/// What a learner is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    Follower,
    Observer,
}

impl Role {
    pub fn name(self) -> &'static str {
        match self {
            Role::Follower => "follower",
            Role::Observer => "observer",
        }
    }
}

/// An ensemble's configuration, as `zktrace/analysis/config.py` read it from its text. Numbers of servers are text, since
/// a text may have any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub voters: Vec<String>,
    /// Number of a server and `host:port` of its quorum port.
    pub addresses: Vec<(String, String)>,
    pub simple: bool,
    /// Texts that mean the same have the same number.
    pub meaning: usize,
}

impl Config {
    pub fn votes(&self, sid: i64) -> bool {
        let sid = sid.to_string();
        self.voters.contains(&sid)
    }

    /// Servers that listen there, each once.
    pub fn sids(&self, listener: &str) -> Vec<&str> {
        let there = self.addresses.iter().filter(|(_, at)| at == listener);
        let mut found: Vec<&str> = there.map(|(sid, _)| sid.as_str()).collect();
        found.sort_unstable();
        found.dedup();
        found
    }
}

/// A column of texts: their numbers, and what they mean.
#[derive(Clone, Copy)]
pub struct Texts<'a> {
    numbers: &'a Numbers,
    words: &'a Interner,
}

impl<'a> Texts<'a> {
    fn of(sink: &'a ArraySink, table: &'a Table, column: &str) -> Self {
        let words = sink.dictionary(table.kind, column);
        Texts {
            numbers: table.column(column),
            words: words.unwrap_or_else(|| sink.addresses()),
        }
    }

    /// Number of a row's text, -1 for none.
    #[inline]
    pub fn code(&self, row: usize) -> i64 {
        self.numbers.get(row).max(-1)
    }

    pub fn word(&self, code: i64) -> Option<&'a str> {
        let key = u32::try_from(code).ok()?;
        std::str::from_utf8(self.words.get(key)).ok()
    }

    pub fn text(&self, row: usize) -> Option<&'a str> {
        self.word(self.code(row))
    }

    /// Number of a text, -2 where no row has it.
    pub fn find(&self, word: &str) -> i64 {
        self.words.lookup(word.as_bytes()).map_or(-2, i64::from)
    }

    /// Which numbers are of these texts.
    pub fn among(&self, words: &[&str]) -> Among {
        let mut table = vec![false; self.words.len()];
        for word in words {
            if let Some(place) = self.words.lookup(word.as_bytes()) {
                table[place as usize] = true;
            }
        }
        Among(table)
    }

    pub fn len(&self) -> usize {
        self.words.len()
    }

    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }
}

/// Some of a column's texts.
pub struct Among(Vec<bool>);

impl Among {
    #[inline]
    pub fn has(&self, code: i64) -> bool {
        let place = usize::try_from(code).unwrap_or(usize::MAX);
        self.0.get(place).copied().unwrap_or(false)
    }
}

/// The quorum table.
pub struct Packets<'a> {
    pub rows: usize,
    pub seq: &'a Numbers,
    pub ts: &'a Numbers,
    pub conn: &'a Numbers,
    pub zxid: &'a Numbers,
    pub bytes: &'a Numbers,
    pub session: &'a Numbers,
    pub cxid: &'a Numbers,
    pub error: &'a Numbers,
    pub sid: &'a Numbers,
    pub epoch: &'a Numbers,
    pub digest: &'a Numbers,
    pub late: &'a Numbers,
    pub hash: &'a Numbers,
    pub name: Texts<'a>,
    pub txn: Texts<'a>,
    pub path: Texts<'a>,
    pub config: Texts<'a>,
    direction: &'a Numbers,
    kinds: Vec<Kind>,
    up: i64,
}

impl Packets<'_> {
    #[inline]
    pub fn kind(&self, row: usize) -> Kind {
        let code = usize::try_from(self.name.code(row)).unwrap_or(usize::MAX);
        self.kinds.get(code).copied().unwrap_or(Kind::Other)
    }

    #[inline]
    pub fn to_leader(&self, row: usize) -> bool {
        self.direction.get(row) == self.up
    }

    /// It names a txn of an epoch, not the epoch itself.
    #[inline]
    pub fn counted(&self, row: usize) -> bool {
        let zxid = self.zxid.get(row);
        zxid != NONE && zxid & 0xFFFF_FFFF != 0
    }
}

/// The exchanges that were collected.
pub struct Exchanges<'a> {
    pub rows: usize,
    pub seq: &'a Numbers,
    pub ts: &'a Numbers,
    pub conn: &'a Numbers,
    pub xid: &'a Numbers,
    pub session: &'a Numbers,
    pub zxid: &'a Numbers,
    pub latency: &'a Numbers,
    pub error: &'a Numbers,
    pub watch: &'a Numbers,
    pub czxid: &'a Numbers,
    pub mzxid: &'a Numbers,
    pub aversion: &'a Numbers,
    pub last_zxid_seen: &'a Numbers,
    pub protocol_version: &'a Numbers,
    pub op: Texts<'a>,
    pub state: Texts<'a>,
    pub path: Texts<'a>,
    pub created_path: Texts<'a>,
}

/// All of a capture's columns.
pub struct View<'a> {
    pub sink: &'a ArraySink,
    pub packets: Packets<'a>,
    pub exchanges: Exchanges<'a>,
    /// By number of the text in the column `config`.
    pub configs: &'a [Option<Config>],
}

impl<'a> View<'a> {
    pub fn new(sink: &'a ArraySink, configs: &'a [Option<Config>]) -> Self {
        let q = sink.quorum();
        let name = Texts::of(sink, q, "type");
        let kinds = (0..name.len() as i64).map(|code| {
            let word = name.word(code).unwrap_or_default();
            Kind::of(word.as_bytes())
        });
        let packets = Packets {
            rows: q.rows(),
            seq: q.column("seq"),
            ts: q.column("ts_ns"),
            conn: q.column("conn"),
            zxid: q.column("zxid"),
            bytes: q.column("bytes"),
            session: q.column("session"),
            cxid: q.column("cxid"),
            error: q.column("error"),
            sid: q.column("sid"),
            epoch: q.column("epoch"),
            digest: q.column("digest"),
            late: q.column("late"),
            hash: q.column("txn_hash"),
            name,
            txn: Texts::of(sink, q, "txn_type"),
            path: Texts::of(sink, q, "path"),
            config: Texts::of(sink, q, "config"),
            direction: q.column("direction"),
            kinds: kinds.collect(),
            up: Texts::of(sink, q, "direction").find("to_leader"),
        };
        let x = sink.exchanges();
        let exchanges = Exchanges {
            rows: x.rows(),
            seq: x.column("seq"),
            ts: x.column("ts_ns"),
            conn: x.column("conn"),
            xid: x.column("xid"),
            session: x.column("session"),
            zxid: x.column("zxid"),
            latency: x.column("latency_ns"),
            error: x.column("error"),
            watch: x.column("watch"),
            czxid: x.column("stat.czxid"),
            mzxid: x.column("stat.mzxid"),
            aversion: x.column("stat.aversion"),
            last_zxid_seen: x.column("last_zxid_seen"),
            protocol_version: x.column("protocol_version"),
            op: Texts::of(sink, x, "op"),
            state: Texts::of(sink, x, "state"),
            path: Texts::of(sink, x, "path"),
            created_path: Texts::of(sink, x, "created_path"),
        };
        View {
            sink,
            packets,
            exchanges,
            configs,
        }
    }

    pub fn texts(&self, table: &'a Table, column: &str) -> Texts<'a> {
        Texts::of(self.sink, table, column)
    }

    fn end(&self, conn: i64, side: usize) -> i32 {
        let place = usize::try_from(conn).unwrap_or(usize::MAX);
        let ends = self.sink.ends().get(side);
        ends.and_then(|ends| ends.get(place)).copied().unwrap_or(-1)
    }

    /// Number of the address of a connection's client.
    pub fn client(&self, conn: i64) -> i32 {
        self.end(conn, 0)
    }

    /// Number of the address of a connection's server: of a leader's listener, say.
    pub fn server(&self, conn: i64) -> i32 {
        self.end(conn, 1)
    }

    pub fn address(&self, code: i32) -> Option<&'a str> {
        let key = u32::try_from(code).ok()?;
        std::str::from_utf8(self.sink.addresses().get(key)).ok()
    }

    /// A configuration by the number of its text.
    pub fn config(&self, code: i64) -> Option<&'a Config> {
        let place = usize::try_from(code).ok()?;
        self.configs.get(place)?.as_ref()
    }
}

/// An endpoint without its port.
pub fn host(endpoint: &str) -> &str {
    endpoint.rsplit_once(':').map_or("", |(host, _)| host)
}

/// A zxid as ZooKeeper prints it.
pub fn hexadecimal(zxid: i64) -> String {
    format!("{zxid:#x}")
}

/// A session's id: 0x and 16 digits.
pub fn session_text(session: i64) -> String {
    format!("{session:#018x}")
}
