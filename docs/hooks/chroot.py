"""All clients live below a node (ZKTRACE_CHROOT, /tenant if it is not set) and do not know it."""

import os

from zktrace_proxy.hooks import (
    Change,
    Reply,
    Request,
    WatchEvent,
    intercept_event,
    intercept_reply,
    intercept_request,
    map_paths,
)

ROOT = os.environ.get("ZKTRACE_CHROOT", "/tenant").rstrip("/")


def inward(path: str) -> str:
    return ROOT if path == "/" else ROOT + path


def outward(path: str) -> str:
    return path[len(ROOT) :] or "/" if path.startswith(ROOT) else path


@intercept_request("op not in (ping, auth, sasl, closeSession, whoAmI)", fail="closed")
def ask(request: Request) -> Change:
    map_paths(request.body, inward)
    return request.forward()


@intercept_reply(
    "op in (create, create2, createContainer, createTTL, sync, multi, multiRead, getEphemerals)",
    fail="closed",
)
def tell(reply: Reply) -> Change | None:
    body = reply.body
    if body is None:
        return None
    if reply.op == "getEphemerals":
        body.children = [outward(path) for path in body.children]  # type: ignore[union-attr]
    else:
        map_paths(body, outward)
    return reply.forward()


@intercept_event(fail="closed")
def fire(event: WatchEvent) -> Change:
    map_paths(event.body, outward)
    return event.forward()
