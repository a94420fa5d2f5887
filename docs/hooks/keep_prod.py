"""No node below /prod is deleted, neither by itself nor within a multi."""

from zktrace.wire.multi import MultiRequest
from zktrace.wire.opcodes import BY_NAME
from zktrace_proxy.hooks import Change, Request, intercept_request

DELETES = {BY_NAME[name].number for name in ("delete", "deleteContainer")}


@intercept_request('op in (delete, deleteContainer) and path =~ "/prod/**"', fail="closed")
def refuse(request: Request) -> Change:
    return request.error("NoAuth")


@intercept_request("op == multi", fail="closed")
def refuse_in_multi(request: Request) -> Change | None:
    body = request.body
    assert isinstance(body, MultiRequest)
    for op in body.ops:
        if op.type in DELETES and op.body.path.startswith("/prod/"):  # type: ignore[attr-defined]
            return request.error("NoAuth")
    return None
