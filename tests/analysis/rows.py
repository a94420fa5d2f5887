"""Event rows made up for tests: every column, every value that could make trouble."""

from __future__ import annotations

from typing import Any, Final, Literal

import pyarrow as pa
from hypothesis import strategies as st

from zktrace.analysis.tables import Row, TableBuilder
from zktrace.engine.base import KINDS

#: (table, row); paths are bytes as they come from the wire.
Event = tuple[str, Row]

OPS: Final = {"create": 1, "getData": 4, "multi": 14, "ping": 11, "connect": -10, "op77": 77}
INT32 = st.integers(-(2**31), 2**31 - 1)
INT64 = st.integers(-(2**63), 2**63 - 1)
SMALL = st.integers(0, 2**31 - 1)
PATHS: Final = [
    b"/",
    b"",
    b"/a",
    b"/a/b/c",
    b"/a/bb/c",
    b"/\xe4\xbd\xa0/\xf0\x9f\x98\x80",
    b"/a/\xff/x",
    b"/a/\xfe/x",
    b"/\xed\xa0\x80",
    b"/new\nline/x/y",
    b"no/slash",
    b"//a",
]
PATH = st.none() | st.sampled_from(PATHS) | st.binary(max_size=12)
NAME = st.sampled_from(["NodeCreated", "NodeDeleted", "None"])
LATENCY = (
    st.none()
    | st.sampled_from([-1, 0, 1, 2, 3, 2**62, 2**63 - 1])
    | st.integers(0, 2**40)
    | st.integers(1_000, 50_000_000)
)

#: The addresses of a connection never change: by its number.
_ENDPOINTS: Final = [
    ("10.0.0.1:40000", "10.1.0.1:2181"),
    ("10.0.0.1:40001", "10.1.0.2:2181"),
    ("10.0.0.20:40000", "10.1.0.1:2181"),
    ("[2001:db8::1]:9", "[::ffff:10.1.0.1]:2181"),
    ("[::1]:65535", "10.1.0.2:2182"),
]


def _connection(number: int) -> tuple[int, str, str]:
    client, server = _ENDPOINTS[number % len(_ENDPOINTS)]
    return (number, client, server)


CONNECTIONS = (st.integers(0, 9) | st.integers(1000, 3000)).map(_connection)


def _optional(value: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | value


_STAT = st.fixed_dictionaries(
    {
        "czxid": INT64,
        "mzxid": INT64,
        "ctime": INT64,
        "mtime": INT64,
        "version": INT32,
        "cversion": INT32,
        "aversion": INT32,
        "ephemeral_owner": INT64,
        "data_length": INT32,
        "num_children": INT32,
        "pzxid": INT64,
    }
)
_SUB = st.lists(
    st.fixed_dictionaries(
        {"op": _optional(st.sampled_from(list(OPS))), "path": PATH, "error": _optional(INT32)}
    ),
    max_size=3,
)
_WATCHES = st.fixed_dictionaries(
    {"data": _optional(SMALL), "exist": _optional(SMALL), "child": _optional(SMALL)},
    optional={"persistent": _optional(SMALL), "persistent_recursive": _optional(SMALL)},
)
_OP = st.sampled_from([(None, None), *OPS.items()])
_STATE = st.sampled_from(["complete", "no_reply", "no_request"])
_ERROR = st.sampled_from([None, 0, 0, -101, -110, 7])
#: Session ids differ in all places, the sign too.
_SESSION = st.sampled_from([None, 0x1000A2B3C4D50001, 0x1000A2B3C4D50002, -(2**63), -1, 0])

# What most rows do not have.
_NOTHING: Final = (None,) * 15
_DETAILS = st.just(_NOTHING) | st.tuples(
    *map(_optional, [INT32, INT32, INT32, INT32, INT32, INT64]),
    PATH,
    _optional(_STAT),
    _optional(_SUB),
    _optional(_WATCHES),
    *map(_optional, [INT32, INT32, INT64, st.booleans(), INT32]),
)


@st.composite
def _exchange(draw: st.DrawFn) -> Event:
    head = (0, draw(INT64), *draw(CONNECTIONS), *draw(_OP))
    flat = (
        _optional(INT64),
        _SESSION,
        PATH,
        _optional(st.booleans()),
        _ERROR,
        _optional(INT64),
        LATENCY,
        _optional(SMALL),
        _optional(SMALL),
        _STATE,
    )
    return ("exchanges", (*head, *(draw(one) for one in flat), *draw(_DETAILS)))


def _other(kind: str, *columns: st.SearchStrategy[Any]) -> st.SearchStrategy[Event]:
    return st.tuples(INT64, CONNECTIONS, *columns).map(
        lambda row: (kind, (0, row[0], *row[1], *row[2:]))
    )


# Lone surrogates have no UTF-8 form.
_SURROGATES: Final[tuple[Literal["Cs"]]] = ("Cs",)
_DETAIL = _optional(st.text(st.characters(exclude_categories=_SURROGATES), max_size=5))
#: Whether a quorum packet is late, and the hash of its txn.
_SENT: Final = (st.sampled_from([None, True]), _optional(INT64))
_KINDS: Final = [
    _other(
        "watch_events",
        _SESSION,
        _optional(NAME),
        _optional(st.just("SyncConnected")),
        PATH,
        _optional(INT64),
        SMALL,
    ),
    _other(
        "connections",
        st.sampled_from(["client", "quorum", "election", "tls", "unknown"]),
        st.sampled_from(["opened", "joined", "closed", "reset"]),
        _DETAIL,
    ),
    _other("four_letter", st.sampled_from(["ruok", "mntr"]), _optional(SMALL)),
    _other(
        "anomalies",
        st.sampled_from(["gap", "malformed"]),
        st.sampled_from([None, "to_server", "to_client"]),
        _optional(SMALL),
        _DETAIL,
    ),
    _other(
        "quorum",
        st.sampled_from(["PROPOSAL", "REQUEST", "PING", "SNAP", "REVALIDATE", "ACK", "ACKEPOCH"]),
        st.sampled_from(["to_leader", "to_learner"]),
        _optional(INT64),
        _optional(SMALL),
        _SESSION,
        _optional(INT32),
        _optional(st.sampled_from(["create", "error", "createSession"])),
        PATH,
        _optional(INT32),
        _optional(INT64),
        _optional(INT64),
        _optional(INT32),
        _optional(st.booleans()),
        _optional(SMALL),
        _optional(INT64),
        _optional(_SUB),
        *[st.just(None)] * 3,
        *_SENT,
    ),
    _other(
        "quorum",
        *map(st.just, ("SNAP", "to_learner", 7, 20)),
        *[st.just(None)] * 12,
        SMALL,
        SMALL,
        st.just(None),
        *_SENT,
    ),
    _other(
        "quorum",
        *map(st.just, ("NEWLEADER", "to_learner", 1 << 32, 200)),
        *[st.just(None)] * 14,
        PATH,
        *_SENT,
    ),
    _other(
        "elections",
        st.sampled_from(["initial", "notification"]),
        st.sampled_from(["from_opener", "to_opener"]),
        _optional(INT64),
        PATH,
        _optional(st.sampled_from(["LOOKING", "FOLLOWING", "state7"])),
        *[_optional(INT64)] * 4,
        _optional(INT32),
        SMALL,
    ),
]


def _numbered(events: list[Event]) -> list[Event]:
    return [(kind, (seq, *row[1:])) for seq, (kind, row) in enumerate(events)]


#: Events in order of emission.
EVENTS = st.lists(_exchange() | _exchange() | st.one_of(_KINDS), max_size=30).map(_numbered)


def _text(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, list):
        return [{key: _text(item) for key, item in one.items()} for one in value]
    return value


def in_python(event: Event) -> Event:
    """The event as the Python engine gives it."""
    kind, row = event
    return (kind, tuple(map(_text, row)))


def tables(events: list[Event]) -> dict[str, pa.Table]:
    """The events as tables made in Python."""
    builder = TableBuilder()
    for event in events:
        builder.append(*in_python(event))
    result = builder.tables()
    assert tuple(result) == KINDS
    return result
