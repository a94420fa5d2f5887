"""The quorum port's stream machine: a learner's connection to its leader, packet by packet.

Sans-IO, as `client`. The two directions are streams of their own (LearnerHandler, Learner); a
snapshot follows a SNAP at once (protocol reference, section 7.2). A handshake needs no state here:
a FOLLOWERINFO or OBSERVERINFO says itself who the learner is. Bytes whose boundaries are not known
are skipped and counted until a boundary proves itself.
"""

from __future__ import annotations

from collections import deque

from zktrace.stream.client import Context
from zktrace.stream.events import TO_CLIENT, TO_SERVER
from zktrace.stream.packetreader import PacketReader
from zktrace.stream.packetresync import PacketFinder
from zktrace.stream.packets import SNAP, TO_LEADER, TO_LEARNER, Packet, PacketRows
from zktrace.stream.resync import Scan
from zktrace.stream.snapshots import SnapshotReader


class Way:
    """One direction."""

    __slots__ = ("anomaly", "finder", "name", "reader", "scan", "snap", "snapshot")

    def __init__(self, name: str, anomaly: str, reader: PacketReader, finder: PacketFinder) -> None:
        self.name = name
        #: the same direction in the words of anomalies
        self.anomaly = anomaly
        self.reader = reader
        self.finder = finder
        #: bytes while the boundary is not known
        self.scan: Scan | None = None
        #: a SNAP, and the stream behind it
        self.snap: Packet | None = None
        self.snapshot = SnapshotReader()

    def lose(self) -> None:
        """Where the next packet begins is not known."""
        self.reader.stop()
        self.scan = Scan()


class QuorumMachine:
    """One connection of a learner. `opened`: seen from its first bytes; else joined mid-stream."""

    def __init__(self, context: Context, who: tuple[int, str, str], opened: bool) -> None:
        schema, scanner = context.schema, context.scanner
        self._counters = context.counters
        self._rows = PacketRows(context.sink, schema, scanner, context.counters, who)
        self._to_leader = Way(
            TO_LEADER,
            TO_SERVER,
            PacketReader(context.budget, schema.packets),
            PacketFinder(schema, scanner, True),
        )
        self._to_learner = Way(
            TO_LEARNER,
            TO_CLIENT,
            PacketReader(context.budget, schema.packets),
            PacketFinder(schema, scanner, False),
        )
        if not opened:
            self._to_leader.lose()
            self._to_learner.lose()

    # ---- bytes in

    def to_server(self, ts: int, data: bytes) -> None:
        """Take the learner's next bytes."""
        self._feed(self._to_leader, ts, data)

    def to_client(self, ts: int, data: bytes) -> None:
        """Take the leader's next bytes."""
        self._feed(self._to_learner, ts, data)

    def _feed(self, way: Way, ts: int, data: bytes) -> None:
        # a loop, not recursion: how often boundaries are lost and found again is up to the sender
        chunks = deque(((ts, data),))
        while chunks:
            ts, data = chunks.popleft()
            pos = self._packets(way, ts, data) if way.scan is None else 0
            if way.scan is not None:
                way.scan.add(ts, data[pos:])
                chunks.extendleft(reversed(self._resync(way)))

    def _packets(self, way: Way, ts: int, data: bytes) -> int:
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
            packet, pos = way.reader.feed(data, pos, ts)
            if packet is not None:
                self._packet(way, packet)
            elif way.reader.lost:
                self._bad_packet(way, ts)
        return pos

    def _packet(self, way: Way, packet: Packet) -> None:
        if packet.kind == SNAP and way is self._to_learner:
            # its row waits for the snapshot
            way.snap = packet
            way.snapshot = SnapshotReader()
        else:
            self._rows.packet(way.name, packet, None)

    def _end_snapshot(self, way: Way) -> None:
        snap, way.snap = way.snap, None
        if snap is not None:
            self._rows.packet(way.name, snap, way.snapshot)

    # ---- what does not fit, what is missing

    def _bad_packet(self, way: Way, ts: int) -> None:
        taken = way.reader.taken
        detail = "these bytes are no QuorumPacket"
        self._rows.anomaly(ts, "malformed", way.anomaly, taken, detail)
        self._counters.skipped_bytes += taken
        self._lose(way)

    def _bad_snapshot(self, way: Way, ts: int) -> None:
        self._end_snapshot(way)
        taken = way.snapshot.bytes
        detail = "these bytes are no snapshot"
        self._rows.anomaly(ts, "malformed", way.anomaly, taken, detail)
        self._counters.skipped_bytes += taken
        self._lose(way)

    def _lose(self, way: Way) -> None:
        way.lose()
        self._counters.desyncs += 1

    def gap(self, to_server: bool, ts: int, missing: int) -> None:
        """`missing` bytes of one direction were not captured."""
        way = self._to_leader if to_server else self._to_learner
        self._rows.anomaly(ts, "gap", way.anomaly, missing, "bytes not captured")
        self._counters.skipped_bytes += missing
        if way.scan is not None:
            self._counters.skipped_bytes += way.scan.clear()
            return
        if way.snap is not None:
            if not way.snapshot.gap(missing):
                self._end_snapshot(way)
                self._lose(way)
            return
        packet = way.reader.gap(missing)
        if packet is not None:
            self._packet(way, packet)
        if way.reader.lost:
            self._end_snapshot(way)
            self._lose(way)

    def _resync(self, way: Way) -> list[tuple[int, bytes]]:
        # the chunks from the boundary on; none while it is not found
        scan = way.scan
        assert scan is not None
        at = way.finder.find(scan)
        self._counters.skipped_bytes += scan.take_dropped()
        return [] if at < 0 else self._found(way, scan, at)

    def _found(self, way: Way, scan: Scan, at: int) -> list[tuple[int, bytes]]:
        self._counters.skipped_bytes += at
        self._counters.resyncs += 1
        skipped = scan.skipped + at
        if skipped:
            detail = "packet boundary found again"
            self._rows.anomaly(scan.ts_at(at), "resync", way.anomaly, skipped, detail)
        way.scan = None
        way.reader.restart()
        return list(scan.chunks_from(at))

    def end(self, ts: int) -> None:
        """The connection is over, or the capture is."""
        for way in (self._to_leader, self._to_learner):
            scan = way.scan
            if scan is not None and way.finder.fits(scan):
                for chunk in self._found(way, scan, 0):
                    self._packets(way, *chunk)
            elif scan is not None:
                self._counters.skipped_bytes += scan.clear()
            self._end_snapshot(way)
            way.reader.stop()
