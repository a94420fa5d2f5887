"""What a proxy shows of itself: ``/api/upstreams``, and metrics beside those of the traffic."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from zktrace.store.measure import Measure
from zktrace_proxy.plane import Plane
from zktrace_proxy.upstreams import Upstreams

_COUNTED: Final = {
    "accepted": "Connections that clients made.",
    "unreachable": "Connections reset since no server accepted.",
    "upstream_failures": "Attempts at a server that failed.",
    "tls_failures": "Connections of clients with whom TLS failed.",
    "refused": "Connections over --max-connections.",
    "resets": "Connections that one side reset.",
    "slow_readers": "Connections reset for a slow reader.",
    "faulted": "Connections that a fault ended.",
    "drained": "Connections that ended when nothing was under way (--drain).",
    "accept_failures": "Failures to accept, as without descriptors.",
    "tap_lost_packets": "Packets left out of what is decoded or recorded, as their readers lagged.",
    "bytes_to_server": "Bytes relayed to servers.",
    "bytes_to_client": "Bytes relayed to clients.",
}


def measures(plane: Plane, upstreams: Upstreams) -> Iterator[Measure]:
    """Counters of the plane, and which servers are well."""
    counted = plane.counters()
    yield Measure.of("proxy_open_connections", "Connections now.", counted["open"], grows=False)
    for name, words in _COUNTED.items():
        yield Measure.of(f"proxy_{name}", words, counted[name], grows=True)
    recorded, _, problem = plane.recorded()
    yield Measure.of("proxy_recorded_bytes", "Bytes recorded.", recorded, grows=True)
    yield Measure.of(
        "proxy_recording_fails", "1 while recording fails.", float(bool(problem)), grows=False
    )
    listening = plane.addresses()
    checked = tuple(
        ((listening[one.listener], one.address), float(one.up))
        for one in upstreams.health()
        if one.up is not None
    )
    yield Measure(
        "proxy_upstream_up",
        "1 where the server is well, as --health-check found it.",
        False,
        ("listener", "server"),
        checked,
    )
