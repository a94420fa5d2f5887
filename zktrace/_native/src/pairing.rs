//! Which request a reply answers. `zktrace/stream/pairing.py` is the reference and says why the rules are what they are.
//!
//! Ordinary xids grow in nearly every connection: then they are found by binary search in the order of sending. Only when
//! one repeats, or goes backwards, an index by xid is built and kept.

use std::collections::{HashMap, VecDeque};

use crate::events::Watches;
use crate::scan::Values;

pub const PING_XID: i64 = -2;
pub const AUTH_XID: i64 = -4;
pub const SET_WATCHES_XID: i64 = -8;

/// Requests without a reply that a connection may hold; the oldest goes first.
pub const OUTSTANDING_MAX: usize = 65_536;
/// A server that has just answered a ping and owes another answer, from before the capture began, is not silent for so
/// long.
const QUIET_NS: i64 = 1_000_000_000;

const AUTH: usize = 1;

/// Requests answered out of order that binary search may have to step over.
const HOLES_MAX: usize = 64;

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
    /// Some of its bytes were lost, so that it is not known when it was complete.
    pub damaged: bool,
    pub values: Values,
    pub path: Option<Vec<u8>>,
    pub rare: Option<Box<PendingRare>>,
}

/// What only setWatches and multi hold.
#[derive(Default)]
pub struct PendingRare {
    pub watches: Option<Watches>,
    pub ops: Option<SubOps>,
}

/// The outstanding requests of one connection.
#[derive(Default)]
pub struct Pairing {
    /// Oldest first; None is one that was answered out of order.
    ordinary: VecDeque<Option<Pending>>,
    /// How many were answered out of order since the index was last not needed.
    holes: usize,
    /// Ordinary requests taken from the front so far: the place of `ordinary`'s first in the order of all.
    base: u64,
    /// Places by xid, where binary search will not do.
    by_xid: Option<HashMap<i64, VecDeque<u64>>>,
    special: [VecDeque<Pending>; 3],
    live: usize,
    next: u64,
    tainted: bool,
    auth_tainted: bool,
    taint_from: u64,
    clean_from: u64,
    auth_clean_from: u64,
    joined: bool,
    repeats: bool,
    /// The last ordinary xid sent.
    pub last_xid: Option<i64>,
}

impl Pairing {
    /// Notes a request, sent `quiet_ns` after the answer to a ping, nothing in between. Gives the oldest outstanding one where
    /// that had to be given up for room.
    #[inline]
    pub fn sent(&mut self, mut pending: Pending, quiet_ns: i64) -> Option<Pending> {
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
        if let Some(queue) = special(xid).and_then(|kind| self.special.get_mut(kind)) {
            queue.push_back(pending);
        } else {
            if let Some(last) = self.last_xid {
                // signed distance, so that the wrap of an int is a step forward
                if (xid.wrapping_sub(last) as i32) <= 0 {
                    self.repeats = true;
                }
            }
            self.last_xid = Some(xid);
            if self.by_xid.is_none() && !self.stays_sorted(xid) {
                self.build_index();
            }
            let place = self.base + self.ordinary.len() as u64;
            if let Some(index) = &mut self.by_xid {
                index.entry(xid).or_default().push_back(place);
            }
            self.ordinary.push_back(Some(pending));
        }
        if self.live <= OUTSTANDING_MAX {
            return None;
        }
        self.take_oldest()
    }

    /// Whether xids still grow from the first outstanding one on, within half of their range.
    #[inline]
    fn stays_sorted(&self, xid: i64) -> bool {
        let (Some(first), Some(last)) = (self.ordinary.front(), self.ordinary.back()) else {
            return true;
        };
        let (Some(first), Some(last)) = (first, last) else {
            return false;
        };
        offset(last.xid, first.xid) < offset(xid, first.xid)
            && offset(xid, first.xid) < 1 << 31
            && xid.wrapping_sub(first.xid).unsigned_abs() < 1 << 32
    }

    fn build_index(&mut self) {
        let mut index: HashMap<i64, VecDeque<u64>> = HashMap::new();
        for (place, pending) in (self.base..).zip(&self.ordinary) {
            if let Some(pending) = pending {
                index.entry(pending.xid).or_default().push_back(place);
            }
        }
        self.by_xid = Some(index);
    }

    /// The connection was already open when the capture began.
    pub fn set_joined(&mut self) {
        self.lost();
        self.joined = true;
    }

    /// Bytes that may have held a request or a reply were not captured.
    pub fn lost(&mut self) {
        self.joined = false;
        self.tainted = true;
        self.auth_tainted = true;
        self.taint_from = self.next;
    }

    /// Requests are being framed again; those sent until now may have been missed.
    pub fn resumed(&mut self) {
        if self.tainted {
            self.taint_from = self.next;
        }
    }

    /// Place of the first outstanding ordinary request with this xid, and whether there are more.
    #[inline]
    fn find(&self, xid: i64) -> Option<(u64, bool)> {
        if let Some(index) = &self.by_xid {
            let places = index.get(&xid)?;
            return Some((*places.front()?, places.len() > 1));
        }
        let first = self.ordinary.front()?.as_ref()?;
        if first.xid == xid {
            return Some((self.base, false));
        }
        let wanted = offset(xid, first.xid);
        // answered ones in between have no xid any more: look at the next one that has
        let (mut low, mut high) = (0, self.ordinary.len());
        while low < high {
            let middle = (low + high) / 2;
            let mut at = middle;
            let found = loop {
                match self.ordinary.get(at) {
                    Some(Some(pending)) if at < high => break Some(pending),
                    Some(None) if at < high => at += 1,
                    _ => break None,
                }
            };
            match found {
                None => high = middle,
                Some(pending) if pending.xid == xid => return Some((self.base + at as u64, false)),
                Some(pending) if offset(pending.xid, first.xid) < wanted => low = at + 1,
                Some(_) => high = middle,
            }
        }
        None
    }

    /// The request a reply with this xid would be matched to by xid alone.
    pub fn peek(&self, xid: i64) -> Option<&Pending> {
        if let Some(queue) = special(xid).and_then(|kind| self.special.get(kind)) {
            return queue.front();
        }
        let (place, _) = self.find(xid)?;
        self.at(place)
    }

    fn at(&self, place: u64) -> Option<&Pending> {
        let index = usize::try_from(place.checked_sub(self.base)?).ok()?;
        self.ordinary.get(index)?.as_ref()
    }

    /// Takes out the request that a reply with this xid answers; None where there is none, or where it is not certain
    /// which one. `requests_in_sync`: no request is missed at present.
    #[inline]
    pub fn answered(&mut self, xid: i64, requests_in_sync: bool) -> Option<Pending> {
        // the common case: nothing was lost, and replies come in the order of requests
        if xid >= 0 && self.by_xid.is_none() && !self.tainted && !self.auth_tainted {
            if let Some(Some(first)) = self.ordinary.front() {
                if first.xid == xid {
                    return self.take_first();
                }
            }
        }
        self.answered_rarely(xid, requests_in_sync)
    }

    /// Takes out the first outstanding ordinary request, where there is no index by xid.
    #[inline]
    fn take_first(&mut self) -> Option<Pending> {
        let found = self.ordinary.pop_front()?;
        self.base += 1;
        self.live -= 1;
        while let Some(None) = self.ordinary.front() {
            self.ordinary.pop_front();
            self.base += 1;
        }
        found
    }

    #[inline(never)]
    fn answered_rarely(&mut self, xid: i64, requests_in_sync: bool) -> Option<Pending> {
        if let Some(kind) = special(xid) {
            return self.answered_special(kind);
        }
        let (mut place, several) = self.find(xid)?;
        let repeated = several || (self.tainted && self.repeats);
        if repeated {
            if self.tainted {
                return None;
            }
            place = self.first_clean(xid)?;
        }
        let found = self.take(place)?;
        if !repeated && requests_in_sync && found.number >= self.taint_from {
            self.settle(&found);
        }
        Some(found)
    }

    fn first_clean(&self, xid: i64) -> Option<u64> {
        let places = self.by_xid.as_ref()?.get(&xid)?;
        let from = places.partition_point(|place| {
            self.at(*place)
                .is_some_and(|pending| pending.number < self.clean_from)
        });
        places.get(from).copied()
    }

    fn answered_special(&mut self, kind: usize) -> Option<Pending> {
        let (tainted, clean_from) = if kind == AUTH {
            (self.auth_tainted, self.auth_clean_from)
        } else {
            (self.tainted, self.clean_from)
        };
        if tainted {
            return None;
        }
        let queue = self.special.get_mut(kind)?;
        let at = queue.partition_point(|pending| pending.number < clean_from);
        let found = queue.remove(at)?;
        self.live -= 1;
        Some(found)
    }

    #[inline]
    fn settle(&mut self, found: &Pending) {
        if self.tainted {
            self.tainted = false;
            self.clean_from = found.number;
        }
        if self.auth_tainted {
            // an auth sent after `found` may have been answered already, ahead of order
            let later = self.special.get(AUTH).and_then(VecDeque::back);
            if later.is_none_or(|later| later.number < found.number) {
                self.auth_tainted = false;
                self.auth_clean_from = self.next;
            }
        }
    }

    #[inline]
    fn take(&mut self, place: u64) -> Option<Pending> {
        let index = usize::try_from(place.checked_sub(self.base)?).ok()?;
        let found = self.ordinary.get_mut(index)?.take()?;
        self.live -= 1;
        if let Some(by_xid) = &mut self.by_xid {
            if let Some(places) = by_xid.get_mut(&found.xid) {
                if let Ok(at) = places.binary_search(&place) {
                    places.remove(at);
                }
                if places.is_empty() {
                    by_xid.remove(&found.xid);
                }
            }
        }
        while let Some(None) = self.ordinary.front() {
            self.ordinary.pop_front();
            self.base += 1;
        }
        if index > 0 && self.by_xid.is_none() {
            self.holes += 1;
            if self.ordinary.is_empty() {
                self.holes = 0;
            } else if self.holes > HOLES_MAX {
                self.build_index();
            }
        }
        while let Some(None) = self.ordinary.back() {
            self.ordinary.pop_back();
        }
        Some(found)
    }

    /// Takes out the request sent first.
    pub fn take_oldest(&mut self) -> Option<Pending> {
        let mut oldest = u64::MAX;
        let mut from = None;
        if let Some(Some(pending)) = self.ordinary.front() {
            oldest = pending.number;
        }
        for (kind, queue) in self.special.iter().enumerate() {
            if let Some(pending) = queue.front() {
                if pending.number < oldest {
                    oldest = pending.number;
                    from = Some(kind);
                }
            }
        }
        match from {
            Some(kind) => {
                let found = self.special.get_mut(kind)?.pop_front();
                self.live -= usize::from(found.is_some());
                found
            }
            None => self.take(self.base),
        }
    }
}

/// Distance of an xid from another, going forward.
#[inline]
fn offset(xid: i64, from: i64) -> u32 {
    xid.wrapping_sub(from) as u32
}
