//! What the stream machines share: a direction whose boundaries are lost, and how they are found.
//! `zktrace/stream/machine.py` is the reference.

use std::collections::VecDeque;

use crate::budget::Budget;
use crate::events::{ConnInfo, Direction, EventSink};
use crate::resync::Scan;
use crate::rows::Shared;

/// Anomalies where all connections together held too much.
const GIVEN_UP_BYTES: &str = "bytes in which a boundary was looked for: too much is held (limit)";
pub const GIVEN_UP_MESSAGE: &str =
    "what was kept of an unfinished message: too much is held (limit)";

/// One direction of a connection, with what its machine says of it.
pub trait Way<S: EventSink> {
    /// What is told where a boundary is found again.
    fn found(&self) -> &'static str;

    fn direction(&self) -> Direction;

    /// Where bytes are while boundaries are not known.
    fn scan(&mut self) -> &mut Option<Box<Scan>>;

    /// Decodes up to where the boundary is lost (`scan` is set then), or all; the position reached.
    fn decode(&mut self, shared: &mut Shared<S>, conn: &ConnInfo, ts: i64, data: &[u8]) -> usize;

    /// Offset of a boundary that proves itself, None where none does yet.
    fn find(&mut self, shared: &Shared<S>) -> Option<usize>;

    /// A message begins with the next byte.
    fn resume(&mut self, shared: &mut Shared<S>);

    /// So many bytes were not captured while boundaries were known.
    fn missing(&mut self, shared: &mut Shared<S>, conn: &ConnInfo, missing: u64);

    /// Bytes were not captured while boundaries were not known anyway.
    fn missing_in_scan(&mut self) {}

    /// Nothing of this direction is decoded any more.
    fn is_ignored(&self) -> bool {
        false
    }

    /// What it holds by itself (what reads its messages tells the budget of it directly).
    fn held(&mut self) -> usize {
        self.scan().as_ref().map_or(0, |scan| scan.cost())
    }

    /// What the budget has been told of `held`.
    fn charged(&mut self) -> &mut usize;

    /// Gives up the bytes of the message at hand; whether there were any.
    fn cut(&mut self, _budget: &mut Budget) -> bool {
        false
    }

    /// What is in hand at the end are messages from the first byte to the last.
    fn fits(&mut self, _shared: &Shared<S>) -> bool {
        false
    }
}

/// Takes bytes behind those that were decoded. A loop, not recursion: how often boundaries are lost and found again is
/// up to the sender.
#[cold]
pub fn lost<S: EventSink>(
    way: &mut impl Way<S>,
    shared: &mut Shared<S>,
    conn: &ConnInfo,
    ts: i64,
    data: &[u8],
) {
    let mut chunks: VecDeque<(i64, Vec<u8>)> = VecDeque::new();
    rest(way, shared, conn, (ts, data), &mut chunks);
    while let Some((ts, data)) = chunks.pop_front() {
        let pos = if way.scan().is_none() {
            way.decode(shared, conn, ts, &data)
        } else {
            0
        };
        let behind = data.get(pos..).unwrap_or_default();
        rest(way, shared, conn, (ts, behind), &mut chunks);
    }
    settle(way, shared);
}

/// Tells the budget of what has come or gone.
pub fn settle<S: EventSink>(way: &mut impl Way<S>, shared: &mut Shared<S>) {
    let held = way.held();
    let charged = std::mem::replace(way.charged(), held);
    shared.budget.change(charged, held);
}

/// All connections together hold too much, and this one most: this direction holds nothing then.
pub fn give_up<S: EventSink>(
    way: &mut impl Way<S>,
    shared: &mut Shared<S>,
    conn: &ConnInfo,
    ts: i64,
) {
    let direction = Some(way.direction());
    if let Some(scan) = way.scan().as_mut().filter(|scan| !scan.bytes().is_empty()) {
        let size = scan.clear();
        shared.counters.skipped_bytes += size;
        way.missing_in_scan();
        let size = i64::try_from(size).ok();
        shared.anomaly(conn, ts, "given_up", direction, size, GIVEN_UP_BYTES);
    }
    if way.cut(&mut shared.budget) {
        shared.anomaly(conn, ts, "given_up", direction, None, GIVEN_UP_MESSAGE);
    }
    settle(way, shared);
}

fn rest<S: EventSink>(
    way: &mut impl Way<S>,
    shared: &mut Shared<S>,
    conn: &ConnInfo,
    (ts, data): (i64, &[u8]),
    chunks: &mut VecDeque<(i64, Vec<u8>)>,
) {
    if way.is_ignored() {
        shared.counters.skipped_bytes += data.len() as u64;
        return;
    }
    let Some(scan) = way.scan() else {
        return;
    };
    scan.add(ts, data);
    let at = way.find(shared);
    if let Some(scan) = way.scan() {
        shared.counters.skipped_bytes += scan.take_dropped();
    }
    if let Some(at) = at {
        for chunk in resume(way, shared, conn, at).into_iter().rev() {
            chunks.push_front(chunk);
        }
    }
}

/// The chunks from the boundary on.
fn resume<S: EventSink>(
    way: &mut impl Way<S>,
    shared: &mut Shared<S>,
    conn: &ConnInfo,
    at: usize,
) -> Vec<(i64, Vec<u8>)> {
    let Some(scan) = way.scan().take() else {
        return Vec::new();
    };
    shared.counters.skipped_bytes += at as u64;
    shared.counters.resyncs += 1;
    let skipped = scan.skipped + at as u64;
    if skipped > 0 {
        let bytes = Some(i64::try_from(skipped).unwrap_or(i64::MAX));
        let direction = Some(way.direction());
        shared.anomaly(
            conn,
            scan.ts_at(at),
            "resync",
            direction,
            bytes,
            way.found(),
        );
    }
    way.resume(shared);
    scan.chunks_from(at)
}

/// `missing` bytes were not captured.
pub fn gap<S: EventSink>(
    way: &mut impl Way<S>,
    shared: &mut Shared<S>,
    conn: &ConnInfo,
    ts: i64,
    missing: u64,
) {
    let bytes = Some(i64::try_from(missing).unwrap_or(i64::MAX));
    let direction = Some(way.direction());
    shared.anomaly(conn, ts, "gap", direction, bytes, "bytes not captured");
    shared.counters.skipped_bytes += missing;
    if way.is_ignored() {
        return;
    }
    match way.scan() {
        Some(scan) => {
            shared.counters.skipped_bytes += scan.clear();
            way.missing_in_scan();
        }
        None => way.missing(shared, conn, missing),
    }
    settle(way, shared);
}

/// The connection is over: nothing more can prove a boundary.
pub fn end<S: EventSink>(way: &mut impl Way<S>, shared: &mut Shared<S>, conn: &ConnInfo) {
    if way.scan().is_some() && way.fits(shared) {
        for (ts, data) in resume(way, shared, conn, 0) {
            way.decode(shared, conn, ts, &data);
        }
    } else if let Some(scan) = way.scan() {
        shared.counters.skipped_bytes += scan.clear();
    }
    let charged = std::mem::take(way.charged());
    shared.budget.release(charged);
}
