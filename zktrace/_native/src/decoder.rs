//! The whole engine: capture bytes in, rows to a sink. Puts the layers together and nothing more.

use crate::analyzer::Analyzer;
use crate::container::{Packet, PacketSink};
use crate::counters::CaptureCounters;
use crate::decap::{Decapsulator, SegmentSink};
use crate::events::EventSink;
use crate::flow::{Limits, Reassembler};
use crate::ip::Segment;
use crate::merge::{Merger, SourceError};
use crate::roles::Roles;
use crate::schema::Schema;

/// What a packet goes through.
struct Layers<'d, S> {
    decapsulator: &'d mut Decapsulator,
    streams: Streams<'d, S>,
}

/// What a segment goes through.
struct Streams<'d, S> {
    flow: &'d mut Reassembler,
    analyzer: &'d mut Analyzer<S>,
}

impl<S: EventSink> SegmentSink for Streams<'_, S> {
    #[inline(always)]
    fn segment(&mut self, segment: &Segment<'_>) {
        self.flow.plain_segment(segment, self.analyzer);
    }
}

impl<S: EventSink> PacketSink for Layers<'_, S> {
    #[inline(never)]
    fn packet(&mut self, packet: Packet<'_>) {
        let Streams { flow, analyzer } = &mut self.streams;
        self.decapsulator
            .packet(packet, &mut |segment| flow.segment(&segment, *analyzer));
    }

    #[inline(always)]
    fn one_of_many(&mut self, packet: Packet<'_>) {
        if !self.decapsulator.plain(&packet, &mut self.streams) {
            self.packet(packet);
        }
    }
}

/// One capture of one or more sources.
pub struct Decoder<S> {
    merger: Merger,
    decapsulator: Decapsulator,
    flow: Reassembler,
    pub analyzer: Analyzer<S>,
}

impl<S: EventSink> Decoder<S> {
    pub fn new(schema: Schema, sink: S, roles: Roles, limits: Limits) -> Self {
        Decoder {
            merger: Merger::default(),
            decapsulator: Decapsulator::new(),
            flow: Reassembler::new(limits),
            analyzer: Analyzer::new(schema, sink, roles),
        }
    }

    /// A source whose first packet has this time (None: not known). Gives its number.
    pub fn add_source(&mut self, first_ts_ns: Option<i64>) -> usize {
        self.merger.add(first_ts_ns)
    }

    /// The source of which more bytes are needed; None when all have ended.
    pub fn wanted(&self) -> Option<usize> {
        self.merger.wants()
    }

    /// More bytes of a source.
    pub fn feed(&mut self, source: usize, block: &[u8]) -> Result<(), SourceError> {
        self.pass(source, Some(block))
    }

    /// No more bytes of a source.
    pub fn end_source(&mut self, source: usize) -> Result<(), SourceError> {
        self.pass(source, None)
    }

    fn pass(&mut self, source: usize, block: Option<&[u8]>) -> Result<(), SourceError> {
        let merger = &mut self.merger;
        let mut packet = Layers {
            decapsulator: &mut self.decapsulator,
            streams: Streams {
                flow: &mut self.flow,
                analyzer: &mut self.analyzer,
            },
        };
        match block {
            Some(block) => merger.feed(source, block, &mut packet),
            None => merger.finish(source, &mut packet),
        }
    }

    /// A packet that is in no container: a live capture, in order of time.
    #[inline]
    pub fn packet(&mut self, packet: Packet<'_>) {
        let mut layers = Layers {
            decapsulator: &mut self.decapsulator,
            streams: Streams {
                flow: &mut self.flow,
                analyzer: &mut self.analyzer,
            },
        };
        layers.one_of_many(packet);
    }

    /// Time went on without a packet.
    pub fn tick(&mut self, now_ns: i64) {
        self.flow.tick(now_ns, &mut self.analyzer);
    }

    /// What the kernel has lost so far, of a live capture.
    pub fn set_kernel_drops(&mut self, drops: u64) {
        self.decapsulator.counters.kernel_drops = Some(drops);
    }

    /// End of the capture: connections end, requests without reply are given out.
    pub fn finish(&mut self) {
        self.decapsulator.finish();
        self.flow.finish(&mut self.analyzer);
    }

    /// What the capture layer counted.
    pub fn capture_counters(&self) -> CaptureCounters {
        let mut counters = self.merger.counters();
        counters.add(&self.decapsulator.counters);
        counters
    }

    /// What the flow layer counted.
    pub fn flow_counters(&self) -> crate::flow::Counters {
        *self.flow.counters()
    }
}
