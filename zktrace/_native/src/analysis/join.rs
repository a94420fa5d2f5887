//! Client exchanges and quorum packets joined: which write became which txn, and who got it when.
//!
//! `zktrace/analysis/join.py` is the reference and says by what. Rows of the tables are meant by their place, -1 meaning
//! none. Must not know what a stage is, or what is right or wrong.

use std::collections::{BTreeSet, HashMap};
use std::ops::Deref;
use std::sync::Arc;

use super::columns::{Kind, Role, View, NONE};
use super::sorted::order_by;

/// Txns of one zxid that are looked through for one that fits; more come only of made-up traffic.
const TRIES: usize = 8;

/// One quorum connection: a learner's to its leader, or an observer's to a follower.
#[derive(Clone, Debug)]
pub struct Peer {
    pub conn: i64,
    /// Addresses.
    pub learner: i32,
    pub leader: i32,
    pub role: Option<Role>,
    pub sid: Option<i64>,
    pub epoch: Option<i64>,
    /// Number of the text of the configuration that NEWLEADER told; -1: none.
    pub config: i64,
    /// Row from which on the leader broadcasts to it.
    pub live_from: usize,
    handshaken: bool,
}

/// Distinct transactions, ordered by zxid.
#[derive(Default)]
pub struct Txns {
    pub zxid: Vec<i64>,
    pub session: Vec<i64>,
    pub cxid: Vec<i64>,
    pub op: Vec<i32>,
    /// The first row that carries it.
    pub row: Vec<u32>,
    /// Address of the listener that sent this row.
    pub leader: Vec<i32>,
    pub request_row: Vec<i32>,
    /// The client's write.
    pub write: Vec<i32>,
}

/// What one connection carried of one zxid: first rows of each type; ordered by peer and zxid.
#[derive(Default)]
pub struct Deliveries {
    pub peer: Vec<u32>,
    pub zxid: Vec<i64>,
    pub txn: Vec<i32>,
    pub proposal_row: Vec<i32>,
    pub ack_row: Vec<i32>,
    /// Of the COMMIT, else of the INFORM.
    pub told_row: Vec<i32>,
    pub syncing: Vec<bool>,
    /// Of each peer: where its deliveries begin; one more at the end.
    pub start: Vec<u32>,
}

impl Deliveries {
    /// The place of a delivery.
    pub fn find(&self, peer: usize, zxid: i64) -> Option<usize> {
        let (low, high) = (self.start[peer] as usize, self.start[peer + 1] as usize);
        let found = self.zxid[low..high].binary_search(&zxid);
        found.ok().map(|at| low + at)
    }
}

/// Exchanges of ops that write, and connects that made a session: all that were collected.
#[derive(Default)]
pub struct Writes {
    /// Row in the table of exchanges.
    pub row: Vec<u32>,
    pub cxid: Vec<i64>,
    pub txn: Vec<i32>,
    /// The REQUEST that its server sent on.
    pub request_row: Vec<i32>,
}

/// What a join found, apart from the columns that it stands on.
pub struct Joined {
    pub peers: Vec<Peer>,
    /// Of each connection by number: which peer it is, -1 for one of clients.
    pub peer_of: Vec<i32>,
    pub txns: Txns,
    pub deliveries: Deliveries,
    pub writes: Writes,
}

/// A join with the columns that it is of.
pub struct Join<'a> {
    pub view: View<'a>,
    pub joined: Arc<Joined>,
}

impl Deref for Join<'_> {
    type Target = Joined;

    fn deref(&self) -> &Joined {
        &self.joined
    }
}

/// What names a request: session and cxid; that of a createSession is 0, as that of the closeSession with which the
/// leader ends an expired session, which is another request.
type Key = (i64, i64);

fn key(session: i64, cxid: i64, creates: bool) -> Key {
    (session, if creates && cxid == 0 { NONE } else { cxid })
}

/// Things with a key and a time, to be found by the time nearest to another.
struct Near(Vec<(Key, i64, u32)>);

impl Near {
    fn new(mut all: Vec<(Key, i64, u32)>) -> Self {
        all.sort_unstable();
        Near(all)
    }

    /// The last one that is not after a time; of the same time the last.
    fn before(&self, key: Key, ts: i64) -> Option<u32> {
        let at = self.0.partition_point(|one| (one.0, one.1) <= (key, ts));
        let found = self.0.get(at.checked_sub(1)?)?;
        (found.0 == key).then_some(found.2)
    }

    /// The first one that is not before a time; of the same time the first.
    fn after(&self, key: Key, ts: i64) -> Option<u32> {
        let at = self.0.partition_point(|one| (one.0, one.1) < (key, ts));
        let found = self.0.get(at)?;
        (found.0 == key).then_some(found.2)
    }
}

impl<'a> Join<'a> {
    pub fn new(view: View<'a>) -> Self {
        let (mut peers, peer_of) = numbered(&view);
        let rows = Rows::new(&view, &peer_of, peers.len());
        handshakes(&view, &rows, &mut peers, &peer_of);
        roles(&rows, &mut peers);
        sids(&view, &rows, &mut peers, &peer_of);
        let asked = asked(&view, &rows);
        let mut txns = Txns::default();
        let carried = distinct_txns(&view, &rows, &asked, &mut txns);
        let deliveries = deliveries(&view, rows, &peers, &txns, carried);
        let writes = written(&view, &mut txns, &asked);
        let joined = Arc::new(Joined {
            peers,
            peer_of,
            txns,
            deliveries,
            writes,
        });
        Join { view, joined }
    }

    /// The connection of a row.
    pub fn peer(&self, row: usize) -> usize {
        peer_at(&self.view, &self.peer_of, row)
    }

    /// When a row passed; [`NONE`] where an earlier copy may have, or for no row.
    pub fn sure(&self, row: i32) -> i64 {
        match usize::try_from(row) {
            Ok(row) if self.view.packets.late.get(row) != 1 => self.view.packets.ts.get(row),
            _ => NONE,
        }
    }
}

#[inline]
fn peer_at(view: &View<'_>, peer_of: &[i32], row: usize) -> usize {
    let conn = usize::try_from(view.packets.conn.get(row)).unwrap_or_default();
    peer_of[conn] as usize
}

/// Connections with a packet, by number.
fn numbered(view: &View<'_>) -> (Vec<Peer>, Vec<i32>) {
    let q = &view.packets;
    let mut peer_of: Vec<i32> = Vec::new();
    for row in 0..q.rows {
        let conn = usize::try_from(q.conn.get(row)).unwrap_or_default();
        if peer_of.len() <= conn {
            peer_of.resize(conn + 1, -1);
        }
        peer_of[conn] = 0;
    }
    let mut peers = Vec::new();
    for (conn, peer) in peer_of.iter_mut().enumerate() {
        if *peer < 0 {
            continue;
        }
        *peer = peers.len() as i32;
        let conn = conn as i64;
        peers.push(Peer {
            conn,
            learner: view.client(conn),
            leader: view.server(conn),
            role: None,
            sid: None,
            epoch: None,
            config: -1,
            live_from: 0,
            handshaken: false,
        });
    }
    (peers, peer_of)
}

/// Rows by what they are for.
struct Rows {
    handshakes: Vec<u32>,
    requests: Vec<u32>,
    /// That carry a txn whose zxid is known.
    txns: Vec<u32>,
    /// Of each peer, of known zxids: PROPOSALs, ACKs, COMMITs, INFORMs.
    told: Vec<[Vec<u32>; 4]>,
    /// Whether a peer was sent INFORMs.
    informed: Vec<bool>,
}

impl Rows {
    fn new(view: &View<'_>, peer_of: &[i32], peers: usize) -> Self {
        let q = &view.packets;
        let mut rows = Rows {
            handshakes: Vec::new(),
            requests: Vec::new(),
            txns: Vec::new(),
            told: vec![Default::default(); peers],
            informed: vec![false; peers],
        };
        for row in 0..q.rows {
            let kind = q.kind(row);
            let place = match kind {
                Kind::Proposal => 0,
                Kind::Ack if q.counted(row) => 1,
                Kind::Request => {
                    rows.requests.push(row as u32);
                    continue;
                }
                kind if kind.is_commit() => 2,
                kind if kind.is_inform() => {
                    rows.informed[peer_at(view, peer_of, row)] = true;
                    3
                }
                kind if kind.is_handshake() => {
                    rows.handshakes.push(row as u32);
                    continue;
                }
                _ => continue,
            };
            if q.zxid.get(row) != NONE {
                rows.told[peer_at(view, peer_of, row)][place].push(row as u32);
                if kind.is_txn() {
                    rows.txns.push(row as u32);
                }
            }
        }
        rows
    }
}

fn known(value: i64) -> Option<i64> {
    (value != NONE).then_some(value)
}

fn handshakes(view: &View<'_>, rows: &Rows, peers: &mut [Peer], peer_of: &[i32]) {
    let q = &view.packets;
    for row in rows.handshakes.iter().map(|&row| row as usize) {
        let kind = q.kind(row);
        let peer = &mut peers[peer_at(view, peer_of, row)];
        if !peer.handshaken {
            // Until the sync is over, all that comes is part of it.
            peer.handshaken = true;
            peer.live_from = q.rows;
        }
        match kind {
            Kind::FollowerInfo | Kind::ObserverInfo => {
                let follows = kind == Kind::FollowerInfo;
                peer.role = Some(if follows {
                    Role::Follower
                } else {
                    Role::Observer
                });
                peer.sid = known(q.sid.get(row));
            }
            Kind::LeaderInfo | Kind::NewLeader => {
                peer.epoch = known(q.epoch.get(row));
                if q.config.text(row).is_some_and(|text| !text.is_empty()) {
                    peer.config = q.config.code(row);
                }
            }
            Kind::UpToDate => peer.live_from = row + 1,
            _ => {}
        }
    }
}

/// Roles of learners whose first packet was not seen.
fn roles(rows: &Rows, peers: &mut [Peer]) {
    for ((peer, told), informed) in peers.iter_mut().zip(&rows.told).zip(&rows.informed) {
        if peer.role.is_none() && !told[1].is_empty() {
            peer.role = Some(Role::Follower);
        }
        if peer.role.is_none() && *informed && !peer.handshaken {
            peer.role = Some(Role::Observer);
        }
    }
}

/// The sid of a learner that was joined mid-stream: the top byte of sessions that it makes.
fn sids(view: &View<'_>, rows: &Rows, peers: &mut [Peer], peer_of: &[i32]) {
    let q = &view.packets;
    let created = q.txn.find("createSession");
    let mut found: Vec<BTreeSet<i64>> = vec![BTreeSet::new(); peers.len()];
    for row in rows.requests.iter().map(|&row| row as usize) {
        if q.txn.code(row) == created {
            let peer = peer_at(view, peer_of, row);
            found[peer].insert(q.session.get(row) >> 56 & 0xFF);
        }
    }
    for (peer, made) in peers.iter_mut().zip(found) {
        if peer.sid.is_none() && made.len() == 1 {
            peer.sid = made.first().copied();
        }
    }
}

/// REQUESTs by what names them.
fn asked(view: &View<'_>, rows: &Rows) -> Near {
    let q = &view.packets;
    let created = q.txn.find("createSession");
    let all = rows.requests.iter().map(|&row| {
        let at = row as usize;
        let creates = q.txn.code(at) == created;
        (
            key(q.session.get(at), q.cxid.get(at), creates),
            q.ts.get(at),
            row,
        )
    });
    Near::new(all.collect())
}

/// Distinct txns of the rows that carry one; and which one each row carries, -1 for others.
fn distinct_txns(view: &View<'_>, rows: &Rows, asked: &Near, txns: &mut Txns) -> Vec<i32> {
    let q = &view.packets;
    let created = q.txn.find("createSession");
    let zxids: Vec<i64> = rows
        .txns
        .iter()
        .map(|&row| q.zxid.get(row as usize))
        .collect();
    let order = order_by(&zxids).into_iter();
    let order = order.map(|at| (zxids[at as usize], rows.txns[at as usize]));
    let mut order: Vec<(i64, u32)> = order.collect();
    let names = |row: u32| (q.session.get(row as usize), q.cxid.get(row as usize));
    let mut of_row = vec![-1; q.rows];
    for same in order.chunk_by_mut(|a, b| a.0 == b.0) {
        let first = same.first().map(|one| names(one.1));
        if same.iter().any(|one| Some(names(one.1)) != first) {
            // Several ensembles, or one that disagrees about a zxid.
            same.sort_unstable_by_key(|one| (names(one.1), one.1));
        }
        let mut last = None;
        for &mut (zxid, row) in same {
            let at = row as usize;
            let (session, cxid) = names(row);
            if last != Some((session, cxid)) {
                last = Some((session, cxid));
                let creates = q.txn.code(at) == created;
                let request = asked.before(key(session, cxid, creates), q.ts.get(at));
                txns.zxid.push(zxid);
                txns.session.push(session);
                txns.cxid.push(cxid);
                txns.op.push(q.txn.code(at) as i32);
                txns.row.push(row);
                txns.leader.push(view.server(q.conn.get(at)));
                txns.request_row.push(request.map_or(-1, |row| row as i32));
                txns.write.push(-1);
            }
            of_row[at] = txns.zxid.len() as i32 - 1;
        }
    }
    of_row
}

/// Rows of one connection and type by zxid, the first of each zxid.
fn firsts(view: &View<'_>, mut rows: Vec<u32>) -> Vec<u32> {
    let zxid = |row: &u32| view.packets.zxid.get(*row as usize);
    if !rows.is_sorted_by_key(zxid) {
        rows.sort_by_key(zxid);
    }
    rows.dedup_by_key(|row| zxid(row));
    rows
}

/// Takes the first one if it is of this zxid.
fn take(view: &View<'_>, rows: &mut &[u32], zxid: i64) -> i32 {
    match rows.split_first() {
        Some((&row, rest)) if view.packets.zxid.get(row as usize) == zxid => {
            *rows = rest;
            row as i32
        }
        _ => -1,
    }
}

fn deliveries(
    view: &View<'_>,
    rows: Rows,
    peers: &[Peer],
    txns: &Txns,
    of_row: Vec<i32>,
) -> Deliveries {
    let q = &view.packets;
    let mut made = Deliveries::default();
    let mut bare = Vec::new();
    for (number, (peer, mine)) in peers.iter().zip(rows.told).enumerate() {
        made.start.push(made.zxid.len() as u32);
        let mine = mine.map(|rows| firsts(view, rows));
        let mut left: [&[u32]; 4] = [&mine[0], &mine[1], &mine[2], &mine[3]];
        loop {
            let next = left.iter().filter_map(|rows| rows.first());
            let Some(zxid) = next.map(|&row| q.zxid.get(row as usize)).min() else {
                break;
            };
            let [proposal, ack, commit, inform] =
                left.each_mut().map(|rows| take(view, rows, zxid));
            let carrier = if proposal >= 0 { proposal } else { inform };
            let txn = usize::try_from(carrier).map_or(-1, |row| of_row[row]);
            if txn < 0 {
                bare.push(made.zxid.len());
            }
            // Told by what the leader sent; an ACK alone is of the broadcast or not as its time is.
            let sent = [carrier, commit, ack].into_iter().find(|&row| row >= 0);
            made.peer.push(number as u32);
            made.zxid.push(zxid);
            made.txn.push(txn);
            made.proposal_row.push(proposal);
            made.ack_row.push(ack);
            made.told_row
                .push(if commit >= 0 { commit } else { inform });
            made.syncing
                .push((sent.unwrap_or(-1) as i64) < peer.live_from as i64);
        }
    }
    made.start.push(made.zxid.len() as u32);
    carried_elsewhere(view, peers, txns, &of_row, &bare, &mut made);
    made
}

/// An ACK or COMMIT whose PROPOSAL was not captured: the txn that this leader sent others.
fn carried_elsewhere(
    view: &View<'_>,
    peers: &[Peer],
    txns: &Txns,
    of_row: &[i32],
    bare: &[usize],
    made: &mut Deliveries,
) {
    if bare.is_empty() || txns.zxid.is_empty() {
        return;
    }
    let q = &view.packets;
    let of = |at: usize| (peers[made.peer[at] as usize].leader, made.zxid[at]);
    let mut wanted: HashMap<(i32, i64), i32> = bare.iter().map(|&at| (of(at), -1)).collect();
    for (row, &txn) in of_row.iter().enumerate() {
        if txn >= 0 {
            let sent = (view.server(q.conn.get(row)), q.zxid.get(row));
            if let Some(found) = wanted.get_mut(&sent).filter(|found| **found < 0) {
                *found = txn;
            }
        }
    }
    let found: Vec<i32> = bare.iter().map(|&at| wanted[&of(at)]).collect();
    for (&at, txn) in bare.iter().zip(found) {
        made.txn[at] = txn;
    }
}

/// The txn of a reply, by the zxid in its header; session and cxid prove it.
fn by_zxid(txns: &Txns, zxid: i64, session: i64, cxid: i64) -> Option<usize> {
    if zxid == NONE {
        return None;
    }
    let low = txns.zxid.partition_point(|&known| known < zxid);
    let end = txns.zxid.len().min(low + TRIES);
    (low..end)
        .take_while(|&at| txns.zxid[at] == zxid)
        .find(|&at| txns.cxid[at] == cxid && (session == NONE || txns.session[at] == session))
}

fn written(view: &View<'_>, txns: &mut Txns, asked: &Near) -> Writes {
    let (x, q) = (&view.exchanges, &view.packets);
    let connects = x.op.find("connect");
    let created = q.txn.find("createSession");
    struct One {
        row: u32,
        cxid: i64,
        txn: i32,
    }
    let mut all = Vec::new();
    let mut free = vec![true; txns.zxid.len()];
    for row in 0..x.rows {
        let cxid = if x.op.code(row) == connects {
            0
        } else {
            x.xid.get(row)
        };
        let txn = by_zxid(txns, x.zxid.get(row), x.session.get(row), cxid);
        if let Some(txn) = txn {
            free[txn] = false;
        }
        all.push(One {
            row: row as u32,
            cxid,
            txn: txn.map_or(-1, |at| at as i32),
        });
    }
    // Without a zxid (no reply, a connect): the next txn of this session and cxid.
    let left = free.iter().enumerate().filter(|(_, free)| **free);
    let left = left.map(|(at, _)| {
        let key = key(
            txns.session[at],
            txns.cxid[at],
            i64::from(txns.op[at]) == created,
        );
        (key, q.ts.get(txns.row[at] as usize), at as u32)
    });
    let left = Near::new(left.collect());
    let mut made = Writes::default();
    for one in all {
        let row = one.row as usize;
        let connect = x.op.code(row) == connects;
        let (session, ts) = (x.session.get(row), x.ts.get(row));
        let key = key(session, one.cxid, connect);
        let mut txn = one.txn;
        if txn < 0 && session != NONE {
            txn = left.after(key, ts).map_or(-1, |at| at as i32);
        }
        if connect && txn < 0 {
            continue;
        }
        let mut request = -1;
        if let Ok(txn) = usize::try_from(txn) {
            request = txns.request_row[txn];
            // A REQUEST older than the client's is that of an earlier one with this xid.
            if request >= 0 && q.ts.get(request as usize) < ts {
                request = -1;
            }
            if txns.write[txn] < 0 {
                txns.write[txn] = made.row.len() as i32;
            }
        } else if session != NONE {
            request = asked.after(key, ts).map_or(-1, |row| row as i32);
        }
        made.row.push(one.row);
        made.cxid.push(one.cxid);
        made.txn.push(txn);
        made.request_row.push(request);
    }
    made
}
