"""What stands out, as findings: herds, sessions near or past their end, exchanges far slower than
others; and, where packets are kept, the packets that prove each, saved once.

Findings are made of what is kept anyway (:mod:`zktrace.store.kept`), whenever somebody asks:

* ``herd``: a write that fired events to :data:`HERD_SESSIONS` sessions or more;
* ``near_miss``: a silence of two thirds of its timeout or more, after which a session went on;
* ``expired``: a session that a server called expired;
* ``slow``: an exchange that took :data:`SLOW_NS` or longer, and :data:`OUTLIER` times the p99.

:class:`Proofs` saves what is new while traffic is watched: a second before it, a second after it,
of those whom it concerns. It is held to a few a minute, and each to a size, so that neither the
disk nor what is watched pays for a bad day; what was left out for that is told.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from zktrace.capture.keep import NoRoom, NothingKept, Ring, Slice
from zktrace.export.text import duration, printable
from zktrace.store.part import SAMPLES, quantiles_of
from zktrace.store.picture import Picture
from zktrace.store.sessions import NEAR_PERCENT, Numbers, Raw, Session
from zktrace.store.watches import HERD_SESSIONS
from zktrace.store.windows import total
from zktrace.web.details import hex_session
from zktrace.web.slices import between, end_of

SLOW_NS: Final = 100_000_000
OUTLIER: Final = 10
#: With fewer samples nothing is an outlier.
_SAMPLES: Final = 1000
#: Of each kind so many are told, of the last hour.
MOST: Final = 50
_BACK_NS: Final = 3600 * 1_000_000_000
#: Sessions that are looked at, those with most near misses and those that are silent the longest.
_SESSIONS: Final = 100
_SECOND: Final = 1_000_000_000
#: Before and after what is proved.
_AROUND_NS: Final = _SECOND
#: A longer time is cut at its beginning.
_LONGEST_NS: Final = 120 * _SECOND

#: How often it is looked whether something is new.
_EVERY_S: Final = 2.0
#: Proofs that are saved in a minute, and of each the bytes and the packets that are looked at.
PER_MINUTE: Final = 6
PROOF_BYTES: Final = 16 << 20
PROOF_PACKETS: Final = 300_000
#: Proofs that are remembered.
_REMEMBERED: Final = 1000


class Finding(NamedTuple):
    kind: str
    """herd, near_miss, expired, slow."""
    key: str
    """The same for the same finding, whenever it is asked for."""
    ts_ns: int
    from_ns: int
    to_ns: int
    """What proves it is in this time, the end not included."""
    client: str | None
    """``ip`` or ``ip:port``; None: several."""
    server: str | None
    session: int | None
    path: str | None
    text: str


class Proof(NamedTuple):
    """The packets of a finding, or why there are none."""

    finding: Finding
    saved: Slice | None
    why: str | None


def findings(picture: Picture) -> list[Finding]:
    """What stands out now, latest first."""
    with picture.asking():
        now = picture.now_ns()
        kept = picture.kept
        since = max(now - _BACK_NS, 0)
        writes = kept.watch_writes(since, MOST)
        raw = {
            one[0]: one
            for sort in ("near_misses", "silence_percent")
            for one in kept.sessions(sort, now, since, None, None, _SESSIONS)[0]
            if _may_be(one)
        }
        slowest, _ = kept.slow((since, now + _SECOND), "latency", MOST)
    sessions = {key: Session.of(one, now) for key, one in raw.items()}
    found = [*_herds(writes), *_slow(picture, slowest)]
    for one in sessions.values():
        found += _of_session(one)
    return sorted(found, key=lambda one: (-one.ts_ns, one.key))


def _may_be(raw: Raw) -> bool:
    """Whether anything may be found of a session: of most there is nothing."""
    numbers = Numbers(*raw[3])
    return bool(numbers.near or numbers.state or numbers.proposed_ns)


def _finding(
    kind: str, key: Any, ts_ns: int, end_ns: int, text: str, whose: dict[str, Any]
) -> Finding:
    end = max(end_ns, ts_ns) + _AROUND_NS
    start = max(ts_ns - _AROUND_NS, end - _LONGEST_NS, 0)
    about = {name: whose.get(name) for name in ("client", "server", "session", "path")}
    return Finding(kind, f"{kind} {key}", ts_ns, start, end, text=text, **about)


def _herds(writes: list[dict[str, Any]]) -> Iterator[Finding]:
    for write in writes:
        if write["sessions"] < HERD_SESSIONS:
            continue
        exact = write["zxid"] is not None
        key = write["zxid"] if exact else f"{write['first_ns']} {write['path']}"
        path = printable(write["path"])
        text = (
            f"{write['op'] or 'a write'} of {path} sent {write['events']:,} watch events to "
            f"{write['sessions']:,} sessions, which read it {write['rereads']:,} times"
        )
        # The client alone did not make it a herd.
        yield _finding(
            "herd", key, write["first_ns"], write["last_ns"], text, {"path": write["path"]}
        )


def _slow(picture: Picture, slowest: list[dict[str, Any]]) -> Iterator[Finding]:
    if not slowest or slowest[0]["latency_ns"] < SLOW_NS:
        return
    part, _ = picture.rows("server", picture.span("all"))
    whole = total(part)
    if not len(whole.keys) or whole.numbers[0, SAMPLES] < _SAMPLES:
        return
    p99 = int(quantiles_of(whole)[2][0])
    for entry in slowest:
        latency = entry["latency_ns"]
        if latency < max(SLOW_NS, OUTLIER * p99):
            continue
        path = "" if entry["path"] is None else f" of {printable(entry['path'])}"
        what = f"{entry['op'] or 'an exchange'}{path}"
        text = f"{what} took {duration(latency)}, p99 is {duration(p99)}"
        yield _finding("slow", entry["seq"], entry["ts_ns"], entry["ts_ns"] + latency, text, entry)


def _of_session(one: Session) -> Iterator[Finding]:
    # Its connections come and go, its address stays (or is that of the last one).
    host = None if one.client is None else one.client.rpartition(":")[0].strip("[]")
    whose = {"client": host, "session": one.id}
    timeout = (one.timeout_ms or 0) * 1_000_000
    for event in one.events:
        at, what = event["ts_ns"], event["event"]
        if what == "silent":
            percent = int(str(event["detail"]).split(" ", 1)[0])
            text = f"nothing came of it for {percent} % of its timeout, then it went on"
            if percent >= NEAR_PERCENT:
                end = at + timeout * percent // 100
                yield _finding("near_miss", f"{one.id} {at}", at, end, text, whose)
        elif what == "expired":
            silent = one.silence_at_ns
            start = at if silent is None or silent > at else silent
            text = "a server called it expired"
            yield _finding("expired", f"{one.id} {at}", start, at, text, whose)._replace(ts_ns=at)


def _packets_of(finding: Finding) -> Callable[[int, int, bytes, int], bool]:
    """Which packets are of those whom a finding is about."""
    return between(end_of(finding.client, "client"), end_of(finding.server, "server"))


class Proofs:
    """Saves the packets of findings as they come up, in a thread of its own."""

    def __init__(
        self,
        picture: Picture,
        ring: Ring,
        notice: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._picture = picture
        self._ring = ring
        self._notice = notice
        self._known: OrderedDict[str, Proof | None] = OrderedDict()
        self._lock = threading.Lock()
        self._recent: deque[float] = deque()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="zktrace-proofs", daemon=True)
        self.left_out = 0
        """Findings whose packets were not saved, as there were too many in a minute."""

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def all(self) -> list[Proof]:
        """Latest first."""
        with self._lock:
            return [proof for proof in reversed(self._known.values()) if proof is not None]

    def _work(self) -> None:
        while not self._stop.wait(_EVERY_S):
            self.look()

    def look(self) -> None:
        """Saves what is new, and over."""
        with self._picture.asking():
            now = self._picture.now_ns()
        ended = self._picture.state != "reading"
        for finding in reversed(findings(self._picture)):
            if self._stop.is_set():
                return
            # Until its end has been captured it may grow.
            if finding.key in self._known or (finding.to_ns > now and not ended):
                continue
            self._remember(finding.key, self._proof(finding))

    def _remember(self, key: str, proof: Proof | None) -> None:
        with self._lock:
            self._known[key] = proof
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)

    def _proof(self, finding: Finding) -> Proof | None:
        state = self._ring.state()
        if state["from_ns"] is None or finding.to_ns < state["from_ns"]:
            return None  # it was before packets were kept
        now = time.monotonic()
        while self._recent and self._recent[0] < now - 60:
            self._recent.popleft()
        if len(self._recent) >= PER_MINUTE:
            self.left_out += 1
            return Proof(finding, None, f"{PER_MINUTE} were saved in this minute already")
        self._recent.append(now)
        try:
            saved = self._ring.slice(
                finding.from_ns,
                finding.to_ns,
                _packets_of(finding),
                most_bytes=PROOF_BYTES,
                most_packets=PROOF_PACKETS,
            )
        except NothingKept:
            return Proof(finding, None, "no such packets are kept")
        except NoRoom as error:
            return Proof(finding, None, str(error))
        except OSError as error:
            return Proof(finding, None, f"it cannot be written: {error.strerror or error}")
        self._notice(f"{finding.kind}: {finding.text}: {saved.packets} packets in {saved.file}")
        return Proof(finding, saved, None)


def listed(picture: Picture, proofs: Proofs | None, limit: int) -> dict[str, Any]:
    """As the API answers: what stands out now, and what has been proved."""
    proved = [] if proofs is None else proofs.all()
    found = {one.key: one for one in (*findings(picture), *(proof.finding for proof in proved))}
    known = {proof.finding.key: proof for proof in proved}
    rows = sorted(found.values(), key=lambda one: (-one.ts_ns, one.key))
    return {
        "groups": len(rows),
        "kept": proofs is not None,
        "left_out": 0 if proofs is None else proofs.left_out,
        "rows": [_shown(one, known.get(one.key)) for one in rows[:limit]],
    }


def _shown(one: Finding, proof: Proof | None) -> dict[str, Any]:
    saved = None if proof is None or proof.saved is None else proof.saved
    return {
        "kind": one.kind,
        "ts_ns": one.ts_ns,
        "from_ns": one.from_ns,
        "to_ns": one.to_ns,
        "client": one.client,
        "server": one.server,
        "session": hex_session(one.session),
        "path": one.path,
        "text": one.text,
        "proof": None
        if saved is None
        else {
            "file": saved.file,
            "packets": saved.packets,
            "bytes": saved.bytes,
            "complete": saved.complete,
        },
        "why_not": None if proof is None else proof.why,
    }
