//! What breaks no guarantee and yet is cause for alarm. `alarms.py` is the reference.

use std::collections::{BTreeMap, HashMap};

use super::ensemble::Term;
use super::evidence::Evidence;
use super::quorums::{time_margin, voters};
use super::Outcome;
use crate::analysis::columns::{Kind, NONE};
use crate::analysis::sorted::distinct;
use crate::analysis::value::thousands;

const S: i64 = 1_000_000_000;
/// A leader that flaps: so many changes in so long.
const FLAPS: usize = 3;
const FLAP_NS: i64 = 300 * S;

pub fn bare_check(evidence: &Evidence<'_>, out: &mut Outcome) {
    let (a, q) = (&evidence.anomalies, evidence.packets());
    let (bare, check) = (a.reason.find("bare_check"), q.txn.find("check"));
    let sent = (0..a.rows).filter(|&row| a.reason.code(row) == bare);
    let passed = (0..q.rows).filter(|&row| {
        let kinds = [Kind::Request, Kind::Proposal, Kind::Inform];
        q.txn.code(row) == check && kinds.contains(&q.kind(row))
    });
    out.look("requests", evidence.exchanges().rows);
    out.look("packets", q.rows);
    let (sent, passed): (Vec<usize>, Vec<usize>) = (sent.collect(), passed.collect());
    for &row in sent.iter().take(out.room()) {
        let told = "a client sent a check outside a multi".to_owned();
        out.find(told, vec![evidence.anomaly(row)]);
    }
    for &row in passed.iter().take(out.room()) {
        let told = "a check outside a multi is on its way to the log".to_owned();
        out.find(told, evidence.all_packets(&[row]));
    }
    out.find_more(sent.len() + passed.len(), out.violations);
}

pub fn no_quorum(evidence: &Evidence<'_>, out: &mut Outcome) {
    let c = &evidence.connections;
    let over = c.event.among(&["closed", "reset"]);
    let rows = (0..c.rows).filter(|&row| over.has(c.event.code(row)));
    let ended: HashMap<i64, i64> = rows.map(|row| (c.conn.get(row), c.ts.get(row))).collect();
    for (number, term) in evidence.ensembles().terms.iter().enumerate() {
        let Some(who) = voters(evidence, term, out) else {
            continue;
        };
        if who.unseen() >= who.needed() {
            continue;
        }
        let gone = who.followers.iter().map(|mine| {
            let ends = mine.iter().map(|one| ended.get(&one.conn).copied());
            ends.map(|end| end.unwrap_or(i64::MAX))
                .max()
                .unwrap_or(i64::MAX)
        });
        let mut gone: Vec<i64> = gone.collect();
        gone.sort_unstable();
        let Some(margin) = time_margin(evidence, number) else {
            out.miss(1, || {
                "terms in which the times of connections cannot be compared".to_owned()
            });
            continue;
        };
        // when so many have left that the others and those not seen are too few
        let place = (gone.len() + who.unseen()).checked_sub(who.needed());
        let Some(&left) = place.and_then(|place| gone.get(place)) else {
            continue;
        };
        out.look("terms", 1);
        out.assume(who.source);
        proposals(evidence, out, term, left.min(i64::MAX - margin) + margin);
    }
}

fn proposals(evidence: &Evidence<'_>, out: &mut Outcome, term: &Term<'_>, left: i64) {
    let q = evidence.packets();
    let (mut count, mut late) = (0, Vec::new());
    for one in evidence.ensembles().of(term) {
        for row in one.rows_of(evidence, |kind| kind == Kind::Proposal) {
            count += 1;
            let zxid = q.zxid.get(row);
            if zxid != NONE && zxid >> 32 == term.epoch && q.ts.get(row) > left {
                late.push(row);
            }
        }
    }
    out.look("proposals", count);
    if let (Some(&first), Some(&last)) = (late.first(), late.last()) {
        let txns = distinct(late.iter().map(|&row| q.zxid.get(row)));
        out.find(
            format!(
                "{} proposed {} transactions after it had lost its quorum",
                term.server,
                thousands(txns)
            ),
            evidence.all_packets(&[first, last]),
        );
    }
}

pub fn flapping_leader(evidence: &Evidence<'_>, out: &mut Outcome) {
    let ts = |row: usize| evidence.packets().ts.get(row);
    for terms in evidence.ensembles().by_ensemble() {
        let mut begun: BTreeMap<i64, usize> = BTreeMap::new();
        for term in terms {
            let followers = evidence.ensembles().followers(term).into_iter();
            let told = followers.filter_map(|one| one.first(Kind::NewLeader));
            if let Some(first) = told.min_by_key(|&row| ts(row)) {
                begun.entry(term.epoch).or_insert(first);
            }
        }
        out.look("epochs", begun.len());
        let mut rows: Vec<usize> = begun.into_values().collect();
        rows.sort_by_key(|&row| ts(row));
        let near = rows
            .windows(FLAPS + 1)
            .find(|run| ts(run[FLAPS]) - ts(run[0]) <= FLAP_NS);
        if let Some(run) = near {
            // half to even, as Python shows it
            let seconds = (ts(run[FLAPS]) - ts(run[0])) as f64 / S as f64;
            out.find(
                format!("{} epochs began within {seconds:.0} s", FLAPS + 1),
                evidence.all_packets(run),
            );
        }
    }
}
