"""Answers as bytes: JSON or CSV, kept for as long as they are right.

Two hundred viewers of one page ask the same: an answer is made once per change of the picture, at
most once a second while it changes, and by one thread while the others wait for it.
"""

from __future__ import annotations

import csv
import io
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextvars import ContextVar
from typing import Any, Final

from zktrace.store.picture import Picture

#: Seconds for which an answer is good while there is more to come.
_GOOD_S: Final = 1.0
_KEPT: Final = 256
_KEPT_BYTES: Final = 32 << 20


class Problem(Exception):
    """What is wrong with a request; becomes problem JSON (RFC 9457)."""

    def __init__(self, status: int, title: str, detail: str, **more: Any) -> None:
        super().__init__(detail)
        self.status = status
        self.body = {"type": "about:blank", "title": title, "status": status, "detail": detail}
        self.body |= more


def json_bytes(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode(
        "utf-8", "backslashreplace"
    )


def _flat(row: dict[str, Any], nested: bool) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if key == "latency_us" and nested:
            for name in ("min", "mean", "p50", "p90", "p99", "p999", "max"):
                flat[f"latency_{name}_us"] = None if value is None else value[name]
        elif key == "in_flight" and nested:
            for name in ("mean", "most"):
                flat[f"in_flight_{name}"] = None if value is None else value[name]
        elif isinstance(value, dict):
            flat[key] = " ".join(f"{name}:{n}" for name, n in value.items())
        elif isinstance(value, (list, tuple)):
            flat[key] = " ".join(map(str, value))
        else:
            flat[key] = value
    return flat


def _cell(value: Any) -> Any:
    """Text that a spreadsheet would take for a formula is quoted with an apostrophe."""
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return "'" + value
    if isinstance(value, bool):
        return str(value).lower()
    return value


def csv_bytes(rows: list[dict[str, Any]]) -> bytes:
    """Rows with a head; nested numbers as columns of their own."""
    # Of sums it is a distribution, of single exchanges a number.
    nested = not any(isinstance(row.get("latency_us"), (int, float)) for row in rows)
    nested = nested and not any("xid" in row for row in rows)
    flat = [_flat(row, nested) for row in rows]
    names = list(dict.fromkeys(name for row in flat for name in row))
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(names)
    for row in flat:
        writer.writerow([_cell(row.get(name)) for name in names])
    return out.getvalue().encode("utf-8", "backslashreplace")


#: Whoever wants to know which answers a request leads to puts a list there.
looked_up: ContextVar[list[tuple[Answers, Hashable]] | None] = ContextVar("looked_up", default=None)


class Answers:
    """The answers given lately."""

    def __init__(self, picture: Picture) -> None:
        self._picture = picture
        self._kept: OrderedDict[Hashable, tuple[int, float, bytes]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        self._making: dict[Hashable, threading.Lock] = {}

    def good(self, key: Hashable) -> bytes | None:
        """The answer, as long as it need not be made anew."""
        with self._lock:
            known = self._kept.get(key)
            if known is None:
                return None
            version, at, body = known
            fresh = time.monotonic() - at < _GOOD_S
            settled = self._picture.state in ("done", "failed")
            if (settled and version == self._picture.version) or (not settled and fresh):
                return body
            return None

    def get(self, key: Hashable, make: Callable[[], bytes]) -> bytes:
        """The answer to a question, made by `make` if it has to be."""
        asked = looked_up.get()
        if asked is not None:
            asked.append((self, key))
        body = self.good(key)
        if body is not None:
            return body
        with self._lock:
            making = self._making.setdefault(key, threading.Lock())
        try:
            with making:
                body = self.good(key)
                if body is None:
                    version = self._picture.version
                    body = make()
                    self._keep(key, version, body)
        finally:
            with self._lock:
                self._making.pop(key, None)
        return body

    def _keep(self, key: Hashable, version: int, body: bytes) -> None:
        with self._lock:
            before = self._kept.pop(key, None)
            self._bytes += len(body) - (len(before[2]) if before else 0)
            self._kept[key] = (version, time.monotonic(), body)
            while self._kept and (len(self._kept) > _KEPT or self._bytes > _KEPT_BYTES):
                _, (_, _, gone) = self._kept.popitem(last=False)
                self._bytes -= len(gone)
