"""Findings that are not mended yet, by what shows them. A test that passes again needs no entry."""

from __future__ import annotations

from typing import Final

KNOWN: Final[dict[str, str]] = {}
