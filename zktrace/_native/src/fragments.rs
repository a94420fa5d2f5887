//! IP fragments put together again (RFC 791, 815, 8200). Knows nothing of what they hold. The rules
//! are those of `zktrace/capture/ip.py`, class `Reassembler`.

use crate::counters::CaptureCounters;
use crate::ip::{Fragment, FragmentKey, Payload};

const MAX_DATAGRAM: usize = 65_535;
/// Bounds on what fragments may hold: TCP is hardly ever fragmented, so a few are plenty.
const MAX_DATAGRAMS: usize = 256;
const MAX_FRAGMENT_BYTES: usize = 4 << 20;
/// Linux gives up on a datagram after the same time (net.ipv4.ipfrag_time).
const FRAGMENT_TIMEOUT_NS: i64 = 30_000_000_000;

#[derive(Debug)]
struct Datagram {
    key: FragmentKey,
    created_ns: i64,
    buffer: Vec<u8>,
    /// Sorted (start, end) of what is filled, none touching another.
    runs: Vec<(usize, usize)>,
    total: Option<usize>,
    fragments: u64,
}

/// Datagrams that are not whole yet, in the order in which they began.
#[derive(Debug, Default)]
pub struct Reassembler {
    datagrams: Vec<Datagram>,
    bytes: usize,
}

impl Reassembler {
    /// The whole datagram, if this fragment completes it.
    pub fn add(
        &mut self,
        ts_ns: i64,
        payload: &Payload<'_>,
        fragment: &Fragment,
        counters: &mut CaptureCounters,
    ) -> Option<Vec<u8>> {
        self.expire(ts_ns, counters);
        let data = payload.data;
        let end = fragment.offset + data.len();
        if data.is_empty()
            || data.len() < payload.wire as usize
            || end > MAX_DATAGRAM
            || (fragment.more && !data.len().is_multiple_of(8))
        {
            counters.fragments_dropped += 1;
            return None;
        }
        let found = self.datagrams.iter().position(|d| d.key == fragment.key);
        let index = found.unwrap_or_else(|| {
            if self.datagrams.len() >= MAX_DATAGRAMS {
                self.drop_oldest(counters);
            }
            self.datagrams.push(Datagram {
                key: fragment.key,
                created_ns: ts_ns,
                buffer: Vec::new(),
                runs: Vec::new(),
                total: None,
                fragments: 0,
            });
            self.datagrams.len() - 1
        });
        let datagram = self.datagrams.get_mut(index)?;
        datagram.fragments += 1;
        self.bytes += end.saturating_sub(datagram.buffer.len());
        datagram.fill(fragment.offset, data);
        if !fragment.more && datagram.total.is_none() {
            datagram.total = Some(end);
        }
        if let Some(total) = datagram.total {
            let whole = matches!(datagram.runs.first(), Some((0, end)) if *end >= total);
            if whole {
                let mut buffer = self.datagrams.remove(index).buffer;
                self.bytes -= buffer.len();
                buffer.truncate(total);
                return Some(buffer);
            }
        }
        while self.bytes > MAX_FRAGMENT_BYTES {
            self.drop_oldest(counters);
        }
        None
    }

    /// End of the capture: what is not whole now never will be.
    pub fn finish(&mut self, counters: &mut CaptureCounters) {
        while !self.datagrams.is_empty() {
            self.drop_oldest(counters);
        }
    }

    fn expire(&mut self, ts_ns: i64, counters: &mut CaptureCounters) {
        while let Some(oldest) = self.datagrams.first() {
            if oldest.created_ns.saturating_add(FRAGMENT_TIMEOUT_NS) >= ts_ns {
                return;
            }
            self.drop_oldest(counters);
        }
    }

    fn drop_oldest(&mut self, counters: &mut CaptureCounters) {
        let datagram = self.datagrams.remove(0);
        self.bytes -= datagram.buffer.len();
        counters.fragments_dropped += datagram.fragments;
    }
}

impl Datagram {
    /// Copies what is not there yet and keeps `runs` sorted and merged. First copy wins.
    fn fill(&mut self, start: usize, data: &[u8]) {
        let end = start + data.len();
        if end > self.buffer.len() {
            self.buffer.resize(end, 0);
        }
        let mut pos = start;
        let mut merged = Vec::with_capacity(self.runs.len() + 1);
        let (mut new_start, mut new_end) = (start, end);
        for &(run_start, run_end) in &self.runs {
            if run_end < start || run_start > end {
                merged.push((run_start, run_end));
                continue;
            }
            if run_start > pos {
                copy(&mut self.buffer, start, data, pos, run_start.min(end));
            }
            pos = pos.max(run_end);
            new_start = new_start.min(run_start);
            new_end = new_end.max(run_end);
        }
        if pos < end {
            copy(&mut self.buffer, start, data, pos, end);
        }
        let place = merged.partition_point(|run| run.0 < new_start);
        merged.insert(place, (new_start, new_end));
        self.runs = merged;
    }
}

/// Copies the bytes from `from` to `to` of a datagram; `data` begins at `start` of it.
fn copy(buffer: &mut [u8], start: usize, data: &[u8], from: usize, to: usize) {
    if let (Some(target), Some(source)) =
        (buffer.get_mut(from..to), data.get(from - start..to - start))
    {
        target.copy_from_slice(source);
    }
}
