"""Helpers over arrays that checks share. Must not know what the numbers mean."""

from __future__ import annotations

from typing import Final

import numpy as np

from zktrace.analysis.columns import Bools, Ints

#: Tables of fewer keys are looked up in an array of flags.
_SMALL: Final = 1 << 26


def hexadecimal(zxid: int) -> str:
    """A zxid as ZooKeeper prints it."""
    return f"0x{zxid & 0xFFFF_FFFF_FFFF_FFFF:x}"


def grouped(keys: Ints) -> tuple[Ints, Bools]:
    """Rows ordered by key, else as they were, and which of them are the first of theirs."""
    if not len(keys):
        return np.empty(0, np.int64), np.empty(0, np.bool_)
    low = int(keys.min())
    narrow = keys - low
    if int(narrow.max()) <= 0xFFFF:
        narrow = narrow.astype(np.uint16)  # sorted in one pass
    order = np.argsort(narrow, kind="stable")
    ordered = keys[order]
    first = np.empty(len(keys), dtype=np.bool_)
    first[0] = True
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    return order, first


def contained(values: Ints, wanted: Ints, size: int) -> Bools:
    """Which values are among the wanted ones; all are from 0 to below `size`."""
    if size <= _SMALL:
        table = np.zeros(size, dtype=np.bool_)
        table[wanted] = True
        found: Bools = table[values]
        return found
    return np.isin(values, wanted)
