"""TLS for the client port (secureClientPort) and between servers (sslQuorum): the ssl.* and
ssl.quorum.* keys of zoo.cfg as SSLContexts (X509Util, ClientX509Util, QuorumX509Util).

What this server cannot read, or cannot check, is refused, since a server that is less safe than its
configuration says is worse than none. With ``client.certReload`` stores that were written anew are
read again when the next client comes (Java has a thread that watches their directories).
"""

from __future__ import annotations

import logging
import os
import ssl
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from zktrace_server.net.keystore import TYPES, Store, TlsError, check

__all__ = ["QuorumTls", "Tls", "TlsError", "between_servers", "from_values"]

log: Final = logging.getLogger(__name__)

_CLIENT_AUTH: Final = {
    "none": ssl.CERT_NONE,
    "want": ssl.CERT_OPTIONAL,
    "need": ssl.CERT_REQUIRED,
}
_VERSIONS: Final = {
    "TLSv1.2": ssl.TLSVersion.TLSv1_2,
    "TLSv1.3": ssl.TLSVersion.TLSv1_3,
}
#: What would make the server stricter, and is not there.
_REFUSED: Final = ("crl", "ocsp", "clientHostnameVerification")
#: Nothing is missed without these.
_IGNORED: Final = ("handshakeDetectionTimeoutMillis", "allowReverseDnsLookup")
_IGNORED_OF_CLIENTS: Final = (
    "ssl.hostnameVerification",
    "fips-mode",
    "netty.server.outstandingHandshake.limit",
)
_CLIENTS: Final = "ssl."
_SERVERS: Final = "ssl.quorum."


class Values(Protocol):
    """The keys of a configuration, each taken once."""

    def text(self, key: str, default: str | None = None) -> str | None: ...
    def flag(self, key: str, default: bool) -> bool: ...


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What the keys ask for."""

    keys: Store
    trust: Store | None
    client_auth: str
    protocols: str
    ciphers: str | None

    def context(self) -> ssl.SSLContext:
        """For those who connect, made of the files as they are now."""
        context = self._context(ssl.PROTOCOL_TLS_SERVER)
        context.verify_mode = _CLIENT_AUTH[self.client_auth]
        return context

    def dialling(self, *, names: bool) -> ssl.SSLContext:
        """To connect with; `names`: whether the other's certificate has to have its host."""
        context = self._context(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = names
        return context

    def _context(self, side: int) -> ssl.SSLContext:
        context = ssl.SSLContext(side)
        _choose_protocols(context, self.protocols)
        _choose_ciphers(context, self.ciphers)
        _load_keys(context, self.keys)
        if self.trust is not None:
            _load_trusted(context, self.trust)
        return context

    def state(self) -> tuple[object, ...]:
        """Another one when a store has changed."""
        return tuple(store.state() for store in (self.keys, self.trust) if store is not None)


class Tls:
    """`verifies`: whether clients are asked for a certificate."""

    def __init__(self, wanted: _Wanted, *, reload: bool) -> None:
        self._wanted = wanted
        self._reload = reload
        self._state = wanted.state()
        self._context = wanted.context()
        self.verifies = wanted.client_auth != "none"

    def context(self) -> ssl.SSLContext:
        """For the next client. What cannot be read leaves what there was, and is logged once."""
        if self._reload and (state := self._wanted.state()) != self._state:
            self._state = state
            try:
                self._context = self._wanted.context()
            except TlsError as error:
                log.error("the former certificates stay in use: %s", error)
            else:
                log.info("read the certificates again: %s", self._wanted.keys.path)
        return self._context


@dataclass(frozen=True, slots=True)
class QuorumTls:
    """Between servers: `accepting` for those who connect, `dialling` to connect with."""

    accepting: ssl.SSLContext
    dialling: ssl.SSLContext


def reason(error: ssl.SSLError) -> str:
    """Why there is no connection, in words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not taken: {error.verify_message.rstrip('.')}"
    return str(error.reason or error)


def from_values(values: Values, warn: Callable[[str], None]) -> Tls:
    """What the ssl.* keys describe."""
    for key in _IGNORED_OF_CLIENTS:
        values.text(key)
    wanted = _wanted(values, _CLIENTS, "secureClientPort")
    return Tls(wanted, reload=values.flag("client.certReload", False))


def between_servers(values: Values) -> QuorumTls:
    """What the ssl.quorum.* keys describe: each shows a certificate, and wants one."""
    names = values.flag(f"{_SERVERS}hostnameVerification", True)
    wanted = _wanted(values, _SERVERS, "sslQuorum")
    if wanted.trust is None:
        raise TlsError(f"{_SERVERS}trustStore.location is not set, and sslQuorum needs it")
    return QuorumTls(wanted.context(), wanted.dialling(names=names))


def _wanted(values: Values, of: str, needed_by: str) -> _Wanted:
    """`of`: what the keys begin with."""
    for name in _REFUSED:
        if values.flag(of + name, False):
            raise TlsError(f"{of}{name} is not supported: certificates are not checked for it")
    if values.text(f"{of}context.supplier.class"):
        raise TlsError(f"{of}context.supplier.class is a class of Java")
    for name in _IGNORED:
        values.text(of + name)
    client_auth = (values.text(f"{of}clientAuth") or "need").lower()
    if client_auth not in _CLIENT_AUTH:
        raise TlsError(f"{of}clientAuth={client_auth} is none of {', '.join(_CLIENT_AUTH)}")
    protocol = values.text(f"{of}protocol")
    keys, trust = _store(values, f"{of}keyStore"), _store(values, f"{of}trustStore")
    if keys is None:
        raise TlsError(f"{of}keyStore.location is not set, and {needed_by} needs it")
    if client_auth != "none" and trust is None:
        raise TlsError(
            f"{of}clientAuth={client_auth} (the default is need) wants a {of}trustStore.location"
        )
    enabled = values.text(f"{of}enabledProtocols") or protocol or "TLSv1.2,TLSv1.3"
    return _Wanted(keys, trust, client_auth, enabled, values.text(f"{of}ciphersuites"))


def _choose_protocols(context: ssl.SSLContext, enabled: str) -> None:
    names = [name.strip() for name in enabled.split(",")]
    known = [_VERSIONS[name] for name in names if name in _VERSIONS]
    if not known:
        raise TlsError(f"ssl.enabledProtocols={enabled}: only {', '.join(_VERSIONS)} can be had")
    context.minimum_version, context.maximum_version = min(known), max(known)


def _choose_ciphers(context: ssl.SSLContext, given: str | None) -> None:
    """Java's names of TLS 1.2, in OpenSSL's way; those of TLS 1.3 are always there."""
    if not given:
        return
    names = [_openssl_name(name.strip()) for name in given.split(",")]
    chosen = [name for name in names if name]
    try:
        if chosen:
            context.set_ciphers(":".join(chosen))
    except ssl.SSLError:
        raise TlsError(f"ssl.ciphersuites={given}: OpenSSL knows none of them") from None


def _openssl_name(name: str) -> str:
    """TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256: ECDHE-RSA-AES128-GCM-SHA256."""
    exchange, _, rest = name.removeprefix("TLS_").partition("_WITH_")
    if not rest:
        return ""
    rest = rest.replace("AES_128_CBC", "AES128").replace("AES_256_CBC", "AES256")
    rest = rest.replace("AES_128", "AES128").replace("AES_256", "AES256")
    rest = rest.replace("CHACHA20_POLY1305_SHA256", "CHACHA20_POLY1305")
    exchange = "" if exchange == "RSA" else exchange + "-"
    return (exchange + rest).replace("_", "-")


def _store(values: Values, which: str) -> Store | None:
    """A keyStore or a trustStore."""
    key = f"{which}.location"
    location = values.text(key)
    password = values.text(f"{which}.password") or ""
    password_path = values.text(f"{which}.passwordPath")
    kind = values.text(f"{which}.type")
    if not location:
        return None
    path = Path(location)
    kind = (kind or TYPES.get(path.suffix.lower(), "")).upper()
    if not kind:
        raise TlsError(
            f"{key}={location}: the type follows from the ending ({', '.join(TYPES)}) "
            f"or {which}.type"
        )
    check(kind, key, location)
    return Store(key, path, kind, password, Path(password_path) if password_path else None)


def _load_keys(context: ssl.SSLContext, store: Store) -> None:
    if store.kind == "PEM":
        store.read()  # OpenSSL does not say why it cannot
        _load_chain(context, store.path, store.key, store.secret())
        return
    text = store.private()
    # OpenSSL wants a file. Only its owner can read it, and it is there for a moment.
    handle, name = tempfile.mkstemp(prefix="zktrace-")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
        _load_chain(context, Path(name), f"{store.key}={store.path}", "")
    finally:
        os.unlink(name)


def _load_chain(context: ssl.SSLContext, path: Path, what: str, password: str) -> None:
    try:
        # Without a function OpenSSL would ask the terminal.
        context.load_cert_chain(path, password=lambda: password)
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or str(error)
        raise TlsError(f"{what}: no certificate with its key: {reason}") from None


def _load_trusted(context: ssl.SSLContext, store: Store) -> None:
    try:
        context.load_verify_locations(cadata=store.trusted())
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or str(error)
        raise TlsError(f"{store.key}={store.path}: no certificates: {reason}") from None
