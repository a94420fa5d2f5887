"""Each client address may ask so much a second (ZKTRACE_RATE, 100 if it is not set).

What is more is answered with ThrottledOp, as a server that protects itself does. Pings pass.
"""

import os
import time

from zktrace_proxy.hooks import Change, Request, intercept_request

RATE = float(os.environ.get("ZKTRACE_RATE", "100"))
#: By address: how much it may ask now, and when that was so.
allowed: dict[str, tuple[float, float]] = {}


@intercept_request("op not in (ping, closeSession)")
def limit(request: Request) -> Change | None:
    address = request.client.rpartition(":")[0]
    now = time.monotonic()
    left, since = allowed.get(address, (RATE, now))
    left = min(left + (now - since) * RATE, RATE)
    if left < 1:
        allowed[address] = left, now
        return request.error("ThrottledOp")
    allowed[address] = left - 1, now
    return None
