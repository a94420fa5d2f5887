"""What a workload is: a tree to begin with, and what one client of it does, step by step."""

from __future__ import annotations

from random import Random
from typing import ClassVar, Protocol

from zktrace_server.load.client import Changed, Session


class Stopped(Exception):
    """The run is over."""


class Begin(Exception):
    """This client is to begin anew, with the session that it has."""


class Run(Protocol):
    """What an actor may ask of the run."""

    async def wait(self, session: Session, changed: Changed) -> None:
        """For a watch event, across connections of the session."""

    async def pause(self, seconds: float) -> None:
        """Some time; less where the run ends."""


class Actor:
    """One client of a workload. `number` counts the `clients` of it from 0; `root` is the
    workload's node. All chance is that of `random`.

    `ephemeral`: it holds ephemeral nodes that others wait for, so that after a lost connection it
    ends its session and begins anew.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    ephemeral: ClassVar[bool] = False

    def __init__(self, root: str, number: int, clients: int, random: Random, run: Run) -> None:
        self.root = root
        self.number = number
        self.clients = clients
        self.random = random
        self.run = run

    @classmethod
    async def prepare(cls, session: Session, root: str, random: Random) -> None:
        """Makes the tree below `root`, which is there; what is there already is left."""

    async def begin(self, session: Session) -> None:
        """With a new session."""

    async def step(self, session: Session) -> None:
        """The next thing that it does; again and again."""
        raise NotImplementedError


def words(random: Random, length: int) -> bytes:
    """Data of this length that looks like somebody's: text, compressible as such."""
    return bytes(random.choices(b"abcdefghijklmnopqrstuvwxyz0123456789 ", k=length))
