//! Order and sameness of transactions on the quorum port. `orders.py` is the reference.

use std::collections::HashMap;

use super::ensemble::Learner;
use super::evidence::Evidence;
use super::Outcome;
use crate::analysis::columns::{hexadecimal, Kind, NONE};
use crate::analysis::sorted::order_by;
use crate::analysis::value::thousands;

/// A TxnDigest: version and digest of the tree, 12 bytes behind a txn.
const DIGEST_BYTES: i64 = 12;
/// A designated leader before the txn of an INFORMANDACTIVATE.
const SID_BYTES: i64 = 8;

/// What all checks of ensembles did not see.
pub fn reach(evidence: &Evidence<'_>, out: &mut Outcome) {
    let learners = &evidence.ensembles().learners;
    let without = learners
        .iter()
        .filter(|one| one.first(Kind::FollowerInfo).is_none());
    let observers = learners
        .iter()
        .filter(|one| one.first(Kind::ObserverInfo).is_some());
    let late = without.count() as i64 - observers.count() as i64;
    // one that said both is no learner's
    out.miss(late.unsigned_abs() as usize, || {
        let late = match late < 0 {
            true => format!("-{}", thousands(late.unsigned_abs() as usize)),
            false => thousands(late as usize),
        };
        format!("the beginning of {late} learners' connections")
    });
    let broken = learners
        .iter()
        .filter(|one| evidence.broken.contains(&one.conn))
        .count();
    out.miss(broken, || {
        format!(
            "{} learners' connections have losses: nothing compared across them",
            thousands(broken)
        )
    });
}

/// Rows of a connection, cut where something was lost.
fn stretches(evidence: &Evidence<'_>, one: &Learner<'_>, rows: Vec<usize>) -> Vec<Vec<usize>> {
    if !evidence.broken.contains(&one.conn) {
        return vec![rows];
    }
    let stretch = evidence.packet_stretch();
    let mut cut = rows;
    cut.sort_by_key(|&row| stretch[row]);
    let parts = cut.chunk_by(|a, b| stretch[*a] == stretch[*b]);
    parts.map(<[usize]>::to_vec).collect()
}

pub fn leader_order(evidence: &Evidence<'_>, out: &mut Outcome) {
    let q = evidence.packets();
    reach(evidence, out);
    let sent = (0..q.rows).filter(|&row| {
        let kind = q.kind(row);
        (kind.is_txn() || kind.is_commit()) && q.zxid.get(row) != NONE && !q.to_leader(row)
    });
    let sent: Vec<usize> = sent.collect();
    if sent.is_empty() {
        return;
    }
    let mut known: HashMap<&str, Vec<i64>> = HashMap::new();
    let kinds: [fn(Kind) -> bool; 2] = [|kind| kind == Kind::Proposal, Kind::is_inform];
    for one in &evidence.ensembles().learners {
        for kind in kinds {
            let mine: Vec<usize> = one.rows_of(evidence, kind).collect();
            out.look("txns", mine.len());
            out.look("learners", usize::from(!mine.is_empty()));
            for rows in stretches(evidence, one, mine) {
                let pairs = || rows.windows(2).map(|pair| (pair[0], pair[1]));
                let step = |early, late| q.zxid.get(late).wrapping_sub(q.zxid.get(early));
                for (early, late) in pairs().filter(|&(early, late)| step(early, late) <= 0) {
                    out.find(
                        format!(
                            "{} sent {} behind {}",
                            one.server,
                            hexadecimal(q.zxid.get(late)),
                            hexadecimal(q.zxid.get(early))
                        ),
                        evidence.all_packets(&[early, late]),
                    );
                }
                let jumps = pairs().filter(|&(early, late)| {
                    step(early, late) > 1 && q.zxid.get(early) >> 32 == q.zxid.get(late) >> 32
                });
                for (early, late) in jumps {
                    let told = known.entry(one.server).or_insert_with(|| {
                        let mine = sent
                            .iter()
                            .filter(|&&row| evidence.server_name(q.conn.get(row)) == one.server);
                        let mut told: Vec<i64> = mine.map(|&row| q.zxid.get(row)).collect();
                        told.sort_unstable();
                        told.dedup();
                        told
                    });
                    let low = told.partition_point(|&zxid| zxid <= q.zxid.get(early));
                    let left_out = told.get(low).filter(|&&zxid| zxid < q.zxid.get(late));
                    if let Some(&zxid) = left_out {
                        let first = sent.iter().find(|&&row| q.zxid.get(row) == zxid);
                        let rows = [Some(&early), Some(&late), first];
                        let rows: Vec<usize> = rows.into_iter().flatten().copied().collect();
                        out.find(
                            format!(
                                "{} left out {}, of which it told a learner",
                                one.server,
                                hexadecimal(zxid)
                            ),
                            evidence.all_packets(&rows),
                        );
                    }
                }
            }
        }
    }
}

pub fn commit_order(evidence: &Evidence<'_>, out: &mut Outcome) {
    let q = evidence.packets();
    reach(evidence, out);
    for one in &evidence.ensembles().learners {
        if one.rows_of(evidence, Kind::is_commit).next().is_none() {
            continue;
        }
        out.look("learners", 1);
        let mine = one.rows_of(evidence, |kind| kind == Kind::Proposal || kind.is_commit());
        for rows in stretches(evidence, one, mine.collect()) {
            let is_commit = |row: &usize| q.kind(*row).is_commit();
            let (mut commits, offers): (Vec<usize>, Vec<usize>) =
                rows.into_iter().partition(is_commit);
            let Some(&oldest) = offers.first() else {
                continue;
            };
            let zxid = |row: usize| q.zxid.get(row);
            let ordered = |pair: &[usize]| zxid(pair[1]).wrapping_sub(zxid(pair[0])) > 0;
            if !offers.windows(2).all(ordered) {
                out.miss(1, || {
                    "COMMITs of connections whose PROPOSALs are out of order".to_owned()
                });
                continue;
            }
            if !one.whole {
                // of proposals before the capture, or before the loss
                commits.retain(|&commit| zxid(commit) >= zxid(oldest));
            }
            out.look("commits", commits.len());
            let wrong =
                |(offer, commit): (&usize, &usize)| zxid(*offer) != zxid(*commit) || offer > commit;
            let fault = offers.iter().zip(&commits).position(wrong);
            let fault = fault.or((commits.len() > offers.len()).then_some(offers.len()));
            let Some(fault) = fault else { continue };
            let commit = commits[fault];
            let mut packets = vec![commit];
            let text = match offers.get(fault) {
                Some(&due) => {
                    packets.insert(0, due);
                    format!("where {} was the oldest proposal", hexadecimal(zxid(due)))
                }
                None => "which it was not proposed".to_owned(),
            };
            out.find(
                format!(
                    "{} told {} to commit {}, {text}",
                    one.server,
                    one.client,
                    hexadecimal(zxid(commit))
                ),
                evidence.all_packets(&packets),
            );
        }
    }
}

/// A packet that carries a txn: its ensemble, zxid and row.
pub type Carried = (i64, i64, u32);

/// Whole packets that carry a txn, ordered by ensemble and zxid.
fn carried<'e>(evidence: &'e Evidence<'_>) -> &'e [Carried] {
    evidence.carried.get_or_init(|| {
        let q = evidence.packets();
        let of = evidence.ensembles().of_conns();
        let hurt = !evidence.broken.is_empty();
        let fits = |row: &usize| {
            let whole = q.zxid.get(*row) != NONE && q.session.get(*row) != NONE;
            q.kind(*row).is_txn() && whole && !(hurt && evidence.damaged()[*row])
        };
        let rows = (0..q.rows).filter(fits).map(|row| {
            let conn = usize::try_from(q.conn.get(row)).unwrap_or_default();
            (
                of.get(conn).copied().unwrap_or(0),
                q.zxid.get(row),
                row as u32,
            )
        });
        // by zxid, then by ensemble, equals as they were
        let by = |rows: &[Carried], key: fn(&Carried) -> i64| {
            let keys: Vec<i64> = rows.iter().map(key).collect();
            order_by(&keys)
                .into_iter()
                .map(|at| rows[at as usize])
                .collect::<Vec<Carried>>()
        };
        let rows = by(&rows.collect::<Vec<Carried>>(), |one| one.1);
        match rows
            .iter()
            .all(|one| Some(one.0) == rows.first().map(|one| one.0))
        {
            true => rows,
            false => by(&rows, |one| one.0),
        }
    })
}

pub fn same_txn(evidence: &Evidence<'_>, out: &mut Outcome) {
    let q = evidence.packets();
    let rows = carried(evidence);
    reach(evidence, out);
    let size = |row: usize| {
        let digest = DIGEST_BYTES * i64::from(q.digest.get(row) != NONE);
        let sid = SID_BYTES * i64::from(q.kind(row) == Kind::InformAndActivate);
        q.bytes.get(row).wrapping_sub(digest).wrapping_sub(sid)
    };
    let of = |row: usize| {
        let names = (q.session.get(row), q.cxid.get(row), q.error.get(row));
        (names, q.txn.code(row), q.path.code(row), size(row))
    };
    let (mut compared, mut blind) = (0, 0);
    let mut found = Vec::new();
    for pair in rows.windows(2) {
        let ((ensemble, zxid, first), (other, its, second)) = (pair[0], pair[1]);
        if (ensemble, zxid) != (other, its) {
            continue;
        }
        compared += 1;
        let (first, second) = (first as usize, second as usize);
        // None of any: they were not wanted. Of some: not all of the txn was captured.
        let hashes = (q.hash.get(first), q.hash.get(second));
        let both = hashes.0 != NONE && hashes.1 != NONE;
        blind += usize::from(!both);
        if of(first) != of(second) || (both && hashes.0 != hashes.1) {
            found.push((zxid, first, second));
        }
    }
    out.look("txns", rows.len());
    out.look("compared", compared);
    out.miss(blind, || {
        format!("{} txns are not compared byte by byte", thousands(blind))
    });
    let told = |row: usize| {
        let number = |value: i64| match value {
            NONE => "None".to_owned(),
            known => known.to_string(),
        };
        format!(
            " of session {} cxid {}, {} B",
            evidence.session_text(q.session.get(row)),
            number(q.cxid.get(row)),
            number(q.bytes.get(row))
        )
    };
    let all = found.len();
    for (zxid, first, second) in found.into_iter().take(out.room()) {
        out.find(
            format!(
                "{} is not the same transaction for all learners",
                hexadecimal(zxid)
            ),
            vec![
                evidence.packet(first, &told(first)),
                evidence.packet(second, &told(second)),
            ],
        );
    }
    out.find_more(all, out.violations);
}

pub fn digest(evidence: &Evidence<'_>, out: &mut Outcome) {
    let q = evidence.packets();
    let all = carried(evidence);
    reach(evidence, out);
    let has = |row: u32| q.digest.get(row as usize) != NONE;
    let without = all.iter().filter(|one| !has(one.2)).count();
    out.miss(without, || {
        format!("{} packets with a txn have no digest", thousands(without))
    });
    let rows: Vec<Carried> = all.iter().copied().filter(|one| has(one.2)).collect();
    let creates = q.txn.find("createSession");
    let mut compared = 0;
    let (mut unlike, mut changed) = (Vec::new(), Vec::new());
    for pair in rows.windows(2) {
        let ((ensemble, zxid, first), (other, its, second)) = (pair[0], pair[1]);
        if ensemble != other {
            continue;
        }
        let (first, second) = (first as usize, second as usize);
        let step = its.wrapping_sub(zxid);
        let quiet = step == 1 && q.txn.code(second) == creates;
        compared += usize::from(step == 0 || quiet);
        if q.digest.get(first) == q.digest.get(second) {
            continue;
        }
        if step == 0 {
            unlike.push((zxid, first, second));
        } else if quiet {
            changed.push((zxid, first, second));
        }
    }
    out.look("digests", rows.len());
    out.look("compared", compared);
    // where learners disagree about one of the two, that is said already
    let odd: std::collections::HashSet<i64> = unlike.iter().map(|one| one.0).collect();
    changed.retain(|one| !odd.contains(&one.0) && !odd.contains(&one.0.wrapping_add(1)));
    let all = unlike.len() + changed.len();
    for (zxid, first, second) in unlike.into_iter().take(out.room()) {
        out.find(
            format!("the trees differ after {}", hexadecimal(zxid)),
            evidence.all_packets(&[first, second]),
        );
    }
    for (zxid, first, second) in changed.into_iter().take(out.room()) {
        out.find(
            format!(
                "createSession {} changed the tree",
                hexadecimal(zxid.wrapping_add(1))
            ),
            evidence.all_packets(&[first, second]),
        );
    }
    out.find_more(all, out.violations);
}
