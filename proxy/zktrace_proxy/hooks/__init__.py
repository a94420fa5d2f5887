"""Hooks: Python functions that see, or change, what goes through a proxy (``proxy run -s FILE``).

For scripts: decorators of interceptors (:mod:`zktrace_proxy.hooks.script`), what they are given and
what they may return (:mod:`zktrace_proxy.hooks.frames`). ``docs/hooks.md`` is their guide.
:mod:`zktrace_proxy.hooks.runner` calls them. Observers read the tap and delay nobody; interceptors
get the frames that their filter selects, and only these wait for Python.
"""

from zktrace_proxy.hooks.frames import CLOSE, DROP, Change, Reply, Request, WatchEvent, map_paths
from zktrace_proxy.hooks.script import intercept_event, intercept_reply, intercept_request

__all__ = [
    "CLOSE",
    "DROP",
    "Change",
    "Reply",
    "Request",
    "WatchEvent",
    "intercept_event",
    "intercept_reply",
    "intercept_request",
    "map_paths",
]
