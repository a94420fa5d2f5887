"""Calls the hooks of scripts: interceptors when the plane asks, observers as the tap is decoded.

Threads: one pulls questions and hands them to an event loop (a second thread), in which async
interceptors run; plain ones run in a few workers, so that one that hangs holds up no other. One
more decodes the tap for observers, which is lossy: observers that are too slow miss events, and
delay nobody. A last one looks whether a script has changed. All are daemons: a hook that never
returns does not keep the proxy from ending.
"""

from __future__ import annotations

import asyncio
import inspect
import queue
import threading
import time
from collections.abc import Callable, Sequence
from json import loads
from pathlib import Path
from typing import Any, Final

from zktrace_proxy.hooks.frames import FRAMES, Change
from zktrace_proxy.hooks.script import Interceptor, read
from zktrace_proxy.plane import Plane, Question

#: Numbers of hooks' rules begin behind those of faults.
FIRST_RULE: Final = 1 << 32
_WORKERS: Final = 8
_WAIT_S: Final = 0.2
_LOOK_S: Final = 0.3
#: The same complaint is made so often.
_AGAIN_S: Final = 5.0

Say = Callable[[str], None]


class Hooks:
    """The hooks of some scripts on one plane."""

    def __init__(self, paths: Sequence[str], say: Say) -> None:
        """Reads the scripts; whatever they raise is raised. `say`: where complaints go."""
        self._say = say
        self._scripts = [read(Path(path)) for path in paths]
        self._stamps = [_stamp(script.path) for script in self._scripts]
        self._rules: dict[int, Interceptor] = {}
        self._next = FIRST_RULE
        self._told: dict[str, float] = {}
        self._plane: Plane
        self._tap = 0
        self._work: queue.SimpleQueue[tuple[Interceptor, Question]] = queue.SimpleQueue()
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended = threading.Event()

    def start(self, plane: Plane, tap: int) -> None:
        """Begins to call them. `tap`: the number of the plane's tap that observers read."""
        self._plane = plane
        self._tap = tap
        self._install([one for script in self._scripts for one in script.interceptors])
        jobs: list[Callable[[], None]] = [self._pull, self._run, self._look, self._observe]
        jobs += [self._worker] * _WORKERS
        for job in jobs:
            threading.Thread(target=job, name="zktrace-hooks", daemon=True).start()

    def stop(self) -> None:
        """No frame is handed over any more."""
        self._ended.set()
        for number in list(self._rules):
            self._plane.remove_rule(number)
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _install(self, interceptors: Sequence[Interceptor]) -> None:
        """Puts these in the place of those there were."""
        old = list(self._rules)
        for one in interceptors:
            self._rules[self._next] = one
            self._plane.add_rule(one.rule().form(self._next))
            self._next += 1
        for number in old:
            self._plane.remove_rule(number)
            del self._rules[number]

    def _complain(self, words: str) -> None:
        now = time.monotonic()
        if now - self._told.get(words, -_AGAIN_S) >= _AGAIN_S:
            if len(self._told) > 1000:
                self._told.clear()
            self._told[words] = now
            self._say(words)

    # -- interceptors

    def _pull(self) -> None:
        while not self._ended.is_set():
            question = self._plane.question(_WAIT_S)
            if question is None:
                continue
            one = self._rules.get(question.rule)
            if one is None:
                self._plane.decide(question, "pass")
            elif inspect.iscoroutinefunction(one.function):
                self._loop.call_soon_threadsafe(self._begin, one, question)
            else:
                self._work.put((one, question))

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _begin(self, one: Interceptor, question: Question) -> None:
        task = self._loop.create_task(self._intercept(one, question))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _intercept(self, one: Interceptor, question: Question) -> None:
        try:
            made = FRAMES[question.kind](question, self._plane)
            answer = await asyncio.wait_for(one.function(made), one.limit_s)
        except TimeoutError:
            # The plane has decided by now.
            self._complain(f"hook {one.name}: no answer within {one.limit_s} s")
        except Exception as error:
            self._failed(one, question, f"{type(error).__name__}: {error}")
        else:
            self._decide(one, question, answer)

    def _worker(self) -> None:
        while True:
            one, question = self._work.get()
            begun = time.monotonic()
            try:
                answer = one.function(FRAMES[question.kind](question, self._plane))
            except Exception as error:
                self._failed(one, question, f"{type(error).__name__}: {error}")
            else:
                self._decide(one, question, answer)
            if time.monotonic() - begun > one.limit_s:
                self._complain(f"hook {one.name}: no answer within {one.limit_s} s")

    def _decide(self, one: Interceptor, question: Question, answer: Any) -> None:
        if answer is None:
            self._plane.decide(question, "pass")
        elif not isinstance(answer, Change):
            self._failed(one, question, f"returned {type(answer).__name__}, which is no verdict")
        elif answer.what == "answer" and question.kind != "request":
            self._failed(one, question, "only requests can be answered")
        else:
            try:
                self._plane.decide(question, answer.what, answer.frame)
            except ValueError as error:
                self._failed(one, question, str(error))

    def _failed(self, one: Interceptor, question: Question, why: str) -> None:
        end = "the frame passes" if one.open else "the connection is reset"
        self._complain(f"hook {one.name}: {why}; {end}")
        self._plane.decide(question, "pass" if one.open else "close")

    # -- scripts that change

    def _look(self) -> None:
        while not self._ended.wait(_LOOK_S):
            stamps = [_stamp(script.path) for script in self._scripts]
            if stamps == self._stamps:
                continue
            for index, (old, new) in enumerate(zip(self._stamps, stamps, strict=True)):
                if old == new or new is None:
                    continue
                path = self._scripts[index].path
                try:
                    self._scripts[index] = read(path)
                except Exception as error:
                    words = f"{type(error).__name__}: {error}"
                    self._say(f"{path}: {words}; the hooks stay as they were")
                else:
                    self._say(f"{path}: read again")
            self._stamps = stamps
            self._install([one for script in self._scripts for one in script.interceptors])

    # -- observers

    def _observe(self) -> None:
        from zktrace.analysis.trace import to_batch
        from zktrace.engine.base import EngineOptions, create
        from zktrace.export.jsonl import lines

        engine = create(EngineOptions())
        source = engine.add_source("proxy", None)
        while not self._plane.ended(self._tap) and not self._ended.is_set():
            block = self._plane.next(_WAIT_S, self._tap)
            if block is None:
                engine.tick(time.time_ns())
            else:
                engine.feed(source, block)
            rows = engine.take()
            batches = {kind: to_batch(kind, some) for kind, some in rows.items() if len(some)}
            if batches:
                for line in lines(batches):
                    self._tell(loads(line))

    def _tell(self, event: dict[str, Any]) -> None:
        for name in told_to(event):
            for script in self._scripts:
                function = script.observers.get(name)
                if function is None:
                    continue
                try:
                    function(event)
                except Exception as error:
                    self._complain(f"hook {name}: {type(error).__name__}: {error}")


def told_to(event: dict[str, Any]) -> tuple[str, ...]:
    """The observers that an event is for."""
    kind = event["kind"]
    if kind == "connection":
        if event["event"] in ("opened", "joined"):
            return ("on_connect",)
        return ("on_close",) if event["event"] in ("closed", "reset") else ()
    if kind == "watch_event":
        return ("on_watch_event",)
    if kind != "exchange":
        return ()
    if event["op"] == "connect":
        return ("on_session",)
    done = event["state"] == "complete"
    return ("on_request", "on_reply") if done else ("on_request",)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_mtime_ns, state.st_size
