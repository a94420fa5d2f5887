//! Any bytes, taken as a capture: no panic, no overflow, no endless loop, bounded memory; and the
//! same rows whether the bytes come at once or in small blocks.
#![no_main]

use std::fmt::{self, Debug, Write};
use std::hash::{DefaultHasher, Hasher};

use _native::agg::{Aggregator, By};
use _native::decoder::Decoder;
use _native::events::{Anomaly, Connection, EventSink, Exchange, FourLetter, WatchEvent};
use _native::flow::Limits;
use _native::histogram::{Scale, BUCKETS};
use _native::roles::Roles;
use _native::schema::Schema;

const SCHEMA: &str = include_str!("../../schema.txt");

/// Rows reduced to a hash of all they hold, so that two runs can be compared; aggregates on the
/// side, as their sums must take hostile numbers too.
struct Sink {
    hash: DefaultHasher,
    aggregates: Aggregator,
}

struct Text<'a>(&'a mut DefaultHasher);

impl Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

impl Sink {
    fn new() -> Self {
        // Near enough: the exact bounds come from Python.
        let bound = |i: usize| (i as f64 / 32.0).exp2().ceil() as u64;
        let scale = Scale::new((0..=BUCKETS).map(bound).collect()).expect("ascending bounds");
        let by = [By::Client, By::Path, By::Session, By::Server];
        Sink {
            hash: DefaultHasher::new(),
            aggregates: Aggregator::new(scale, &by, Some(2), 1000),
        }
    }

    fn add(&mut self, row: &impl Debug) {
        let _ = write!(Text(&mut self.hash), "{row:?}");
    }
}

impl EventSink for Sink {
    fn exchange(&mut self, row: &Exchange<'_>) {
        self.add(row);
        self.aggregates.exchange(row);
    }
    fn watch_event(&mut self, row: &WatchEvent<'_>) {
        self.add(row);
        self.aggregates.watch_event(row);
    }
    fn connection(&mut self, row: &Connection<'_>) {
        self.add(row);
        self.aggregates.connection(row);
    }
    fn four_letter(&mut self, row: &FourLetter<'_>) {
        self.add(row);
        self.aggregates.four_letter(row);
    }
    fn anomaly(&mut self, row: &Anomaly<'_>) {
        self.add(row);
        self.aggregates.anomaly(row);
    }
}

/// Decode `data` in blocks of `block` bytes; what came out, or None where it is no capture.
fn decode(data: &[u8], block: usize) -> Option<(u64, String)> {
    let schema = Schema::parse(SCHEMA).expect("the committed schema");
    let roles = Roles::new(Vec::new(), Vec::new(), Vec::new());
    let mut decoder = Decoder::new(schema, Sink::new(), roles, Limits::default());
    let source = decoder.add_source(None);
    for part in data.chunks(block) {
        decoder.feed(source, part).ok()?;
    }
    decoder.end_source(source).ok()?;
    decoder.finish();
    let counts = format!(
        "{:?} {:?}",
        decoder.capture_counters(),
        decoder.flow_counters()
    );
    let sink = &decoder.analyzer.shared.sink;
    let _ = sink.aggregates.total();
    Some((sink.hash.finish(), counts))
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let whole = decode(data, data.len().max(1));
    let block = 1 + usize::from(data.last().copied().unwrap_or(0)) * 7;
    assert_eq!(whole, decode(data, block), "in blocks of {block}");
});
