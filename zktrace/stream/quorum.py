"""The quorum port's stream machine: a learner's connection to its leader, packet by packet.

Sans-IO, as `client`. The two directions are streams of their own (LearnerHandler, Learner); a
snapshot follows a SNAP at once (protocol reference, section 7.2). A handshake needs no state here:
a FOLLOWERINFO or OBSERVERINFO says itself who the learner is. Bytes whose boundaries are not known
are skipped and counted until a boundary proves itself.
"""

from __future__ import annotations

from zktrace.stream.events import TO_CLIENT, TO_SERVER
from zktrace.stream.machine import Context, StreamMachine, Way
from zktrace.stream.packetreader import PacketReader
from zktrace.stream.packetresync import PacketFinder
from zktrace.stream.packets import SNAP, TO_LEADER, TO_LEARNER, Packet, PacketRows
from zktrace.stream.resync import Scan
from zktrace.stream.snapshots import SnapshotReader


class Direction(Way):
    """One direction: what reads its packets, and the snapshot that may stand between them."""

    __slots__ = ("finder", "late", "name", "reader", "snap", "snapshot")

    def __init__(self, name: str, anomaly: str, reader: PacketReader, finder: PacketFinder) -> None:
        super().__init__(anomaly)
        self.name = name
        self.reader = reader
        self.finder = finder
        #: bytes that are being decoded may have passed before
        self.late = False
        #: a SNAP, and the stream behind it
        self.snap: Packet | None = None
        self.snapshot = SnapshotReader()

    def lose(self) -> None:
        super().lose()
        self.reader.stop()

    def resume(self) -> None:
        super().resume()
        self.reader.restart()

    @property
    def cost(self) -> int:
        return self.held + self.reader.cost

    def cut(self) -> bool:
        return self.reader.cut()


class QuorumMachine(StreamMachine[Direction]):
    """One connection of a learner. `opened`: seen from its first bytes; else joined mid-stream."""

    _what = "packet"

    def __init__(self, context: Context, who: tuple[int, str, str], opened: bool) -> None:
        schema, scanner = context.schema, context.scanner
        to_leader = Direction(
            TO_LEADER,
            TO_SERVER,
            PacketReader(context.budget, schema.packets),
            PacketFinder(schema, scanner, True),
        )
        self._to_learner = Direction(
            TO_LEARNER,
            TO_CLIENT,
            PacketReader(context.budget, schema.packets),
            PacketFinder(schema, scanner, False),
        )
        super().__init__(context, who, to_leader, self._to_learner)
        self._rows = PacketRows(context, who)
        if not opened:
            to_leader.lose()
            self._to_learner.lose()

    # ---- bytes in

    def data(self, to_leader: bool, ts: int, data: bytes, late: bool) -> None:
        """Take the next bytes of one direction. `late`: an earlier copy of them may have passed, so
        that it is not known when their packets did.
        """
        way = self._ways[0] if to_leader else self._ways[1]
        way.late |= late
        self._feed(way, ts, data)
        # of bytes among which a boundary is looked for, some are as good as all
        way.late &= way.scan is not None

    def _decode(self, way: Direction, ts: int, data: bytes) -> int:
        # packets up to where the boundary is lost, or all
        pos = 0
        while pos < len(data) and way.scan is None:
            if way.snap is not None:
                pos = way.snapshot.feed(data, pos)
                if way.snapshot.broken:
                    self._bad_snapshot(way, ts)
                elif way.snapshot.done:
                    self._end_snapshot(way)
                continue
            packet, pos = way.reader.feed(data, pos, ts, way.late)
            if packet is not None:
                self._packet(way, packet)
            elif way.reader.lost:
                self._bad_packet(way, ts)
        return pos

    def _packet(self, way: Direction, packet: Packet) -> None:
        if packet.kind == SNAP and way is self._to_learner:
            # its row waits for the snapshot
            way.snap = packet
            way.snapshot = SnapshotReader()
        else:
            self._rows.packet(way.name, packet, None)

    def _end_snapshot(self, way: Direction) -> None:
        snap, way.snap = way.snap, None
        if snap is not None:
            self._rows.packet(way.name, snap, way.snapshot)

    # ---- what does not fit, what is missing

    def _bad_packet(self, way: Direction, ts: int) -> None:
        taken = way.reader.taken
        detail = "these bytes are no QuorumPacket"
        self._anomaly(ts, "malformed", way.anomaly, taken, detail)
        self._counters.skipped_bytes += taken
        self._lost(way)

    def _bad_snapshot(self, way: Direction, ts: int) -> None:
        self._end_snapshot(way)
        taken = way.snapshot.bytes
        detail = "these bytes are no snapshot"
        self._anomaly(ts, "malformed", way.anomaly, taken, detail)
        self._counters.skipped_bytes += taken
        self._lost(way)

    def _missing(self, way: Direction, missing: int) -> None:
        if way.snap is not None:
            if not way.snapshot.gap(missing):
                self._end_snapshot(way)
                self._lost(way)
            return
        packet = way.reader.gap(missing)
        if packet is not None:
            self._packet(way, packet)
        if way.reader.lost:
            self._end_snapshot(way)
            self._lost(way)

    def _find(self, way: Direction, scan: Scan) -> int:
        return way.finder.find(scan)

    def _fits(self, way: Direction, scan: Scan) -> bool:
        return way.finder.fits(scan)

    def _end_scan(self, way: Direction) -> None:
        super()._end_scan(way)
        self._end_snapshot(way)
        way.reader.stop()
