"""Which keys an exchange has in JSON lines, by op, and a quorum packet, by type: derived from the
opcode table where that knows, never written down twice.

The engine that writes the lines itself gets this as text. Loads nothing but the wire schema.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Final

from zktrace.wire.errors import ERRORS
from zktrace.wire.layout import steps
from zktrace.wire.opcodes import BY_NAME, OPS

#: What only some ops have, in the order of the keys.
KEYS: Final = (
    "flags",
    "mode",
    "version",
    "ttl",
    "data_length",
    "children",
    "stat",
    "created_path",
    "sub",
    "watches",
    "requested_timeout_ms",
    "timeout_ms",
    "last_zxid_seen",
    "read_only",
    "protocol_version",
)
_CONNECT: Final = KEYS[-5:]

_TXN: Final = ("session", "cxid", "txn_type", "path", "error", "timeout_ms", "sub")
_LEARNER: Final = ("sid", "epoch")

#: What only some types of quorum packets have, in the order of the keys.
PACKET_KEYS: Final[dict[str, tuple[str, ...]]] = {
    "REQUEST": ("session", "cxid", "txn_type", "path", "timeout_ms", "sub"),
    "PROPOSAL": _TXN,
    "PING": ("sessions",),
    "REVALIDATE": ("session", "timeout_ms", "valid"),
    "INFORM": _TXN,
    "COMMITANDACTIVATE": ("sid",),
    "NEWLEADER": ("epoch",),
    "FOLLOWERINFO": _LEARNER,
    "SNAP": ("snapshot_bytes", "snapshot_nodes"),
    "OBSERVERINFO": _LEARNER,
    "LEADERINFO": ("epoch",),
    "ACKEPOCH": ("epoch",),
    "INFORMANDACTIVATE": ("session", "cxid", "txn_type", "path", "error", "sid", *_TXN[5:]),
}


@cache
def extra_keys(op: str | None) -> tuple[str, ...]:
    """The keys that an op has beyond those of every exchange, from its records in the opcode
    table.
    """
    if op == "connect":
        return _CONNECT
    known = BY_NAME.get(op or "")
    if known is None:
        return ()
    body = f"{steps(known.request)},{steps(known.reply)}"
    roles = set(re.findall(r":(\w+)", body))
    if "multi" in body:
        roles.add("sub")
    if roles & {"data", "exist", "child"}:
        roles.add("watches")
    return tuple(key for key in KEYS if key in roles)


def form_text() -> str:
    """What ``json.rs`` reads: ``op <name> <key>,<key>...``, ``quorum <type> <key>,<key>...`` and
    ``error <code> <name>``, a line each.
    """
    names = ["connect", *(op.name for op in OPS)]
    lines = [f"op {name} {','.join(extra_keys(name))}" for name in names if extra_keys(name)]
    lines += [f"quorum {name} {','.join(keys)}" for name, keys in PACKET_KEYS.items()]
    lines += [f"error {code} {name}" for code, name in ERRORS.items()]
    return "\n".join(lines) + "\n"
