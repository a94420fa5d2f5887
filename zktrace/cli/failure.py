"""The error that ends a subcommand: one line on standard error, exit status 2."""

from __future__ import annotations


class Failure(Exception):
    """The call or the input is unusable; the text says what and why, for the user."""
