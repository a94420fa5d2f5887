//! The quorum port's stream machine: a learner's connection to its leader, packet by packet.
//! `zktrace/stream/quorum.py` is the reference.

use crate::budget::Budget;
use crate::events::{ConnInfo, Direction, EventSink};
use crate::machine::{self, Way as _};
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
    charged: usize,
    /// Bytes that are being decoded may have passed before.
    late: bool,
    snap: Option<Box<Snap>>,
}

impl Way {
    fn new(to_leader: bool, opened: bool) -> Self {
        Way {
            to_leader,
            reader: PacketReader::new(),
            scan: (!opened).then(Box::default),
            charged: 0,
            late: false,
            snap: None,
        }
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
}

impl<S: EventSink> machine::Way<S> for Way {
    fn found(&self) -> &'static str {
        "packet boundary found again"
    }

    fn direction(&self) -> Direction {
        direction(self.to_leader)
    }

    #[inline]
    fn scan(&mut self) -> &mut Option<Box<Scan>> {
        &mut self.scan
    }

    #[inline]
    fn decode(&mut self, shared: &mut Shared<S>, conn: &ConnInfo, ts: i64, data: &[u8]) -> usize {
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
            if !shared.looks.quorum {
                let count;
                (count, pos) = self.reader.pass(&shared.schema, data, pos, SNAP);
                shared.counters.quorum_packets += count;
                if pos == data.len() {
                    break;
                }
            }
            let fed = self.reader.feed(
                &shared.schema,
                &mut shared.budget,
                data,
                pos,
                (ts, self.late),
            );
            match fed {
                Fed::Packet(packet, next) => {
                    pos = next;
                    self.packet(shared, conn, &packet);
                }
                Fed::Joint(joint, next) => {
                    pos = next;
                    self.packet(shared, conn, &joint.packet());
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

    fn find(&mut self, shared: &Shared<S>) -> Option<usize> {
        find_packets(self.scan.as_mut()?, &shared.schema, self.to_leader)
    }

    fn resume(&mut self, shared: &mut Shared<S>) {
        self.reader.restart(&mut shared.budget);
    }

    fn missing(&mut self, shared: &mut Shared<S>, conn: &ConnInfo, missing: u64) {
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

    fn charged(&mut self) -> &mut usize {
        &mut self.charged
    }

    fn cut(&mut self, budget: &mut Budget) -> bool {
        self.reader.cut(budget)
    }

    fn fits(&mut self, shared: &Shared<S>) -> bool {
        self.scan
            .as_ref()
            .is_some_and(|scan| all_packets(scan.bytes(), &shared.schema, self.to_leader))
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
        let pos = way.decode(shared, &self.conn, ts, data);
        if way.scan.is_some() {
            let behind = data.get(pos..).unwrap_or_default();
            machine::lost(way, shared, &self.conn, ts, behind);
            way.late &= way.scan.is_some();
        }
    }

    /// The same of bytes of which an earlier copy may have passed: when their packets did is not known.
    #[cold]
    pub fn late_data<S: EventSink>(
        &mut self,
        shared: &mut Shared<S>,
        to_leader: bool,
        ts: i64,
        data: &[u8],
    ) {
        self.way(to_leader).late = true;
        self.data(shared, to_leader, ts, data);
        let way = self.way(to_leader);
        // of bytes among which a boundary is looked for, some are as good as all
        way.late = way.scan.is_some();
    }

    fn way(&mut self, to_leader: bool) -> &mut Way {
        if to_leader {
            &mut self.to_leader
        } else {
            &mut self.to_learner
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
        let way = if to_leader {
            &mut self.to_leader
        } else {
            &mut self.to_learner
        };
        machine::gap(way, shared, &self.conn, ts, missing);
    }

    /// What the connection holds.
    pub fn cost(&self) -> usize {
        let ways = [&self.to_leader, &self.to_learner];
        ways.iter().map(|way| way.charged + way.reader.cost()).sum()
    }

    /// All connections together hold too much, and this one most: it holds nothing then.
    pub fn give_up<S: EventSink>(&mut self, shared: &mut Shared<S>, ts: i64) {
        machine::give_up(&mut self.to_leader, shared, &self.conn, ts);
        machine::give_up(&mut self.to_learner, shared, &self.conn, ts);
    }

    /// The connection is over, or the capture is.
    pub fn end<S: EventSink>(&mut self, shared: &mut Shared<S>) {
        for way in [&mut self.to_leader, &mut self.to_learner] {
            machine::end(way, shared, &self.conn);
            way.end_snapshot(shared, &self.conn);
            way.reader.restart(&mut shared.budget);
        }
    }
}
