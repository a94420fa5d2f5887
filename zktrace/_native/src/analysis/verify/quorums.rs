//! Commits and quorums: was what a leader committed acknowledged by enough servers before? `quorums.py` is the reference
//! and says when times of different connections may be compared.

use std::collections::HashMap;

use super::ensemble::{Learner, Term};
use super::evidence::Evidence;
use super::orders::reach;
use super::Outcome;
use crate::analysis::columns::{hexadecimal, Kind, NONE};
use crate::analysis::value::thousands;

/// PROPOSALs that two connections must share before their times are compared.
const COMMON_MIN: usize = 3;
/// An ACK that certainly was not given, and one that may have been.
const NEVER: i64 = i64::MAX;
const MAY_BE: i64 = i64::MIN;

/// Who votes in a term, as far as it is known.
pub struct Voters<'e, 'a> {
    pub count: i64,
    /// Connections of each follower that votes.
    pub followers: Vec<Vec<&'e Learner<'a>>>,
    /// What says so.
    pub source: String,
}

impl Voters<'_, '_> {
    /// ACKs that a majority takes, the leader's not counted.
    pub fn needed(&self) -> usize {
        (self.count / 2).max(0) as usize
    }

    /// Voters of which no connection was seen; the leader is one more.
    pub fn unseen(&self) -> usize {
        (self.count - 1 - self.followers.len() as i64).max(0) as usize
    }
}

/// Those of a term; None where they are not known, which is noted.
pub fn voters<'e, 'a>(
    evidence: &'e Evidence<'a>,
    term: &Term<'a>,
    out: &mut Outcome,
) -> Option<Voters<'e, 'a>> {
    let ensembles = evidence.ensembles();
    let mut by_sid: Vec<Vec<&Learner<'a>>> = Vec::new();
    let mut places: HashMap<Result<i64, i64>, usize> = HashMap::new();
    let mut add = |one: &'e Learner<'a>| {
        let place = *places.entry(one.sid.ok_or(one.conn)).or_insert_with(|| {
            by_sid.push(Vec::new());
            by_sid.len() - 1
        });
        by_sid[place].push(one);
    };
    let name = format!("epoch {} of {}", term.epoch, term.server);
    let (count, source) = if let Some(count) = evidence.given.voters {
        ensembles.followers(term).into_iter().for_each(&mut add);
        if by_sid.len() as i64 >= count {
            out.miss(1, || {
                "terms with more followers than voters were told of".to_owned()
            });
            return None;
        }
        (
            count,
            format!("{count} servers vote, as was told; followers are voters"),
        )
    } else {
        let Some(config) = ensembles.config(term) else {
            out.miss(1, || {
                format!("who votes in {name}: no configuration was seen (--voters N tells)")
            });
            return None;
        };
        if !config.simple {
            out.miss(1, || format!("quorums of {name}: it has groups or weights"));
            return None;
        }
        let mine = ensembles.followers(term).into_iter();
        mine.filter(|one| one.sid.is_some_and(|sid| config.votes(sid)))
            .for_each(&mut add);
        let count = config.voters.len() as i64;
        (
            count,
            format!("{count} servers vote in {name}, by its NEWLEADER; a majority decides"),
        )
    };
    Some(Voters {
        count,
        followers: by_sid,
        source,
    })
}

/// Packets of a connection that are of the leader's own epoch and, if the leader sent them, of its broadcast; with their
/// zxids, ordered by these, the first of each first.
fn live(
    evidence: &Evidence<'_>,
    one: &Learner<'_>,
    wanted: impl Fn(Kind) -> bool,
) -> Vec<(i64, usize)> {
    let q = evidence.packets();
    let Some(epoch) = one.epoch else {
        return Vec::new();
    };
    let rows = one
        .rows_of(evidence, wanted)
        .filter(|&row| row >= one.live_from);
    let rows = rows.filter(|&row| q.counted(row) && q.zxid.get(row) >> 32 == epoch);
    let mut rows: Vec<(i64, usize)> = rows.map(|row| (q.zxid.get(row), row)).collect();
    if !rows.is_sorted() {
        rows.sort_unstable();
    }
    rows
}

/// Zxid of the first change of the configuration in a term; the largest number if none.
fn reconfigured(evidence: &Evidence<'_>, term: &Term<'_>) -> i64 {
    let q = evidence.packets();
    let reconfig = q.txn.find("reconfig");
    let learners = term
        .learners
        .iter()
        .map(|&number| &evidence.ensembles().learners[number]);
    let rows = learners.flat_map(|one| &one.rows).map(|&row| row as usize);
    let zxids = rows
        .filter(|&row| q.txn.code(row) == reconfig)
        .map(|row| q.zxid.get(row));
    zxids
        .filter(|&zxid| zxid != NONE && zxid >> 32 == term.epoch)
        .min()
        .unwrap_or(NEVER)
}

pub fn commit_quorum(evidence: &Evidence<'_>, out: &mut Outcome) {
    reach(evidence, out);
    out.miss(usize::from(!evidence.given.times_hold), || {
        "whether ACKs came in time: packets were lost or captured out of order".to_owned()
    });
    for (number, term) in evidence.ensembles().terms.iter().enumerate() {
        if evidence.ensembles().established(term).is_some() {
            if let Some(who) = voters(evidence, term, out) {
                judge(evidence, out, number, term, &who);
            }
        }
    }
}

fn judge(
    evidence: &Evidence<'_>,
    out: &mut Outcome,
    number: usize,
    term: &Term<'_>,
    who: &Voters<'_, '_>,
) {
    let q = evidence.packets();
    let changed = reconfigured(evidence, term);
    out.miss(usize::from(changed != NEVER), || {
        "COMMITs behind a reconfig: who votes then is not followed".to_owned()
    });
    // of each zxid its earliest COMMIT
    let mut commits: Vec<(i64, i64, usize)> = Vec::new();
    for one in evidence.ensembles().followers(term) {
        let mine = live(evidence, one, Kind::is_commit);
        let mine = mine.into_iter().filter(|one| one.0 < changed);
        commits.extend(mine.map(|(zxid, row)| (zxid, q.ts.get(row), row)));
    }
    if commits.is_empty() {
        return;
    }
    let named = || format!("epoch {} of {}", term.epoch, term.server);
    if who.needed() == 0 {
        out.miss(1, || {
            format!("COMMITs of {}: who leads is the only voter", named())
        });
        return;
    }
    if who.unseen() >= who.needed() {
        out.miss(1, || {
            format!(
                "COMMITs of {}: {} of {} voters were not seen, and may have acknowledged",
                named(),
                who.unseen(),
                who.count
            )
        });
        return;
    }
    commits.sort_by_key(|one| (one.0, one.1));
    commits.dedup_by_key(|one| one.0);
    out.assume(who.source.clone());
    let mut given: Vec<Vec<i64>> = who
        .followers
        .iter()
        .map(|mine| acked(evidence, mine, &commits))
        .collect();
    given.extend((0..who.unseen()).map(|_| vec![MAY_BE; commits.len()]));
    let margin = time_margin(evidence, number);
    match margin {
        None => out.miss(1, || {
            "whether ACKs came in time: times of the connections cannot be compared".to_owned()
        }),
        Some(margin) => out.assume(format!(
            "times of different connections are good to {:.3} ms",
            margin as f64 / 1e6
        )),
    }
    let (mut told, mut bad) = (0, Vec::new());
    let mut column = Vec::new();
    for (at, &(_, ts, _)) in commits.iter().enumerate() {
        column.clear();
        column.extend(given.iter().map(|one| one[at]));
        column.sort_unstable();
        // the ACK that made the quorum, at the earliest
        let due = column[who.needed() - 1];
        let never = due == NEVER;
        let late = !never && margin.is_some_and(|margin| due > ts.wrapping_add(margin));
        // what is not known to have been acknowledged may have been: nothing is said of it
        let sure = column.iter().filter(|&&ack| ack != MAY_BE).count() >= who.needed();
        told += usize::from(never || late || sure);
        if never || late {
            bad.push(at);
        }
    }
    out.look("commits", told);
    out.look("terms", 1);
    let rest = commits.len() - told;
    out.miss(rest, || {
        format!(
            "{} COMMITs of which ACKs may have been lost",
            thousands(rest)
        )
    });
    let shown = out.room().min(bad.len());
    for &at in &bad[..shown] {
        let (zxid, ts, row) = commits[at];
        let had = given.iter().filter(|one| one[at] <= ts).count() + 1;
        let mut rows = vec![row];
        for one in who.followers.iter().flatten() {
            let acks = live(evidence, one, |kind| kind == Kind::Ack);
            rows.extend(acks.iter().find(|ack| ack.0 == zxid).map(|ack| ack.1));
        }
        out.find(
            format!(
                "{} committed {} with ACKs of at most {had} of {} voters, its own counted",
                term.server,
                hexadecimal(zxid),
                who.count
            ),
            evidence.all_packets(&rows),
        );
    }
    out.find_more(bad.len(), shown);
}

/// When a follower acknowledged each commit at the earliest.
fn acked(
    evidence: &Evidence<'_>,
    mine: &[&Learner<'_>],
    commits: &[(i64, i64, usize)],
) -> Vec<i64> {
    let q = evidence.packets();
    let mut when = vec![MAY_BE; commits.len()];
    for one in mine {
        let acks = live(evidence, one, |kind| kind == Kind::Ack);
        let Some(&(last, _)) = acks.last() else {
            continue;
        };
        // ACKs are in order: one that a later one passed was not given
        let proposed = match mine.len() == 1 && !evidence.broken.contains(&one.conn) {
            true => live(evidence, one, |kind| kind == Kind::Proposal),
            false => Vec::new(),
        };
        let (mut ack, mut offer) = (0, 0);
        for (ts, &(zxid, _, _)) in when.iter_mut().zip(commits) {
            while acks.get(ack).is_some_and(|one| one.0 < zxid) {
                ack += 1;
            }
            while proposed.get(offer).is_some_and(|one| one.0 < zxid) {
                offer += 1;
            }
            let here = acks.get(ack).filter(|one| one.0 == zxid);
            let offered = proposed.get(offer).is_some_and(|one| one.0 == zxid);
            if let Some(&(_, row)) = here {
                *ts = q.ts.get(row).max(*ts);
            } else if zxid < last && offered {
                *ts = NEVER;
            }
        }
    }
    when
}

/// The first ACK of NEWLEADER of a voter.
enum TookOver {
    At(usize),
    MayHave,
    Never,
}

pub fn uptodate_quorum(evidence: &Evidence<'_>, out: &mut Outcome) {
    reach(evidence, out);
    let ts = |row: usize| evidence.packets().ts.get(row);
    let ensembles = evidence.ensembles();
    for (number, term) in ensembles.terms.iter().enumerate() {
        let told = ensembles
            .of(term)
            .filter_map(|one| one.first(Kind::UpToDate));
        let Some(first) = told.min_by_key(|&row| ts(row)) else {
            continue;
        };
        let Some(who) = voters(evidence, term, out).filter(|who| who.needed() > 0) else {
            continue;
        };
        let mut may = who.unseen();
        let mut known = Vec::new();
        for mine in &who.followers {
            match took_over(evidence, term, mine) {
                TookOver::At(row) => known.push(row),
                TookOver::MayHave => may += 1,
                TookOver::Never => {}
            }
        }
        if may >= who.needed() {
            out.miss(1, || {
                let name = format!("{} taking over epoch {}", term.server, term.epoch);
                format!("{name}: a quorum of ACKs was not seen")
            });
            continue;
        }
        known.sort_by_key(|&row| ts(row));
        let due = known.get(who.needed() - may - 1).copied();
        out.look("terms", 1);
        out.assume(who.source.clone());
        let margin = time_margin(evidence, number);
        let early = match (due, margin) {
            (Some(_), None) => {
                out.miss(1, || {
                    "whether ACKs came in time: times of the connections cannot be compared"
                        .to_owned()
                });
                false
            }
            (None, _) => true,
            (Some(due), Some(margin)) => ts(due) > ts(first).wrapping_add(margin),
        };
        if early {
            let before = known.iter().filter(|&&row| ts(row) <= ts(first)).count();
            let mut rows = vec![first];
            rows.extend(&known);
            out.find(
                format!(
                    "{} told UPTODATE when at most {} of {} voters, its own vote counted, had \
                     acknowledged epoch {}",
                    term.server,
                    1 + may + before,
                    who.count,
                    term.epoch
                ),
                evidence.all_packets(&rows),
            );
        }
    }
}

fn took_over(evidence: &Evidence<'_>, term: &Term<'_>, mine: &[&Learner<'_>]) -> TookOver {
    let q = evidence.packets();
    let mut rows = Vec::new();
    for one in mine {
        if !one.whole {
            return TookOver::MayHave;
        }
        let mut acks = one.rows_of(evidence, |kind| kind == Kind::Ack);
        rows.extend(acks.find(|&row| q.zxid.get(row) == term.epoch << 32));
    }
    let first = rows.into_iter().min_by_key(|&row| q.ts.get(row));
    first.map_or(TookOver::Never, TookOver::At)
}

/// How far apart the same PROPOSAL was seen on two connections of a term, at the most, in ns; None where too few were
/// seen on both, or where times say nothing.
pub fn time_margin(evidence: &Evidence<'_>, number: usize) -> Option<i64> {
    let margins = evidence.margins.get_or_init(|| {
        let terms = evidence.ensembles().terms.iter();
        terms.map(|term| margin(evidence, term)).collect()
    });
    margins.get(number).copied().flatten()
}

fn margin(evidence: &Evidence<'_>, term: &Term<'_>) -> Option<i64> {
    if !evidence.given.times_hold {
        return None;
    }
    let q = evidence.packets();
    let followers = evidence.ensembles().followers(term);
    if followers.len() < 2 {
        return None;
    }
    let sent = followers.into_iter().map(|one| {
        let mut mine = live(evidence, one, |kind| kind == Kind::Proposal);
        mine.dedup_by_key(|one| one.0);
        mine
    });
    let sent: Vec<Vec<(i64, usize)>> = sent.collect();
    let mut margin = 0;
    for (at, left) in sent.iter().enumerate() {
        for right in &sent[at + 1..] {
            let (mut common, mut place) = (0, 0);
            for &(zxid, row) in left {
                while right.get(place).is_some_and(|one| one.0 < zxid) {
                    place += 1;
                }
                if let Some(&(_, other)) = right.get(place).filter(|one| one.0 == zxid) {
                    common += 1;
                    let apart = q.ts.get(row).wrapping_sub(q.ts.get(other)).wrapping_abs();
                    margin = apart.max(margin);
                }
            }
            if common < COMMON_MIN {
                return None;
            }
        }
    }
    Some(margin)
}
