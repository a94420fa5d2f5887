"""Who may do what: ids of a connection, ACLs and the schemes that match them
(ReferenceCountedACLCache, PrepRequestProcessor.fixupACL, ZooKeeperServer.checkACL, the
AuthenticationProviders for world, auth, digest, ip, sasl, x509 and super).

Nodes hold a number that stands for their ACL; equal ACLs have one number.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Collection, Iterable, Sequence
from hashlib import sha1
from typing import Final

from zktrace.wire.records import ACL, ClientInfo, Id
from zktrace_server.core.address import matches, valid
from zktrace_server.core.errors import INVALID_ACL, MARSHALLING_ERROR, NO_AUTH, KeeperError
from zktrace_server.core.sasl import valid_principal
from zktrace_server.core.x500 import valid_name

READ: Final = 1
WRITE: Final = 2
CREATE: Final = 4
DELETE: Final = 8
ADMIN: Final = 16
ALL: Final = 31

#: Number of the ACL that everyone may do everything with.
OPEN: Final = -1
OPEN_ACL: Final = (ACL(ALL, Id("world", "anyone")),)
READ_ONLY_ACL: Final = (ACL(READ, Id("world", "anyone")),)

SUPER: Final = Id("super", "")
#: Schemes of a server that is not told of others (ProviderRegistry); sasl and x509 may come.
SCHEMES: Final = frozenset(("digest", "ip"))


class AclCache:
    """ACLs by number, with how many nodes use each. `world` is what world:anyone may do with it:
    most requests need no more than that.
    """

    def __init__(self) -> None:
        self.by_number: dict[int, tuple[ACL, ...]] = {OPEN: OPEN_ACL}
        self.world: dict[int, int] = {OPEN: ALL}
        self._numbers: dict[bytes, int] = {}
        self._uses: dict[int, int] = {}
        self._last = 0

    def use(self, acl: Iterable[ACL] | None, key: bytes | None = None) -> int:
        """The number of an ACL, for one more node. `key`: its entries, encoded, where they are at
        hand.
        """
        if acl is None:
            return OPEN
        wanted = tuple(acl)
        if key is None:
            key = b"".join(a.encode() for a in wanted)
        number = self._numbers.get(key)
        if number is None:
            self._last = number = self._last + 1
            self.put(number, wanted)
        self._uses[number] += 1
        return number

    def put(self, number: int, acl: tuple[ACL, ...]) -> None:
        """An ACL whose number is known, as from a snapshot; no node uses it yet."""
        self._last = max(self._last, number)
        self._numbers[b"".join(a.encode() for a in acl)] = number
        self.by_number[number] = acl
        self._uses[number] = 0
        self.world[number] = sum_of_rights(acl)

    def use_number(self, number: int) -> None:
        """One more node has this number; unknown ones are left for the txns that follow to mend."""
        if number in self._uses:
            self._uses[number] += 1

    def drop(self, number: int) -> None:
        """One node less has this number."""
        uses = self._uses.get(number)
        if uses is None:
            return
        if uses > 1:
            self._uses[number] = uses - 1
            return
        del self._uses[number], self.world[number]
        acl = self.by_number.pop(number)
        del self._numbers[b"".join(a.encode() for a in acl)]

    def purge(self) -> None:
        """Forgets what no node uses."""
        for number in [n for n, uses in self._uses.items() if uses <= 0]:
            self.drop(number)

    def acl(self, number: int) -> tuple[ACL, ...]:
        """The ACL of a number. KeyError where a snapshot did not hold it."""
        return self.by_number[number]

    def stored(self) -> list[tuple[int, tuple[ACL, ...]]]:
        """What snapshots hold."""
        return [(number, acl) for number, acl in self.by_number.items() if number != OPEN]


def sum_of_rights(acl: Iterable[ACL]) -> int:
    """What world:anyone may do."""
    rights = 0
    for entry in acl:
        if entry.id.scheme == "world" and entry.id.id == "anyone":
            rights |= entry.perms
    return rights


def allowed(acl: Sequence[ACL], perm: int, ids: Iterable[Id]) -> bool:
    """Whether one of these ids has one of the rights in `perm`."""
    if not acl or any(who.scheme == SUPER.scheme for who in ids):
        return True
    for entry in acl:
        if not entry.perms & perm:
            continue
        scheme, expression = entry.id.scheme, entry.id.id
        if scheme == "world" and expression == "anyone":
            return True
        for who in ids:
            if who.scheme != scheme or who.id is None or expression is None:
                continue
            if scheme == "ip":
                if matches(who.id, expression):
                    return True
            elif who.id == expression or (scheme == "sasl" and who.id == SUPER.scheme):
                return True
    return False


def check(acl: Sequence[ACL], perm: int, ids: Iterable[Id]) -> None:
    """NoAuth where `allowed` says no."""
    if not allowed(acl, perm, ids):
        raise KeeperError(NO_AUTH)


def fixup(
    acl: Sequence[ACL] | None, ids: Iterable[Id], schemes: Collection[str] = SCHEMES
) -> list[ACL]:
    """The ACL that a client asks for as it is stored: without repetitions, "auth" replaced by the
    client's own ids. InvalidACL where there is none, or malformed id in it, or a scheme that is
    none of `schemes`.
    """
    unique: list[ACL] = []
    for entry in acl or ():
        if entry not in unique:
            unique.append(entry)
    if not unique:
        raise KeeperError(INVALID_ACL)
    fixed: list[ACL] = []
    for entry in unique:
        scheme, expression = entry.id.scheme, entry.id.id
        if scheme is None:
            raise KeeperError(INVALID_ACL)
        if scheme == "auth":
            # An address authenticates nobody.
            own = [
                ACL(entry.perms, who) for who in ids if who.scheme in schemes and who.scheme != "ip"
            ]
            if not own:
                raise KeeperError(INVALID_ACL)
            fixed += own
            continue
        if expression is None:
            # Java trips over the null where it looks at it (NullPointerException).
            known = scheme == "world" or scheme in schemes
            raise KeeperError(MARSHALLING_ERROR if known else INVALID_ACL)
        if not _valid(scheme, expression, schemes):
            raise KeeperError(INVALID_ACL)
        fixed.append(entry)
    return fixed


def _valid(scheme: str, expression: str, schemes: Collection[str]) -> bool:
    if scheme == "world":
        return expression == "anyone"
    if scheme not in schemes:
        return False
    if scheme == "digest":
        # String.split drops empty parts at the end.
        return len(expression.rstrip(":").split(":")) == 2
    if scheme == "sasl":
        return valid_principal(expression)
    if scheme == "x509":
        return valid_name(expression)
    return valid(expression)


def masked(acl: Sequence[ACL]) -> list[ACL]:
    """An ACL for those who may not administer the node: without password hashes."""
    return [
        ACL(a.perms, Id("digest", (a.id.id or "").partition(":")[0] + ":x"))
        if a.id.scheme == "digest" and ":" in (a.id.id or "")
        else a
        for a in acl
    ]


def authenticate(
    scheme: str | None, credential: bytes | None, address: str, super_digest: str | None
) -> list[Id]:
    """Ids that an auth packet proves; none if it fails."""
    if scheme == "ip":
        return [Id("ip", address)]
    if scheme != "digest" or credential is None:
        return []
    text = credential.decode("utf-8", "replace")
    secret = b64encode(sha1(text.encode()).digest()).decode()
    digest = f"{text.partition(':')[0]}:{secret}"
    own = Id("digest", digest)
    return [SUPER, own] if digest == super_digest else [own]


def who_am_i(ids: Iterable[Id]) -> list[ClientInfo]:
    """Ids without their secrets (AuthUtil.getClientInfos)."""
    return [ClientInfo(i.scheme, user_name(i)) for i in ids]


def user_name(who: Id) -> str:
    """What may be shown of an id; nothing of super's."""
    if who.scheme == SUPER.scheme:
        return ""
    return (who.id or "").partition(":")[0] if who.scheme == "digest" else who.id or ""
