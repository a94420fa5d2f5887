"""Nobody writes: whatever would change the tree is answered with NoAuth, and goes no further."""

from zktrace_proxy.hooks import Change, Request, intercept_request


@intercept_request("write and op != closeSession", fail="closed")
def refuse(request: Request) -> Change:
    return request.error("NoAuth")
