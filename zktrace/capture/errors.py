"""The one error of the capture layer."""

from __future__ import annotations


class CaptureError(Exception):
    """A source that cannot be read as a capture at all; damage further on is only counted."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason
