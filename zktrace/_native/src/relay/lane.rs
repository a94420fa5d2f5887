//! What is on its way to one side of a connection that rules concern: when each piece of it may be sent.
//!
//! Order is kept: nothing is sent before what was put in before it, but for events that are to be late, which go in between two
//! frames when their time comes. Faults that concern bytes, not frames, are made here: latency, bandwidth, small
//! writes, a limit of data, silence, a late end. Knows no sockets.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::rules::{Action, Rule};

/// Bandwidth is kept over so long.
const SLICE: Duration = Duration::from_millis(20);

/// Bytes with the time from which on they may be sent.
#[derive(Debug)]
pub struct Piece {
    pub at: Instant,
    pub bytes: Vec<u8>,
    pub start: usize,
    /// A frame ends with it, so that another may follow.
    pub last: bool,
    /// It was shown by the tap already.
    pub tapped: bool,
    /// No bytes: the side is told that no more will come.
    pub end: bool,
}

/// A fault of bytes that this direction has.
#[derive(Debug)]
struct Shape {
    rule: Arc<Rule>,
    /// Of a bandwidth: until when the line is taken. Of a limit: bytes so far.
    free: Instant,
    passed: u64,
}

/// One direction.
#[derive(Debug, Default)]
pub struct Lane {
    pieces: VecDeque<Piece>,
    late: Vec<(Instant, Vec<u8>)>,
    shapes: Vec<Shape>,
    /// Bytes in `pieces` and `late`.
    waiting: usize,
    last_at: Option<Instant>,
    within_frame: bool,
    /// A limit of data was reached: nothing more goes in, and the connection ends behind it.
    pub cut: bool,
}

impl Lane {
    /// Puts a fault on; those that are not of bytes are not for here.
    pub fn shape(&mut self, rule: Arc<Rule>, now: Instant) {
        self.shapes.push(Shape {
            rule,
            free: now,
            passed: 0,
        });
    }

    /// Those that are over are taken off, those that are no longer given, too.
    pub fn prune(&mut self, given: &dyn Fn(&Rule) -> bool) {
        self.shapes
            .retain(|shape| given(&shape.rule) && !shape.rule.lasted());
    }

    #[must_use]
    pub fn shaped(&self) -> bool {
        !self.shapes.is_empty()
    }

    /// Nothing may pass for the moment.
    #[must_use]
    pub fn silent(&self) -> bool {
        self.shapes.iter().any(|shape| {
            matches!(shape.rule.definition.action, Action::Timeout { .. }) && !shape.rule.lasted()
        })
    }

    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.late.is_empty()
    }

    /// Bytes that end with a frame (`last`), to be sent from a time on.
    pub fn push(
        &mut self,
        mut bytes: Vec<u8>,
        at: Instant,
        now: Instant,
        last: bool,
        tapped: bool,
    ) {
        if self.cut || bytes.is_empty() {
            return;
        }
        let mut at = at.max(self.last_at.unwrap_or(at));
        let mut size = bytes.len();
        let mut pause = Duration::ZERO;
        for shape in self.shapes.iter_mut().filter(|shape| !shape.rule.lasted()) {
            match shape.rule.definition.action {
                Action::Latency { delay, jitter, .. } => {
                    at = at.max(now + shape.rule.jittered(delay, jitter));
                }
                Action::Slicer {
                    size: limit,
                    pause: between,
                    ..
                } => {
                    size = size.min(limit);
                    pause = pause.max(between);
                }
                Action::Bandwidth { bytes_per_s, .. } => {
                    let slice = (bytes_per_s * SLICE.as_secs_f64()).max(1.0) as usize;
                    size = size.min(slice);
                }
                Action::LimitData { bytes: limit, .. } => {
                    let room = limit.saturating_sub(shape.passed);
                    if bytes.len() as u64 >= room {
                        bytes.truncate(room as usize);
                        self.cut = true;
                    }
                    shape.passed += bytes.len() as u64;
                }
                _ => {}
            }
        }
        let count = bytes.len().div_ceil(size.max(1));
        let mut rest = bytes;
        for number in 1..=count {
            let behind = if number < count {
                rest.split_off(size)
            } else {
                Vec::new()
            };
            let piece = std::mem::replace(&mut rest, behind);
            for shape in &mut self.shapes {
                if let Action::Bandwidth { bytes_per_s, .. } = shape.rule.definition.action {
                    if !shape.rule.lasted() {
                        let taken = Duration::from_secs_f64(piece.len() as f64 / bytes_per_s);
                        at = at.max(shape.free) + taken;
                        shape.free = at;
                    }
                }
            }
            self.put(Piece {
                at,
                bytes: piece,
                start: 0,
                last: last && number == count,
                tapped,
                end: false,
            });
            at += pause;
        }
    }

    fn put(&mut self, piece: Piece) {
        self.last_at = Some(piece.at);
        self.waiting += piece.bytes.len();
        self.pieces.push_back(piece);
    }

    /// A frame that others may overtake.
    pub fn push_late(&mut self, bytes: Vec<u8>, at: Instant) {
        self.waiting += bytes.len();
        self.late.push((at, bytes));
    }

    /// The end of what comes from the other side.
    pub fn push_end(&mut self, now: Instant) {
        let delay = self
            .shapes
            .iter()
            .filter(|shape| !shape.rule.lasted())
            .map(|shape| match shape.rule.definition.action {
                Action::SlowClose { delay, .. } => delay,
                _ => Duration::ZERO,
            })
            .max()
            .unwrap_or_default();
        let at = now.max(self.last_at.unwrap_or(now)) + delay;
        self.put(Piece {
            at,
            bytes: Vec::new(),
            start: 0,
            last: true,
            tapped: false,
            end: true,
        });
    }

    /// What may be sent now: the first piece, if its time has come.
    pub fn due(&mut self, now: Instant) -> Option<&mut Piece> {
        if self.silent() {
            return None;
        }
        self.insert_late(now);
        self.pieces.front_mut().filter(|piece| piece.at <= now)
    }

    fn insert_late(&mut self, now: Instant) {
        while let Some(which) = self.late.iter().position(|(at, _)| *at <= now) {
            let (at, bytes) = self.late.remove(which);
            let place = if self.within_frame {
                self.pieces
                    .iter()
                    .position(|piece| piece.last)
                    .map_or(self.pieces.len(), |i| i + 1)
            } else {
                0
            };
            self.pieces.insert(
                place,
                Piece {
                    at,
                    bytes,
                    start: 0,
                    last: true,
                    tapped: false,
                    end: false,
                },
            );
        }
    }

    /// So many bytes of the first piece were sent; whether that was all of it.
    pub fn sent(&mut self, count: usize) -> bool {
        self.waiting -= count;
        let Some(piece) = self.pieces.front_mut() else {
            return true;
        };
        piece.start += count;
        self.within_frame = true;
        if piece.start < piece.bytes.len() {
            return false;
        }
        self.within_frame = !piece.last;
        self.pieces.pop_front();
        true
    }

    /// When there is something to do next, if nothing comes in before.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        let first = self.pieces.front().map(|piece| piece.at);
        let late = self.late.iter().map(|(at, _)| *at).min();
        let sound = self.silent().then(|| {
            self.shapes
                .iter()
                .filter_map(|shape| shape.rule.until())
                .min()
        });
        if let Some(until) = sound {
            return until;
        }
        first.into_iter().chain(late).min()
    }
}
