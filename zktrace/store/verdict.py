"""Who was silent when a session came near its end: client, server, or the network between.

Judged from what one place saw, so it is an inference, with its reason in words, and says
``unknown`` where the evidence has holes. The rule, first that holds, of the session's longest
silence (from a request to the next one seen, or to now), if it is at least two thirds of the
timeout:

1. ``unknown``: bytes of its connection were not captured in that time or one timeout before it.
2. ``server``: requests of that time or one timeout before were never answered, or the last one
   waited a third of the timeout or longer. A client that hears nothing gives up after two thirds.
3. ``network``: nothing was owed; the client came back through another connection, so it lived,
   but the end of the old one (FIN or RST) was never seen, though a live client closes it.
4. ``client``: nothing was owed, and it asked for nothing, not even by a ping.

What it cannot know: what was lost before it reached the place of the capture. Requests lost there
look like silence of the client; answers lost behind it look like answers. A client that hangs
(collects garbage, is stopped) and one whose network fails without any sign look the same. TCP's
retransmissions are not looked at.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from zktrace.store.sessions import NEAR_PERCENT, Session

RULE: Final = " ".join((__doc__ or "").partition("\n\n")[2].split())
_RETURNS: Final = ("connected", "moved")


class Verdict(NamedTuple):
    who: str
    """client, server, network, unknown."""
    why: str


def verdict(session: Session) -> Verdict | None:
    """Who was silent; None: nobody for too long, or the timeout is not known."""
    percent, start = session.silence_percent(), session.silence_at_ns
    if percent is None or start is None or percent < NEAR_PERCENT:
        return None
    timeout = (session.timeout_ms or 0) * 1_000_000
    end = start + session.silence_ns
    if any(start - timeout <= at <= end for at in session.losses):
        return Verdict("unknown", "bytes of its connection were not captured")
    owed = sum(start - timeout <= at < end for at in session.unanswered)
    if owed:
        return Verdict("server", f"{owed} of its last requests {_were(owed)} not answered")
    wait = session.silence_wait_ns
    if wait is not None and wait * 3 >= timeout:
        share = round(wait * 100 / timeout)
        return Verdict("server", f"its last request waited {share} % of the timeout for the answer")
    events = session.events
    ended = [e for e in events if e["event"].startswith("connection") and start <= e["ts_ns"] < end]
    # Who tries another's session is told that it expired, too.
    returns = (*_RETURNS, "expired") if session.state == "expired" else _RETURNS
    back = [e for e in events if e["event"] in returns and start < e["ts_ns"] <= end]
    if back and not ended:
        return Verdict(
            "network",
            "nothing was owed to it, and it came back through another connection, but the end of "
            "the old one was not seen",
        )
    why = "every request was answered, and it sent nothing, no ping either"
    if ended:
        after = (ended[0]["ts_ns"] - start) / 1e6
        why += f"; its connection ended {after:.0f} ms after its last request"
    return Verdict("client", why)


def _were(count: int) -> str:
    return "was" if count == 1 else "were"
