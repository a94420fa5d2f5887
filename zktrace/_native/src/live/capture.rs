//! Packets of one or more rings, in order of time, as far as they are there.

use std::io;
use std::time::{Duration, Instant};

use super::frames::Cursor;
use super::sys::{wait, Ring};
use super::{Form, Instruction, Spec, Turn};
use crate::container::Packet;

struct Listener {
    ring: Ring,
    /// Where the ring's current block stands; None: no block is at hand.
    cursor: Option<Cursor>,
}

/// A live capture. Dropping it ends it.
pub struct Capture {
    listeners: Vec<Listener>,
    cooked: bool,
    record: Option<Form>,
    records: Vec<u8>,
    drops: u64,
}

impl Capture {
    /// Opens all sockets; capturing begins at once.
    pub fn open(spec: &Spec) -> io::Result<Self> {
        let listeners = spec
            .interfaces
            .iter()
            .map(|interface| {
                Ring::open(spec, *interface).map(|ring| Listener { ring, cursor: None })
            })
            .collect::<io::Result<Vec<_>>>()?;
        Ok(Capture {
            listeners,
            cooked: spec.cooked,
            record: spec.record,
            records: Vec::new(),
            drops: 0,
        })
    }

    /// Waits until there is something, up to `timeout_ms`; a signal ends the waiting. True: an interface
    /// is down.
    pub fn wait(&mut self, timeout_ms: i32) -> io::Result<bool> {
        if self.ready() {
            return Ok(false);
        }
        wait(self.listeners.iter().map(|at| &at.ring), timeout_ms)
    }

    /// Whether packets wait.
    pub fn ready(&mut self) -> bool {
        self.refill();
        self.listeners.iter().any(|at| at.cursor.is_some())
    }

    /// Hands out what is there, for `budget` of time and up to `most` packets.
    pub fn turn(&mut self, budget: Duration, most: u64, f: &mut impl FnMut(Packet<'_>)) -> Turn {
        let mut turn = Turn::default();
        self.refill();
        let began = Instant::now();
        loop {
            let Some((first, limit)) = self.earliest() else {
                turn.idle = true;
                return turn;
            };
            if turn.packets >= most || began.elapsed() >= budget {
                return turn;
            }
            turn.packets += self.pass(first, limit, most - turn.packets, f);
            self.refill();
        }
    }

    /// A block for each ring that has none and could have one.
    fn refill(&mut self) {
        for at in &mut self.listeners {
            if at.cursor.is_none() {
                at.cursor = at.ring.block().map(Cursor::first);
            }
        }
    }

    /// The ring with the earliest packet, and the time of the earliest one of the others.
    fn earliest(&self) -> Option<(usize, i64)> {
        let (mut first, mut limit) = (None, i64::MAX);
        let mut least = i64::MAX;
        for (index, at) in self.listeners.iter().enumerate() {
            let Some(cursor) = &at.cursor else { continue };
            // A block without a frame is due at once.
            let frame = at.ring.block().and_then(|block| cursor.frame(block));
            let ts_ns = frame.map_or(i64::MIN, |frame| frame.ts_ns);
            if first.is_none() || ts_ns < least {
                limit = if first.is_some() { least } else { limit };
                (first, least) = (Some(index), ts_ns);
            } else {
                limit = limit.min(ts_ns);
            }
        }
        first.map(|index| (index, limit))
    }

    /// Hands out packets of a ring's block that are not later than `limit`, at least one.
    fn pass(&mut self, index: usize, limit: i64, most: u64, f: &mut impl FnMut(Packet<'_>)) -> u64 {
        let Some(at) = self.listeners.get_mut(index) else {
            return 0;
        };
        let (Some(mut cursor), Some(block)) = (at.cursor, at.ring.block()) else {
            at.cursor = None;
            return 0;
        };
        let mut passed = 0;
        let mut used_up = true;
        while let Some(frame) = cursor.frame(block) {
            if passed > 0 && (frame.ts_ns > limit || passed >= most) {
                used_up = false;
                break;
            }
            f(frame.packet(self.cooked));
            if let Some(form) = self.record {
                frame.record(self.cooked, form, &mut self.records);
            }
            cursor.step(&frame);
            passed += 1;
        }
        if used_up {
            at.cursor = None;
            at.ring.release();
        } else {
            at.cursor = Some(cursor);
        }
        passed
    }

    /// Forgets what was captured and lost so far: listening begins now.
    pub fn discard(&mut self) -> io::Result<()> {
        for at in &mut self.listeners {
            at.cursor = None;
            while at.ring.block().is_some() {
                at.ring.release();
            }
            at.ring.drops()?;
        }
        Ok(())
    }

    /// Another filter, from the next packet on.
    pub fn filter(&mut self, program: &[Instruction]) -> io::Result<()> {
        self.listeners
            .iter()
            .try_for_each(|at| at.ring.filter(program))
    }

    /// Packets lost in the kernel so far, since a ring was full.
    pub fn drops(&mut self) -> io::Result<u64> {
        for at in &mut self.listeners {
            self.drops += at.ring.drops()?;
        }
        Ok(self.drops)
    }

    /// Records of a file, of the packets since the last call.
    pub fn take_records(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.records)
    }
}
