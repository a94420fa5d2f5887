"""``POST /api/slice``: saves packets that ``--write`` keeps, as the proof of what was seen.

The only request that changes something; :mod:`zktrace.web.security` sees to it that no other site's
page can make it. It names no file and no place: both are chosen here.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

from fastapi import FastAPI
from fastapi.responses import Response

from zktrace.capture.counters import CaptureCounters
from zktrace.capture.decap import Decapsulator
from zktrace.capture.keep import NoRoom, NothingKept
from zktrace.capture.segment import Packet
from zktrace.store.picture import Picture
from zktrace.web.answers import Problem, json_bytes
from zktrace.web.models import SliceSaved, SliceWanted

#: Address (packed) and port; None: any.
End = tuple[bytes | None, int | None]


def end_of(text: str | None, name: str) -> End:
    """``10.0.0.1``, ``10.0.0.1:2181``, ``fd00::1`` or ``[fd00::1]:2181``."""
    if text is None:
        return None, None
    host, port = text, ""
    if text.startswith("[") or text.count(":") == 1:
        host, _, port = text.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
    try:
        packed = ip_address(host).packed
        number = int(port) if port else None
    except ValueError:
        raise Problem(422, "Wrong parameter", f"{name}: {text!r} is no address[:port]") from None
    return packed, number


def between(one: End, other: End) -> Callable[[int, int, bytes, int], bool]:
    """Whether a packet goes between two ends, in either direction. Of a packet with their addresses
    in which that cannot be told (a fragment of a datagram) it is taken to be so.
    """
    decapsulator = Decapsulator(CaptureCounters())
    hosts = [host for host, _ in (one, other) if host is not None]

    def is_at(end: End, host: bytes, port: int) -> bool:
        return end[0] in (None, host) and end[1] in (None, port)

    def wanted(ts_ns: int, linktype: int, data: bytes, wire_len: int) -> bool:
        if not all(host in data for host in hosts):
            return False  # most packets: quicker than to take them apart
        segment = decapsulator.packet(Packet(ts_ns, linktype, data, wire_len))
        if segment is None:
            return True
        source, destination = (segment.src, segment.sport), (segment.dst, segment.dport)
        return (is_at(one, *source) and is_at(other, *destination)) or (
            is_at(one, *destination) and is_at(other, *source)
        )

    return wanted


def add(app: FastAPI, picture: Picture, responses: dict[int | str, dict[str, Any]]) -> None:
    """The route."""

    @app.post(
        "/api/slice",
        response_model=SliceSaved,
        status_code=201,
        responses=responses,
        summary="Save packets that --write keeps",
        tags=["operation"],
    )
    def slice(wanted: SliceWanted) -> Response:
        ring = picture.ring
        one, other = end_of(wanted.client, "client"), end_of(wanted.server, "server")
        if ring is None:
            raise Problem(404, "Not known", "no packets are kept: see --write")
        try:
            saved = ring.slice(wanted.from_ns, wanted.to_ns, between(one, other))
        except NothingKept:
            raise Problem(404, "Not known", "no such packets are kept") from None
        except NoRoom as error:
            raise Problem(507, "Insufficient Storage", str(error)) from None
        except OSError as error:
            words = error.strerror or str(error)
            raise Problem(507, "Insufficient Storage", f"it cannot be written: {words}") from None
        body = {
            "file": saved.file,
            "packets": saved.packets,
            "bytes": saved.bytes,
            "complete": saved.complete,
        }
        return Response(json_bytes(body), 201, media_type="application/json")
