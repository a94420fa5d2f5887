"""An ensemble's configurations on disk, in Java's files (QuorumPeerConfig.writeDynamicConfig,
editStaticConfig; QuorumPeer.setQuorumVerifier): beside zoo.cfg

* `zoo.cfg.dynamic.VERSION`, the committed one, the version in hex in its name alone; zoo.cfg says
  which by `dynamicConfigFile`. Older ones are left.
* `zoo.cfg.dynamic.next`, what was proposed and is not known to be committed, with its version.

Where zoo.cfg itself has the servers' lines, they are taken out of it when the first configuration
is committed; the file as it was is kept as zoo.cfg.bak. Otherwise than Java this keeps what people
wrote into zoo.cfg, comments and order.

Implements `core.quorum.membership.Keeper`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from zktrace_server.core.quorum.ensemble import Ensemble, MembershipError, parse_text
from zktrace_server.storage.directory import StorageError, replace_file, sync_directory

#: The key of zoo.cfg that says where the committed configuration is.
POINTER: Final = "dynamicConfigFile"
_DYNAMIC: Final = ".dynamic."
_NEXT: Final = ".dynamic.next"
_BACKUP: Final = ".bak"
_MEMBERSHIP: Final = ("server.", "group", "weight", POINTER, "peerType")
_CLIENT: Final = frozenset(("clientPort", "clientPortAddress"))
_SECURE: Final = frozenset(("secureClientPort", "secureClientPortAddress"))
_END_OF_KEY: Final = re.compile(r"[=:\s]")


class ConfigFiles:
    """Those beside `path`, the zoo.cfg of server `sid`."""

    def __init__(self, path: Path, sid: int) -> None:
        self._path = path.absolute()
        self._sid = sid

    def save_seen(self, seen: Ensemble) -> None:
        replace_file(self._beside(_NEXT), _lines(seen.text()))

    def save_committed(self, committed: Ensemble, *, settled: bool) -> None:
        dynamic = self._beside(f"{_DYNAMIC}{committed.version:x}")
        replace_file(dynamic, _lines(committed.text(), version=False))
        try:
            before = self._path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise StorageError(f"cannot read {self._path}: {error}") from None
        if not any(key.startswith(POINTER) for key, _ in _entries(before)):
            replace_file(self._beside(_BACKUP), before)
        own = committed.members.get(self._sid)
        gone: frozenset[str] = frozenset()
        if own is not None and own.client:
            gone |= _CLIENT
        if own is not None and own.secure:
            gone |= _SECURE
        kept = [
            text
            for key, text in _entries(before)
            if not key.startswith(_MEMBERSHIP) and key not in gone
        ]
        pointer = str(dynamic).replace("\\", "/")
        replace_file(self._path, "".join(kept) + f"{POINTER}={pointer}\n")
        if settled:
            try:
                self._beside(_NEXT).unlink(missing_ok=True)
                sync_directory(self._path.parent)
            except OSError as error:
                raise StorageError(f"{self._beside(_NEXT)}: {error.strerror}") from None

    def _beside(self, ending: str) -> Path:
        return self._path.with_name(self._path.name + ending)


def read_dynamic(path: Path) -> Ensemble:
    """The configuration that `dynamicConfigFile` names. Its version is in the name; without one it
    is 0. MembershipError with what is wrong.
    """
    ensemble = _read(path)
    if ensemble.version:
        raise MembershipError(f"{path}: a version belongs into its name, not into the file")
    number = path.name.rpartition(".")[2]
    known = re.fullmatch(r"[0-9a-fA-F]{1,16}", number) and "." in path.name
    return ensemble.at(int(number, 16) if known else 0)


def read_next(config: Path) -> Ensemble | None:
    """What the server with this zoo.cfg has seen proposed; None if there is nothing."""
    path = config.with_name(config.name + _NEXT)
    return _read(path) if path.exists() else None


def _read(path: Path) -> Ensemble:
    try:
        return parse_text(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise MembershipError(f"cannot read {path}: {reason}") from None
    except MembershipError as error:
        raise MembershipError(f"{path}: {error}") from None


def _lines(text: bytes, *, version: bool = True) -> str:
    """In Java's order, which is that of the text."""
    lines = text.decode().split("\n")
    return "\n".join(sorted(line for line in lines if version or not line.startswith("version=")))


def _entries(text: str) -> Iterator[tuple[str, str]]:
    """The lines of a properties file, each with those that it goes on in, and their key; empty for
    comments and empty lines. Together they are the file, with a line's end behind the last.
    """
    whole, key = "", None
    for line in text.splitlines():
        stripped = line.strip()
        if key is None:
            comment = not stripped or stripped[0] in "#!"
            key = "" if comment else _END_OF_KEY.split(stripped, maxsplit=1)[0]
        whole += line + "\n"
        if key and stripped.endswith("\\"):
            continue
        yield key, whole
        whole, key = "", None
    if key is not None:
        yield key, whole
