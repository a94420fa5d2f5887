"""Listens with scapy, as is done where there are no packet sockets: ``python -m tests.live.sniff
IFACE``. Prints events as `zktrace live --json` does.
"""

from __future__ import annotations

import signal
import sys

from zktrace.capture.interfaces import find
from zktrace.capture.live import Plan
from zktrace.capture.sniffer import Sniffer
from zktrace.cli.decode import EventOutput
from zktrace.cli.terminal import interruptible
from zktrace.engine.base import EngineOptions, create
from zktrace.engine.live import LiveRun


def main() -> None:
    plan = Plan(tuple(find(sys.argv[1:2])), ports=((None, 21811), (None, 21812)))
    engine = create(EngineOptions())
    run = LiveRun(
        plan,
        Sniffer(plan),
        engine,
        notice=lambda text: print(text, file=sys.stderr, flush=True),
    )
    with interruptible(run, signal.SIGTERM):
        EventOutput(None, prompt=True).write_json(run, None, None)


if __name__ == "__main__":
    main()
