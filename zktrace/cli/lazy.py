"""Subcommands that are known by name and help before their module is imported.

:data:`OWN` lists this package's; other packages name theirs by the entry-point group
``zktrace.commands``, where a name stands for a :class:`Lazy` (best: nothing of the command is
imported for its line in the help), for a function (its parameters are the options), or for a
``typer.Typer``. Only the command that is called is loaded. Knows nothing of what commands do; a
test holds each line of help to the command's own.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any, Final

import typer
from typer.core import TyperGroup

from zktrace.cli.failure import Failure

#: Entry points that add subcommands.
GROUP: Final = "zktrace.commands"


class Lazy:
    """A subcommand: where it is (``module:attribute``), and its line in the help."""

    __slots__ = ("help", "target")

    def __init__(self, target: str, help: str) -> None:
        self.target = target
        self.help = help

    def load(self) -> Any:
        """The function or ``typer.Typer`` that it is."""
        from importlib import import_module

        module, _, attribute = self.target.partition(":")
        return getattr(import_module(module), attribute)


#: In the order of the help.
OWN: Final = {
    name: Lazy(f"zktrace.cli.{name}:{name}", help)
    for name, help in (
        ("decode", "Print one line per event."),
        ("stats", "Show counts, bytes, errors, latencies."),
        ("trace", "Follow writes through the ensemble."),
        ("ensemble", "Show leaders, learners, elections."),
        ("verify", "Check ZooKeeper's guarantees on what was captured."),
        ("live", "Print one line per event as it happens."),
        ("serve", "Serve a page, a JSON API and metrics."),
        ("top", "Show the picture in a terminal."),
        ("agent", "Publish what is seen here, for zktrace serve --nats or --kafka."),
        ("demo", "Show all of it on this machine: servers, clients, page."),
        ("schema", "Show what is known of the protocol."),
    )
}


class Commands(MutableMapping[str, Any]):
    """Click's commands by name, each made when it is asked for: this package's, then those of
    others.
    """

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}
        self._others: dict[str, Any] | None = None

    def _found(self) -> dict[str, Any]:
        """Entry points of other packages by name; ours are not replaced."""
        if self._others is None:
            from importlib.metadata import entry_points

            points = {point.name: point for point in entry_points(group=GROUP)}
            self._others = {name: points[name] for name in sorted(points.keys() - OWN.keys())}
        return self._others

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            if name not in OWN and name not in self._found():
                raise KeyError(name)
            self._made[name] = _command(name, self._target(name))
        return self._made[name]

    def __setitem__(self, name: str, command: Any) -> None:
        self._made[name] = command

    def __delitem__(self, name: str) -> None:
        raise TypeError("subcommands stay")

    def __iter__(self) -> Iterator[str]:
        yield from OWN
        yield from self._found()

    def __len__(self) -> int:
        return len(OWN) + len(self._found())

    def _target(self, name: str) -> Any:
        """What stands for a name; one that does not load says so when it is called, and does not
        break the others.
        """
        own = OWN.get(name)
        if own is not None:
            return own
        try:
            return self._found()[name].load()
        except Exception as error:
            return _broken(name, error)

    def help(self, name: str, limit: int) -> str:
        """The line of the help: of the command itself where it is known by nothing else."""
        target = self._target(name)
        if isinstance(target, Lazy):
            return target.help
        if name not in self._made:
            self._made[name] = _command(name, target)
        text: str = self._made[name].get_short_help_str(limit)
        return text


class LazyGroup(TyperGroup):
    """The group of :class:`Commands`."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands: Commands = Commands()

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        names = list(self.commands)
        limit = formatter.width - 6 - max(map(len, names))
        with formatter.section("Commands"):
            formatter.write_dl([(name, self.commands.help(name, limit)) for name in names])


def _broken(name: str, error: Exception) -> Any:
    reason = f"{name} does not load: {type(error).__name__}: {error}"

    def broken() -> None:
        raise Failure(reason)

    broken.__doc__ = f"(does not load: {error})"
    return broken


def _command(name: str, target: Any) -> Any:
    """What stands for a name, as a click command."""
    if isinstance(target, Lazy):
        # A defect in our own code shows its traceback.
        target = target.load()
    if isinstance(target, typer.Typer):
        group = typer.main.get_command(target)
        group.name = name
        return group
    if not callable(target) or hasattr(target, "make_context"):
        return target  # a click command
    single = typer.Typer(add_completion=False, rich_markup_mode=None)
    single.command(name)(target)
    return typer.main.get_command(single)
