//! The election port's stream machine: the opener's initial message, then votes both ways.
//! `zktrace/stream/election.py` is the reference. Texts of the configuration and SASL tokens are skipped, not kept.

use crate::election_resync::{
    all_notifications, find_notifications, is_length, FIELDS, OLD, OLDEST,
};
use crate::events::{ConnInfo, Direction, Election, EventSink};
use crate::framer::LENGTH_MAX;
use crate::machine::{self, Way as _, GIVEN_UP_MESSAGE};
use crate::probe::{ELECTION_VERSIONS, QUORUM_SASL};
use crate::resync::Scan;
use crate::rows::Shared;
use crate::schema::{int, long};

/// QuorumCnxManager.maxBuffer: of the addresses in an initial message.
const ADDRESS_MAX: i32 = 2_048;
/// An observer's vote for leader, zxid and peer epoch.
const NO_VOTE: i64 = i64::MIN;
/// Room for the fields of a notification; that of an address is given back.
const BUF_KEPT: usize = 64;
/// Magic, status, length of the token.
const AUTH_HEAD: usize = 16;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Sid,
    AddressSize,
    Address,
    First,
    Auth,
    Token,
    Length,
    Fields,
    Text,
}

impl Stage {
    /// Skips bytes of a known number.
    fn skips(self) -> bool {
        matches!(self, Stage::Token | Stage::Text)
    }
}

/// One direction: "read a few bytes, or skip some" from the initial message on.
struct Way {
    from_opener: bool,
    stage: Stage,
    /// Bytes that the stage reads, or that are left to skip.
    need: u64,
    buf: Vec<u8>,
    /// Bytes of the message at hand, lost ones too.
    taken: u64,
    ts: i64,
    damaged: bool,
    scan: Option<Box<Scan>>,
    charged: usize,
    /// The sender, once it is known.
    sid: Option<i64>,
}

impl Way {
    fn new(from_opener: bool, opened: bool) -> Self {
        let (stage, need) = match (opened, from_opener) {
            (true, true) => (Stage::Sid, 8),
            (true, false) => (Stage::First, 4),
            (false, _) => (Stage::Length, 4),
        };
        Way {
            from_opener,
            stage,
            need,
            buf: Vec::new(),
            taken: 0,
            ts: 0,
            damaged: false,
            scan: (!opened).then(Box::default),
            charged: 0,
            sid: None,
        }
    }

    fn towards(&self) -> Direction {
        if self.from_opener {
            Direction::ToServer
        } else {
            Direction::ToClient
        }
    }

    /// Goes on with another stage; the bytes read so far are kept.
    fn to(&mut self, stage: Stage, need: usize) {
        self.stage = stage;
        self.need = need as u64;
    }

    /// A message begins here.
    fn next_message(&mut self, stage: Stage) {
        self.to(stage, 4);
        if self.buf.capacity() > BUF_KEPT {
            self.buf = Vec::new();
        } else {
            self.buf.clear();
        }
        self.taken = 0;
        self.damaged = false;
    }

    /// A token, or a notification's text, is over.
    fn skipped<S: EventSink>(&mut self, shared: &mut Shared<S>, conn: &ConnInfo) {
        if self.stage == Stage::Token {
            self.next_message(Stage::First);
        } else {
            self.notification(shared, conn);
        }
    }

    fn read<S: EventSink>(&mut self, shared: &mut Shared<S>, conn: &ConnInfo) {
        match self.stage {
            Stage::Sid => match long(&self.buf, 0) {
                Some(sid @ 0..) => self.initial(shared, conn, sid, false),
                Some(version) if ELECTION_VERSIONS.contains(&version) => {
                    self.to(Stage::AddressSize, 20);
                }
                _ => self.bad(shared, conn, "an unknown protocol version"),
            },
            Stage::AddressSize => match int(&self.buf, 16) {
                Some(size @ 1..=ADDRESS_MAX) => self.to(Stage::Address, 20 + size as usize),
                _ => self.bad(shared, conn, "an address of no length that may be"),
            },
            Stage::Address => {
                let sid = long(&self.buf, 8).unwrap_or_default();
                self.initial(shared, conn, sid, true);
            }
            Stage::First if self.buf == QUORUM_SASL[..4] => self.to(Stage::Auth, AUTH_HEAD),
            Stage::Auth => match int(&self.buf, 12) {
                Some(size @ -1..=LENGTH_MAX) if self.buf.starts_with(&QUORUM_SASL) => {
                    if size > 0 {
                        self.to(Stage::Token, size as usize);
                        self.buf.clear();
                    } else {
                        self.next_message(Stage::First);
                    }
                }
                _ => self.bad(shared, conn, "no QuorumAuthPacket"),
            },
            Stage::Fields => match int(&self.buf, 0) {
                Some(length) if length > FIELDS => {
                    self.to(Stage::Text, (length - FIELDS) as usize);
                }
                _ => self.notification(shared, conn),
            },
            _ => {
                let length = int(&self.buf, 0).unwrap_or_default();
                if is_length(length) {
                    self.to(Stage::Fields, 4 + length.min(FIELDS) as usize);
                } else {
                    let detail = format!("length {length} of a notification");
                    self.bad(shared, conn, &detail);
                }
            }
        }
    }

    fn initial<S: EventSink>(
        &mut self,
        shared: &mut Shared<S>,
        conn: &ConnInfo,
        sid: i64,
        whole: bool,
    ) {
        self.sid = Some(sid);
        let address = self.buf.get(20..).filter(|_| whole);
        let version = long(&self.buf, 0).filter(|_| whole);
        shared.election(
            self.damaged,
            &Election {
                seq: 0,
                ts_ns: self.ts,
                conn,
                initial: true,
                from_opener: self.from_opener,
                sid: Some(sid),
                address,
                state: None,
                leader: None,
                zxid: None,
                election_epoch: None,
                peer_epoch: None,
                version: version.map(|version| version as i32),
                bytes: self.taken as i64,
            },
        );
        self.next_message(Stage::First);
    }

    fn notification<S: EventSink>(&mut self, shared: &mut Shared<S>, conn: &ConnInfo) {
        let buf = self.buf.as_slice();
        let length = int(buf, 0).unwrap_or_default();
        let state = int(buf, 4).unwrap_or_default();
        let (mut peer_epoch, mut version) = (None, None);
        let mut fits = shared.schema.vote(state).is_some();
        if length > OLDEST {
            peer_epoch = long(buf, 4 + OLDEST as usize);
            version = int(buf, 12 + OLDEST as usize);
        }
        if length >= FIELDS {
            fits = fits && int(buf, 4 + OLD as usize) == Some(length - FIELDS);
        }
        if !fits {
            shared.anomaly(
                conn,
                self.ts,
                "malformed",
                Some(self.towards()),
                Some(i64::from(length)),
                "the notification does not fit its layout",
            );
        }
        let odd;
        let name = match shared.schema.vote(state) {
            Some(name) => name.to_owned(),
            None => {
                odd = format!("state{state}");
                odd
            }
        };
        let voted = |vote: Option<i64>| vote.filter(|vote| *vote != NO_VOTE);
        let row = Election {
            seq: 0,
            ts_ns: self.ts,
            conn,
            initial: false,
            from_opener: self.from_opener,
            sid: self.sid,
            address: None,
            state: Some(&name),
            leader: voted(long(buf, 8)),
            zxid: voted(long(buf, 16)),
            election_epoch: long(buf, 24),
            peer_epoch: voted(peer_epoch),
            version,
            bytes: i64::from(length),
        };
        shared.election(self.damaged, &row);
        self.next_message(Stage::Length);
    }

    #[cold]
    fn bad<S: EventSink>(&mut self, shared: &mut Shared<S>, conn: &ConnInfo, detail: &str) {
        let bytes = Some(i64::try_from(self.taken).unwrap_or(i64::MAX));
        let direction = Some(self.towards());
        shared.anomaly(conn, self.ts, "malformed", direction, bytes, detail);
        shared.counters.skipped_bytes += self.taken;
        self.lose(shared);
    }

    fn lose<S>(&mut self, shared: &mut Shared<S>) {
        self.next_message(Stage::Length);
        self.scan = Some(Box::default());
        shared.counters.desyncs += 1;
    }
}

impl<S: EventSink> machine::Way<S> for Way {
    fn found(&self) -> &'static str {
        "message boundary found again"
    }

    fn direction(&self) -> Direction {
        self.towards()
    }

    fn scan(&mut self) -> &mut Option<Box<Scan>> {
        &mut self.scan
    }

    fn decode(&mut self, shared: &mut Shared<S>, conn: &ConnInfo, ts: i64, data: &[u8]) -> usize {
        let mut pos = 0;
        while pos < data.len() && self.scan.is_none() {
            self.ts = if self.taken > 0 { self.ts.max(ts) } else { ts };
            let left = data.len() - pos;
            let wanted = if self.stage.skips() {
                self.need
            } else {
                self.need.saturating_sub(self.buf.len() as u64)
            };
            let take = usize::try_from(wanted).map_or(left, |wanted| wanted.min(left));
            if self.stage.skips() {
                self.need -= take as u64;
            } else {
                let part = data.get(pos..pos + take).unwrap_or_default();
                self.buf.extend_from_slice(part);
            }
            self.taken += take as u64;
            pos += take;
            if self.stage.skips() {
                if self.need == 0 {
                    self.skipped(shared, conn);
                }
            } else if self.buf.len() as u64 == self.need {
                self.read(shared, conn);
            }
        }
        pos
    }

    fn find(&mut self, _shared: &Shared<S>) -> Option<usize> {
        find_notifications(self.scan.as_mut()?)
    }

    fn resume(&mut self, _shared: &mut Shared<S>) {}

    fn missing(&mut self, shared: &mut Shared<S>, conn: &ConnInfo, missing: u64) {
        if self.stage.skips() && missing <= self.need {
            self.need -= missing;
            self.taken += missing;
            self.damaged = true;
            if self.need == 0 {
                self.skipped(shared, conn);
            }
        } else {
            if self.stage == Stage::Text {
                self.damaged = true;
                self.notification(shared, conn);
            }
            self.lose(shared);
        }
    }

    fn held(&mut self) -> usize {
        let scan = self.scan.as_ref().map_or(0, |scan| scan.cost());
        match self.stage {
            Stage::Address => scan + self.buf.len(),
            _ => scan,
        }
    }

    fn charged(&mut self) -> &mut usize {
        &mut self.charged
    }

    fn fits(&mut self, _shared: &Shared<S>) -> bool {
        let scan = self.scan.as_ref();
        scan.is_some_and(|scan| all_notifications(scan.bytes()))
    }
}

/// One connection between two servers that vote.
pub struct ElectionMachine {
    conn: ConnInfo,
    from_opener: Way,
    to_opener: Way,
}

impl ElectionMachine {
    /// `opened`: seen from its first bytes; else joined mid-stream.
    pub fn new(conn: ConnInfo, opened: bool) -> Self {
        ElectionMachine {
            conn,
            from_opener: Way::new(true, opened),
            to_opener: Way::new(false, opened),
        }
    }

    fn way(&mut self, from_opener: bool) -> &mut Way {
        if from_opener {
            &mut self.from_opener
        } else {
            &mut self.to_opener
        }
    }

    /// Takes the next bytes of one direction.
    pub fn data<S: EventSink>(
        &mut self,
        shared: &mut Shared<S>,
        from_opener: bool,
        ts: i64,
        data: &[u8],
    ) {
        let conn = self.conn;
        let way = self.way(from_opener);
        let pos = way.decode(shared, &conn, ts, data);
        if way.scan.is_some() {
            let behind = data.get(pos..).unwrap_or_default();
            machine::lost(way, shared, &conn, ts, behind);
        }
        machine::settle(way, shared);
    }

    /// `missing` bytes of one direction were not captured.
    pub fn gap<S: EventSink>(
        &mut self,
        shared: &mut Shared<S>,
        from_opener: bool,
        ts: i64,
        missing: u64,
    ) {
        let conn = self.conn;
        machine::gap(self.way(from_opener), shared, &conn, ts, missing);
    }

    /// What the connection holds.
    pub fn cost(&self) -> usize {
        self.from_opener.charged + self.to_opener.charged
    }

    /// All connections together hold too much, and this one most: it holds nothing then. An unfinished initial message is
    /// given up with what follows it.
    pub fn give_up<S: EventSink>(&mut self, shared: &mut Shared<S>, ts: i64) {
        let way = &mut self.from_opener;
        if way.stage == Stage::Address && !way.buf.is_empty() {
            shared.counters.skipped_bytes += way.taken;
            let bytes = i64::try_from(way.taken).ok();
            let direction = Some(way.towards());
            let detail = GIVEN_UP_MESSAGE;
            shared.anomaly(&self.conn, ts, "given_up", direction, bytes, detail);
            way.lose(shared);
        }
        machine::give_up(&mut self.from_opener, shared, &self.conn, ts);
        machine::give_up(&mut self.to_opener, shared, &self.conn, ts);
    }

    /// The connection is over, or the capture is.
    pub fn end<S: EventSink>(&mut self, shared: &mut Shared<S>) {
        machine::end(&mut self.from_opener, shared, &self.conn);
        machine::end(&mut self.to_opener, shared, &self.conn);
    }
}
