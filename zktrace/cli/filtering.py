"""``--filter``: a wrong expression is an unusable call, told in one line with the place marked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zktrace.cli.failure import Failure, marked

if TYPE_CHECKING:
    from zktrace.analysis.filter import Filter


def compiled(expression: str | None) -> Filter | None:
    """The filter of an expression; None when there is none."""
    if expression is None:
        return None
    from zktrace.analysis.filter import FilterError, compile_filter

    try:
        return compile_filter(expression)
    except FilterError as error:
        text = marked("--filter", error.message, error.expression, error.position)
        raise Failure(text) from None
