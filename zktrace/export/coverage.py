"""The coverage as JSON: the last line of ``decode --json``, and a member of ``stats --json``.

Apart from :mod:`zktrace.export.jsonl`, which needs pyarrow, since where the engine writes the
lines itself nothing else is needed of Python.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

#: Coverage keys that every output has, in this order; null where the engine does not know.
COVERAGE_KEYS: Final = (
    "packets",
    "bytes",
    "first_ts_ns",
    "last_ts_ns",
    "flows",
    "frames",
    "exchanges",
    "watch_events",
    "quorum_packets",
    "election_messages",
    "retransmitted_segments",
    "duplicate_packets",
    "keepalives",
    "late_segments",
    "gaps",
    "skipped_bytes",
    "kernel_drops",
    "truncated",
)


def coverage_object(coverage: Mapping[str, Any]) -> dict[str, Any]:
    """The coverage with its keys in order: the known ones, then what else there is."""
    known = {key: coverage.get(key) for key in COVERAGE_KEYS}
    return known | {key: coverage[key] for key in sorted(coverage.keys() - known.keys())}


def coverage_line(coverage: Mapping[str, Any]) -> str:
    """The last line: what was seen and what not. Its ``ts_ns`` is the time of the last packet."""
    members = {"kind": "coverage", "ts_ns": coverage.get("last_ts_ns"), "flow": None}
    return json.dumps(members | coverage_object(coverage), separators=(",", ":"))
