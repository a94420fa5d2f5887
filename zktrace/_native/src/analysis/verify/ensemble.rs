//! Who is who on the quorum port: learners' connections, terms of leaders, ensembles. `ensemble.py` is the reference and
//! says when listeners are of one ensemble.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use super::evidence::Evidence;
use crate::analysis::columns::{host, Config, Kind, Role, View, NONE};
use crate::analysis::sorted::grouped;

pub const SYNCS: [Kind; 3] = [Kind::Diff, Kind::Trunc, Kind::Snap];

/// Listeners with a configuration that are held against each other.
const LISTENERS_MAX: usize = 64;

/// One connection of a learner.
pub struct Learner<'a> {
    pub conn: i64,
    pub client: &'a str,
    pub server: &'a str,
    /// Its packets, in order.
    pub rows: Vec<u32>,
    /// Seen from its first packet on, nothing lost in between.
    pub whole: bool,
    pub role: Option<Role>,
    pub sid: Option<i64>,
    /// Epoch that the learner had accepted before.
    pub accepted: Option<i64>,
    /// The leader's.
    pub epoch: Option<i64>,
    /// Told by the leader's NEWLEADER, or by ACKs of what it broadcasts.
    pub proven_epoch: bool,
    pub config: Option<&'a Config>,
    pub handshake: Vec<(Kind, usize)>,
    /// Row from which on the leader broadcasts.
    pub live_from: usize,
}

impl Learner<'_> {
    /// Row of the first packet of a type.
    pub fn first(&self, kind: Kind) -> Option<usize> {
        self.every(kind).next()
    }

    /// Rows of a type of handshake packet.
    pub fn every(&self, kind: Kind) -> impl Iterator<Item = usize> + '_ {
        let mine = self.handshake.iter().filter(move |(its, _)| *its == kind);
        mine.map(|(_, row)| *row)
    }

    /// The first row of the first of these types that there is.
    pub fn first_of(&self, kinds: &[Kind]) -> Option<usize> {
        kinds.iter().find_map(|&kind| self.first(kind))
    }

    pub fn follows(&self) -> bool {
        self.role == Some(Role::Follower)
    }

    /// Its rows of some types.
    pub fn rows_of<'e>(
        &'e self,
        evidence: &'e Evidence<'_>,
        wanted: impl Fn(Kind) -> bool + 'e,
    ) -> impl Iterator<Item = usize> + 'e {
        let q = evidence.packets();
        let rows = self.rows.iter().map(|&row| row as usize);
        rows.filter(move |&row| wanted(q.kind(row)))
    }
}

/// One listener leading in one epoch.
pub struct Term<'a> {
    pub server: &'a str,
    pub epoch: i64,
    pub ensemble: usize,
    /// By place among all learners.
    pub learners: Vec<usize>,
}

pub struct Ensembles<'a> {
    pub learners: Vec<Learner<'a>>,
    pub of_server: BTreeMap<&'a str, usize>,
    pub terms: Vec<Term<'a>>,
}

fn known(value: i64) -> Option<i64> {
    (value != NONE).then_some(value)
}

impl<'a> Ensembles<'a> {
    pub fn new(evidence: &Evidence<'a>) -> Self {
        let learners = learners(evidence);
        let of_server = united(&learners);
        let mut terms: Vec<Term<'a>> = Vec::new();
        let mut places: HashMap<(&str, i64), usize> = HashMap::new();
        for (number, one) in learners.iter().enumerate() {
            let Some(epoch) = one.epoch else { continue };
            let place = *places.entry((one.server, epoch)).or_insert_with(|| {
                terms.push(Term {
                    server: one.server,
                    epoch,
                    ensemble: of_server[one.server],
                    learners: Vec::new(),
                });
                terms.len() - 1
            });
            terms[place].learners.push(number);
        }
        terms.sort_by_key(|term| (term.ensemble, term.epoch));
        Ensembles {
            learners,
            of_server,
            terms,
        }
    }

    /// The ensemble of each connection by number, 0 where there is none.
    pub fn of_conns(&self) -> Vec<i64> {
        let mut of = Vec::new();
        for one in &self.learners {
            let conn = usize::try_from(one.conn).unwrap_or_default();
            if of.len() <= conn {
                of.resize(conn + 1, 0);
            }
            of[conn] = self.of_server[one.server] as i64;
        }
        of
    }

    /// Terms of each ensemble, by epoch.
    pub fn by_ensemble(&self) -> impl Iterator<Item = &[Term<'a>]> {
        self.terms.chunk_by(|a, b| a.ensemble == b.ensemble)
    }

    /// Listeners that have followers: leaders.
    pub fn led(&self) -> BTreeSet<&'a str> {
        let all = self.learners.iter().filter(|one| one.follows());
        all.map(|one| one.server).collect()
    }

    pub fn of(&self, term: &Term<'a>) -> impl Iterator<Item = &Learner<'a>> {
        let places = term.learners.clone();
        places.into_iter().map(|number| &self.learners[number])
    }

    pub fn followers(&self, term: &Term<'a>) -> Vec<&Learner<'a>> {
        self.of(term).filter(|one| one.follows()).collect()
    }

    /// The configuration that all learners of a term were told; None where they were told different ones.
    pub fn config(&self, term: &Term<'a>) -> Option<&'a Config> {
        let mut told = self.of(term).filter_map(|one| one.config);
        let first = told.next()?;
        told.all(|one| one.meaning == first.meaning)
            .then_some(first)
    }

    /// A follower that proves that a quorum follows this leader in this epoch.
    pub fn established(&self, term: &Term<'a>) -> Option<&Learner<'a>> {
        self.of(term).find(|one| one.follows() && one.proven_epoch)
    }

    /// Two listeners are certainly two servers: not one with several addresses.
    pub fn different(&self, left: &Term<'a>, right: &Term<'a>) -> bool {
        if left.server == right.server {
            return false;
        }
        let configs = self
            .of(left)
            .chain(self.of(right))
            .filter_map(|one| one.config);
        let configs: Vec<&Config> = configs.collect();
        let sids = [left.server, right.server].map(|server| {
            let all = configs.iter().flat_map(|config| config.sids(server));
            all.collect::<BTreeSet<&str>>()
        });
        if sids[0].len() == 1 && sids[1].len() == 1 {
            return sids[0] != sids[1];
        }
        if !sids[0].is_empty() || !sids[1].is_empty() {
            return false;
        }
        // nobody follows itself
        let mut followers = self.of(left).map(|one| host(one.client));
        followers.any(|one| one == host(right.server)) && host(left.server) != host(right.server)
    }
}

// ---- connections

fn learners<'a>(evidence: &Evidence<'a>) -> Vec<Learner<'a>> {
    let q = evidence.packets();
    let conns: Vec<i64> = (0..q.rows).map(|row| q.conn.get(row)).collect();
    let (order, first) = grouped(&conns);
    let mut learners: Vec<Learner<'a>> = Vec::new();
    for (&row, first) in order.iter().zip(first) {
        if first {
            let conn = conns[row as usize];
            learners.push(Learner {
                conn,
                client: evidence.client_name(conn),
                server: evidence.server_name(conn),
                rows: Vec::new(),
                whole: !evidence.broken.contains(&conn),
                role: None,
                sid: None,
                accepted: None,
                epoch: None,
                proven_epoch: false,
                config: None,
                handshake: Vec::new(),
                live_from: 0,
            });
        }
        if let Some(one) = learners.last_mut() {
            one.rows.push(row);
            if q.kind(row as usize).is_handshake() {
                handshake(&evidence.view, one, row as usize);
            }
        }
    }
    for one in &mut learners {
        broadcast(evidence, one);
    }
    learners
}

fn handshake<'a>(view: &View<'a>, one: &mut Learner<'a>, row: usize) {
    let q = &view.packets;
    let kind = q.kind(row);
    if one.handshake.is_empty() {
        // until the sync is over, all that comes is part of it
        one.live_from = q.rows;
    }
    one.handshake.push((kind, row));
    match kind {
        Kind::FollowerInfo | Kind::ObserverInfo => {
            let follows = kind == Kind::FollowerInfo;
            one.role = Some(if follows {
                Role::Follower
            } else {
                Role::Observer
            });
            one.sid = known(q.sid.get(row));
            one.accepted = known(q.epoch.get(row));
        }
        Kind::LeaderInfo if one.epoch.is_none() => one.epoch = known(q.epoch.get(row)),
        Kind::NewLeader => {
            one.epoch = known(q.epoch.get(row));
            one.proven_epoch = true;
            one.config = view.config(q.config.code(row));
        }
        Kind::UpToDate => one.live_from = row + 1,
        _ => {}
    }
}

/// Role and epoch of a connection whose beginning was not seen. Only followers acknowledge txns, and none before they are
/// up to date.
fn broadcast(evidence: &Evidence<'_>, one: &mut Learner<'_>) {
    let q = evidence.packets();
    let start = one.rows.first().map(|&row| row as usize);
    let opened = [Kind::FollowerInfo, Kind::ObserverInfo];
    one.whole = one.whole && opened.into_iter().any(|kind| one.first(kind) == start);
    if one.epoch.is_some() && one.role.is_some() {
        return;
    }
    let newest = |wanted: fn(Kind) -> bool| {
        let rows = one.rows_of(evidence, wanted).filter(|&row| q.counted(row));
        rows.map(|row| q.zxid.get(row)).max()
    };
    let acked = newest(|kind| kind == Kind::Ack);
    let informed = newest(Kind::is_inform);
    if let Some(zxid) = acked {
        one.role = one.role.or(Some(Role::Follower));
        if one.epoch.is_none() {
            one.epoch = Some(zxid >> 32);
            one.proven_epoch = true;
        }
    }
    if let (None, Some(zxid)) = (one.role, informed) {
        one.role = Some(Role::Observer);
        one.epoch = one.epoch.or(Some(zxid >> 32));
    }
}

// ---- which listeners belong together

fn united<'a>(learners: &[Learner<'a>]) -> BTreeMap<&'a str, usize> {
    let servers: BTreeSet<&str> = learners.iter().map(|one| one.server).collect();
    let mut of: BTreeMap<&str, usize> = servers.iter().copied().zip(0..).collect();
    let mut configs: BTreeMap<&str, Vec<&Config>> = BTreeMap::new();
    for one in learners {
        if let Some(config) = one.config {
            let mine = configs.entry(one.server).or_default();
            if mine.iter().all(|known| known.meaning != config.meaning) {
                mine.push(config);
            }
        }
    }
    // few listeners have a configuration; made-up traffic may have many without
    let told: Vec<&str> = configs.keys().copied().take(LISTENERS_MAX).collect();
    for (at, left) in told.iter().enumerate() {
        for right in &told[at + 1..] {
            if of[left] != of[right] && same(learners, left, right, &configs) {
                merge(&mut of, left, right);
            }
        }
    }
    for server in servers {
        if configs.contains_key(server) {
            continue;
        }
        // a listener that another one's configuration names by its address
        let names = |other: &&&str| {
            let mut mine = configs[**other].iter();
            mine.any(|config| !config.sids(server).is_empty())
        };
        if let Some(other) = told.iter().find(names) {
            merge(&mut of, other, server);
        }
    }
    of
}

fn merge(of: &mut BTreeMap<&str, usize>, left: &str, right: &str) {
    let (left, right) = (of[left], of[right]);
    for number in of.values_mut().filter(|number| **number == right) {
        *number = left;
    }
}

fn same(
    learners: &[Learner<'_>],
    left: &str,
    right: &str,
    configs: &BTreeMap<&str, Vec<&Config>>,
) -> bool {
    let named = [left, right].map(|server| {
        let all = configs[server].iter().flat_map(|config| &config.addresses);
        all.collect::<BTreeSet<&(String, String)>>()
    });
    let literal: BTreeSet<&str> = named[0]
        .intersection(&named[1])
        .map(|(_, address)| address.as_str())
        .collect();
    if literal.is_empty() {
        return false;
    }
    if literal.contains(left) && literal.contains(right) && is_literal(left) {
        return true;
    }
    let mut seen: [BTreeMap<i64, BTreeSet<&str>>; 2] = Default::default();
    let mut hosts = [BTreeSet::from([host(left)]), BTreeSet::from([host(right)])];
    for one in learners {
        for (side, server) in [left, right].into_iter().enumerate() {
            if one.server == server {
                hosts[side].insert(host(one.client));
                if let Some(sid) = one.sid {
                    seen[side].entry(sid).or_default().insert(host(one.client));
                }
            }
        }
    }
    let both = seen[0]
        .iter()
        .filter_map(|(sid, mine)| Some((mine, seen[1].get(sid)?)));
    let agree = both
        .into_iter()
        .all(|(mine, other)| !mine.is_disjoint(other));
    agree && !hosts[0].is_disjoint(&hosts[1])
}

fn is_literal(endpoint: &str) -> bool {
    let host = host(endpoint).trim_matches(['[', ']']);
    host.parse::<IpAddr>().is_ok()
}
