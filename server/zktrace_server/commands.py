"""Subcommands of ``zktrace`` that this package adds: the entry points of ``zktrace.commands``."""

from __future__ import annotations

from typing import Final

from zktrace.cli.lazy import Lazy

server: Final = Lazy("zktrace_server.command:app", "Reference server for the ZooKeeper protocols.")
