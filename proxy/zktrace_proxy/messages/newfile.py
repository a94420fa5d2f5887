"""A capture that is written: never over another file, readable by its owner alone, gone where it
was not finished.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from zktrace.cli.failure import Failure


@contextmanager
def new_file(path: str) -> Iterator[BinaryIO]:
    """:class:`Failure` where it is there already, or cannot be."""
    try:
        made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise Failure(f"{path} is there already") from None
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}") from None
    try:
        with os.fdopen(made, "wb") as file:
            yield file
    except BaseException:
        os.unlink(path)
        raise
