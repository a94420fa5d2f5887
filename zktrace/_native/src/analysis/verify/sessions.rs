//! Guarantees to a session, held against what passed on the client port. `sessions.py` is the reference.

use std::collections::{BTreeMap, HashMap};

use super::evidence::Evidence;
use super::Outcome;
use crate::analysis::columns::{hexadecimal, NONE};
use crate::analysis::sorted::{distinct, grouped, order_by, Numbers};
use crate::analysis::value::thousands;

/// KeeperException.Code.NOTREADONLY: answered ahead of reads on their way.
const NOT_READ_ONLY: i64 = -119;

const CREATES: [&str; 4] = ["create", "create2", "createContainer", "createTTL"];
const SHOW_STAT: [&str; 4] = ["exists", "getData", "getACL", "getChildren2"];
/// One-shot data watches are set by these, and an event takes them away.
const DATA_READS: [&str; 2] = ["exists", "getData"];
/// After these a connection's watches are not those of its reads alone.
const OTHER_WATCHES: [&str; 4] = ["addWatch", "removeWatches", "setWatches", "setWatches2"];
const DATA_EVENTS: [&str; 3] = ["NodeCreated", "NodeDeleted", "NodeDataChanged"];

/// What all checks of sessions did not see.
fn reach(evidence: &Evidence<'_>, out: &mut Outcome) {
    let joined = evidence.conns_of("client", "joined");
    let opened = evidence.conns_of("client", "opened");
    out.miss(joined.len(), || {
        format!(
            "{} connections joined in the middle",
            thousands(joined.len())
        )
    });
    let hurt = |conn: &&i64| opened.contains(*conn) || joined.contains(*conn);
    let broken = evidence.broken.iter().filter(hurt).count();
    out.miss(broken, || {
        format!(
            "{} connections with losses or undecoded bytes: nothing compared across them",
            thousands(broken)
        )
    });
    let x = evidence.exchanges();
    let state = x.state.find("no_request");
    let alone = (0..x.rows)
        .filter(|&row| x.state.code(row) == state)
        .count();
    out.miss(alone, || {
        format!("{} replies whose request was not seen", thousands(alone))
    });
}

fn sessions(evidence: &Evidence<'_>, rows: impl Iterator<Item = usize>) -> usize {
    let all = rows.map(|row| evidence.exchanges().session.get(row));
    distinct(all.filter(|&session| session != NONE))
}

/// Those rows that are the first of theirs.
fn firsts<'r>(rows: &'r [u32], first: &'r [bool]) -> impl Iterator<Item = usize> + 'r {
    let all = rows.iter().zip(first).filter(|(_, first)| **first);
    all.map(|(&row, _)| row as usize)
}

pub fn session_zxid(evidence: &Evidence<'_>, out: &mut Outcome) {
    let x = evidence.exchanges();
    let (rows, first) = evidence.answered();
    out.look("replies", rows.len());
    out.look(
        "connections",
        distinct(firsts(rows, first).map(|row| x.conn.get(row))),
    );
    out.look("sessions", sessions(evidence, firsts(rows, first)));
    reach(evidence, out);
    for (at, pair) in rows.windows(2).enumerate() {
        let (before, after) = (pair[0] as usize, pair[1] as usize);
        let (was, is) = (x.zxid.get(before), x.zxid.get(after));
        if first[at + 1] || is >= was {
            continue;
        }
        if out.room() == 0 {
            out.find_more(1, 0);
            continue;
        }
        out.find(
            format!(
                "session {} was at zxid {}, then at {}",
                evidence.session_text(x.session.get(after)),
                hexadecimal(was),
                hexadecimal(is)
            ),
            vec![evidence.reply(before, ""), evidence.reply(after, "")],
        );
    }
}

pub fn session_order(evidence: &Evidence<'_>, out: &mut Outcome) {
    let x = evidence.exchanges();
    let (rows, _) = evidence.answered();
    let counted = |row: &usize| x.xid.get(*row) >= 0 && x.error.get(*row) != NOT_READ_ONLY;
    let rows: Vec<usize> = rows
        .iter()
        .map(|&row| row as usize)
        .filter(counted)
        .collect();
    let stretch = evidence.stretch();
    reach(evidence, out);
    let (mut uncounted, mut unordered) = (0, 0);
    let mut conns = Vec::new();
    for part in rows.chunk_by(|a, b| stretch[*a] == stretch[*b]) {
        conns.extend(part.first().map(|&row| x.conn.get(row)));
        let xids = |pair: &[usize]| (x.xid.get(pair[0]), x.xid.get(pair[1]));
        if part.windows(2).map(xids).all(|(early, late)| late >= early) {
            continue;
        }
        let mut by_time: Vec<(i64, i64)> = part
            .iter()
            .map(|&row| (x.ts.get(row), x.xid.get(row)))
            .collect();
        by_time.sort_unstable();
        if !by_time.is_sorted_by_key(|one| one.1) {
            uncounted += 1;
            unordered += part.len();
            continue;
        }
        for pair in part.windows(2) {
            let (early, late) = (pair[0], pair[1]);
            let (first, second) = xids(pair);
            if second < first && x.ts.get(late) < x.ts.get(early) {
                out.find(
                    format!("xid {first} was answered before xid {second}, which was sent before"),
                    vec![
                        evidence.request(late, ""),
                        evidence.request(early, ""),
                        evidence.reply(early, ""),
                        evidence.reply(late, ""),
                    ],
                );
            }
        }
    }
    out.look("replies", rows.len() - unordered);
    out.look("connections", distinct(conns.into_iter()));
    out.miss(uncounted, || {
        format!(
            "{} connections whose client does not count xids up, or whose requests were captured \
             out of order",
            thousands(uncounted)
        )
    });
}

/// The node that an exchange is about: a created one by its true name.
fn node(evidence: &Evidence<'_>, row: usize) -> i64 {
    let x = evidence.exchanges();
    match x.created_path.code(row) {
        -1 => x.path.code(row),
        created => created,
    }
}

/// Zxid of a node's last change in a reply's Stat. No node was changed before it was made: what says so is not ZooKeeper's.
fn mzxid(evidence: &Evidence<'_>, row: usize) -> i64 {
    let x = evidence.exchanges();
    let mzxid = x.mzxid.get(row);
    if mzxid >= x.czxid.get(row) {
        mzxid
    } else {
        NONE
    }
}

/// A stretch with a node, as one number.
struct Nodes(i64);

impl Nodes {
    fn of(evidence: &Evidence<'_>) -> Self {
        Nodes(evidence.exchanges().path.len().max(1) as i64)
    }

    fn key(&self, stretch: i64, node: i64) -> i64 {
        stretch * self.0 + node
    }
}

pub fn session_reads(evidence: &Evidence<'_>, out: &mut Outcome) {
    let x = evidence.exchanges();
    let complete = x.state.find("complete");
    let creates = x.op.among(&CREATES);
    let deletes = x.op.among(&["delete", "deleteContainer"]);
    let (sets, multi) = (x.op.find("setData"), x.op.find("multi"));
    let shows = x.op.among(&SHOW_STAT);
    reach(evidence, out);
    let multis = (0..x.rows).filter(|&row| x.op.code(row) == multi).count();
    out.miss(multis, || {
        format!("writes of {} multis are not followed", thousands(multis))
    });
    let nodes = Nodes::of(evidence);
    let stretch = evidence.stretch();
    // what a write leaves behind: of a setData it must be known; NONE for what is no write
    let floor = |row: usize| {
        let op = x.op.code(row);
        if op == sets {
            mzxid(evidence, row)
        } else if creates.has(op) {
            x.zxid.get(row)
        } else if deletes.has(op) {
            // a deleted node that is there again was made later than the delete
            x.zxid.get(row).wrapping_add(1)
        } else {
            NONE
        }
    };
    let done = |row: usize| {
        let good = x.state.code(row) == complete && x.error.get(row) == 0;
        good && x.zxid.get(row) > 0 && node(evidence, row) >= 0
    };
    let key = |row: usize| nodes.key(stretch[row].into(), node(evidence, row));
    let writing = (0..x.rows).filter(|&row| floor(row) != NONE && done(row));
    let written: Numbers = writing.map(key).collect();
    if written.is_empty() {
        return;
    }
    let mut chosen: Vec<(u32, i64, i64)> = Vec::new();
    for row in 0..x.rows {
        let left = floor(row);
        let reads = shows.has(x.op.code(row)) && mzxid(evidence, row) != NONE;
        if (left != NONE || reads) && done(row) && written.contains(&key(row)) {
            chosen.push((row as u32, key(row), left));
        }
    }
    let keys: Vec<i64> = chosen.iter().map(|one| one.1).collect();
    let order = order_by(&keys);
    let (mut reads, mut writes) = (0, 0);
    let mut starts = Vec::new();
    // row of the newest write, what it left, and the read
    let mut old: Vec<(usize, usize)> = Vec::new();
    let mut last: Option<(i64, usize, i64)> = None;
    for &at in &order {
        let (row, key, floor) = chosen[at as usize];
        let row = row as usize;
        if last.is_none_or(|(mine, _, _)| mine != key) {
            starts.push(row);
            last = Some((key, usize::MAX, NONE));
        }
        let Some((_, write, least)) = &mut last else {
            continue;
        };
        if floor != NONE {
            writes += 1;
            if floor > *least {
                (*write, *least) = (row, floor);
            }
        } else if *least != NONE {
            reads += 1;
            if mzxid(evidence, row) < *least {
                old.push((*write, row));
            }
        }
    }
    out.look("reads", reads);
    out.look("writes", writes);
    out.look("sessions", sessions(evidence, starts.into_iter()));
    let all = old.len();
    old.truncate(out.room());
    for &(write, read) in &old {
        let shown = hexadecimal(mzxid(evidence, read));
        out.find(
            format!(
                "session {} wrote {} and then read {shown}",
                evidence.session_text(x.session.get(write)),
                hexadecimal(x.zxid.get(write))
            ),
            vec![
                evidence.reply(write, ""),
                evidence.reply(read, &format!(" showing mzxid {shown}")),
            ],
        );
    }
    out.find_more(all, old.len());
}

pub fn session_events(evidence: &Evidence<'_>, out: &mut Outcome) {
    reach(evidence, out);
    events_by_zxid(evidence, out);
    events_by_stat(evidence, out);
}

/// A reply or an event, by row.
#[derive(Clone, Copy)]
struct One {
    row: usize,
    event: bool,
}

fn events_by_zxid(evidence: &Evidence<'_>, out: &mut Outcome) {
    let (x, e) = (evidence.exchanges(), &evidence.events);
    let told: Vec<usize> = (0..e.rows).filter(|&row| e.zxid.get(row) > 0).collect();
    let bare = e.rows - told.len();
    out.miss(bare, || {
        format!(
            "{} events do not tell the zxid of their write",
            thousands(bare)
        )
    });
    if told.is_empty() {
        return;
    }
    let (stretch, event_stretch) = (evidence.stretch(), evidence.event_stretch());
    let wanted: Numbers = told.iter().map(|&row| event_stretch[row].into()).collect();
    let rows = evidence.answered().0.iter().map(|&row| row as usize);
    let rows = rows.filter(|&row| wanted.contains(&stretch[row].into()));
    let replies = rows.map(|row| (x.seq.get(row), One { row, event: false }));
    let mut all: Vec<(i64, One)> = replies.collect();
    all.extend(
        told.iter()
            .map(|&row| (e.seq.get(row), One { row, event: true })),
    );
    all.sort_by_key(|one| one.0);
    let of = |one: &One| match one.event {
        true => (i64::from(event_stretch[one.row]), e.zxid.get(one.row)),
        false => (i64::from(stretch[one.row]), x.zxid.get(one.row)),
    };
    let keys: Vec<i64> = all.iter().map(|(_, one)| of(one).0).collect();
    let (order, first) = grouped(&keys);
    out.look("events", told.len());
    let (mut late, mut stale) = (Vec::new(), Vec::new());
    let (mut reply, mut event): (Option<One>, Option<One>) = (None, None);
    let mut behind_event = false;
    for (&at, first) in order.iter().zip(first) {
        let one = all[at as usize].1;
        if first {
            (reply, event, behind_event) = (None, None, false);
        }
        let zxid = of(&one).1;
        if one.event {
            late.extend(
                reply
                    .filter(|reply| zxid <= of(reply).1)
                    .map(|reply| (reply, one)),
            );
            event = Some(one);
        } else {
            // held against the last event alone, and only where nothing else came between
            let fired = event.filter(|event| behind_event && zxid < of(event).1);
            stale.extend(fired.map(|event| (event, one)));
            reply = Some(one);
        }
        behind_event = one.event;
    }
    let all = late.len() + stale.len();
    for (reply, event) in late.into_iter().take(out.room()) {
        out.find(
            format!(
                "an event of {} came behind a reply that has {} processed",
                hexadecimal(of(&event).1),
                hexadecimal(of(&reply).1)
            ),
            vec![evidence.reply(reply.row, ""), evidence.event(event.row)],
        );
    }
    for (event, reply) in stale.into_iter().take(out.room()) {
        out.find(
            format!(
                "a reply of {} came behind an event of {}",
                hexadecimal(of(&reply).1),
                hexadecimal(of(&event).1)
            ),
            vec![evidence.event(event.row), evidence.reply(reply.row, "")],
        );
    }
    out.find_more(all, out.violations);
}

fn events_by_stat(evidence: &Evidence<'_>, out: &mut Outcome) {
    let (x, e) = (evidence.exchanges(), &evidence.events);
    let before = out.violations;
    let complete = x.state.find("complete");
    let shown = x.op.among(&[&SHOW_STAT[..], &["setData"]].concat());
    let data_reads = x.op.among(&DATA_READS);
    let shows = |row: usize| {
        let done = x.state.code(row) == complete && x.error.get(row) == 0;
        let op = x.op.code(row);
        done && shown.has(op) && node(evidence, row) >= 0 && mzxid(evidence, row) != NONE
    };
    let sets = |row: usize| data_reads.has(x.op.code(row)) && x.watch.get(row) == 1;
    if !(0..x.rows).any(|row| sets(row) && shows(row)) {
        return;
    }
    let other = x.op.among(&OTHER_WATCHES);
    let others = (0..x.rows).filter(|&row| other.has(x.op.code(row)));
    let others: Numbers = others.map(|row| x.conn.get(row)).collect();
    out.miss(others.len(), || {
        format!(
            "{} connections also set watches by addWatch or setWatches: their replies are not held \
             against events",
            thousands(others.len())
        )
    });
    let nodes = Nodes::of(evidence);
    let (stretch, event_stretch) = (evidence.stretch(), evidence.event_stretch());
    let fits = |row: &usize| shows(*row) && !others.contains(&x.conn.get(*row));
    let rows: Vec<usize> = (0..x.rows).filter(fits).collect();
    let key = |row: usize| nodes.key(stretch[row].into(), node(evidence, row));
    let watched = rows.iter().filter(|&&row| sets(row));
    let watched: Numbers = watched.map(|&row| key(row)).collect();
    if watched.is_empty() {
        return;
    }
    let fires = e.event.among(&DATA_EVENTS);
    let rows = rows.into_iter().filter(|&row| watched.contains(&key(row)));
    let mut all: Vec<(i64, i64, One)> = rows
        .map(|row| (x.seq.get(row), key(row), One { row, event: false }))
        .collect();
    let events = (0..e.rows).filter(|&row| fires.has(e.event.code(row)) && e.path.code(row) >= 0);
    all.extend(events.map(|row| {
        let key = nodes.key(event_stretch[row].into(), e.path.code(row));
        (e.seq.get(row), key, One { row, event: true })
    }));
    all.sort_by_key(|one| one.0);
    let keys: Vec<i64> = all.iter().map(|one| one.1).collect();
    let (order, first) = grouped(&keys);
    let mut looked = 0;
    let mut unseen = Vec::new();
    // the last watch set, which an event takes away
    let mut set: Option<usize> = None;
    for (&at, first) in order.iter().zip(first) {
        let one = all[at as usize].2;
        if first {
            set = None;
        }
        if one.event {
            set = None;
            continue;
        }
        if let Some(by) = set {
            looked += 1;
            // the same node with the same ACL: a session without READ is not told (DataTree, 3.9)
            let same = x.czxid.get(one.row) == x.czxid.get(by)
                && x.aversion.get(one.row) == x.aversion.get(by);
            if same && mzxid(evidence, one.row) > mzxid(evidence, by) {
                unseen.push((by, one.row));
            }
        }
        if sets(one.row) {
            set = Some(one.row);
        }
    }
    out.look("watched_reads", looked);
    let all = unseen.len();
    for (by, row) in unseen.into_iter().take(out.room()) {
        let shown = hexadecimal(mzxid(evidence, row));
        let was = hexadecimal(mzxid(evidence, by));
        out.find(
            format!(
                "a reply shows a change of {shown} of which no event told, though a watch was set \
                 at {was}"
            ),
            vec![
                evidence.reply(by, &format!(" with a watch, mzxid {was}")),
                evidence.reply(row, &format!(" showing mzxid {shown}")),
            ],
        );
    }
    out.find_more(all, out.violations - before);
}

pub fn session_move(evidence: &Evidence<'_>, out: &mut Outcome) {
    let x = evidence.exchanges();
    let (connect, complete) = (x.op.find("connect"), x.state.find("complete"));
    reach(evidence, out);
    // of each connection its last connect
    let mut asked: HashMap<i64, usize> = HashMap::new();
    let mut connects = 0;
    for row in 0..x.rows {
        let done = x.op.code(row) == connect && x.state.code(row) == complete;
        let good = x.error.get(row) == 0 && x.protocol_version.get(row) == 0;
        if done && good && x.last_zxid_seen.get(row) > 0 {
            asked.insert(x.conn.get(row), row);
            connects += 1;
        }
    }
    if connects == 0 {
        return;
    }
    let mut rows: Vec<u32> = evidence.answered().0.to_vec();
    rows.sort_unstable();
    let held = rows.into_iter().filter_map(|row| {
        let row = row as usize;
        Some((row, *asked.get(&x.conn.get(row))?))
    });
    let held: Vec<(usize, usize)> = held.collect();
    out.look("replies", held.len());
    out.look("connections", connects);
    // one finding a connection: its first reply
    let mut first: BTreeMap<usize, usize> = BTreeMap::new();
    for (row, connect) in held {
        if x.zxid.get(row) < x.last_zxid_seen.get(connect) {
            first.entry(connect).or_insert(row);
        }
    }
    let mut old: Vec<(usize, usize)> = first
        .into_iter()
        .map(|(connect, row)| (row, connect))
        .collect();
    old.sort_unstable();
    for (row, connect) in old {
        if out.room() == 0 {
            out.find_more(1, 0);
            continue;
        }
        let seen = hexadecimal(x.last_zxid_seen.get(connect));
        out.find(
            format!(
                "the client of session {} had seen {seen}, its new server is at {}",
                evidence.session_text(x.session.get(row)),
                hexadecimal(x.zxid.get(row))
            ),
            vec![
                evidence.request(connect, &format!(" with last zxid seen {seen}")),
                evidence.reply(row, ""),
            ],
        );
    }
}
