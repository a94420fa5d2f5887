"""Rights that are needed to open a capture, and to be given up after it.

A capture decodes hostile bytes, so that nothing of root is to be left when the first packet comes:
who started it by sudo gets the process back, another user can be named, and otherwise the
capabilities go (capabilities(7)), also those that a program file gave. Linux only; elsewhere the
user is changed and nothing more.
"""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass
from typing import Final

from zktrace.capture.errors import CaptureError

_CAPABILITY_VERSION_3: Final = 0x20080522
_PR_SET_NO_NEW_PRIVS: Final = 38
_SUDO_UID: Final = "SUDO_UID"


@dataclass(frozen=True, slots=True)
class User:
    """Whom the process is to belong to."""

    name: str
    uid: int
    gid: int


def chosen(name: str | None) -> User | None:
    """The user to become: the one named, or the one behind sudo; None: stay. CaptureError when that
    cannot be.
    """
    import pwd

    is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    if name is None:
        uid = os.environ.get(_SUDO_UID, "") if is_root else ""
        if not uid.isdecimal() or int(uid) == 0:
            return None
        try:
            entry = pwd.getpwuid(int(uid))
        except KeyError:
            return None
    else:
        if not is_root:
            raise CaptureError("--user", "only root can change the user")
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            raise CaptureError("--user", f"there is no user {name!r}") from None
        if entry.pw_uid == 0:
            return None  # whoever stays root gives capabilities up
    return User(entry.pw_name, entry.pw_uid, entry.pw_gid)


def become(user: User) -> None:
    """For good: all threads, all three ids, the user's groups. Capabilities go with it."""
    os.initgroups(user.name, user.gid)
    os.setgid(user.gid)
    os.setuid(user.uid)
    _no_new_privileges()
    if user.uid != 0 and (os.geteuid() == 0 or os.getresuid() != (user.uid,) * 3):
        raise CaptureError("--user", f"did not become {user.name}")


def drop_capabilities() -> None:
    """Of this thread and those that it starts from now on; so this comes first."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    none = (ctypes.c_uint32 * 6)()
    if libc.capset(header, none) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"capset: {os.strerror(number)}")
    _no_new_privileges()


def _no_new_privileges() -> None:
    """Nothing that is started from here on can get rights by its file."""
    if sys.platform == "linux":
        zero = ctypes.c_ulong(0)
        ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero)
