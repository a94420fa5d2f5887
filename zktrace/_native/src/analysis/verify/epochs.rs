//! Epochs and leaders: how a leader takes over, and that nothing is lost when it does. `epochs.py` is the reference.

use std::collections::{BTreeSet, HashMap};

use super::ensemble::{Learner, Term, SYNCS};
use super::evidence::Evidence;
use super::orders::reach;
use super::{Outcome, Packet};
use crate::analysis::columns::{hexadecimal, Kind, NONE};

pub fn one_leader(evidence: &Evidence<'_>, out: &mut Outcome) {
    reach(evidence, out);
    let ensembles = evidence.ensembles();
    for terms in ensembles.by_ensemble() {
        let leading = terms
            .iter()
            .filter(|term| ensembles.established(term).is_some());
        let leading: Vec<&Term<'_>> = leading.collect();
        let epochs = || leading.chunk_by(|a, b| a.epoch == b.epoch);
        out.look("epochs", epochs().count());
        for leaders in epochs() {
            for pair in leaders.windows(2) {
                let (left, right) = (pair[0], pair[1]);
                if ensembles.different(left, right) {
                    let proofs = [left, right]
                        .into_iter()
                        .filter_map(|term| proof(evidence, term));
                    out.find(
                        format!(
                            "{} and {} both lead in epoch {}",
                            left.server, right.server, left.epoch
                        ),
                        proofs.collect(),
                    );
                } else {
                    out.miss(1, || {
                        format!(
                            "whether {} and {} are one server",
                            left.server, right.server
                        )
                    });
                }
            }
        }
    }
    let servers = &ensembles.of_server;
    let apart = servers.values().collect::<BTreeSet<_>>().len();
    if apart > 1 {
        out.assume(format!(
            "{} listeners are of {apart} ensembles, as far as is shown",
            servers.len()
        ));
    }
}

fn proof(evidence: &Evidence<'_>, term: &Term<'_>) -> Option<Packet> {
    let one = evidence.ensembles().established(term)?;
    let acks = one.rows_of(evidence, |kind| kind == Kind::Ack);
    let row = one.first(Kind::NewLeader).or_else(|| acks.last())?;
    Some(evidence.packet(row, ""))
}

/// What a follower had accepted, what it then accepted, and where it said so.
type Join = (i64, i64, usize);

pub fn epoch_order(evidence: &Evidence<'_>, out: &mut Outcome) {
    reach(evidence, out);
    let q = evidence.packets();
    let ensembles = evidence.ensembles();
    let mut accepted: Vec<(i64, Vec<Join>)> = Vec::new();
    let mut places: HashMap<(usize, i64), usize> = HashMap::new();
    for one in &ensembles.learners {
        let info = one.first_of(&[Kind::FollowerInfo, Kind::ObserverInfo]);
        let offer = one.first(Kind::LeaderInfo);
        let took = one.first(Kind::AckEpoch);
        out.look("learners", 1);
        if let (Some(info), Some(offer), Some(took), Some(had)) = (info, offer, took, one.accepted)
        {
            let epoch = q.epoch.get(offer);
            if epoch < had {
                out.find(
                    format!("a learner that had accepted epoch {had} went back to {epoch}"),
                    evidence.all_packets(&[info, offer, took]),
                );
            } else if had == 0 {
                // a new server, or one whose disk was emptied
                let sid = one.sid.map_or("None".to_owned(), |sid| sid.to_string());
                out.miss(1, || {
                    format!("what server {sid} had accepted before: it joined knowing nothing")
                });
            } else if let (Some(sid), true) = (one.sid, one.follows()) {
                let key = (ensembles.of_server[one.server], sid);
                let place = *places.entry(key).or_insert_with(|| {
                    accepted.push((sid, Vec::new()));
                    accepted.len() - 1
                });
                accepted[place].1.push((had, epoch, info));
            }
        }
        if let (Some(offer), Some(new)) = (offer, one.first(Kind::NewLeader)) {
            let (offered, leads) = (q.epoch.get(offer), q.epoch.get(new));
            if offered != leads {
                out.find(
                    format!(
                        "{} offered epoch {offered} and leads in {leads}",
                        one.server
                    ),
                    evidence.all_packets(&[offer, new]),
                );
            }
        }
        broadcast_epoch(evidence, out, one);
    }
    for (sid, mut joins) in accepted {
        joins.sort_unstable();
        for pair in joins.windows(2) {
            let ((had, took, row), (later_had, later, later_row)) = (pair[0], pair[1]);
            // whichever came first, the other one had to know of it
            if later_had < took && had < later {
                out.find(
                    format!(
                        "server {sid} accepted epoch {took}, and knew only of {later_had} when it \
                         accepted {later}"
                    ),
                    evidence.all_packets(&[row, later_row]),
                );
            }
        }
    }
}

fn broadcast_epoch(evidence: &Evidence<'_>, out: &mut Outcome, one: &Learner<'_>) {
    let (Some(new), Some(_), Some(epoch)) = (
        one.first(Kind::NewLeader),
        one.first(Kind::UpToDate),
        one.epoch,
    ) else {
        return;
    };
    let q = evidence.packets();
    let rows = one
        .rows_of(evidence, Kind::is_txn)
        .filter(|&row| row >= one.live_from);
    let (mut count, mut strange) = (0, None);
    for row in rows {
        count += 1;
        if strange.is_none() && q.zxid.get(row) >> 32 != epoch {
            strange = Some(row);
        }
    }
    out.look("broadcast", count);
    if let Some(row) = strange {
        out.find(
            format!(
                "{} leads in epoch {epoch} and proposed {}",
                one.server,
                hexadecimal(q.zxid.get(row))
            ),
            evidence.all_packets(&[new, row]),
        );
    }
}

pub fn committed_kept(evidence: &Evidence<'_>, out: &mut Outcome) {
    reach(evidence, out);
    let q = evidence.packets();
    let ensembles = evidence.ensembles();
    let led = ensembles.led();
    for terms in ensembles.by_ensemble() {
        // epoch, zxid and row of its last COMMIT
        let mut last: Vec<(i64, i64, usize)> = Vec::new();
        for term in terms {
            for one in ensembles.of(term).filter(|one| led.contains(one.server)) {
                let Some((row, reached)) = synced(evidence, one) else {
                    continue;
                };
                out.look("learners", 1);
                let before = last.iter().filter(|one| one.0 < term.epoch);
                let Some((newest, commit)) = before.map(|one| (one.1, one.2)).max() else {
                    continue;
                };
                out.look("compared", 1);
                if reached < newest {
                    out.find(
                        format!(
                            "{} was committed, and the leader of epoch {} has no more than {}",
                            hexadecimal(newest),
                            term.epoch,
                            hexadecimal(reached)
                        ),
                        evidence.all_packets(&[commit, row]),
                    );
                }
            }
            if let Some(row) = last_commit(evidence, term) {
                last.push((term.epoch, q.zxid.get(row), row));
            }
        }
    }
}

/// Row of a learner's sync, where it was seen up to NEWLEADER, and the zxid that it was brought to.
fn synced(evidence: &Evidence<'_>, one: &Learner<'_>) -> Option<(usize, i64)> {
    let q = evidence.packets();
    let new = one.first(Kind::NewLeader)?;
    let row = one.first_of(&SYNCS)?;
    if !one.whole || q.zxid.get(row) == NONE {
        return None;
    }
    let sent = one
        .rows_of(evidence, Kind::is_txn)
        .filter(|&at| row < at && at < new);
    let reached = sent.map(|at| q.zxid.get(at)).max();
    Some((row, q.zxid.get(row).max(reached.unwrap_or(NONE))))
}

/// The last COMMIT that a leader sent of its own epoch, when it had a quorum.
fn last_commit(evidence: &Evidence<'_>, term: &Term<'_>) -> Option<usize> {
    let q = evidence.packets();
    let mut newest: Option<(i64, usize)> = None;
    for one in evidence.ensembles().followers(term) {
        if !one.proven_epoch || one.live_from >= q.rows {
            continue;
        }
        let rows = one
            .rows_of(evidence, Kind::is_commit)
            .filter(|&row| row >= one.live_from);
        for row in rows {
            let zxid = q.zxid.get(row);
            if zxid >> 32 == term.epoch && newest.is_none_or(|known| zxid > known.0) {
                newest = Some((zxid, row));
            }
        }
    }
    newest.map(|one| one.1)
}

/// What a leader sends to a learner, in this order, and how a step is called.
const STEPS: [(&[Kind], &str); 4] = [
    (&[Kind::LeaderInfo], "LEADERINFO"),
    (&SYNCS, "DIFF or TRUNC or SNAP"),
    (&[Kind::NewLeader], "NEWLEADER"),
    (&[Kind::UpToDate], "UPTODATE"),
];

pub fn sync_order(evidence: &Evidence<'_>, out: &mut Outcome) {
    reach(evidence, out);
    let q = evidence.packets();
    for one in &evidence.ensembles().learners {
        if !one.whole || one.first(Kind::LeaderInfo).is_none() {
            continue;
        }
        out.look("learners", 1);
        let steps = STEPS.map(|(kinds, _)| {
            let rows = kinds.iter().flat_map(|&kind| one.every(kind));
            rows.collect::<Vec<usize>>()
        });
        if let Some(twice) = steps.iter().find(|rows| rows.len() > 1) {
            out.find(
                format!("{} told {} twice", one.server, one.client),
                evidence.all_packets(&twice[..2]),
            );
            continue;
        }
        let rows: Vec<usize> = steps.iter().flatten().copied().collect();
        let last = steps.iter().rposition(|step| !step.is_empty()).unwrap_or(0);
        let absent = steps[..last].iter().position(Vec::is_empty);
        let disorder = rows.windows(2).find(|pair| pair[1] < pair[0]);
        if let Some(pair) = disorder {
            out.find(
                format!("{} told {} things out of order", one.server, one.client),
                evidence.all_packets(&[pair[1], pair[0]]),
            );
        } else if let Some(absent) = absent {
            let told = rows
                .last()
                .and_then(|&row| q.name.text(row))
                .unwrap_or("None");
            out.find(
                format!(
                    "{} told {} {told} without {}",
                    one.server, one.client, STEPS[absent].1
                ),
                evidence.all_packets(&rows),
            );
        } else if let Some(&done) = steps[3].first() {
            let ack = one.rows_of(evidence, |kind| kind == Kind::Ack).next();
            if ack.is_none_or(|ack| ack > done) {
                let rows = [steps[2].first(), steps[3].first()];
                let rows: Vec<usize> = rows.into_iter().flatten().copied().collect();
                out.find(
                    format!(
                        "{} told {} UPTODATE before it acknowledged NEWLEADER",
                        one.server, one.client
                    ),
                    evidence.all_packets(&rows),
                );
            }
        }
    }
}
