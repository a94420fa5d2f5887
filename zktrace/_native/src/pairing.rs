//! Which request a reply answers. `zktrace/stream/pairing.py` is the reference and says why the rules are what they are.
//!
//! Ordinary xids grow in nearly every connection: then they are found by binary search in the order of sending. Only when
//! one repeats, or goes backwards, an index by xid is built and kept. The requests themselves lie in one place for all
//! connections: a connection that is idle holds none, and no room for them.

use std::collections::{HashMap, VecDeque};

use crate::budget::{PART_COST, PENDING_COST};
use crate::events::Watches;
use crate::scan::Values;

pub const PING_XID: i64 = -2;
pub const AUTH_XID: i64 = -4;
pub const SET_WATCHES_XID: i64 = -8;

/// A server that has just answered a ping and owes another answer, from before the capture began, is not silent for so
/// long.
const QUIET_NS: i64 = 1_000_000_000;

const AUTH: usize = 1;

/// auth and sasl: answered at receipt, whatever their xid.
const AT_RECEIPT: [i32; 2] = [100, 102];
/// What clients that do not count use for all requests.
const CONSTANT_XIDS: [i64; 2] = [0, 1];

/// Requests answered out of order that a queue holds beside as many that are not.
const HOLES_MAX: usize = 16;

/// Places in a queue that are kept when they are not needed.
const ROOM_KEPT: usize = 64;

/// Gives room back that a queue needed once.
#[inline]
fn trim<T>(queue: &mut VecDeque<T>) {
    if queue.capacity() > ROOM_KEPT && queue.len() < queue.capacity() / 4 {
        queue.shrink_to(2 * queue.len());
    }
}

#[inline]
fn special(xid: i64) -> Option<usize> {
    if xid >= 0 {
        return None;
    }
    match xid {
        PING_XID => Some(0),
        AUTH_XID => Some(AUTH),
        SET_WATCHES_XID => Some(2),
        _ => None,
    }
}

/// Sub-operations of a multi that waits for its reply.
#[derive(Default)]
pub struct SubOps {
    /// Type, and the path's place in `bytes`.
    pub ops: Vec<(i32, Option<(usize, usize)>)>,
    pub bytes: Vec<u8>,
}

/// A request that waits for its reply. Small, since it is moved in and out for every exchange.
pub struct Pending {
    pub number: u64,
    pub xid: i64,
    pub ts: i64,
    pub length: u32,
    pub opcode: i32,
    /// Row in the opcode table.
    pub op: u16,
    /// It is not known when it was complete: some of its bytes were lost, or are late.
    pub uncertain: bool,
    pub values: Values,
    /// None where there is none, or nobody looks at it.
    pub path: Option<Vec<u8>>,
    /// Length of its path, kept or not: what it costs does not depend on who looks.
    pub path_length: u32,
    pub rare: Option<Box<PendingRare>>,
}

impl Pending {
    /// What holding it costs.
    #[inline]
    pub fn cost(&self) -> usize {
        let rare = self.rare.as_ref().map_or(0, |rare| rare.cost());
        PENDING_COST + self.path_length as usize + rare
    }
}

impl PendingRare {
    fn cost(&self) -> usize {
        let ops = self.ops.as_ref();
        let claim = self.claim.as_ref().map_or(0, String::len);
        claim + ops.map_or(0, |ops| PART_COST * ops.ops.len() + ops.bytes.len())
    }
}

/// The requests of all connections that wait for their replies: each has a place that is used again.
#[derive(Default)]
pub struct Requests {
    places: Vec<Option<Pending>>,
    free: Vec<u32>,
}

impl Requests {
    #[inline(always)]
    fn put(&mut self, pending: Pending) -> u32 {
        if let Some(place) = self.free.pop() {
            if let Some(slot) = self.places.get_mut(place as usize) {
                *slot = Some(pending);
            }
            return place;
        }
        self.places.push(Some(pending));
        (self.places.len() - 1) as u32
    }

    #[inline(always)]
    fn take(&mut self, place: u32) -> Option<Pending> {
        let found = self.places.get_mut(place as usize)?.take()?;
        self.free.push(place);
        Some(found)
    }

    #[inline]
    fn get(&self, place: u32) -> Option<&Pending> {
        self.places.get(place as usize)?.as_ref()
    }
}

/// An ordinary request: its xid and its place.
#[derive(Clone, Copy)]
struct Sent {
    xid: i64,
    place: u32,
}

/// Stands for the place of a request that was answered out of order.
const ANSWERED: u32 = u32::MAX;

impl Sent {
    #[inline]
    fn is_answered(&self) -> bool {
        self.place == ANSWERED
    }
}

/// What only setWatches, multi, auth and sasl hold.
#[derive(Default)]
pub struct PendingRare {
    pub watches: Option<Watches>,
    pub ops: Option<SubOps>,
    /// Who it says to be.
    pub claim: Option<String>,
}

/// The outstanding requests of one connection.
#[derive(Default)]
pub struct Pairing {
    /// Oldest first.
    ordinary: VecDeque<Sent>,
    /// How many of them were answered out of order.
    holes: usize,
    /// Ordinary requests taken from the front so far: the number of `ordinary`'s first in the order of all.
    base: u64,
    /// Numbers in `ordinary` by xid, where binary search will not do.
    by_xid: Option<HashMap<i64, VecDeque<u64>>>,
    special: [VecDeque<u32>; 3],
    live: usize,
    next: u64,
    tainted: bool,
    auth_tainted: bool,
    taint_from: u64,
    clean_from: u64,
    auth_clean_from: u64,
    joined: bool,
    repeats: bool,
    /// An ordinary xid was greater than the one before.
    grows: bool,
    /// Requests before this one are answered: a later one was, in a time of losses.
    passed: u64,
    /// Outstanding are ordinary requests that are before `clean_from`, or before `gone`.
    stale: bool,
    /// Number + 1 of the first request after requests, after replies were last lost; 0: none were.
    asks_lost: u64,
    answers_lost: u64,
    /// The same, where so much was lost that another connection may have begun.
    asks_gone: u64,
    answers_gone: u64,
    /// Xid and time of the latest reply without a request.
    orphan: Option<(i64, i64)>,
    /// The last ordinary xid sent.
    pub last_xid: Option<i64>,
}

impl Pairing {
    /// Notes a request, sent `quiet_ns` after the answer to a ping, nothing in between.
    #[inline(always)]
    pub fn sent(&mut self, requests: &mut Requests, mut pending: Pending, quiet_ns: i64) {
        if self.joined && self.tainted && self.live == 0 && quiet_ns >= QUIET_NS {
            self.tainted = false;
            self.auth_tainted = false;
            self.clean_from = self.next;
            self.auth_clean_from = self.next;
        }
        pending.number = self.next;
        self.next += 1;
        self.live += 1;
        let xid = pending.xid;
        let place = requests.put(pending);
        if let Some(queue) = special(xid).and_then(|kind| self.special.get_mut(kind)) {
            queue.push_back(place);
            return;
        }
        if let Some(last) = self.last_xid {
            // signed distance, so that the wrap of an int is a step forward
            let forward = (xid.wrapping_sub(last) as i32) > 0;
            self.grows |= forward;
            self.repeats |= !forward;
        }
        self.last_xid = Some(xid);
        if self.by_xid.is_none() && !self.stays_sorted(xid) {
            self.build_index();
        }
        let number = self.base + self.ordinary.len() as u64;
        if let Some(index) = &mut self.by_xid {
            index.entry(xid).or_default().push_back(number);
        }
        self.ordinary.push_back(Sent { xid, place });
    }

    /// Whether xids still grow from the first outstanding one on, within half of their range.
    #[inline]
    fn stays_sorted(&self, xid: i64) -> bool {
        let (Some(first), Some(last)) = (self.ordinary.front(), self.ordinary.back()) else {
            return true;
        };
        if first.is_answered() || last.is_answered() {
            return false;
        }
        offset(last.xid, first.xid) < offset(xid, first.xid)
            && offset(xid, first.xid) < 1 << 31
            && xid.wrapping_sub(first.xid).unsigned_abs() < 1 << 32
    }

    fn build_index(&mut self) {
        let mut index: HashMap<i64, VecDeque<u64>> = HashMap::new();
        for (number, sent) in (self.base..).zip(&self.ordinary) {
            if !sent.is_answered() {
                index.entry(sent.xid).or_default().push_back(number);
            }
        }
        self.by_xid = Some(index);
    }

    /// The connection was already open when the capture began.
    pub fn set_joined(&mut self) {
        self.lost(true, true);
        self.joined = true;
        self.asks_lost = 0;
        self.answers_lost = 0;
    }

    /// Bytes that may have held requests or replies were not captured, or not kept.
    pub fn lost(&mut self, requests: bool, replies: bool) {
        if requests {
            self.asks_lost = self.next + 1;
        }
        if replies {
            self.answers_lost = self.next + 1;
        }
        self.joined = false;
        self.tainted = true;
        self.auth_tainted = true;
        self.taint_from = self.next;
    }

    /// So many bytes were not captured that a handshake may be among them.
    pub fn gone(&mut self, requests: bool) {
        if requests {
            self.asks_gone = self.next + 1;
        } else {
            self.answers_gone = self.next + 1;
        }
        self.stale |= !self.ordinary.is_empty();
    }

    /// Requests are being framed again; those sent until now may have been missed.
    pub fn resumed(&mut self) {
        if self.tainted {
            self.taint_from = self.next;
            if self.asks_lost > 0 {
                self.asks_lost = self.next + 1;
            }
        }
    }

    /// Number of the first outstanding ordinary request with this xid, and whether there are more.
    #[inline]
    fn find(&self, xid: i64) -> Option<(u64, bool)> {
        if let Some(index) = &self.by_xid {
            let numbers = index.get(&xid)?;
            return Some((*numbers.front()?, numbers.len() > 1));
        }
        let first = self.ordinary.front()?;
        if first.xid == xid {
            return Some((self.base, false));
        }
        let wanted = offset(xid, first.xid);
        let at = self
            .ordinary
            .partition_point(|sent| offset(sent.xid, first.xid) < wanted);
        let found = self.ordinary.get(at)?;
        (found.xid == xid && !found.is_answered()).then_some((self.base + at as u64, false))
    }

    /// The request a reply with this xid would be matched to by xid alone.
    pub fn peek<'r>(&self, requests: &'r Requests, xid: i64) -> Option<&'r Pending> {
        if let Some(queue) = special(xid).and_then(|kind| self.special.get(kind)) {
            return requests.get(*queue.front()?);
        }
        let (number, _) = self.find(xid)?;
        self.at(requests, number)
    }

    fn at<'r>(&self, requests: &'r Requests, number: u64) -> Option<&'r Pending> {
        let index = usize::try_from(number.checked_sub(self.base)?).ok()?;
        requests.get(self.ordinary.get(index)?.place)
    }

    /// Takes out the request that a reply with this xid answers; None where there is none, or where it is not certain
    /// which one. `in_sync`: requests are being framed, none is missed at present.
    #[inline(always)]
    pub fn answered(
        &mut self,
        requests: &mut Requests,
        xid: i64,
        in_sync: bool,
    ) -> Option<Pending> {
        // the common case: nothing was lost, and replies come in the order of requests
        let certain = !self.tainted && !self.auth_tainted && !self.stale && self.orphan.is_none();
        if xid >= 0 && self.by_xid.is_none() && certain {
            if let Some(first) = self.ordinary.front() {
                if first.xid == xid {
                    return self.take_first(requests);
                }
            }
        }
        self.answered_rarely(requests, xid, in_sync)
    }

    /// Takes out the first outstanding ordinary request, where there is no index by xid.
    #[inline(always)]
    fn take_first(&mut self, requests: &mut Requests) -> Option<Pending> {
        let found = self.ordinary.pop_front()?;
        self.base += 1;
        self.live -= 1;
        self.drop_answered();
        requests.take(found.place)
    }

    /// The first and the last of `ordinary` always wait for their replies.
    #[inline]
    fn drop_answered(&mut self) {
        while self.ordinary.front().is_some_and(Sent::is_answered) {
            self.ordinary.pop_front();
            self.base += 1;
            self.holes -= 1;
        }
        trim(&mut self.ordinary);
    }

    /// A request that is never answered would keep all that were sent after it.
    #[cold]
    fn forget_answered(&mut self) {
        self.ordinary.retain(|sent| !sent.is_answered());
        self.ordinary.shrink_to_fit();
        self.holes = 0;
        if self.by_xid.is_some() {
            self.build_index();
        }
    }

    #[inline(never)]
    fn answered_rarely(
        &mut self,
        requests: &mut Requests,
        xid: i64,
        in_sync: bool,
    ) -> Option<Pending> {
        if let Some(kind) = special(xid) {
            return self.answered_special(requests, kind);
        }
        let (mut number, several) = self.find(xid)?;
        let repeated = several || (self.tainted && self.repeats);
        if repeated {
            if self.tainted {
                return None;
            }
            number = self.first_clean(requests, xid)?;
        } else if self.is_doubtful(self.at(requests, number)?) {
            return None;
        }
        let found = self.take(requests, number)?;
        if !repeated && !AT_RECEIPT.contains(&found.opcode) {
            if self.tainted {
                self.passed = self.passed.max(found.number);
            }
            if in_sync && found.number >= self.taint_from {
                self.settle(requests, &found);
            }
        }
        Some(found)
    }

    /// A reply with this xid answers no request that is known. One that was sent before, and is known later, since it
    /// waited behind a loss, may be the one.
    pub fn orphaned(&mut self, xid: i64, ts: i64) {
        self.orphan = Some((xid, ts));
    }

    /// Whether the reply may be that of another request with this xid, which was not seen.
    fn is_doubtful(&self, found: &Pending) -> bool {
        if found.number < self.passed.max(self.clean_from) {
            return true;
        }
        let before = |(xid, ts)| found.xid == xid && found.ts <= ts;
        if self.orphan.is_some_and(before) {
            return true;
        }
        if found.number + 1 < self.asks_gone.min(self.answers_gone) {
            return true;
        }
        if !self.tainted || self.grows || !(self.joined || self.asks_lost > 0) {
            return false;
        }
        if found.number + 1 < self.asks_lost {
            return found.number + 1 < self.answers_lost;
        }
        CONSTANT_XIDS.contains(&found.xid)
    }

    fn first_clean(&self, requests: &Requests, xid: i64) -> Option<u64> {
        let numbers = self.by_xid.as_ref()?.get(&xid)?;
        let from = numbers.partition_point(|number| {
            self.at(requests, *number)
                .is_some_and(|pending| pending.number < self.clean_from)
        });
        numbers.get(from).copied()
    }

    fn answered_special(&mut self, requests: &mut Requests, kind: usize) -> Option<Pending> {
        let (tainted, clean_from) = if kind == AUTH {
            (self.auth_tainted, self.auth_clean_from)
        } else {
            (self.tainted, self.clean_from)
        };
        if tainted {
            return None;
        }
        let queue = self.special.get_mut(kind)?;
        let at = queue.partition_point(|place| {
            requests
                .get(*place)
                .is_some_and(|pending| pending.number < clean_from)
        });
        let place = queue.remove(at)?;
        trim(queue);
        self.live -= 1;
        requests.take(place)
    }

    #[inline]
    fn settle(&mut self, requests: &Requests, found: &Pending) {
        if self.tainted {
            self.tainted = false;
            self.clean_from = found.number;
            self.stale = !self.ordinary.is_empty();
        }
        if self.auth_tainted {
            // an auth sent after `found` may have been answered already, ahead of order
            let later = self.special.get(AUTH).and_then(VecDeque::back);
            let later = later.and_then(|place| requests.get(*place));
            if later.is_none_or(|later| later.number < found.number) {
                self.auth_tainted = false;
                self.auth_clean_from = self.next;
            }
        }
    }

    #[inline]
    fn take(&mut self, requests: &mut Requests, number: u64) -> Option<Pending> {
        let index = usize::try_from(number.checked_sub(self.base)?).ok()?;
        let sent = self.ordinary.get_mut(index)?;
        let (xid, place) = (sent.xid, sent.place);
        let found = requests.take(place)?;
        sent.place = ANSWERED;
        self.holes += 1;
        self.live -= 1;
        if let Some(by_xid) = &mut self.by_xid {
            if let Some(numbers) = by_xid.get_mut(&xid) {
                if let Ok(at) = numbers.binary_search(&number) {
                    numbers.remove(at);
                }
                if numbers.is_empty() {
                    by_xid.remove(&xid);
                }
            }
        }
        self.drop_answered();
        while self.ordinary.back().is_some_and(Sent::is_answered) {
            self.ordinary.pop_back();
            self.holes -= 1;
        }
        if self.ordinary.is_empty() {
            self.by_xid = None;
            self.stale = false;
        } else if self.holes > HOLES_MAX && self.holes > self.ordinary.len() / 2 {
            self.forget_answered();
        }
        Some(found)
    }

    /// What the outstanding requests cost.
    pub fn cost(&self, requests: &Requests) -> usize {
        let places = self.ordinary.iter().map(|sent| sent.place);
        let places = places.chain(self.special.iter().flatten().copied());
        places
            .filter_map(|place| requests.get(place))
            .map(Pending::cost)
            .sum()
    }

    /// Takes out all outstanding requests, oldest first: their replies may yet come.
    pub fn give_up(&mut self, requests: &mut Requests) -> Vec<Pending> {
        let ordinary = std::mem::take(&mut self.ordinary);
        self.base += ordinary.len() as u64;
        self.by_xid = None;
        self.holes = 0;
        self.live = 0;
        let special = std::mem::take(&mut self.special);
        let places = ordinary.into_iter().map(|sent| sent.place);
        let mut given_up: Vec<Pending> = places
            .chain(special.into_iter().flatten())
            .filter_map(|place| requests.take(place))
            .collect();
        given_up.sort_unstable_by_key(|pending| pending.number);
        self.lost(true, true);
        given_up
    }
}

/// Distance of an xid from another, going forward.
#[inline]
fn offset(xid: i64, from: i64) -> u32 {
    xid.wrapping_sub(from) as u32
}
