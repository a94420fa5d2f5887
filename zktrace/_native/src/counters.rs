//! What the capture layer saw and what it could not use: `zktrace.capture.counters` has the rules.

use std::collections::BTreeMap;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CaptureCounters {
    pub packets: u64,
    /// Sum of the lengths on the wire.
    pub bytes: u64,
    /// Smallest and greatest time seen, not first and last in file order.
    pub first_ts_ns: Option<i64>,
    pub last_ts_ns: Option<i64>,
    pub tcp_segments: u64,
    pub other_packets: u64,
    pub undecoded_packets: u64,
    pub undecoded_linktypes: BTreeMap<u16, u64>,
    pub malformed_packets: u64,
    pub truncated: u64,
    pub fragments_dropped: u64,
    pub damaged_bytes: u64,
    pub damaged_places: u64,
    /// Sections of files that hold only what a filter let through.
    pub filtered: u64,
    /// `None` when the capture does not say.
    pub kernel_drops: Option<u64>,
}

impl CaptureCounters {
    /// Sums up what the parts of the layer, or several sources, have counted.
    pub fn add(&mut self, other: &CaptureCounters) {
        self.packets += other.packets;
        self.bytes += other.bytes;
        self.first_ts_ns = match (self.first_ts_ns, other.first_ts_ns) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        // None is below every Some.
        self.last_ts_ns = self.last_ts_ns.max(other.last_ts_ns);
        self.tcp_segments += other.tcp_segments;
        self.other_packets += other.other_packets;
        self.undecoded_packets += other.undecoded_packets;
        for (linktype, count) in &other.undecoded_linktypes {
            *self.undecoded_linktypes.entry(*linktype).or_default() += count;
        }
        self.malformed_packets += other.malformed_packets;
        self.truncated += other.truncated;
        self.fragments_dropped += other.fragments_dropped;
        self.damaged_bytes += other.damaged_bytes;
        self.damaged_places += other.damaged_places;
        self.filtered += other.filtered;
        if let Some(drops) = other.kernel_drops {
            // Clamped as in one source, see pcapng.rs.
            let sum = self.kernel_drops.unwrap_or(0).saturating_add(drops);
            self.kernel_drops = Some(sum.min(i64::MAX as u64));
        }
    }

    pub(crate) fn damage(&mut self, bytes: u64) {
        self.damaged_bytes += bytes;
        self.damaged_places += 1;
    }
}
