"""Paths of znodes: what is allowed in one, and where it is cut (PathUtils, DataTree)."""

from __future__ import annotations

import re
from typing import Final

from zktrace_server.core.errors import BAD_ARGUMENTS, KeeperError

ROOT: Final = "/"
ZOOKEEPER: Final = "/zookeeper"
CONFIG: Final = "/zookeeper/config"
QUOTA: Final = "/zookeeper/quota"
# Neither created nor deleted by clients. The root has two names: DataTree calls it "" where it is
# a parent, clients call it "/".
SPECIAL: Final = frozenset(("", ROOT, ZOOKEEPER, CONFIG, QUOTA))

# PathUtils.validatePath works on UTF-16: whatever is beyond the Basic Multilingual Plane is a pair
# of surrogates there, and refused as such. U+FFFD, which stands for bytes that are no UTF-8, is
# refused too: a path with it is never in the tree.
_REFUSED: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\ud800-\uf8ff\ufff0-\uffff\U00010000-\U0010ffff]|//|/\\.\\.?(?:/|\\Z)"
)


def validate(path: str | None) -> str:
    """The path, if a znode may have it; else BadArguments."""
    if (
        not path
        or path[0] != "/"
        or (len(path) > 1 and (path[-1] == "/" or _REFUSED.search(path) is not None))
    ):
        raise KeeperError(BAD_ARGUMENTS)
    return path


def parent_for_create(path: str) -> str:
    """The part before the last slash ("" for the root's children), little else being checked yet
    (PrepRequestProcessor.validatePathForCreate).
    """
    slash = path.rfind("/")
    if slash < 0 or "\0" in path:
        raise KeeperError(BAD_ARGUMENTS)
    return path[:slash]


def parent_for_delete(path: str) -> str:
    """As above, of a node that may be deleted (getParentPathAndValidate)."""
    if path in SPECIAL and path:
        raise KeeperError(BAD_ARGUMENTS)
    return parent_for_create(path)


def split(path: str) -> tuple[str, str]:
    """Parent ("" for the root) and name of a path that is in the tree or about to be."""
    slash = path.rfind("/")
    return path[:slash], path[slash + 1 :]
