//! The client's server: which learner connection it has, and where it stands to the leader.
//!
//! Part of `zktrace/analysis/writepath.py`. A REQUEST says both. Where none was seen, what others of the same server said,
//! then addresses: the leader's own clients use the leader's address, where no learner is known to have it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::columns::{host, NONE};
use super::join::{Join, Peer};
use super::writepath::{place, Origin, Path, Place};

/// Which learner connection a path's server has, and where it stands to the leader.
pub struct Servers<'j, 'a> {
    join: &'j Join<'a>,
    close_session: i64,
}

impl<'j, 'a> Servers<'j, 'a> {
    pub fn new(join: &'j Join<'a>) -> Self {
        Servers {
            join,
            close_session: join.view.packets.txn.find("closeSession"),
        }
    }

    /// The connection of a REQUEST.
    fn whose(&self, row: i32) -> i32 {
        place(row).map_or(-1, |row| self.join.peer(row) as i32)
    }

    /// A path, as far as its REQUEST says.
    pub fn start(&self, write: i32, txn: i32) -> Path {
        let join = self.join;
        let peer = match (place(write), place(txn)) {
            (Some(write), _) => self.whose(join.writes.request_row[write]),
            (None, Some(txn)) => self.whose(join.txns.request_row[txn]),
            (None, None) => -1,
        };
        Path {
            write,
            txn,
            peer,
            place: if peer >= 0 {
                Place::Learner
            } else {
                Place::Unknown
            },
            origin: self.origin(write, txn),
            moments: [NONE; 6],
            needed: 0,
            acks: 0,
            acker: -1,
            behind: 0,
            reordered: false,
        }
    }

    fn origin(&self, write: i32, txn: i32) -> Origin {
        let (Some(txn), true) = (place(txn), write < 0) else {
            return Origin::Client;
        };
        let t = &self.join.txns;
        // The leader's own requests have cxid 0: to close a session that expired, and, without a session, to reap.
        let closes = i64::from(t.op[txn]) == self.close_session;
        if t.cxid[txn] == 0 && (closes || t.session[txn] == 0) {
            Origin::Leader
        } else if self.join.sure(t.request_row[txn]) != NONE {
            Origin::Learner
        } else {
            Origin::Unknown
        }
    }

    /// Where no REQUEST says it: what others of the same server said, then addresses.
    pub fn place(&self, paths: &mut [Path]) {
        let join = self.join;
        let ends = |path: &Path| {
            let (write, txn) = (place(path.write)?, place(path.txn)?);
            let x = &join.view.exchanges;
            let conn = x.conn.get(join.writes.row[write] as usize);
            Some((join.view.server(conn), join.txns.leader[txn], txn))
        };
        let mut homes: HashMap<(i32, i32), BTreeSet<i32>> = HashMap::new();
        for path in paths.iter().filter(|path| path.peer >= 0) {
            if let Some((server, leader, _)) = ends(path) {
                homes.entry((server, leader)).or_default().insert(path.peer);
            }
        }
        let ip = |code: i32| host(join.view.address(code).unwrap_or_default());
        let leaders: BTreeSet<&str> = join.peers.iter().map(|peer| ip(peer.leader)).collect();
        let mut judged: BTreeMap<(i32, i32), (BTreeSet<i32>, Place)> = BTreeMap::new();
        for path in paths.iter_mut().filter(|path| path.peer < 0) {
            let Some((server, leader, txn)) = ends(path) else {
                continue;
            };
            let (known, stands) = judged.entry((server, leader)).or_insert_with(|| {
                let known = match homes.get(&(server, leader)) {
                    Some(known) => known.clone(),
                    None => self.by_address(server, leader),
                };
                let stands = if !known.is_empty() {
                    Place::Learner
                } else if ip(server) == ip(leader) {
                    Place::Leader
                } else if leaders.contains(ip(server)) {
                    // It has been a leader, which this one is not: a learner.
                    Place::Learner
                } else {
                    Place::Unknown
                };
                (known, stands)
            });
            path.place = *stands;
            for &home in known.iter() {
                let zxid = join.txns.zxid[txn];
                if join.deliveries.find(home as usize, zxid).is_some() {
                    path.peer = home;
                }
            }
        }
    }

    /// Connections of learners with a server's address, unless others share it.
    fn by_address(&self, server: i32, leader: i32) -> BTreeSet<i32> {
        let join = self.join;
        let ip = |code: i32| host(join.view.address(code).unwrap_or_default());
        if ip(server) == ip(leader) {
            return BTreeSet::new();
        }
        let all = join.peers.iter().enumerate();
        let same: Vec<(usize, &Peer)> = all
            .filter(|(_, peer)| peer.leader == leader && ip(peer.learner) == ip(server))
            .collect();
        let sids: BTreeSet<Option<i64>> = same.iter().map(|(_, peer)| peer.sid).collect();
        if same.len() == 1 || sids.len() == 1 {
            same.iter().map(|(number, _)| *number as i32).collect()
        } else {
            BTreeSet::new()
        }
    }
}
