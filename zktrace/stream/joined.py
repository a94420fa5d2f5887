"""The role of a connection that was joined mid-stream, or whose first bytes were not captured.

There is no handshake to look at, so what is in hand must fit a protocol to the byte: frames of the
client port, packets of the quorum port and notifications of the election port, all by their
layouts. What fits none of them stays undecided. Knows neither ports nor addresses;
what is known of them comes in as hints.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from zktrace.stream import probe
from zktrace.stream.electionresync import find_notifications
from zktrace.stream.packetresync import PacketFinder
from zktrace.stream.pairing import Pairing
from zktrace.stream.probe import Verdict
from zktrace.stream.resync import REPLY_POINTS, Scan, find_replies, find_requests
from zktrace.stream.roles import CLIENT, ELECTION, QUORUM, TLS
from zktrace.stream.schema import Scanner, Schema

#: LearnerInfo.protocolVersion since 3.4
LEARNER_PROTOCOL = 0x10000


class Side(NamedTuple):
    """What is known of one end as a listener: its role by the user or by other connections, and by
    its port.
    """

    known: str | None
    hint: str | None


class Piece(Protocol):
    """Bytes of one side, or how many were lost."""

    side: int
    ts: int
    data: bytes
    missing: int


class Found(NamedTuple):
    """A role, which side is the server, and the verdict where the first bytes were those of a new
    connection.
    """

    role: str
    server_side: int
    verdict: Verdict | None


class Judge:
    """Judges connections without a beginning, by one schema."""

    def __init__(self, schema: Schema, scanner: Scanner) -> None:
        self._schema = schema
        self._scanner = scanner
        self._to_leader = PacketFinder(schema, scanner, True)
        self._to_learner = PacketFinder(schema, scanner, False)

    def judge(
        self,
        pieces: Sequence[Piece],
        ends: tuple[Side, Side],
        opener_known: bool,
        whole: tuple[bool, bool],
    ) -> Found | None:
        """The role of a connection, or None where nothing proves one yet.

        `opener_known`: side 0 is the client. `whole`: whether `pieces` begin with the first bytes
        seen of each side.
        """
        runs = (list(_runs(pieces, 0)), list(_runs(pieces, 1)))
        openers = (0,) if opener_known else (0, 1)
        for side in openers:
            if whole[side] and runs[side] and runs[side][0].first:
                verdict = self._opening(b"".join(runs[side][0].parts))
                if verdict is not None:
                    return Found(_ROLE_OF[verdict], 1 - side, verdict)
        for side in (0, 1):
            for run in runs[side]:
                if _is_tls(run.parts[0]):
                    server = next((i for i in (0, 1) if ends[i].hint), 1)
                    return Found(TLS, server, None)
        for server in (1, 0):
            known = ends[server].known
            if known is not None and ends[1 - server].known is None and 1 - server in openers:
                return Found(known, server, None)
        for side in openers:
            if any(self._are_requests(run) for run in runs[side]):
                return Found(CLIENT, 1 - side, None)
        for side in openers:
            server = 1 - side
            points = REPLY_POINTS if ends[server].hint == CLIENT else 2 * REPLY_POINTS
            if any(self._are_replies(run, points) for run in runs[server]):
                return Found(CLIENT, server, None)
        for side in openers:
            server = 1 - side
            if any(self._to_leader.find(run.scan()) >= 0 for run in runs[side]) or any(
                self._to_learner.find(run.scan()) >= 0 for run in runs[server]
            ):
                return Found(QUORUM, server, None)
        if any(find_notifications(run.scan()) >= 0 for run in (*runs[0], *runs[1])):
            hinted = [i for i in (1, 0) if ends[i].hint == ELECTION and 1 - i in openers]
            return Found(ELECTION, hinted[0] if hinted else 1, None)
        return None

    def _opening(self, first: bytes) -> Verdict | None:
        verdict = probe.probe(first, self._schema)
        if verdict is Verdict.TLS:
            return verdict
        if verdict is Verdict.CONNECT:
            return verdict if probe.is_whole_connect(first) else None
        if verdict is Verdict.WORD:
            return verdict if not first[4:].strip(b"\r\n") else None
        if verdict is Verdict.ELECTION:
            return verdict if first[:2] == b"\xff\xff" else None
        if verdict is Verdict.QUORUM:
            if first.startswith(probe.QUORUM_SASL):
                return verdict
            version = first[24:28]
            return verdict if version == LEARNER_PROTOCOL.to_bytes(4, "big") else None
        return None

    def _are_requests(self, run: Run) -> bool:
        return find_requests(run.scan(), self._schema, self._scanner, None) >= 0

    def _are_replies(self, run: Run, points: int) -> bool:
        scan = run.scan()
        return find_replies(scan, self._schema, self._scanner, Pairing(), None, False, points) >= 0


class Run(NamedTuple):
    """Bytes of one side without a gap in them."""

    first: bool
    parts: list[bytes]

    def scan(self) -> Scan:
        """The run as the resynchronisation takes it; times do not matter here."""
        scan = Scan()
        for part in self.parts:
            scan.add(0, part)
        return scan


def _runs(pieces: Sequence[Piece], side: int) -> Iterator[Run]:
    parts: list[bytes] = []
    first = True
    for piece in pieces:
        if piece.side != side:
            continue
        if piece.missing:
            if parts:
                yield Run(first, parts)
            parts = []
            first = False
        elif piece.data:
            parts.append(piece.data)
    if parts:
        yield Run(first, parts)


def _is_tls(data: bytes) -> bool:
    # RFC 8446, 5.1: type, legacy version, length of at most 2^14 + 256
    return (
        len(data) >= 5
        and 0x14 <= data[0] <= 0x17
        and data[1] == 3
        and data[2] <= 4
        and 0 < int.from_bytes(data[3:5], "big") <= 16_640
    )


_ROLE_OF = {
    Verdict.WORD: CLIENT,
    Verdict.CONNECT: CLIENT,
    Verdict.QUORUM: QUORUM,
    Verdict.ELECTION: ELECTION,
    Verdict.TLS: TLS,
}
