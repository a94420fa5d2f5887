"""The shadow of a running proxy: two threads beside the plane, which waits for neither.

One decodes what the plane's observer tap has (and the plane leaves out what is not taken), the
other sends. `status` is what the API shows and the last lines say.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from zktrace.export.summary import plural
from zktrace_proxy.compare.outcome import Divergence
from zktrace_proxy.plane import Plane
from zktrace_proxy.replay.order import Mode
from zktrace_proxy.replay.prelude import Prelude, PreludeError
from zktrace_proxy.replay.run import Options, ReplayError
from zktrace_proxy.replay.shadow.feed import ShadowFeed
from zktrace_proxy.replay.shadow.run import ShadowReplayer

#: For a watch event of the shadow to come.
WAIT_S: Final = 3.0
#: Differences that are told one by one, per second.
_TOLD_PER_S: Final = 20
_LINES: Final = 10
#: Between two looks for a second ensemble that is not there.
_AGAIN_S: Final = 1.0
CONNECT_S: Final = 10.0

Tell = Callable[[list[dict[str, Any]]], None]


class Shadow:
    """`tell` gets differences as events (objects of JSON with ``kind`` and ``ts_ns``)."""

    def __init__(
        self, plane: Plane, tap: int, address: tuple[str, int], *, reply_timeout_s: float = 30.0
    ) -> None:
        self.address = address
        self.tell: Tell = lambda notes: None
        self._told: tuple[int, int] = (0, 0)
        self._loop = asyncio.new_event_loop()
        self._feed = ShadowFeed(plane, tap, self._left_out)
        options = Options(
            address,
            order=Mode.conflict,
            speed=None,
            wait_s=WAIT_S,
            reply_timeout_s=reply_timeout_s,
            start_state=False,
        )
        self._replayer = ShadowReplayer(
            self._feed.planner.plan, options, self._feed, self._different
        )
        self._thread = threading.Thread(target=self._run, name="zktrace-shadow", daemon=True)
        self.failure: str | None = None
        self.waits_for: str | None = None
        self.state = "following"

    def start(self) -> None:
        self._feed.start()
        self._thread.start()

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._follow())
        except Exception as error:  # a defect: the proxy goes on without a shadow, and says so
            self.failure = f"{type(error).__name__}: {error}"
            self._feed.closed = "the shadow has failed"
            self._loop.run_until_complete(self._discard())
        self.state = "failed" if self.failure or self._feed.failure else "ended"
        # transports that were closed go a turn of the loop later
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _follow(self) -> None:
        """As soon as the second ensemble is there."""
        while True:
            try:
                await self._replayer.run()
                return
            except ReplayError as error:
                self.state, self.waits_for = "waiting", str(error)
                self._feed.closed = "the second ensemble was not there when it began"
            _, ended = self._feed.take()
            if ended:
                return
            await asyncio.sleep(_AGAIN_S)
            if await self._is_there():
                self._feed.closed = self.waits_for = None
                self.state = "following"

    async def _is_there(self) -> bool:
        prelude = Prelude(self.address, "", CONNECT_S)
        try:
            await prelude.make(())
        except PreludeError:
            return False
        return True

    async def _discard(self) -> None:
        while not self._feed.take()[1]:
            await asyncio.sleep(_AGAIN_S)

    def join(self, timeout_s: float) -> bool:
        """Waits, behind the plane's end, until all was compared; whether that came."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # ---- what is told

    def _left_out(self, conn: int, why: str) -> None:
        try:
            self._loop.call_soon_threadsafe(self._replayer.leave_out, conn, why)
        except RuntimeError:
            pass  # the loop has ended, and with it what could be left out

    def _different(self, found: Divergence) -> None:
        second, told = int(time.monotonic()), 0
        if self._told[0] == second:
            told = self._told[1]
        self._told = (second, told + 1)
        if told >= _TOLD_PER_S:
            return
        session = int(found.session, 16) if found.session.startswith("0x") else None
        self.tell(
            [
                {
                    "kind": "difference",
                    "ts_ns": found.sent_ns or time.time_ns(),
                    "session": session,
                    "op": found.op,
                    "path": found.path,
                    "what": found.finding.what,
                    "first": found.finding.recorded,
                    "second": found.finding.live,
                }
            ]
        )

    def status(self) -> dict[str, Any]:
        """What was compared so far. Any thread may ask."""
        if self._thread.is_alive():
            asked = asyncio.run_coroutine_threadsafe(self._made(), self._loop)
            try:
                return asked.result(10)
            except (TimeoutError, RuntimeError):
                pass  # it ends at this moment: nothing changes any more
        return self._status()

    async def _made(self) -> dict[str, Any]:
        return self._status()

    def _status(self) -> dict[str, Any]:
        replayer, feed = self._replayer, self._feed
        report = replayer.report
        outcome = replayer.outcome.so_far()
        outcome.events["equal"] = replayer.equal_events()
        host, port = self.address
        return {
            "address": f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
            "state": self.state,
            "error": self.failure or feed.failure or self.waits_for,
            "lag_s": round(feed.lag_s, 3),
            "requests": report.sent,
            "complete_until": replayer.complete_until,
            "sessions_left_out": sum(feed.out.values()),
            "left_out": dict(feed.out),
            "connections_lost": dict(report.lost_connections),
            "connects_failed": dict(report.failed_connects),
            "requests_not_sent": sum(replayer.not_sent.values()),
            "not_sent": dict(replayer.not_sent),
            "watch_events_missing": report.stalled,
            "nodes_made": report.start.made,
            "nodes_there": report.start.there,
            "unseen_writes": replayer.plan.unseen_writes,
            "not_mirrored": dict(replayer.plan.skipped),
            "notes": list(report.notes),
            "held": {**feed.held(), **replayer.held()},
            "forgotten": {**feed.forgotten(), **replayer.forgotten()},
            "comparison": outcome.as_dict(),
        }

    def lines(self) -> list[str]:
        """What is said at the end."""
        told = self.status()
        found = told["comparison"]
        counts, events = found["exchanges"], found["watch_events"]
        lines = [
            f"shadow {told['address']}: {told['requests']:,} requests: "
            f"{counts['equal']:,} equal, {counts['mapped']:,} equal after mapping, "
            f"{counts['allowed']:,} allowed to differ, {counts['different']:,} different; "
            f"watch events: {events['equal']:,} equal, {events['allowed']:,} allowed to differ, "
            f"{events['different']:,} different"
        ]
        if told["error"]:
            lines.append(f"shadow FAILED: {told['error']}")
        for why, count in told["left_out"].items():
            lines.append(f"shadow: {plural(count, 'session')} left out: {why}")
        for name, words in (("connections_lost", "lost"), ("connects_failed", "not made")):
            for why, count in told[name].items():
                lines.append(f"shadow: {plural(count, 'connection')} {words}: {why}")
        for why, count in told["not_sent"].items():
            lines.append(
                f"shadow: {plural(count, 'request')} not sent to it, {why}: what differs behind "
                "them may be for want of them"
            )
        if told["unseen_writes"]:
            lines.append(
                f"shadow: {plural(told['unseen_writes'], 'write')} of clients that are not behind "
                "the proxy: results that they changed differ"
            )
        for reason, count in told["not_mirrored"].items():
            lines.append(f"shadow: not sent to it: {plural(count, 'request')} {reason}")
        gone = [
            f"{count:,} {what.replace('_', ' ')}"
            for what, count in told["forgotten"].items()
            if count
        ]
        if gone:
            lines.append(f"shadow: the oldest were forgotten, for room: {', '.join(gone)}")
        for one in found["divergences"][:_LINES]:
            again = " (may be a consequence)" if one["consequence"] else ""
            lines.append(
                f"shadow DIFFERS: {one['op']} {one['path'] or ''} of session {one['session']}: "
                f"{one['what']}: {one['recorded']}, the shadow: {one['live']}{again}"
            )
        lines += [f"shadow: {note}" for note in told["notes"]]
        return lines
