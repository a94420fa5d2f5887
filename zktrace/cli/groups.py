"""Options that belong together, as one parameter of a subcommand.

A :class:`Group` is a class whose annotations are options as Typer reads them, with their defaults.
A subcommand under :func:`grouped` takes one by a parameter of that class; whoever calls the command
(Typer) sees its options one by one in that place. Knows nothing of what options there are.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import Parameter, get_annotations, signature
from typing import Any, TypeVar

R = TypeVar("R")


class Group:
    """Values of options, as attributes."""

    def __init__(self, **given: Any) -> None:
        self.__dict__.update(given)

    @classmethod
    def options(cls) -> dict[str, Parameter]:
        """In the order in which they are written, those of a class it derives from first."""
        return {
            name: Parameter(
                name, Parameter.KEYWORD_ONLY, default=getattr(cls, name), annotation=annotation
            )
            for one in reversed(cls.__mro__)
            if issubclass(one, Group) and one is not Group
            for name, annotation in get_annotations(one, eval_str=True).items()
        }


def grouped(command: Callable[..., R]) -> Callable[..., R]:
    """The command with the options of its groups as parameters of their own. ValueError: two
    have a name in common.
    """
    seen: dict[str, Parameter] = {}
    groups: dict[str, tuple[type[Group], frozenset[str]]] = {}
    for name, parameter in signature(command, eval_str=True).parameters.items():
        kind = parameter.annotation
        found = {name: parameter.replace(kind=Parameter.KEYWORD_ONLY)}
        if isinstance(kind, type) and issubclass(kind, Group):
            found = kind.options()
            groups[name] = kind, frozenset(found)
        if twice := seen.keys() & found.keys():
            raise ValueError(f"{command.__name__}: {', '.join(sorted(twice))} twice")
        seen.update(found)

    @wraps(command)
    def run(**given: Any) -> R:
        made = {
            name: kind(**{option: given.pop(option) for option in options & given.keys()})
            for name, (kind, options) in groups.items()
        }
        return command(**made, **given)

    whole: Any = run
    whole.__signature__ = signature(run).replace(parameters=list(seen.values()))
    whole.__annotations__ = {}
    return run
