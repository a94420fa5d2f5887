"""Which requests name sequential nodes in their data: they wait for the live names.

Recipes store names of nodes as data (who leads, what is next in a queue). Which paths hold such
data only their owner knows, so it is by rule, and off without one. Fed in the total order; the
names in data are found again as they were made. Memory: the names made last.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zktrace.wire.multi import MultiRequest
from zktrace_proxy.messages.maps import NAMES_MAX, named_in
from zktrace_proxy.replay.effects import Effects


class NamesInData:
    """`holds`: whether the data of a path may name nodes."""

    def __init__(self, holds: Callable[[str], object]) -> None:
        self._holds = holds
        #: name without its path: the path, of the node that was made last
        self._made: dict[str, str] = {}

    def asked(self, found: Effects) -> None:
        """The next request: what its data names is read by it."""
        body = found.request
        for part in [op.body for op in body.ops] if isinstance(body, MultiRequest) else [body]:
            found.reads.update("n" + path for path in self._paths(part))
        for made in found.made:
            if made.sequential:
                self._made[made.path.rpartition("/")[2]] = made.path
                if len(self._made) > NAMES_MAX:
                    del self._made[next(iter(self._made))]

    def _paths(self, body: Any) -> list[str]:
        path, data = getattr(body, "path", None), getattr(body, "data", None)
        if not path or not data or not self._holds(path):
            return []
        paths = []
        for text in named_in(data):
            if text.startswith("/"):
                paths.append(text)
            else:
                paths += [self._made[one] for one in text.split("/") if one in self._made]
        return paths
