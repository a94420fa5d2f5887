"""The error that ends a subcommand: one line on standard error, exit status 2."""

from __future__ import annotations


def marked(option: str, message: str, text: str, position: int) -> str:
    """What is wrong with an expression, the place marked within the line, since an error is one
    line.
    """
    flat = " ".join(text.split("\n"))
    return f"{option}: {message}, at >>> in: {flat[:position]}>>>{flat[position:]}"


class Failure(Exception):
    """The call or the input is unusable; the text says what and why, for the user."""
