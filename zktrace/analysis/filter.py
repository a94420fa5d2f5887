"""The filter language: ``op == "create" and path =~ "/locks/**" and latency > 10ms``.

============== ===================================================================================
field          meaning
============== ===================================================================================
op             upstream's name (``create``, ``getData`` ...)
path           of the request or the watch event; created_path: what create made of it
client, server an address, ``ip:port`` or a network (``10.0.0.0/8``)
session        ``0x`` and 16 hex digits, or the first of them and ``...``
error          a code or its name (``NoNode``); error_name: the name, for patterns
latency        with a unit: ns us ms s
size           request_bytes + reply_bytes, as far as known; of watch events and anomalies their
               bytes. Units k M G are powers of 1024
zxid, xid, ... as whole numbers: zxid, xid, conn, opcode, flags, mode, version, data_length,
               children, ttl, timeout_ms, requested_timeout_ms
state          complete, no_reply, no_request
read, write    whether the op reads, or changes the tree; watch: whether a watch was asked for.
               These stand by themselves
type           of quorum packets (``PROPOSAL`` ...) and election messages (initial, notification);
               txn_type: op of a txn or a forwarded request; cxid, sid, epoch, sessions, valid,
               timeout_ms, snapshot_bytes, snapshot_nodes; state, leader, election_epoch,
               peer_epoch, address
kind           exchange, watch_event, connection, four_letter, anomaly, quorum, election
event          of watch events and connections; role: of connections; word: of four_letter;
               keeper_state, reason, direction, detail
============== ===================================================================================

``=~`` and ``!~`` take a pattern that must match the whole text: ``*`` within a component of a path,
``**`` across, ``?`` one character. ``in (a, b)`` looks for several values. ``and or not``, also
``&& || !``, and parentheses combine.

A comparison with something a row does not have is false, whatever the operator: ``error != 0``
selects rows with a known error, ``latency > 0`` nothing but exchanges with a reply. ``not (error ==
0)`` selects the rows without a known error, too, so ``not`` before a comparison says more than
``!=``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np
import pyarrow as pa

from zktrace.analysis.filter_fields import Field, Mask, Predicate, compile_test, fields
from zktrace.analysis.filter_syntax import All, FilterError, Node, Not, Test, parse
from zktrace.analysis.names import vocabulary

__all__ = ["Filter", "FilterError", "compile_filter"]


class Filter:
    """A compiled expression; :func:`compile_filter` makes it."""

    def __init__(self, expression: str, predicate: Predicate) -> None:
        self.expression = expression
        self._predicate = predicate

    def __repr__(self) -> str:
        return f"<Filter {self.expression!r}>"

    def mask(self, kind: str, rows: pa.Table | pa.RecordBatch) -> pa.BooleanArray:
        """For each row whether it is selected; never null. `kind` is the table's name."""
        if isinstance(rows, pa.RecordBatch):
            return pa.array(self._predicate(kind, rows))
        masks = [self._predicate(kind, batch) for batch in rows.to_batches()]
        return pa.array(np.concatenate(masks) if masks else np.zeros(0, dtype=np.bool_))

    def batches(self, batches: Mapping[str, pa.RecordBatch]) -> dict[str, pa.RecordBatch]:
        """The selected rows by kind; kinds of which no row is selected are left out."""
        chosen = {kind: batch.filter(self.mask(kind, batch)) for kind, batch in batches.items()}
        return {kind: batch for kind, batch in chosen.items() if batch.num_rows}

    def tables(self, tables: Mapping[str, pa.Table]) -> dict[str, pa.Table]:
        """The selected rows by kind, all kinds."""
        return {kind: table.filter(self.mask(kind, table)) for kind, table in tables.items()}


@cache
def _fields() -> dict[str, Field]:
    return fields(vocabulary())


def _compile(node: Node, expression: str) -> Predicate:
    if isinstance(node, Test):
        return compile_test(node, _fields(), expression)
    if isinstance(node, Not):
        part = _compile(node.part, expression)
        return lambda kind, rows: ~part(kind, rows)
    parts = [_compile(part, expression) for part in node.parts]
    combine = np.logical_and if isinstance(node, All) else np.logical_or

    def predicate(kind: str, rows: pa.RecordBatch) -> Mask:
        mask = parts[0](kind, rows)
        for part in parts[1:]:
            mask = combine(mask, part(kind, rows))
        return mask

    return predicate


def compile_filter(expression: str) -> Filter:
    """Compiles an expression; :class:`FilterError` tells what is wrong with it, and where."""
    return Filter(expression, _compile(parse(expression), expression))
