"""``--filter``: a wrong expression is an unusable call, told in one line with the place marked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zktrace.cli.failure import Failure

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
        # The place is marked within the line, since an error is one line.
        text, at = " ".join(error.expression.split("\n")), error.position
        shown = f"{text[:at]}>>>{text[at:]}"
        raise Failure(f"--filter: {error.message}, at >>> in: {shown}") from None
