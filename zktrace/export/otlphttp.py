"""Spans to a collector: OTLP over HTTP, requests of JSON one after another.

The protocol is OpenTelemetry's (opentelemetry.io/docs/specs/otlp, "OTLP/HTTP"): POST of an
``ExportTraceServiceRequest`` to ``/v1/traces``; 429, 502, 503 and 504 may be tried again, after
what Retry-After says if it does; anything else but 200 may not. One request is under way at a
time, so a collector that is slow slows the sender and nothing is queued. Must not know spans.
"""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any, Final
from urllib.error import HTTPError
from urllib.request import HTTPRedirectHandler, Request, build_opener

#: Statuses that may be tried again, how often, and how long is waited first and at most.
AGAIN: Final = frozenset((429, 502, 503, 504))
TRIES: Final = 6
FIRST_WAIT_S: Final = 0.5
LONGEST_WAIT_S: Final = 30.0
#: A collector that says nothing for so long is gone.
TIMEOUT_S: Final = 30.0
#: Bytes of an answer that are looked at.
ANSWER_MAX: Final = 65_536


class ExportError(Exception):
    """A collector did not take the spans: one line, for the user."""


@dataclass(slots=True)
class Sent:
    """What a collector took."""

    requests: int = 0
    rejected: int = 0
    """Spans that it said it had rejected (partialSuccess)."""
    message: str | None = None
    """The first reason that it gave, or its warning."""


class _NoRedirect(HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def traces_url(url: str) -> str:
    """Where spans are posted to: a URL without a path is a collector's base
    (OTEL_EXPORTER_OTLP_ENDPOINT).
    """
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host}/v1/traces" if not path else f"{scheme}://{host}{slash}{path}"


def post(lines: Iterable[str], url: str, *, sleep: Callable[[float], None] = time.sleep) -> Sent:
    """Posts each line; the next one when the collector has answered. :class:`ExportError` when it
    refuses or cannot be reached, with what was sent before.
    """
    sent = Sent()
    opener = build_opener(_NoRedirect)
    for line in lines:
        answer = _post(opener, url, line, sent, sleep)
        sent.requests += 1
        partial = answer.get("partialSuccess")
        if isinstance(partial, dict):
            rejected = str(partial.get("rejectedSpans", 0))
            sent.rejected += int(rejected) if rejected.isascii() and rejected.isdigit() else 0
            sent.message = sent.message or str(partial.get("errorMessage") or "") or None
    return sent


def _post(
    opener: Any, url: str, line: str, sent: Sent, sleep: Callable[[float], None]
) -> dict[str, Any]:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    body = gzip.compress(line.encode(), compresslevel=6)
    wait = FIRST_WAIT_S
    for left in range(TRIES - 1, -1, -1):
        try:
            with opener.open(Request(url, body, headers), timeout=TIMEOUT_S) as answer:
                return _object(answer.read(ANSWER_MAX))
        except HTTPError as error:
            if error.code not in AGAIN or not left:
                raise _failure(url, f"{error.code} {error.reason}", sent) from None
            pause = _retry_after(error.headers.get("Retry-After"), wait)
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            # What may have been taken is not sent twice; what did not arrive is tried again.
            if not left or not isinstance(reason, ConnectionRefusedError):
                raise _failure(url, str(reason) or type(reason).__name__, sent) from None
            pause = wait
        sleep(pause)
        wait = min(wait * 2, LONGEST_WAIT_S)
    raise AssertionError("not reached")


def _failure(url: str, reason: str, sent: Sent) -> ExportError:
    return ExportError(f"{url}: {reason} (after {sent.requests} requests)")


def _retry_after(text: str | None, wait: float) -> float:
    """Seconds; a date is not looked at."""
    if text is not None and text.isascii() and text.isdigit() and len(text) < 6:
        return min(float(text), LONGEST_WAIT_S)
    return wait


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
