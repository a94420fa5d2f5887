//! What may have passed before a segment without being captured: is its time the first of its bytes?
//!
//! The rules, and why they are so, are told in `zktrace/flow/past.py`, the readable reference; both must do the same.
//! Knows sequence offsets, numbers (the identification of IPv4) and times of one direction; nothing of buffers or
//! connections.

/// No timer of TCP fires sooner.
pub const RETRANSMIT_NS: i64 = 1_000_000;
/// A segment that is alone on its way waits longer.
const ALONE_NS: i64 = 180_000_000;
/// An acknowledgement is not delayed by more.
const OWED_NS: i64 = 500_000_000;
/// A packet that is longer than a segment may be several, each with a number of its own, of so many bytes each.
const SEGMENTS: [u32; 2] = [1_448, 1_460];
/// No packet carries more.
const PACKET_MAX: u64 = 1 << 16;
/// Numbers of which it is kept whether they were captured.
const WINDOW: u16 = 64;
/// Of more missing numbers than this no account is kept: an outage.
const MISSING_MAX: u16 = 64;
/// Numbers out of turn that are believed to be losses: so many, and one per so many packets of the connection.
const ODD_MIN: u64 = 4;
const ODD_SHARE: u64 = 6;
/// Where more are missing at once, it is as odd as this.
const ODD_MANY: u16 = 4;
/// Of packets that stand in the file behind later ones, so many are taken for losses at first.
const SWAPPED_MAX: u8 = 2;
/// Proofs of one direction: beyond it they are coarser.
const PROOFS_MAX: usize = 32;

/// Of one direction: what is known to have been sent before.
pub struct Past {
    /// Latest time of a packet.
    pub last_ts: i64,
    /// Bit n: the number n before `seen_to` was captured. Those from there on to `expect` were.
    seen: u64,
    seen_to: u32,
    /// Payload of the packet with the latest number.
    length: u32,
    /// The number that follows, in its low half; 0 while none was seen.
    expect: u32,
    /// 1 when a number was seen, and `expect` counts on.
    stride: u32,
    /// All ones while numbers may mean something.
    mask: u16,
    /// Numbers of which nothing is known.
    missing: u16,
    /// Again, of a side whose numbers do not tell what it sent.
    asked: bool,
    /// The last packet was captured before.
    pub is_copy: bool,
    /// Packets behind later ones, by number and by time.
    swapped: u8,
    /// It was not, nor was another copy of it sent.
    is_original: bool,
    /// Bytes before this offset were sent before this time; both grow from one to the next. Of interest as far as they are
    /// beyond what was delivered.
    proofs: Vec<(i64, i64)>,
    /// Time of the packet before the missing ones.
    missing_since: i64,
    /// Numbers out of turn.
    odd: u64,
}

impl Default for Past {
    fn default() -> Self {
        Past {
            last_ts: i64::MIN,
            seen: u64::MAX,
            seen_to: 0,
            length: 0,
            expect: 0,
            stride: 0,
            mask: u16::MAX,
            missing: 0,
            asked: false,
            is_copy: false,
            swapped: 0,
            is_original: false,
            proofs: Vec::new(),
            missing_since: 0,
            odd: 0,
        }
    }
}

impl Past {
    /// Nothing is missing that was sent before offset `expected`, or is known to have been sent beyond it: the next bytes
    /// in a packet that follows are not late.
    #[inline]
    pub fn is_plain(&self, expected: i64) -> bool {
        self.missing == 0 && !self.asked && self.top(expected) <= expected
    }

    /// Is this the number of the next packet, as far as numbers are known?
    #[inline(always)]
    pub fn follows(&self, ident: u16) -> bool {
        (ident ^ self.expect as u16) & self.mask == 0
    }

    /// The next packet, of which all that `packet` does comes to this.
    #[inline(always)]
    pub fn pass(&mut self, length: u32, ts_ns: i64) {
        self.expect = self.expect.wrapping_add(self.stride);
        self.length = length;
        self.last_ts = self.last_ts.max(ts_ns);
    }

    /// A packet of this direction, whatever it holds, `packets` into its connection.
    pub fn packet(&mut self, ident: u16, length: u32, ts_ns: i64, packets: u64) {
        let since = self.last_ts;
        self.last_ts = since.max(ts_ns);
        self.is_copy = false;
        self.is_original = false;
        if self.stride == 0 || self.mask == 0 {
            self.is_copy = ts_ns.saturating_sub(since) < RETRANSMIT_NS;
            if ident == 0 || self.mask == 0 {
                return;
            }
            self.is_copy = false;
        } else {
            let passed = self.expect.wrapping_sub(self.seen_to);
            self.seen = match passed {
                0 => self.seen,
                1..=63 => self.seen << passed | ((1 << passed) - 1),
                _ => u64::MAX,
            };
            self.seen_to = self.expect;
            let step = ident.wrapping_sub(self.expect as u16).wrapping_add(1);
            if step == 0 || step >= 0x8000 {
                self.older(step.wrapping_neg(), ident, packets, ts_ns < since);
                return;
            }
            let several = SEGMENTS.map(|size| self.length.div_ceil(size));
            let several = several.contains(&u32::from(step));
            let missing = if several { 0 } else { step - 1 };
            if step < WINDOW {
                self.seen = self.seen << step | ((1 << step) - 1);
            }
            if missing > 0 {
                self.seen &= if step < WINDOW { !((1 << step) - 2) } else { 1 };
                if self.missing == 0 {
                    self.missing_since = since;
                }
                self.missing = self.missing.saturating_add(missing).min(MISSING_MAX);
                self.is_odd(packets, missing);
            }
        }
        let ahead = ident.wrapping_add(1).wrapping_sub(self.expect as u16);
        self.expect = self.expect.wrapping_add(u32::from(ahead));
        self.seen_to = self.expect;
        self.stride = 1;
        self.length = length;
    }

    fn older(&mut self, back: u16, ident: u16, packets: u64, swapped: bool) {
        if back == 0 && ident == 0 {
            self.stop_counting();
        } else if back >= WINDOW {
            self.is_odd(packets, ODD_MANY);
        } else if self.seen >> back & 1 != 0 {
            self.is_copy = true;
        } else {
            self.seen |= 1 << back;
            self.missing = self.missing.saturating_sub(1);
            self.is_original = self.seen >> back == u64::MAX >> back;
            self.swapped = self.swapped.saturating_add(u8::from(swapped));
            if self.swapped > SWAPPED_MAX {
                self.stop_counting();
            }
        }
    }

    fn is_odd(&mut self, packets: u64, missing: u16) {
        self.odd += if missing >= ODD_MANY {
            u64::from(ODD_MANY)
        } else {
            1
        };
        if self.odd > ODD_MIN + packets / ODD_SHARE {
            self.stop_counting();
        }
    }

    fn stop_counting(&mut self) {
        self.mask = 0;
        self.missing = 0;
    }

    /// Bytes up to `off` were sent before `ts_ns`; those up to `expected` have been delivered.
    pub fn prove(&mut self, off: i64, ts_ns: i64, expected: i64) {
        if off <= expected {
            return;
        }
        let proofs = &mut self.proofs;
        proofs.retain(|(end, _)| *end > expected);
        if proofs
            .iter()
            .any(|(end, before)| *end >= off && *before <= ts_ns)
        {
            return; // nothing new
        }
        proofs.retain(|(end, before)| *end > off || *before < ts_ns);
        let at = proofs.partition_point(|(end, _)| *end < off);
        proofs.insert(at, (off, ts_ns));
        if proofs.len() > PROOFS_MAX {
            // the last two as one: more bytes at the earlier time
            if let (Some((end, _)), Some((last, _))) = (proofs.pop(), proofs.last_mut()) {
                *last = end;
            }
        }
    }

    fn top(&self, expected: i64) -> i64 {
        self.proofs
            .last()
            .map_or(expected, |(end, _)| expected.max(*end))
    }

    /// The last packet says that nothing was sent beyond what was delivered.
    pub fn nothing_beyond(&mut self) {
        if !self.is_copy {
            self.missing = 0;
            self.asked = false;
        }
    }

    /// The other side repeated what it sent, by number: it may lack what was sent in answer.
    pub fn asked_again(&mut self, other: &Past) {
        if other.counts() {
            self.asked = !self.counts();
        }
    }

    /// Numbers were seen, and mean something.
    fn counts(&self) -> bool {
        self.stride != 0 && self.mask != 0
    }

    /// Up to the last packet, at `ts_ns`, its sender owed an acknowledgement since `since_ns`.
    pub fn owed(&mut self, since_ns: i64, ts_ns: i64) {
        if self.missing == 1 && ts_ns.saturating_sub(since_ns) >= OWED_NS {
            self.missing = 0;
        }
    }

    /// Whether new bytes from `low` on, captured at `ts_ns`, may have passed before. Their sender knows that those before
    /// `acked` arrived.
    pub fn is_late(&mut self, low: i64, ts_ns: i64, expected: i64, acked: i64) -> bool {
        if self.is_original {
            return false;
        }
        let asked = std::mem::take(&mut self.asked);
        let top = self.top(expected);
        if self.is_copy && low >= top {
            self.stop_counting(); // a number for several packets
        }
        if self.missing > 0 && low > top {
            let hole = (low as u64).wrapping_sub(top as u64).div_ceil(PACKET_MAX);
            self.missing -= hole.min(u64::from(self.missing)) as u16;
        }
        let mut proofs = self.proofs.iter();
        let late = asked || proofs.any(|(end, before)| *end > low && ts_ns > *before);
        if self.missing > 0 {
            let timer = if acked >= low && self.missing == 1 {
                ALONE_NS
            } else {
                RETRANSMIT_NS
            };
            if late || ts_ns.saturating_sub(self.missing_since) >= timer {
                self.missing -= 1;
                return true;
            }
            if low <= top {
                self.missing = 0;
            }
        }
        late
    }
}
