"""Load: named workloads that drive any ZooKeeper as its users do (``zktrace server load``).

A client of its own over the codecs of ``zktrace.wire``: no library in between, so that what is on
the wire is what a workload means. Knows nothing of the server beside it.
"""

from zktrace_server.load.client import Reply, Session, SessionExpired, Unreachable
from zktrace_server.load.run import Options, run
from zktrace_server.load.tally import Report
from zktrace_server.load.workloads import WORKLOADS

__all__ = [
    "WORKLOADS",
    "Options",
    "Reply",
    "Report",
    "Session",
    "SessionExpired",
    "Unreachable",
    "run",
]
