//! What the time of writes was spent on, and at whom: the parts of their stages.
//!
//! `zktrace/analysis/blame.py` is the reference. Parts add up to the stages, stages to the latency.

use super::columns::NONE;
use super::join::Join;
use super::writepath::{stage_name, Origin, Path, Paths, Place, FORWARD, PROPOSED, REPLY, REQUEST};

/// Whose a part is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Whose {
    Server,
    Leader,
    Follower,
    Nobody,
}

pub struct Part {
    pub name: &'static str,
    /// The stage that it is a part of.
    pub stage: &'static str,
    pub whose: Whose,
    pub meaning: &'static str,
}

const fn part(
    name: &'static str,
    stage: &'static str,
    whose: Whose,
    meaning: &'static str,
) -> Part {
    Part {
        name,
        stage,
        whose,
        meaning,
    }
}

pub const SERVER: usize = 0;
pub const LEADER: usize = 1;
pub const SEND: usize = 2;
pub const NETWORK: usize = 3;
pub const FOLLOWER: usize = 4;
pub const ACK: usize = 5;
pub const ORDER: usize = 6;
pub const LEADER_ACK: usize = 7;
pub const ANSWER: usize = 8;
pub const UNSEEN: usize = 9;

/// Parts of time in one capture. What a message takes between two capture points is none of them.
pub const PARTS: [Part; 10] = [
    part(
        "server",
        "server",
        Whose::Server,
        "the client's server, before it forwards to the leader",
    ),
    part(
        "leader",
        "leader",
        Whose::Leader,
        "the leader, before it proposes",
    ),
    part(
        "send",
        "quorum",
        Whose::Leader,
        "the leader's queue to the follower",
    ),
    part(
        "network",
        "quorum",
        Whose::Follower,
        "network to the follower and back",
    ),
    part(
        "follower",
        "quorum",
        Whose::Follower,
        "the follower's disk and queue",
    ),
    part(
        "ack",
        "quorum",
        Whose::Follower,
        "the follower's disk and the network to it",
    ),
    part(
        "order",
        "commit",
        Whose::Leader,
        "commits of txns before it",
    ),
    part(
        "leader_ack",
        "commit",
        Whose::Leader,
        "the leader's own disk and queue",
    ),
    part(
        "reply",
        "reply",
        Whose::Server,
        "the client's server, to apply and answer",
    ),
    part(
        "unseen",
        "",
        Whose::Nobody,
        "between messages that were not seen",
    ),
];

/// A stage of a path: first moment, last moment, name.
pub type Stage = (usize, usize, &'static str);

/// The stages of a path: between moments that were seen.
pub fn stages(path: &Path) -> impl Iterator<Item = Stage> + '_ {
    let mut last: Option<usize> = None;
    path.moments
        .iter()
        .enumerate()
        .filter_map(move |(moment, &ts)| {
            if ts == NONE {
                return None;
            }
            let begin = last.replace(moment)?;
            Some((begin, moment, stage_name(begin, moment, path.place)))
        })
}

/// Nanoseconds of each part of a path, which add up to the time from the first moment that was seen to the last.
pub fn parts(join: &Join<'_>, paths: &Paths, path: &Path) -> [i64; PARTS.len()] {
    let mut spent = [0; PARTS.len()];
    for (begin, end, name) in stages(path) {
        let took = path.moments[end].wrapping_sub(path.moments[begin]);
        match name {
            "quorum" => {
                let acker = usize::try_from(path.acker).ok();
                let proposal = acker.map_or(NONE, |at| join.seen(at).proposal);
                let send = match proposal {
                    NONE => 0,
                    sent => sent.wrapping_sub(path.moments[PROPOSED]).max(0).min(took),
                };
                let left = took.wrapping_sub(send);
                spent[SEND] += send;
                match acker.map_or(NONE, |at| paths.network[at]) {
                    NONE => spent[ACK] += left,
                    network => {
                        let network = network.min(left);
                        spent[NETWORK] += network;
                        spent[FOLLOWER] += left.wrapping_sub(network);
                    }
                }
            }
            "commit" => {
                let behind = path.behind.min(took);
                spent[ORDER] += behind;
                spent[LEADER_ACK] += took.wrapping_sub(behind);
            }
            "server" => spent[SERVER] += took,
            "leader" => spent[LEADER] += took,
            "reply" => spent[ANSWER] += took,
            _ => spent[UNSEEN] += took,
        }
    }
    spent
}

/// Which moments were not seen though there must have been such a message.
pub fn gone(path: &Path) -> [bool; 6] {
    let mut lost = path.moments.map(|ts| ts == NONE);
    // The leader's own clients need no REQUEST, its own txns no client.
    if path.place == Place::Leader {
        lost[FORWARD] = false;
    }
    if path.origin == Origin::Leader {
        lost[REQUEST] = false;
        lost[FORWARD] = false;
        lost[REPLY] = false;
    }
    lost
}

/// The COMMIT that was seen is the one to the client's server.
pub fn own_commit(path: &Path) -> bool {
    path.place == Place::Leader || path.peer >= 0 || path.origin == Origin::Leader
}

/// Whether a path has every moment that it must have.
pub fn complete(path: &Path) -> bool {
    own_commit(path) && !gone(path).contains(&true)
}

/// The first moment that was seen; the largest number where none was.
pub fn begin(path: &Path) -> i64 {
    let known = path.moments.iter().copied().filter(|&ts| ts != NONE);
    known.min().unwrap_or(i64::MAX)
}

/// From the first moment that was seen to the last.
pub fn length(path: &Path) -> i64 {
    let last = path.moments.iter().copied().max().unwrap_or(NONE);
    last.wrapping_sub(begin(path)).max(0)
}
