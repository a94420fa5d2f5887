"""What TLS is spoken with, on either side: files, what is demanded of the other side, and where
session keys go.

Files are PEM. A plane reads them when it starts and whenever :class:`Watch` finds others in their
place: new connections use them, open ones go on with theirs. What is read wrong leaves what was
there before. Knows neither planes nor sockets.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

#: Where session keys are written, for Wireshark.
KEY_LOG_VARIABLE: Final = "SSLKEYLOGFILE"

Verify: TypeAlias = Literal["full", "ca", "none"]


class TlsError(Exception):
    """A file that cannot be used; the text is one line that says which and why."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate with the chain behind it, and its key; often one file."""

    certificate: str
    key: str

    @classmethod
    def of(cls, text: str) -> Identity:
        """Of ``CERT`` or ``CERT,KEY``."""
        certificate, _, key = text.partition(",")
        return cls(certificate, key or certificate)


@dataclass(frozen=True, slots=True)
class ToClients:
    """The proxy is a TLS server. `identities`: the first one, or the one that is for the name that
    a client asks for. `ca`: who signs clients' certificates; None: they are asked for none.
    """

    identities: tuple[Identity, ...]
    ca: str | None = None
    required: bool = True


@dataclass(frozen=True, slots=True)
class ToServers:
    """The proxy is a TLS client. `verify`: ``full``: certificates are signed by `ca` and for the
    name of the server; ``ca``: signed by it (as with ZooKeeper's ssl.hostnameVerification=false);
    ``none``: any. `name`: instead of the servers' own. `identity`: what is shown to servers that
    ask.
    """

    verify: Verify = "full"
    ca: str | None = None
    identity: Identity | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Tls:
    """Both sides; None: no TLS there."""

    clients: ToClients | None = None
    servers: ToServers | None = None

    def files(self) -> tuple[str, ...]:
        """All of them."""
        found: list[str] = []
        identities: list[Identity] = []
        for side in (self.clients, self.servers):
            if side is not None and side.ca is not None:
                found.append(side.ca)
        if self.clients is not None:
            identities += self.clients.identities
        if self.servers is not None and self.servers.identity is not None:
            identities.append(self.servers.identity)
        for one in identities:
            found += [one.certificate, one.key]
        return tuple(dict.fromkeys(found))


#: On neither side.
NO_TLS: Final = Tls()


def read(path: str) -> bytes:
    """A file's bytes.

    :raises TlsError: it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise TlsError(f"{path}: {error.strerror or error}") from None


def key_log() -> str | None:
    """Where session keys are to be written; the file is there then, its owner's only.

    :raises TlsError: it cannot be written.
    """
    path = os.environ.get(KEY_LOG_VARIABLE)
    if not path:
        return None
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600))
    except OSError as error:
        raise TlsError(f"{KEY_LOG_VARIABLE}={path}: {error.strerror or error}") from None
    return path


class Watch:
    """Whether files are others than they were."""

    def __init__(self, tls: Tls) -> None:
        self._files = tls.files()
        self._known = self._look()

    def _look(self) -> tuple[object, ...]:
        seen: list[object] = []
        for path in self._files:
            try:
                status = os.stat(path)
                seen.append((status.st_mtime_ns, status.st_size, status.st_ino))
            except OSError:
                seen.append(None)
        return tuple(seen)

    def changed(self) -> bool:
        """Since this was last asked."""
        before, self._known = self._known, self._look()
        return self._known != before


# -- for Python's ssl: the asyncio plane, and checks of servers


@contextmanager
def _telling(path: str) -> Iterator[None]:
    try:
        yield
    except ssl.SSLError as error:
        # The second: a key of another kind.
        if error.reason in ("KEY_VALUES_MISMATCH", "NO_CERTIFICATE_ASSIGNED"):
            why = "the key is not that of the first certificate"
        else:
            why = f"no certificate or key that can be used ({error.reason or error})"
        raise TlsError(f"{path}: {why}") from None
    except OSError as error:
        raise TlsError(f"{path}: {error.strerror or error}") from None


def _load(context: ssl.SSLContext, identity: Identity) -> None:
    def password() -> str:
        # OpenSSL would ask at the terminal.
        raise TlsError(f"{identity.key}: the key has a password, which nobody could be asked for")

    read(identity.key)
    with _telling(identity.certificate):
        context.load_cert_chain(identity.certificate, identity.key, password)


def _trust(context: ssl.SSLContext, ca: str) -> None:
    with _telling(ca):
        context.load_verify_locations(ca)


def server_context(given: ToClients) -> ssl.SSLContext:
    """For connections of clients; the first identity only.

    :raises TlsError: a file cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load(context, given.identities[0])
    if given.ca is not None:
        _trust(context, given.ca)
        context.verify_mode = ssl.CERT_REQUIRED if given.required else ssl.CERT_OPTIONAL
    _log(context)
    return context


def client_context(given: ToServers) -> ssl.SSLContext:
    """For connections to servers.

    :raises TlsError: a file cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = given.verify == "full"
    context.verify_mode = ssl.CERT_NONE if given.verify == "none" else ssl.CERT_REQUIRED
    if given.ca is not None:
        _trust(context, given.ca)
    if given.identity is not None:
        _load(context, given.identity)
    _log(context)
    return context


def _log(context: ssl.SSLContext) -> None:
    path = key_log()
    if path is not None:
        context.keylog_filename = path
