//! The way of a write through the ensemble: stages that add up, who made the quorum, what took long.
//!
//! `zktrace/analysis/writepath.py` is the reference, and says what a moment is and how quorums are told.

use std::collections::BTreeSet;

use super::blame::length;
use super::columns::{Config, Role, NONE};
use super::join::{Join, Peer};
use super::servers::Servers;
use super::sorted::buckets;
use super::timeline::{pings, Pings, Seen};

pub const MOMENTS: [&str; 6] = [
    "request", "forward", "proposal", "quorum", "commit", "reply",
];
pub const REQUEST: usize = 0;
pub const FORWARD: usize = 1;
pub const PROPOSED: usize = 2;
pub const QUORUM: usize = 3;
pub const COMMITTED: usize = 4;
pub const REPLY: usize = 5;

/// When each moment was, [`NONE`] where it was not seen.
pub type Moments = [i64; 6];

/// Where the client's server stands to the leader.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    Unknown,
    Leader,
    Learner,
}

impl Place {
    pub fn name(self) -> &'static str {
        match self {
            Place::Unknown => "",
            Place::Leader => "leader",
            Place::Learner => "learner",
        }
    }
}

/// Where a write comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub enum Origin {
    Client,
    Learner,
    Leader,
    Unknown,
}

impl Origin {
    pub const ALL: [Origin; 4] = [
        Origin::Client,
        Origin::Learner,
        Origin::Leader,
        Origin::Unknown,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Origin::Client => "client",
            Origin::Learner => "learner",
            Origin::Leader => "leader",
            Origin::Unknown => "",
        }
    }
}

/// Round trips of PINGs that make one estimate, and how far off in time they may be.
const PING_WINDOW: usize = 5;
const PING_NEAR_NS: i64 = 5_000_000_000;

/// What is known of the quorum of one leader's epoch.
pub struct Quorum {
    pub leader: i32,
    pub epoch: i64,
    pub followers: i64,
    pub least_acks: Option<i64>,
    pub needed: Option<i64>,
    pub how: Option<&'static str>,
    pub txns: i64,
}

/// One path.
#[derive(Clone)]
pub struct Path {
    /// Place in the writes, -1 for a txn whose client was not seen.
    pub write: i32,
    pub txn: i32,
    /// The learner connection of the client's server.
    pub peer: i32,
    pub place: Place,
    pub origin: Origin,
    pub moments: Moments,
    /// Votes of a quorum, 0 where it is not known.
    pub needed: i64,
    /// ACKs before the commit.
    pub acks: i64,
    /// The delivery whose ACK is the moment of the quorum.
    pub acker: i32,
    /// Of the stage before the commit: time until the txn before was committed.
    pub behind: i64,
    pub reordered: bool,
}

/// All paths: first those of the writes, then those of txns without one.
pub struct Paths {
    pub all: Vec<Path>,
    /// Of each delivery: the network's part of the time to its ACK.
    pub network: Vec<i64>,
    pub quorums: Vec<Quorum>,
    pub pings: Vec<Pings>,
    /// Deliveries of each txn, and where those of each begin.
    pub deliveries: Vec<u32>,
    pub first: Vec<u32>,
    /// Of each path: from the first moment that was seen to the last.
    pub length: Vec<i64>,
}

/// ACKs of broadcasts by txn, the earliest first.
struct Acks {
    delivery: Vec<u32>,
    start: Vec<u32>,
    /// Of each txn: how many followers it was proposed to.
    proposals: Vec<i64>,
    /// Of each txn: ACKs before its first commit.
    before: Vec<i64>,
}

pub fn place(at: i32) -> Option<usize> {
    usize::try_from(at).ok()
}

/// The paths of all writes. `voters`: how many there are, where the user knows.
pub fn paths(join: &Join<'_>, voters: Option<i64>) -> Paths {
    let n = join.txns.zxid.len();
    let d = &join.deliveries;
    let (first, by_txn) = buckets(d.txn.len(), n, |at| place(d.txn[at]));
    let seen: Vec<Seen> = (0..d.txn.len()).map(|at| join.seen(at)).collect();
    // Deliveries of the broadcast, by the leader that sent the txn first.
    let live = |at: usize| {
        let txn = place(d.txn[at]);
        let leader = join.peers[d.peer[at] as usize].leader;
        !d.syncing[at] && txn.is_some_and(|txn| join.txns.leader[txn] == leader)
    };
    let earliest = |of: fn(&Seen) -> i64| -> Vec<i64> {
        let mut found = vec![NONE; n];
        for (at, seen) in seen.iter().enumerate() {
            let ts = of(seen);
            if ts != NONE && live(at) {
                let known = &mut found[d.txn[at] as usize];
                if *known == NONE || ts < *known {
                    *known = ts;
                }
            }
        }
        found
    };
    let commit = earliest(|seen| seen.told);
    let proposed = earliest(|seen| seen.proposal);
    let acks = acks(join, &seen, &commit, (&first, &by_txn), live);
    let reigns = Reigns::new(join);
    let quorums = reigns.quorums(join, &acks, &commit, voters);
    let (needed, acker) = made(join, &acks, &reigns, &quorums);
    let pings = pings(join);
    let network = network(join, &seen, &pings);

    // What was seen only while a learner was brought up to date went its way before.
    let asked = |txn: usize| join.sure(join.txns.request_row[txn]);
    let went = |txn: usize| proposed[txn] != NONE || commit[txn] != NONE || asked(txn) != NONE;
    let alone = (0..n).filter(|&txn| join.txns.write[txn] < 0 && went(txn));
    let ends = join.writes.txn.iter().enumerate();
    let ends = ends.map(|(write, &txn)| (write as i32, txn));
    let ends = ends.chain(alone.map(|txn| (-1, txn as i32)));
    let servers = Servers::new(join);
    let mut all: Vec<Path> = ends.map(|(write, txn)| servers.start(write, txn)).collect();
    servers.place(&mut all);
    for path in &mut all {
        let txn = place(path.txn);
        let write = place(path.write);
        let mut told = NONE;
        if let Some(write) = write {
            (path.moments[REQUEST], path.moments[REPLY]) = join.ends(write);
            path.moments[FORWARD] = join.sure(join.writes.request_row[write]);
        }
        if let Some(txn) = txn {
            if write.is_none() {
                path.moments[FORWARD] = asked(txn);
            }
            path.moments[PROPOSED] = proposed[txn];
            path.acker = acker[txn];
            path.needed = needed[txn];
            path.acks = acks.before[txn];
            if let Some(at) = place(path.acker) {
                path.moments[QUORUM] = seen[at].ack;
            }
            let own = place(path.peer).and_then(|peer| d.find(peer, join.txns.zxid[txn]));
            told = own.map_or(NONE, |at| seen[at].told);
            if told == NONE {
                told = commit[txn];
            }
        }
        path.moments[COMMITTED] = told;
        // A commit that the quorum's ACK comes after was made by others.
        if told != NONE && path.moments[QUORUM] > told {
            path.moments[QUORUM] = NONE;
            path.acker = -1;
        }
        path.reordered = in_order(&mut path.moments);
        if let (Some(write), true) = (write, path.moments.iter().all(|&ts| ts == NONE)) {
            // Told of at the time at which it was captured.
            let row = join.writes.row[write] as usize;
            path.moments[REQUEST] = join.view.exchanges.ts.get(row);
        }
        path.behind = behind(join, &commit, txn, &path.moments);
    }
    let length = all.iter().map(length).collect();
    Paths {
        all,
        network,
        quorums,
        pings,
        deliveries: by_txn,
        first,
        length,
    }
}

fn acks(
    join: &Join<'_>,
    seen: &[Seen],
    commit: &[i64],
    (first, by_txn): (&[u32], &[u32]),
    live: impl Fn(usize) -> bool,
) -> Acks {
    let d = &join.deliveries;
    let follows: Vec<bool> = join.peers.iter().map(|peer| votes(join, peer)).collect();
    let n = commit.len();
    let mut found = Acks {
        delivery: Vec::new(),
        start: Vec::with_capacity(n + 1),
        proposals: Vec::with_capacity(n),
        before: Vec::with_capacity(n),
    };
    let mut mine: Vec<(i64, u32)> = Vec::new();
    for txn in 0..n {
        found.start.push(found.delivery.len() as u32);
        mine.clear();
        let mut proposals = 0;
        for &at in &by_txn[first[txn] as usize..first[txn + 1] as usize] {
            let delivery = at as usize;
            if !live(delivery) || !follows[d.peer[delivery] as usize] {
                continue;
            }
            let seen = seen[delivery];
            proposals += i64::from(seen.proposal != NONE);
            if seen.ack != NONE {
                mine.push((seen.ack, at));
            }
        }
        mine.sort_unstable();
        let before = mine.iter().filter(|one| one.0 <= commit[txn]).count();
        found.before.push(before as i64);
        found.proposals.push(proposals);
        found.delivery.extend(mine.iter().map(|one| one.1));
    }
    found.start.push(found.delivery.len() as u32);
    found
}

/// Whether a learner's ACKs count: a follower's, unless the configuration that it was told does not have it among those
/// who vote.
fn votes(join: &Join<'_>, peer: &Peer) -> bool {
    let config = join.view.config(peer.config);
    let excluded = match (config, peer.sid) {
        (Some(config), Some(sid)) => !config.votes(sid),
        _ => false,
    };
    peer.role == Some(Role::Follower) && !excluded
}

/// Leaders with their epochs, and which one each txn is of.
struct Reigns {
    all: Vec<(i32, i64)>,
    which: Vec<u32>,
}

impl Reigns {
    fn new(join: &Join<'_>) -> Self {
        let t = &join.txns;
        // As an unsigned number; a made-up epoch may take all 32 bits.
        let of = |txn: usize| (t.leader[txn], t.zxid[txn] >> 32 & 0xFFFF_FFFF);
        let all: BTreeSet<(i32, i64)> = (0..t.zxid.len()).map(of).collect();
        let all: Vec<(i32, i64)> = all.into_iter().collect();
        let number = |one: (i32, i64)| all.partition_point(|known| *known < one) as u32;
        let which = (0..t.zxid.len()).map(|txn| number(of(txn))).collect();
        Reigns { all, which }
    }

    /// What was seen of the quorum of each.
    fn quorums(
        &self,
        join: &Join<'_>,
        acks: &Acks,
        commit: &[i64],
        voters: Option<i64>,
    ) -> Vec<Quorum> {
        let mut found: Vec<Quorum> = Vec::new();
        for &(leader, epoch) in &self.all {
            found.push(Quorum {
                leader,
                epoch,
                followers: 0,
                least_acks: None,
                needed: None,
                how: None,
                txns: 0,
            });
        }
        for (txn, &which) in self.which.iter().enumerate() {
            let quorum = &mut found[which as usize];
            let proposals = acks.proposals[txn];
            let answered = i64::from(acks.start[txn + 1] - acks.start[txn]);
            quorum.txns += 1;
            quorum.followers = quorum.followers.max(proposals);
            // Where an ACK was lost the count before the commit may be too low.
            if commit[txn] != NONE && proposals > 0 && answered >= proposals {
                let before = acks.before[txn];
                let least = quorum.least_acks.map_or(before, |least| least.min(before));
                quorum.least_acks = Some(least);
            }
        }
        for quorum in &mut found {
            let low = (quorum.followers + 1) / 2 + 1;
            let mine = || {
                join.peers
                    .iter()
                    .filter(|peer| peer.leader == quorum.leader)
            };
            // Beside the leader all learners are seen, beside a learner itself only.
            let several = mine().count() > 1;
            let proven = several && quorum.least_acks.is_some_and(|least| least + 1 == low);
            let texts: BTreeSet<i64> = mine()
                .filter(|peer| peer.epoch == Some(quorum.epoch) && peer.config >= 0)
                .map(|peer| peer.config)
                .collect();
            // None where it was not seen, or changed.
            let config: Option<&Config> = match texts.first() {
                Some(&one) if texts.len() == 1 => join.view.config(one),
                _ => None,
            };
            let few = quorum.least_acks.is_some_and(|least| least + 1 < low);
            (quorum.needed, quorum.how) = match (voters, config) {
                (Some(voters), _) => (Some(voters / 2 + 1), Some("given")),
                (None, Some(config)) if !config.simple => (None, Some("groups")),
                (None, Some(config)) => (Some(config.voters.len() as i64 / 2 + 1), Some("config")),
                (None, None) if quorum.followers == 0 || few => (None, None),
                (None, None) => (Some(low), Some(if proven { "seen" } else { "assumed" })),
            };
        }
        found
    }
}

/// Of each txn: votes of a quorum (0: not known), and the delivery whose ACK made it with the leader's own.
fn made(join: &Join<'_>, acks: &Acks, reigns: &Reigns, quorums: &[Quorum]) -> (Vec<i64>, Vec<i32>) {
    let t = &join.txns;
    let reconfig = join.view.packets.txn.find("reconfig");
    let mut changed = vec![i64::MAX; quorums.len()];
    for (txn, &which) in reigns.which.iter().enumerate() {
        if i64::from(t.op[txn]) == reconfig {
            let first = &mut changed[which as usize];
            *first = t.zxid[txn].min(*first);
        }
    }
    let mut needed = Vec::with_capacity(t.zxid.len());
    let mut acker = Vec::with_capacity(t.zxid.len());
    for (txn, &which) in reigns.which.iter().enumerate() {
        let quorum = &quorums[which as usize];
        let mut votes = quorum.needed.unwrap_or(0);
        // From a reconfig on others may vote.
        if quorum.how != Some("given") && t.zxid[txn] >= changed[which as usize] {
            votes = 0;
        }
        let place = i64::from(acks.start[txn]) + votes - 2;
        let fits = votes >= 2 && place < i64::from(acks.start[txn + 1]);
        let by = if fits {
            acks.delivery[place as usize] as i32
        } else {
            -1
        };
        needed.push(votes);
        acker.push(by);
    }
    (needed, acker)
}

/// Moves moments so that none is before the one before it, nor after the reply. Gives whether any was moved.
fn in_order(moments: &mut Moments) -> bool {
    let last = if moments[REPLY] == NONE {
        i64::MAX
    } else {
        moments[REPLY]
    };
    let mut floor = NONE;
    let mut moved = false;
    for ts in moments.iter_mut().filter(|ts| **ts != NONE) {
        let right = (*ts).max(floor).min(last);
        moved |= right != *ts;
        *ts = right;
        floor = right;
    }
    moved
}

/// The network's part of each delivery's ACK, by what PINGs took about that time.
fn network(join: &Join<'_>, seen: &[Seen], pings: &[Pings]) -> Vec<i64> {
    let mut network = vec![NONE; seen.len()];
    for (peer, pings) in pings.iter().enumerate() {
        let trips = Trips::new(pings);
        let (low, high) = (join.deliveries.start[peer], join.deliveries.start[peer + 1]);
        for at in low as usize..high as usize {
            let Seen { proposal, ack, .. } = seen[at];
            if proposal == NONE || ack == NONE {
                continue;
            }
            let estimate = trips.about(proposal);
            // An ACK that was quicker than any PING about then says that PINGs waited elsewhere.
            if estimate <= ack.wrapping_sub(proposal) {
                network[at] = estimate;
            }
        }
    }
    network
}

/// Round trips of PINGs about a time.
struct Trips {
    centres: Vec<i64>,
    least: Vec<i64>,
}

impl Trips {
    fn new(pings: &Pings) -> Self {
        let width = PING_WINDOW.min(pings.len()).max(1);
        let least = pings.windows(width).map(|near| {
            let took = near.iter().map(|trip| trip.1);
            took.min().unwrap_or(NONE)
        });
        let least: Vec<i64> = least.collect();
        let centres = pings.iter().skip(width / 2).take(least.len());
        Trips {
            centres: centres.map(|trip| trip.0).collect(),
            least,
        }
    }

    /// What they took: the quickest of those around it; [`NONE`] where none is near.
    fn about(&self, ts: i64) -> i64 {
        if self.centres.is_empty() {
            return NONE;
        }
        let right = self.centres.partition_point(|&at| at < ts);
        let right = right.min(self.centres.len() - 1);
        let left = right.saturating_sub(1);
        let far = |at: usize| self.centres[at].wrapping_sub(ts).wrapping_abs();
        let nearer = if far(left) <= far(right) { left } else { right };
        if far(nearer) <= PING_NEAR_NS {
            self.least[nearer]
        } else {
            NONE
        }
    }
}

/// Commits are in order: how long a path waited for that of the txn before it.
fn behind(join: &Join<'_>, commit: &[i64], txn: Option<usize>, moments: &Moments) -> i64 {
    let t = &join.txns;
    let before = txn.and_then(|txn| Some((txn.checked_sub(1)?, txn)));
    let follows = before.filter(|&(before, txn)| {
        t.zxid[txn] == t.zxid[before].wrapping_add(1) && t.leader[txn] == t.leader[before]
    });
    let earlier = follows.map_or(NONE, |(before, _)| commit[before]);
    let (start, committed) = (moments[QUORUM], moments[COMMITTED]);
    let until = earlier.min(committed);
    if start == NONE || until == NONE || committed == NONE {
        return 0;
    }
    until.wrapping_sub(start).max(0)
}

/// What the time between two moments is called.
pub fn stage_name(begin: usize, end: usize, place: Place) -> &'static str {
    const BETWEEN: [&str; 36] = between();
    match (begin, end) {
        // the leader's own client: there is nothing to forward
        (REQUEST, PROPOSED) if place == Place::Leader => "leader",
        (REQUEST, FORWARD) => "server",
        (FORWARD, PROPOSED) => "leader",
        (PROPOSED, QUORUM) => "quorum",
        (QUORUM, COMMITTED) => "commit",
        (COMMITTED, REPLY) => "reply",
        _ => BETWEEN.get(begin * 6 + end).copied().unwrap_or_default(),
    }
}

/// Names of stages between which moments were not seen.
const fn between() -> [&'static str; 36] {
    let mut names = [""; 36];
    names[2] = "request..proposal";
    names[3] = "request..quorum";
    names[4] = "request..commit";
    names[5] = "request..reply";
    names[6 + 3] = "forward..quorum";
    names[6 + 4] = "forward..commit";
    names[6 + 5] = "forward..reply";
    names[12 + 4] = "proposal..commit";
    names[12 + 5] = "proposal..reply";
    names[18 + 5] = "quorum..reply";
    names
}
