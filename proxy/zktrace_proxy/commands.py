"""Subcommands of ``zktrace`` that this package adds: the entry points of ``zktrace.commands``."""

from __future__ import annotations

from typing import Final

from zktrace.cli.lazy import Lazy

compare: Final = Lazy(
    "zktrace_proxy.compare.cli:compare", "Compare two recordings of the same requests."
)
proxy: Final = Lazy(
    "zktrace_proxy.cli:app", "Stand between clients and servers: relay, decode, record."
)
replay: Final = Lazy(
    "zktrace_proxy.replay.cli:replay", "Send recorded requests to a live server, or answer as one."
)
scrub: Final = Lazy("zktrace_proxy.scrub.cli:scrub", "Write a capture that is safe to hand out.")
