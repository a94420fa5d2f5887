"""One connection: finds its role, keeps cause before effect, feeds its machine.

The flow layer hands over the bytes of each side in order. Of the two sides' order to each other
only TCP's acknowledgements speak: what a server sends is held until the client's bytes that it
acknowledges are in, so that a capture with swapped packets decodes like one without. This module
must not know capture formats; reassembly is done when it is called.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from zktrace.capture.segment import endpoint_text
from zktrace.stream import probe
from zktrace.stream.budget import PIECE_COST, Budget
from zktrace.stream.client import ClientMachine
from zktrace.stream.election import ElectionMachine
from zktrace.stream.events import TO_SERVER, EventSink
from zktrace.stream.fourletter import FourLetterMachine
from zktrace.stream.joined import Judge, Side
from zktrace.stream.machine import Context
from zktrace.stream.probe import Verdict
from zktrace.stream.quorum import QuorumMachine
from zktrace.stream.roles import CLIENT, ELECTION, QUORUM, TLS, UNKNOWN, Roles
from zktrace.stream.rows import Counters
from zktrace.stream.schema import Scanner, Schema

Endpoint = tuple[bytes, int]

#: Bytes of the server held for client bytes that they acknowledge; beyond it they are let go in the
#: order they came.
HOLD_MAX = 256 * 1024
#: Bytes held while the role is not known; of a joined connection the oldest are skipped then.
PROBE_MAX = 64 * 1024
#: Bytes after which a connection that shows no known protocol is left alone; more where its port is
#: a hint.
GIVE_UP = 1024 * 1024
GIVE_UP_HINTED = 16 * 1024 * 1024
#: What holding a piece costs beside its bytes, so that many small ones are bounded too.
ITEM_COST = 64


@dataclass(slots=True)
class Item:
    """What one side sent: bytes, or how many of them were not captured. `late`: they may have been
    sent before `ts`.
    """

    side: int
    ts: int
    need: int
    data: bytes
    missing: int = 0
    late: bool = False

    @property
    def cost(self) -> int:
        """What it counts as by the limits of its connection."""
        return len(self.data) + ITEM_COST

    @property
    def charge(self) -> int:
        """What it costs all connections together."""
        return len(self.data) + PIECE_COST


@dataclass(slots=True, eq=False)
class Connection:
    """State of one connection."""

    number: int
    ts: int
    ends: tuple[Endpoint, Endpoint]
    syn: bool
    role: str | None = None
    client_side: int = 0
    machine: ClientMachine | FourLetterMachine | QuorumMachine | ElectionMachine | None = None
    waiting: list[Item] = field(default_factory=list)
    waiting_bytes: int = 0
    #: bytes in hand at which it is worth looking again
    look_at: int = 0
    #: bytes of each side that were skipped before a role was found
    shed: list[int] = field(default_factory=lambda: [0, 0])
    #: bytes and gaps of the client's side so far, as the flow layer counts them
    client_position: int = 0
    held: deque[Item] = field(default_factory=deque)
    held_bytes: int = 0

    @property
    def cost(self) -> int:
        """What it holds, as the budget has it."""
        cost = sum(item.charge for item in (*self.waiting, *self.held))
        return cost if self.machine is None else cost + self.machine.cost


#: Context, who, whether the connection was seen to open, extra bytes of its handshake.
MakeClient = Callable[[Context, tuple[int, str, str], bool, int], ClientMachine]


class Analyzer:
    """Takes the flow layer's calls and gives rows: the handler of a `Reassembler`."""

    def __init__(
        self,
        sink: EventSink,
        schema: Schema,
        roles: Roles,
        *,
        client: MakeClient = ClientMachine,
        servers: bool = True,
        txn_key: int | None = None,
    ) -> None:
        """`client` makes the machines of client connections; without `servers` those between
        servers are told apart, but not decoded; `txn_key`: of the hashes of txns, where they are
        wanted.
        """
        self._sink = sink
        self._client = client
        self._servers = servers
        self._roles = roles
        self.counters = Counters()
        self._budget = Budget()
        self._context = Context(sink, schema, Scanner(schema), self.counters, self._budget, txn_key)
        self._judge = Judge(schema, self._context.scanner)
        self._connections: dict[int, Connection] = {}
        #: connections by role
        self.flows = dict.fromkeys((CLIENT, QUORUM, ELECTION, TLS, UNKNOWN), 0)
        #: how often bytes of a server were let go before those that they answer
        self.held_limit_hits = 0
        #: how often a connection gave up what it held, since all together held too much
        self.memory_limit_hits = 0

    @property
    def cut_frames(self) -> int:
        """Frames that gave up their bytes but for a small head, since too much was held."""
        return self._budget.cut

    # ---- the flow layer's calls

    def open(self, conn: int, ts: int, a: Endpoint, b: Endpoint, syn: bool) -> None:
        """A connection begins (`syn`: it was seen to; else it was joined)."""
        self._connections[conn] = Connection(conn, ts, (a, b), syn)
        self._budget.shared_by(len(self._connections))
        self._make_room(ts)

    def data(self, conn: int, side: int, ts: int, need: int, data: bytes, late: bool) -> None:
        """The next bytes of a side."""
        self._take(self._connections[conn], Item(side, ts, need, data, 0, late))
        self._make_room(ts)

    def gap(self, conn: int, side: int, ts: int, missing: int) -> None:
        """The next bytes of a side were not captured."""
        self._take(self._connections[conn], Item(side, ts, 0, b"", missing))
        self._make_room(ts)

    def end(self, conn: int, ts: int, how: str) -> None:
        """A connection is over, or what can be known of it."""
        connection = self._connections.pop(conn)
        self._budget.shared_by(len(self._connections))
        if connection.role is None and not connection.waiting and not sum(connection.shed):
            # refused, or nothing was said: its listener may be known from others
            self._settle(connection, self._roles.known(*connection.ends[1]) or UNKNOWN)
        if connection.role is None:
            self._decide(connection, at_end=True)
        if connection.role is None:
            self._settle(connection, UNKNOWN)
        self._let_go(connection, everything=True)
        if isinstance(connection.machine, ClientMachine):
            connection.machine.how = how
        if connection.machine is not None:
            connection.machine.end(ts)
        if how in ("closed", "reset"):
            self._row(connection, ts, how)

    # ---- inside

    def _take(self, connection: Connection, item: Item) -> None:
        if connection.role is None:
            connection.waiting.append(item)
            connection.waiting_bytes += item.cost
            self._budget.take(item.charge)
            self._decide(connection, at_end=False)
        else:
            self._route(connection, item)

    def _route(self, connection: Connection, item: Item) -> None:
        if connection.machine is None:
            if connection.role == CLIENT or (self._servers and connection.role in _DECODED):
                self.counters.skipped_bytes += len(item.data)
            return
        if item.side == connection.client_side:
            self._deliver(connection, item)
            self._let_go(connection)
        elif connection.held or item.need > connection.client_position:
            connection.held.append(item)
            connection.held_bytes += item.cost
            self._budget.take(item.charge)
            if connection.held_bytes > HOLD_MAX:
                self.held_limit_hits += 1
                self._let_go(connection, everything=True)
        else:
            self._deliver(connection, item)

    def _let_go(self, connection: Connection, everything: bool = False) -> None:
        held = connection.held
        while held and (everything or held[0].need <= connection.client_position):
            item = held.popleft()
            connection.held_bytes -= item.cost
            self._budget.release(item.charge)
            self._deliver(connection, item)

    def _deliver(self, connection: Connection, item: Item) -> None:
        machine = connection.machine
        assert machine is not None
        to_server = item.side == connection.client_side
        if to_server:
            connection.client_position += len(item.data) + item.missing
        if item.missing:
            machine.gap(to_server, item.ts, item.missing)
        elif isinstance(machine, (ClientMachine, QuorumMachine)):
            machine.data(to_server, item.ts, item.data, item.late)
        elif to_server:
            machine.to_server(item.ts, item.data)
        else:
            machine.to_client(item.ts, item.data)

    # ---- what is held

    def _make_room(self, ts: int) -> None:
        """Where all connections hold too much, those that hold most give it up."""
        budget = self._budget
        if not budget.is_over:
            return
        holders = [(-connection.cost, connection) for connection in self._connections.values()]
        holders.sort(key=lambda holder: (holder[0], holder[1].number))
        for _, connection in holders:
            if budget.used <= budget.goal:
                break
            self.memory_limit_hits += 1
            if connection.role is None:
                self._shed(connection, 0)
                connection.look_at = 0
                continue
            if connection.held:
                self.held_limit_hits += 1
                self._let_go(connection, everything=True)
            if connection.machine is not None:
                connection.machine.give_up(ts)

    def _shed(self, connection: Connection, most: int) -> None:
        """Skip the oldest bytes of a connection without a role, but for so many."""
        waiting = connection.waiting
        count = 0
        for item in waiting:
            if connection.waiting_bytes <= most:
                break
            count += 1
            connection.waiting_bytes -= item.cost
            connection.shed[item.side] += len(item.data) + item.missing
            self._budget.release(item.charge)
        del waiting[:count]

    # ---- the role

    def _decide(self, connection: Connection, at_end: bool) -> None:
        hopeless = False
        beginning = self._beginning(connection)
        if beginning is not None:
            self._decide_opened(connection, *beginning, at_end)
        elif at_end or connection.waiting_bytes >= connection.look_at:
            hopeless = self._decide_joined(connection)
            connection.look_at = connection.waiting_bytes * 5 // 4
        if connection.role is None and hopeless:
            self._settle(connection, UNKNOWN)
        if connection.role is None:
            return
        waiting, connection.waiting = connection.waiting, []
        self._budget.release(sum(item.charge for item in waiting))
        connection.client_position = connection.shed[connection.client_side]
        if connection.role in _DECODED:
            self.counters.skipped_bytes += sum(connection.shed)
        for item in waiting:
            self._route(connection, item)

    def _beginning(self, connection: Connection) -> tuple[bytes, Verdict] | None:
        """The first bytes of a connection that was seen to open, and what they can be.

        None where too few were captured.
        """
        if not connection.syn or connection.shed[0]:
            return None
        first = _first_bytes(connection, 0)
        if first is None:
            return None
        verdict = probe.probe(first, self._context.schema)
        if any(item.side == 0 and item.missing for item in connection.waiting):
            # the rest of the first bytes was not captured: a snap length, or a loss
            if verdict is Verdict.MORE and probe.is_cut_connect(first):
                verdict = Verdict.CONNECT
            if verdict in (Verdict.MORE, Verdict.UNKNOWN):
                return None
        return first, verdict

    def _decide_opened(
        self, connection: Connection, first: bytes, verdict: Verdict, at_end: bool
    ) -> None:
        if verdict is Verdict.MORE and not at_end and connection.waiting_bytes <= PROBE_MAX:
            return
        ip, port = connection.ends[1]
        role = _ROLE_OF.get(verdict, UNKNOWN)
        if role in (CLIENT, QUORUM, ELECTION):
            if self._roles.allowed(role, ip, port):
                self._roles.learn(role, ip, port)
            else:
                role = UNKNOWN
        elif role == UNKNOWN and _is_word(first) and not _answered(connection):
            # a four-letter word that nobody knows; ZooKeeper takes it for a length and closes
            known = self._roles.known(ip, port) == CLIENT
            if not known and len(first) < 7 and not at_end:
                return
            if known or (not first[4:].strip(b"\r\n") and self._roles.allowed(CLIENT, ip, port)):
                role = CLIENT
        self._settle(connection, role)
        if role == CLIENT:
            self._start_client(connection, verdict, first)
        else:
            self._start_server(connection, opened=True)

    def _start_client(self, connection: Connection, verdict: Verdict, first: bytes) -> None:
        who = self._who(connection)
        if verdict is Verdict.WORD:
            word = self._context.schema.words[first[:4]]
            connection.machine = FourLetterMachine(self._sink, who, word)
        elif verdict is Verdict.CONNECT:
            extra = probe.handshake_extra(first)
            connection.machine = self._client(self._context, who, True, extra)
        else:
            ts = next(item.ts for item in connection.waiting if item.side == 0 and item.data)
            word = first[:4].decode("ascii")
            self._sink.anomaly((ts, *who, "unknown_word", TO_SERVER, 4, word))

    def _start_server(self, connection: Connection, opened: bool) -> None:
        if not self._servers:
            return
        who = self._who(connection)
        if connection.role == QUORUM:
            connection.machine = QuorumMachine(self._context, who, opened)
        elif connection.role == ELECTION:
            connection.machine = ElectionMachine(self._context, who, opened)

    def _decide_joined(self, connection: Connection) -> bool:
        # returns whether it is time to leave the connection alone
        ends = (self._side(connection, 0), self._side(connection, 1))
        whole = (not connection.shed[0], not connection.shed[1])
        found = self._judge.judge(connection.waiting, ends, connection.syn, whole)
        if found is None:
            if connection.waiting_bytes > PROBE_MAX:
                self._shed(connection, PROBE_MAX // 2)
            limit = GIVE_UP_HINTED if any(end.hint is not None for end in ends) else GIVE_UP
            return sum(connection.shed) > limit
        role, server_side, verdict = found
        ip, port = connection.ends[server_side]
        if role != TLS and not self._roles.allowed(role, ip, port):
            role = UNKNOWN
        elif verdict is not None and role != TLS:
            self._roles.learn(role, ip, port)
        connection.client_side = 1 - server_side
        self._settle(connection, role)
        if role == CLIENT:
            if verdict is not None:
                first = _first_bytes(connection, connection.client_side) or b""
                self._start_client(connection, verdict, first)
            else:
                who = self._who(connection)
                connection.machine = self._client(self._context, who, False, 0)
        else:
            self._start_server(connection, opened=verdict is not None)
        return False

    def _side(self, connection: Connection, side: int) -> Side:
        listener = connection.ends[side]
        return Side(self._roles.known(*listener), self._roles.hinted(*listener))

    def _settle(self, connection: Connection, role: str) -> None:
        connection.role = role
        self.flows[role] += 1
        if role == UNKNOWN and not connection.syn:
            hints = [self._roles.hinted(*connection.ends[side]) for side in (0, 1)]
            if hints[0] is not None and hints[1] is None:
                connection.client_side = 1
        self._row(connection, connection.ts, "opened" if connection.syn else "joined")

    def _who(self, connection: Connection) -> tuple[int, str, str]:
        client = connection.ends[connection.client_side]
        server = connection.ends[1 - connection.client_side]
        return connection.number, endpoint_text(*client), endpoint_text(*server)

    def _row(self, connection: Connection, ts: int, event: str) -> None:
        self._sink.connection((ts, *self._who(connection), connection.role, event, None))


_ROLE_OF = {
    Verdict.WORD: CLIENT,
    Verdict.CONNECT: CLIENT,
    Verdict.QUORUM: QUORUM,
    Verdict.ELECTION: ELECTION,
    Verdict.TLS: TLS,
}

#: Roles whose bytes are decoded: those that cannot be are counted.
_DECODED = (CLIENT, QUORUM, ELECTION)


def _first_bytes(connection: Connection, side: int) -> bytes | None:
    """The bytes in hand that a side sent first; None where its first ones were not captured."""
    parts: list[bytes] = []
    for item in connection.waiting:
        if item.side == side:
            if item.missing:
                return b"".join(parts) if parts else None
            parts.append(item.data)
    return b"".join(parts)


def _answered(connection: Connection) -> bool:
    return any(item.side == 1 and item.data for item in connection.waiting)


def _is_word(first: bytes) -> bool:
    return len(first) >= 4 and all(0x20 <= byte < 0x7F for byte in first[:4])
