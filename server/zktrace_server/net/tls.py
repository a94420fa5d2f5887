"""TLS for the client port (secureClientPort): the ssl.* keys of zoo.cfg as an SSLContext (X509Util,
ClientX509Util).

Key and trust stores are PEM or JKS files; what this server cannot do with others, or cannot check,
is refused, since a server that is less safe than its configuration says is worse than none.
"""

from __future__ import annotations

import base64
import os
import ssl
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from zktrace_server.net import jks

#: Files of these names have these types (KeyStoreFileType).
_TYPES: Final = {".jks": "JKS", ".pem": "PEM", ".p12": "PKCS12", ".bcfks": "BCFKS"}
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
_REFUSED: Final = ("ssl.crl", "ssl.ocsp", "ssl.clientHostnameVerification")
#: Nothing is missed without these.
_IGNORED: Final = (
    "ssl.hostnameVerification",
    "ssl.handshakeDetectionTimeoutMillis",
    "ssl.allowReverseDnsLookup",
    "fips-mode",
    "netty.server.outstandingHandshake.limit",
)


class TlsError(Exception):
    """The keys or the files cannot be used; the text says which and why."""


class Values(Protocol):
    """The keys of a configuration, each taken once."""

    def text(self, key: str, default: str | None = None) -> str | None: ...
    def flag(self, key: str, default: bool) -> bool: ...


@dataclass(frozen=True, slots=True)
class Tls:
    """`verifies`: whether clients are asked for a certificate."""

    context: ssl.SSLContext
    verifies: bool


def from_values(values: Values, warn: Callable[[str], None]) -> Tls:
    """The context that the ssl.* keys describe."""
    for key in _REFUSED:
        if values.flag(key, False):
            raise TlsError(f"{key} is not supported: certificates are not checked for it")
    if values.text("ssl.context.supplier.class"):
        raise TlsError("ssl.context.supplier.class is a class of Java")
    for key in _IGNORED:
        values.text(key)
    wanted = (values.text("ssl.clientAuth") or "need").lower()
    if wanted not in _CLIENT_AUTH:
        raise TlsError(f"ssl.clientAuth={wanted} is none of {', '.join(_CLIENT_AUTH)}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _choose_protocols(context, values)
    _choose_ciphers(context, values)
    _load_keys(context, values)
    trusts = _load_trusted(context, values)
    context.verify_mode = _CLIENT_AUTH[wanted]
    verifies = wanted != "none"
    if verifies and not trusts:
        raise TlsError(
            f"ssl.clientAuth={wanted} (the default is need) wants a ssl.trustStore.location"
        )
    return Tls(context, verifies)


def _choose_protocols(context: ssl.SSLContext, values: Values) -> None:
    protocol = values.text("ssl.protocol")
    enabled = values.text("ssl.enabledProtocols") or protocol or "TLSv1.2,TLSv1.3"
    names = [name.strip() for name in enabled.split(",")]
    known = [_VERSIONS[name] for name in names if name in _VERSIONS]
    if not known:
        raise TlsError(f"ssl.enabledProtocols={enabled}: only {', '.join(_VERSIONS)} can be had")
    context.minimum_version, context.maximum_version = min(known), max(known)


def _choose_ciphers(context: ssl.SSLContext, values: Values) -> None:
    """Java's names of TLS 1.2, in OpenSSL's way; those of TLS 1.3 are always there."""
    given = values.text("ssl.ciphersuites")
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


def _store(values: Values, which: str) -> tuple[Path, str, str] | None:
    """Location, type and password of ssl.keyStore or ssl.trustStore."""
    location = values.text(f"{which}.location")
    password = values.text(f"{which}.password") or ""
    password_path = values.text(f"{which}.passwordPath")
    kind = values.text(f"{which}.type")
    if not location:
        return None
    if password_path:
        password = _read(Path(password_path), f"{which}.passwordPath").decode().strip()
    path = Path(location)
    kind = (kind or _TYPES.get(path.suffix.lower(), "")).upper()
    if not kind:
        raise TlsError(
            f"{which}.location={location}: the type follows from the ending "
            f"({', '.join(_TYPES)}) or {which}.type"
        )
    if kind not in ("PEM", "JKS"):
        raise TlsError(
            f"{which}.location={location}: {kind} is not supported, PEM and JKS are "
            f"(openssl pkcs12 -in FILE.p12 -nodes -out FILE.pem)"
        )
    return path, kind, password


def _read(path: Path, key: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TlsError(f"{key}: cannot read {path}: {error.strerror}") from None


def _java_store(path: Path, key: str, password: str) -> jks.KeyStore:
    try:
        return jks.read(_read(path, key), password)
    except jks.KeyStoreError as error:
        raise TlsError(f"{key}={path}: {error}") from None


def _load_keys(context: ssl.SSLContext, values: Values) -> None:
    key = "ssl.keyStore.location"
    store = _store(values, "ssl.keyStore")
    if store is None:
        raise TlsError(f"{key} is not set, and secureClientPort needs it")
    path, kind, password = store
    if kind == "PEM":
        _read(path, key)
        _load_chain(context, path, key, password)
        return
    keys = _java_store(path, key, password).keys
    if not keys:
        raise TlsError(f"{key}={path}: there is no private key in it")
    private, chain = keys[0]
    text = _pem("PRIVATE KEY", private) + "".join(_pem("CERTIFICATE", one) for one in chain)
    # OpenSSL wants a file. Only its owner can read it, and it is there for a moment.
    handle, name = tempfile.mkstemp(prefix="zktrace-")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
        _load_chain(context, Path(name), f"{key}={path}", "")
    finally:
        os.unlink(name)


def _load_chain(context: ssl.SSLContext, path: Path, what: str, password: str) -> None:
    try:
        # Without a function OpenSSL would ask the terminal.
        context.load_cert_chain(path, password=lambda: password)
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or str(error)
        raise TlsError(f"{what}: no certificate with its key: {reason}") from None


def _load_trusted(context: ssl.SSLContext, values: Values) -> bool:
    key = "ssl.trustStore.location"
    store = _store(values, "ssl.trustStore")
    if store is None:
        return False
    path, kind, password = store
    if kind == "PEM":
        text = _read(path, key).decode("latin-1")
    else:
        text = "".join(_pem("CERTIFICATE", one) for one in _java_store(path, key, password).trusted)
    try:
        context.load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or str(error)
        raise TlsError(f"{key}={path}: no certificates: {reason}") from None
    return True


def _pem(title: str, der: bytes) -> str:
    body = base64.encodebytes(der).decode()
    return f"-----BEGIN {title}-----\n{body}-----END {title}-----\n"
