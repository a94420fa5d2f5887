"""Who stands beside a running plane: says on stderr when recording fails, with whom TLS failed, and
reads certificates again when their files have changed or somebody asks for it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from zktrace_proxy.plane import Plane, PlaneError
from zktrace_proxy.tls import Tls, TlsError, Watch

#: How often it looks.
_LOOK_S: Final = 1.0
#: Lines of one look about TLS that failed; more are counted.
_LINES: Final = 5


class Attendant:
    """Its thread begins with `start`."""

    def __init__(
        self,
        plane: Plane,
        tls: Tls,
        told: Callable[[str], None],
        reloaded: Callable[[], None] = lambda: None,
    ) -> None:
        """`told`: called with a line. `reloaded`: called when files of TLS are to be read by
        others, too; may raise `TlsError`.
        """
        self._plane = plane
        self._told = told
        self._reloaded = reloaded
        self._watch = Watch(tls)
        self._wanted = False
        self._failing: str | None = None
        self._problem: str | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="zktrace-attend", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()

    def reload(self) -> None:
        """At the next look, certificates are read again, whether files have changed or not."""
        self._wanted = True

    def _run(self) -> None:
        while not self._ended.wait(_LOOK_S):
            self.look()

    def look(self) -> None:
        """Once."""
        self._recording()
        self._notices()
        changed = self._watch.changed()
        if self._wanted or changed or self._failing is not None:
            # What could not be used may be half of a pair, the other half of which is to come.
            asked, self._wanted = self._wanted, False
            self._read(asked or changed)

    def _recording(self) -> None:
        problem = self._plane.recorded()[2]
        if problem != self._problem:
            self._told(f"RECORDING FAILS: {problem}" if problem else "recording works again")
        self._problem = problem

    def _notices(self) -> None:
        lines, more = self._plane.notices()
        for line in lines[:_LINES]:
            self._told(line)
        more += max(len(lines) - _LINES, 0)
        if more:
            self._told(f"TLS failed {more:,} times more")

    def _read(self, told: bool) -> None:
        before = self._failing
        try:
            self._plane.reload_tls()
            self._reloaded()
        except (PlaneError, TlsError) as error:
            self._failing = str(error)
            if told or self._failing != before:
                self._told(f"CERTIFICATES NOT READ AGAIN, the former ones stay: {error}")
        else:
            self._failing = None
            self._told("certificates were read again, for new connections")
