//! Several sources as one capture in time order: the packet with the smallest time among the next
//! ones of every source comes first, ties go by the order of the sources.
//!
//! The caller reads: it asks `wants()` which source to feed, so that a file need not be open before
//! its first packet is due. Packets are handed through without a copy while no other source has an
//! earlier one, which is always so for one source, and nearly always for rotated files.
//! Sources may be added at any time: files that are followed come one by one, for as long as it
//! runs, so those that are done are let go.

use std::collections::VecDeque;

use crate::container::{Container, NotACapture, Packet, PacketSink};
use crate::counters::CaptureCounters;

/// A source that cannot be read as a capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceError {
    pub source: usize,
    pub reason: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing was fed yet; the time of the first packet is known.
    Waiting(i64),
    Open,
    Done,
}

#[derive(Debug)]
struct Held {
    ts_ns: i64,
    linktype: u16,
    wire_len: u32,
    start: usize,
    end: usize,
}

#[derive(Debug)]
struct Source {
    container: Container,
    state: State,
    queue: VecDeque<Held>,
    /// The bytes of the packets in `queue`.
    bytes: Vec<u8>,
}

/// When the next packet of a source is due: its time, then its place among the sources.
type Due = (i64, usize);

const NEVER: Due = (i64::MAX, usize::MAX);

enum Next {
    At(Due),
    /// The source has to be fed first.
    Unknown,
    /// The source is done.
    Nothing,
}

#[derive(Debug, Default)]
pub struct Merger {
    /// Those that are done at the front are taken out.
    sources: VecDeque<Source>,
    /// How many were taken out: the number of the first one that is left.
    gone: usize,
    /// What those had counted.
    counted: CaptureCounters,
}

impl Merger {
    /// With a source for each of these.
    pub fn of(first_ts_ns: &[Option<i64>]) -> Self {
        let mut merger = Self::default();
        for first in first_ts_ns {
            merger.add(*first);
        }
        merger
    }

    /// A source, with the time of its first packet if that is known, so that it can wait. Gives
    /// its number.
    pub fn add(&mut self, first_ts_ns: Option<i64>) -> usize {
        self.sources.push_back(Source {
            container: Container::new(),
            state: first_ts_ns.map_or(State::Open, State::Waiting),
            queue: VecDeque::new(),
            bytes: Vec::new(),
        });
        self.gone + self.sources.len() - 1
    }

    /// The sources that are left, with their numbers.
    fn numbered(&self) -> impl Iterator<Item = (usize, &Source)> {
        self.sources
            .iter()
            .enumerate()
            .map(|(at, source)| (self.gone + at, source))
    }

    fn at(&mut self, index: usize) -> Option<&mut Source> {
        self.sources.get_mut(index.checked_sub(self.gone)?)
    }

    fn let_go(&mut self) {
        while let Some(first) = self.sources.front() {
            if !matches!(first.due(0), Next::Nothing) {
                break;
            }
            self.counted.add(&first.container.counters);
            self.sources.pop_front();
            self.gone += 1;
        }
    }

    /// The source to feed (or finish) next; `None` when all are finished.
    pub fn wants(&self) -> Option<usize> {
        let mut earliest = NEVER;
        for (index, source) in self.numbered() {
            match source.due(index) {
                Next::At(due) => earliest = earliest.min(due),
                Next::Unknown => return Some(index),
                Next::Nothing => {}
            }
        }
        (earliest != NEVER).then_some(earliest.1)
    }

    pub fn feed(
        &mut self,
        source: usize,
        data: &[u8],
        f: &mut impl PacketSink,
    ) -> Result<(), SourceError> {
        self.pass(source, Some(data), f)
    }

    /// End of one source.
    pub fn finish(&mut self, source: usize, f: &mut impl PacketSink) -> Result<(), SourceError> {
        self.pass(source, None, f)
    }

    /// What the containers have counted, of all sources.
    pub fn counters(&self) -> CaptureCounters {
        let mut sum = self.counted.clone();
        for source in &self.sources {
            sum.add(&source.container.counters);
        }
        sum
    }

    fn pass(
        &mut self,
        index: usize,
        data: Option<&[u8]>,
        f: &mut impl PacketSink,
    ) -> Result<(), SourceError> {
        let limit = self.limit(index);
        let Some(source) = self.at(index) else {
            return Ok(());
        };
        let outcome = if limit == NEVER && source.queue.is_empty() {
            source.step(data, f)
        } else {
            source.hold_from(limit, index, data, f)
        };
        outcome.map_err(|NotACapture(reason)| SourceError {
            source: index,
            reason,
        })?;
        self.drain(f);
        self.let_go();
        Ok(())
    }

    /// Packets of source `index` due before this may pass at once.
    fn limit(&self, index: usize) -> Due {
        let mut limit = NEVER;
        for (other, source) in self.numbered() {
            if other != index {
                match source.due(other) {
                    Next::At(due) => limit = limit.min(due),
                    // No packet is due before this one: none may pass.
                    Next::Unknown => return (i64::MIN, 0),
                    Next::Nothing => {}
                }
            }
        }
        limit
    }

    /// Hands out held packets until a source has to be fed to know what comes next.
    fn drain(&mut self, f: &mut impl PacketSink) {
        loop {
            let (mut first, mut second) = (NEVER, NEVER);
            for (index, source) in self.numbered() {
                match source.due(index) {
                    Next::At(due) if due < first => (first, second) = (due, first),
                    Next::At(due) => second = second.min(due),
                    Next::Unknown => return,
                    Next::Nothing => {}
                }
            }
            let Some(source) = self.at(first.1) else {
                return;
            };
            if source.queue.is_empty() {
                return;
            }
            while let Some(held) = source.queue.front() {
                if (held.ts_ns, first.1) >= second {
                    break;
                }
                f.packet(Packet {
                    ts_ns: held.ts_ns,
                    linktype: held.linktype,
                    data: source.bytes.get(held.start..held.end).unwrap_or(&[]),
                    wire_len: held.wire_len,
                });
                source.queue.pop_front();
            }
        }
    }
}

impl Source {
    fn due(&self, index: usize) -> Next {
        match (self.queue.front(), self.state) {
            (Some(held), _) => Next::At((held.ts_ns, index)),
            (None, State::Waiting(ts_ns)) => Next::At((ts_ns, index)),
            (None, State::Open) => Next::Unknown,
            (None, State::Done) => Next::Nothing,
        }
    }

    fn step(&mut self, data: Option<&[u8]>, f: &mut impl PacketSink) -> Result<(), NotACapture> {
        match data {
            Some(data) => {
                self.state = State::Open;
                self.container.feed(data, f)
            }
            None => {
                self.state = State::Done;
                self.container.finish(f)
            }
        }
    }

    /// Hands out packets due before `limit`, and holds those from the first later one on.
    fn hold_from(
        &mut self,
        limit: Due,
        index: usize,
        data: Option<&[u8]>,
        f: &mut impl PacketSink,
    ) -> Result<(), NotACapture> {
        let mut queue = std::mem::take(&mut self.queue);
        let mut bytes = std::mem::take(&mut self.bytes);
        if queue.is_empty() {
            bytes.clear();
        }
        let outcome = self.step(data, &mut |packet: Packet<'_>| {
            if queue.is_empty() && (packet.ts_ns, index) < limit {
                return f.packet(packet);
            }
            let start = bytes.len();
            bytes.extend_from_slice(packet.data);
            queue.push_back(Held {
                ts_ns: packet.ts_ns,
                linktype: packet.linktype,
                wire_len: packet.wire_len,
                start,
                end: bytes.len(),
            });
        });
        self.queue = queue;
        self.bytes = bytes;
        outcome
    }
}
