"""Who wrote what, when, and how it ended: a line of JSON for each write (ZKTRACE_AUDIT, audit.log).

An observer: it delays nobody, and is told of what happened.
"""

import json
import os
from typing import Any

from zktrace.wire.opcodes import BY_NAME

LOG = os.environ.get("ZKTRACE_AUDIT", "audit.log")
KEYS = ("ts_ns", "client", "session", "op", "path", "error_name")


def on_request(event: dict[str, Any]) -> None:
    if event["op"] in BY_NAME and BY_NAME[event["op"]].effect == "w":
        with open(LOG, "a", encoding="utf-8") as log:
            log.write(json.dumps({key: event.get(key) for key in KEYS}) + "\n")
