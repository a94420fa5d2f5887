"""How many requests were in flight at once, from the table of exchanges.

What :mod:`zktrace.store.depth` says of exchanges one by one, with numpy. Exchanges of a connection
come in the order of their replies, which is that of their requests.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from zktrace.analysis.stats import ASIDE


class Depth(NamedTuple):
    mean: float
    """Over the time from the first request to the last reply, on all connections together."""
    most: int
    """At once on one connection."""


def in_flight(exchanges: pa.RecordBatch | pa.Table) -> Depth | None:
    """Of exchanges with a latency but pings and connects, in order of ``seq``; None: there are
    none.
    """
    aside = pc.is_in(pc.cast(exchanges["op"], pa.utf8()), pa.array(ASIDE))
    rows = exchanges.select(["conn", "ts_ns", "latency_ns"])
    rows = rows.filter(pc.and_(pc.is_valid(exchanges["latency_ns"]), pc.invert(aside)))
    if not rows.num_rows:
        return None
    conn, sent, latency = (rows[name].to_numpy(zero_copy_only=False) for name in rows.schema.names)
    ended = sent + latency
    most = 0
    order = np.argsort(conn, kind="stable")
    for of_conn in np.split(order, np.flatnonzero(np.diff(conn[order])) + 1):
        ends = np.maximum.accumulate(ended[of_conn])
        before = np.searchsorted(ends, sent[of_conn], side="right")
        places = np.arange(len(of_conn))
        most = max(most, int((places + 1 - np.minimum(before, places)).max()))
    length = int(ended.max()) - int(sent.min())
    return Depth(float(latency.sum()) / length if length else float(len(latency)), most)
