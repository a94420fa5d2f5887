//! One write as an object: `zktrace/analysis/writereport.py` is the reference.

use super::blame::{self, PARTS};
use super::columns::{hexadecimal, session_text, NONE};
use super::value::{quotient, rounded, Value};
use super::writepath::{Path, COMMITTED, MOMENTS};
use super::writereport::{share, WriteReport};
use crate::histogram::{Histogram, Scale};

/// Percentiles of nanoseconds, as `stats` has them; None of no values.
pub fn spread(histogram: &Histogram, scale: &Scale) -> Value {
    if histogram.count == 0 {
        return Value::None;
    }
    let mean = quotient(histogram.sum, i128::from(histogram.count)) / 1000.0;
    let [p50, p90, p99, p999] = histogram.quantiles(scale);
    Value::Map(vec![
        ("min", Value::Us(histogram.min)),
        ("mean", Value::Float(rounded(mean, 3))),
        ("p50", Value::Us(p50)),
        ("p90", Value::Us(p90)),
        ("p99", Value::Us(p99)),
        ("p999", Value::Us(p999)),
        ("max", Value::Us(histogram.max)),
    ])
}

fn known(value: i64) -> Option<i64> {
    (value != NONE).then_some(value)
}

impl WriteReport<'_> {
    /// A write's object; None where there is no such number.
    pub fn write(&self, number: usize) -> Option<Value> {
        let path = self.paths.all.get(number)?;
        let (join, x) = (&self.join, &self.join.view.exchanges);
        let write = usize::try_from(path.write).ok();
        let txn = usize::try_from(path.txn).ok();
        let row = write.map(|write| join.writes.row[write] as usize);
        let start = blame::begin(path);
        let (mut session, mut cxid, mut zxid, mut error) = (NONE, NONE, NONE, NONE);
        let (mut op, mut client, mut server) = (None, None, None);
        if let (Some(row), Some(write)) = (row, write) {
            session = x.session.get(row);
            cxid = join.writes.cxid[write];
            zxid = x.zxid.get(row);
            error = x.error.get(row);
            op = x.op.text(row);
            let conn = x.conn.get(row);
            client = join.view.address(join.view.client(conn));
            server = join.view.address(join.view.server(conn));
        }
        if let Some(txn) = txn {
            session = join.txns.session[txn];
            cxid = join.txns.cxid[txn];
            zxid = join.txns.zxid[txn];
            op = op.or_else(|| join.view.packets.txn.word(i64::from(join.txns.op[txn])));
        }
        let path_text = match (row, txn) {
            (Some(row), _) => x.path.text(row),
            (None, Some(txn)) => join.view.packets.path.text(join.txns.row[txn] as usize),
            (None, None) => None,
        };
        let peer = usize::try_from(path.peer)
            .ok()
            .map(|peer| &join.peers[peer]);
        let length = self.paths.length[number];
        let spent = blame::parts(join, &self.paths, path)
            .into_iter()
            .zip(&PARTS);
        let spent = spent.filter(|(ns, _)| *ns != 0);
        let flow = client
            .zip(server)
            .map(|(client, server)| format!("{client}>{server}"));
        let role = match peer.map(|peer| peer.role) {
            Some(role) => role.map_or("learner", |role| role.name()),
            None => path.place.name(),
        };
        Some(Value::Map(vec![
            ("kind", Value::Name("write")),
            ("ts_ns", Value::Int(start)),
            ("flow", Value::some(flow, Value::Text)),
            ("op", Value::some(op, Value::text)),
            ("path", Value::some(path_text, Value::text)),
            (
                "session",
                Value::some(known(session), |id| Value::Text(session_text(id))),
            ),
            ("cxid", Value::some(known(cxid), Value::Int)),
            (
                "zxid",
                Value::some(known(zxid), |zxid| Value::Text(hexadecimal(zxid))),
            ),
            ("error", Value::some(known(error), Value::Int)),
            ("error_name", Value::None),
            ("client", Value::some(client, Value::text)),
            ("server", Value::some(server, Value::text)),
            ("origin", Value::name(path.origin.name())),
            ("server_role", Value::name(role)),
            (
                "server_sid",
                Value::some(peer.and_then(|peer| peer.sid), Value::Int),
            ),
            (
                "leader",
                Value::some(txn, |txn| Value::text(self.address(join.txns.leader[txn]))),
            ),
            (
                "epoch",
                Value::some(txn, |_| Value::Int(zxid >> 32 & 0xFFFF_FFFF)),
            ),
            (
                "latency_us",
                if Self::answered(path) {
                    Value::Us(length)
                } else {
                    Value::None
                },
            ),
            ("total_us", Value::Us(length)),
            ("complete", Value::Bool(blame::complete(path))),
            ("missing", missing(path)),
            ("stages", stage_rows(path, start)),
            (
                "parts",
                Value::Map(spent.map(|(ns, part)| (part.name, Value::Us(ns))).collect()),
            ),
            ("quorum", self.quorum(path)),
            ("acks", self.acks(path, start)),
            ("critical", self.critical(path, length)),
        ]))
    }

    fn quorum(&self, path: &Path) -> Value {
        if path.txn < 0 {
            return Value::None;
        }
        let acker = usize::try_from(path.acker).ok();
        let peer = acker.map(|at| &self.join.peers[self.join.deliveries.peer[at] as usize]);
        let needed = (path.needed != 0).then_some(path.needed);
        Value::Map(vec![
            ("needed", Value::some(needed, Value::Int)),
            ("acks_before_commit", Value::Int(path.acks)),
            (
                "made_by",
                Value::some(peer, |peer| {
                    Value::Map(vec![
                        ("sid", Value::some(peer.sid, Value::Int)),
                        ("learner", Value::text(self.address(peer.learner))),
                    ])
                }),
            ),
        ])
    }

    /// What each learner was sent and when it answered, observers too.
    fn acks(&self, path: &Path, start: i64) -> Value {
        let Ok(txn) = usize::try_from(path.txn) else {
            return Value::List(Vec::new());
        };
        let join = &self.join;
        let commit = path.moments[COMMITTED];
        let places = self.paths.first[txn] as usize..self.paths.first[txn + 1] as usize;
        let rows = self.paths.deliveries[places].iter().map(|&at| {
            let delivery = at as usize;
            let peer = &join.peers[join.deliveries.peer[delivery] as usize];
            let seen = join.seen(delivery);
            let since = |ts: i64| Value::some(known(ts), |ts| Value::Us(ts.wrapping_sub(start)));
            let both = seen.proposal != NONE && seen.ack != NONE;
            let took = both.then(|| seen.ack.wrapping_sub(seen.proposal));
            let network = known(self.paths.network[delivery]);
            let before = (seen.ack != NONE && commit != NONE).then_some(seen.ack <= commit);
            Value::Map(vec![
                ("sid", Value::some(peer.sid, Value::Int)),
                ("learner", Value::text(self.address(peer.learner))),
                (
                    "role",
                    Value::some(peer.role, |role| Value::Name(role.name())),
                ),
                ("syncing", Value::Bool(join.deliveries.syncing[delivery])),
                ("proposal_us", since(seen.proposal)),
                ("ack_us", since(seen.ack)),
                ("commit_us", since(seen.told)),
                ("latency_us", Value::some(took, Value::Us)),
                ("network_us", Value::some(network, Value::Us)),
                (
                    "network_exact",
                    Value::some(network, |_| Value::Bool(false)),
                ),
                ("before_commit", Value::some(before, Value::Bool)),
                ("made_quorum", Value::Bool(at as i32 == path.acker)),
            ])
        });
        Value::List(rows.collect())
    }

    /// The part that took longest, and where.
    fn critical(&self, path: &Path, length: i64) -> Value {
        if length == 0 {
            return Value::None;
        }
        let spent = blame::parts(&self.join, &self.paths, path);
        let mut most = 0;
        for (at, ns) in spent.iter().enumerate() {
            if *ns > spent[most] {
                most = at;
            }
        }
        let part = &PARTS[most];
        let place = self.place_name(self.place_of(path, part.whose));
        Value::Map(vec![
            ("part", Value::Name(part.name)),
            ("stage", Value::name(part.stage)),
            ("where", Value::some(place, Value::Text)),
            ("meaning", Value::Name(part.meaning)),
            ("us", Value::Us(spent[most])),
            ("share", share(i128::from(spent[most]), i128::from(length))),
        ])
    }
}

/// What was not seen of what there must have been.
fn missing(path: &Path) -> Value {
    let gone = blame::gone(path);
    let lost = MOMENTS.into_iter().zip(gone).filter(|(_, gone)| *gone);
    let mut names: Vec<Value> = lost.map(|(name, _)| Value::Name(name)).collect();
    if !blame::own_commit(path) && !gone[COMMITTED] {
        names.push(Value::Name("commit to the client's server"));
    }
    Value::List(names)
}

/// Stages one after another; they add up to `total_us`.
fn stage_rows(path: &Path, start: i64) -> Value {
    let rows = blame::stages(path).map(|(begin, end, name)| {
        let (since, until) = (path.moments[begin], path.moments[end]);
        Value::Map(vec![
            ("stage", Value::Name(name)),
            ("from", Value::Name(MOMENTS[begin])),
            ("to", Value::Name(MOMENTS[end])),
            ("start_us", Value::Us(since.wrapping_sub(start))),
            ("us", Value::Us(until.wrapping_sub(since))),
        ])
    });
    Value::List(rows.collect())
}
