//! The quorum port's stream machine: a learner's connection to its leader, packet by packet.
//! `zktrace/stream/quorum.py` is the reference.

use std::collections::VecDeque;

use crate::events::{ConnInfo, EventSink};
use crate::packet_reader::{Fed, Packet, PacketReader};
use crate::packet_resync::{all_packets, find_packets};
use crate::packets::{direction, row, SNAP};
use crate::resync::Scan;
use crate::rows::Shared;
use crate::snapshot::SnapshotReader;

/// A SNAP whose row waits for the snapshot behind it.
struct Snap {
    /// Without its data, which has none.
    packet: Packet<'static>,
    reader: SnapshotReader,
}

/// One direction.
struct Way {
    to_leader: bool,
    reader: PacketReader,
    /// Bytes while the boundary is not known.
    scan: Option<Box<Scan>>,
    snap: Option<Box<Snap>>,
}

impl Way {
    fn new(to_leader: bool, opened: bool) -> Self {
        Way {
            to_leader,
            reader: PacketReader::new(),
            scan: (!opened).then(Box::default),
            snap: None,
        }
    }

    /// Packets up to where the boundary is lost, or all; the position reached.
    #[inline]
    fn packets<S: EventSink>(
        &mut self,
        shared: &mut Shared<S>,
        conn: &ConnInfo,
        ts: i64,
        data: &[u8],
    ) -> usize {
        let mut pos = 0;
        while pos < data.len() && self.scan.is_none() {
            if let Some(snap) = &mut self.snap {
                pos = snap.reader.feed(data, pos);
                if snap.reader.broken() {
                    self.bad_snapshot(shared, conn, ts);
                } else if snap.reader.done() {
                    self.end_snapshot(shared, conn);
                }
                continue;
            }
            let fed = self
                .reader
                .feed(&shared.schema, &mut shared.budget, data, pos, ts);
            match fed {
                Fed::Packet(packet, next) => {
                    pos = next;
                    self.packet(shared, conn, &packet);
                }
                Fed::Joint(joint, next) => {
                    pos = next;
                    self.packet(shared, conn, &joint.packet());
                    self.reader.give_back(joint);
                }
                Fed::More => return data.len(),
                Fed::Lost(next) => {
                    pos = next;
                    let taken = self.reader.taken;
                    self.bad(shared, conn, ts, taken, "these bytes are no QuorumPacket");
                }
            }
        }
        pos
    }

    #[inline]
    fn packet<S: EventSink>(
        &mut self,
        shared: &mut Shared<S>,
        conn: &ConnInfo,
        packet: &Packet<'_>,
    ) {
        if packet.kind == SNAP && !self.to_leader {
            self.snap = Some(Box::new(Snap {
                packet: Packet {
                    data: &[],
                    ..*packet
                },
                reader: SnapshotReader::default(),
            }));
        } else {
            row(shared, conn, self.to_leader, packet, None);
        }
    }

    fn end_snapshot<S: EventSink>(&mut self, shared: &mut Shared<S>, conn: &ConnInfo) {
        if let Some(snap) = self.snap.take() {
            let reader = Some(&snap.reader);
            row(shared, conn, self.to_leader, &snap.packet, reader);
        }
    }

    fn bad_snapshot<S: EventSink>(&mut self, shared: &mut Shared<S>, conn: &ConnInfo, ts: i64) {
        let taken = self.snap.as_ref().map_or(0, |snap| snap.reader.bytes);
        self.end_snapshot(shared, conn);
        self.bad(shared, conn, ts, taken, "these bytes are no snapshot");
    }

    #[cold]
    fn bad<S: EventSink>(
        &mut self,
        shared: &mut Shared<S>,
        conn: &ConnInfo,
        ts: i64,
        taken: u64,
        detail: &str,
    ) {
        let direction = Some(direction(self.to_leader));
        let bytes = i64::try_from(taken).unwrap_or(i64::MAX);
        shared.anomaly(conn, ts, "malformed", direction, Some(bytes), detail);
        shared.counters.skipped_bytes += taken;
        self.lose(shared);
    }

    fn lose<S>(&mut self, shared: &mut Shared<S>) {
        self.reader.restart(&mut shared.budget);
        self.scan = Some(Box::default());
        shared.counters.desyncs += 1;
    }

    /// The chunks from the boundary on; none while it is not found.
    fn resync<S: EventSink>(
        &mut self,
        shared: &mut Shared<S>,
        conn: &ConnInfo,
    ) -> Vec<(i64, Vec<u8>)> {
        let Some(scan) = self.scan.as_mut() else {
            return Vec::new();
        };
        let found = find_packets(scan, &shared.schema, self.to_leader);
        shared.counters.skipped_bytes += scan.take_dropped();
        match found {
            Some(at) => self.found(shared, conn, at),
            None => Vec::new(),
        }
    }

    fn found<S: EventSink>(
        &mut self,
        shared: &mut Shared<S>,
        conn: &ConnInfo,
        at: usize,
    ) -> Vec<(i64, Vec<u8>)> {
        let Some(scan) = self.scan.take() else {
            return Vec::new();
        };
        let detail = "packet boundary found again";
        shared.resynced(conn, direction(self.to_leader), &scan, at, detail);
        self.reader.restart(&mut shared.budget);
        scan.chunks_from(at)
    }

    /// Bytes while the boundary is not known. A loop, not recursion: how often it is lost and found is up to the sender.
    #[cold]
    fn lost<S: EventSink>(
        &mut self,
        shared: &mut Shared<S>,
        conn: &ConnInfo,
        ts: i64,
        data: &[u8],
    ) {
        let Some(scan) = self.scan.as_mut() else {
            return;
        };
        scan.add(ts, data);
        let mut chunks: VecDeque<(i64, Vec<u8>)> = self.resync(shared, conn).into();
        while let Some((ts, data)) = chunks.pop_front() {
            let pos = if self.scan.is_none() {
                self.packets(shared, conn, ts, &data)
            } else {
                0
            };
            if let Some(scan) = self.scan.as_mut() {
                scan.add(ts, data.get(pos..).unwrap_or_default());
                for chunk in self.resync(shared, conn).into_iter().rev() {
                    chunks.push_front(chunk);
                }
            }
        }
    }

    fn gap<S: EventSink>(&mut self, shared: &mut Shared<S>, conn: &ConnInfo, missing: u64) {
        if let Some(scan) = self.scan.as_mut() {
            shared.counters.skipped_bytes += scan.clear();
            return;
        }
        if let Some(snap) = &mut self.snap {
            if !snap.reader.gap(missing) {
                self.end_snapshot(shared, conn);
                self.lose(shared);
            }
            return;
        }
        let (joint, in_sync) = self.reader.gap(&mut shared.budget, missing);
        if let Some(joint) = joint {
            self.packet(shared, conn, &joint.packet());
        }
        if !in_sync {
            self.end_snapshot(shared, conn);
            self.lose(shared);
        }
    }

    fn end<S: EventSink>(&mut self, shared: &mut Shared<S>, conn: &ConnInfo) {
        if let Some(scan) = self.scan.as_mut() {
            if all_packets(scan.bytes(), &shared.schema, self.to_leader) {
                for (ts, data) in self.found(shared, conn, 0) {
                    self.packets(shared, conn, ts, &data);
                }
            } else {
                shared.counters.skipped_bytes += scan.clear();
            }
        }
        self.end_snapshot(shared, conn);
        self.reader.restart(&mut shared.budget);
    }
}

/// One connection of a learner.
pub struct QuorumMachine {
    conn: ConnInfo,
    to_leader: Way,
    to_learner: Way,
}

impl QuorumMachine {
    /// `opened`: seen from its first bytes; else joined mid-stream.
    pub fn new(conn: ConnInfo, opened: bool) -> Self {
        QuorumMachine {
            conn,
            to_leader: Way::new(true, opened),
            to_learner: Way::new(false, opened),
        }
    }

    /// Takes the next bytes of one direction.
    #[inline]
    pub fn data<S: EventSink>(
        &mut self,
        shared: &mut Shared<S>,
        to_leader: bool,
        ts: i64,
        data: &[u8],
    ) {
        let way = if to_leader {
            &mut self.to_leader
        } else {
            &mut self.to_learner
        };
        let pos = way.packets(shared, &self.conn, ts, data);
        if way.scan.is_some() {
            way.lost(shared, &self.conn, ts, data.get(pos..).unwrap_or_default());
        }
    }

    /// `missing` bytes of one direction were not captured.
    pub fn gap<S: EventSink>(
        &mut self,
        shared: &mut Shared<S>,
        to_leader: bool,
        ts: i64,
        missing: u64,
    ) {
        shared.lost_bytes(&self.conn, direction(to_leader), ts, missing);
        let way = if to_leader {
            &mut self.to_leader
        } else {
            &mut self.to_learner
        };
        way.gap(shared, &self.conn, missing);
    }

    /// The connection is over, or the capture is.
    pub fn end<S: EventSink>(&mut self, shared: &mut Shared<S>) {
        self.to_leader.end(shared, &self.conn);
        self.to_learner.end(shared, &self.conn);
    }
}
