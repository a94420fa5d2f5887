"""Paths as they are kept: a path may be as long as a frame."""

from __future__ import annotations

from typing import Final, overload

#: Bytes of UTF-8; what is behind is replaced by an ellipsis.
LONGEST_PATH: Final = 1024


@overload
def short(path: str) -> str: ...
@overload
def short(path: str | None) -> str | None: ...
def short(path: str | None) -> str | None:
    """A path of bounded length."""
    if path is None or len(path) * 4 <= LONGEST_PATH:
        return path
    raw = path.encode("utf-8", "surrogatepass")
    if len(raw) <= LONGEST_PATH:
        return path
    return raw[:LONGEST_PATH].decode("utf-8", "ignore") + "…"
