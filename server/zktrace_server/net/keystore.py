"""Key and trust stores of TLS as PEM text: PEM files, JKS, PKCS12 (X509Util.loadKeyStore).

JKS is read here (`jks`). PKCS12 is read by the command ``openssl``, since Python's own TLS cannot
and neither can what this server stands on; the password goes to it through a pipe. As in Java a
file of either kind may have the name of the other: what it is its first bytes say.
"""

from __future__ import annotations

import base64
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from zktrace_server.net import jks

#: Files of these names have these types (KeyStoreFileType).
TYPES: Final = {".jks": "JKS", ".pem": "PEM", ".p12": "PKCS12", ".bcfks": "BCFKS"}
#: BCFKS is Bouncy Castle's, and only that reads it.
_READ: Final = ("PEM", "JKS", "PKCS12")
#: A PKCS12 file is one SEQUENCE.
_SEQUENCE: Final = b"\x30"
_PATIENCE_S: Final = 30.0


class TlsError(Exception):
    """The keys or the files cannot be used; the text says which and why."""


@dataclass(frozen=True, slots=True)
class Store:
    """One store, by its keys in zoo.cfg: `key` is that of its location."""

    key: str
    path: Path
    kind: str
    password: str
    password_path: Path | None

    def secret(self) -> str:
        """The password, which may be in a file of its own."""
        if self.password_path is None:
            return self.password
        key = self.key.replace(".location", ".passwordPath")
        return _bytes(self.password_path, key).decode().strip()

    def state(self) -> tuple[int, int, int] | None:
        """Differs when the file was written or replaced; None: it cannot be seen."""
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino, found.st_size

    def read(self) -> bytes:
        """The file; TlsError if it cannot be read."""
        return _bytes(self.path, self.key)

    def private(self) -> str:
        """Of JKS and PKCS12: private key and its chain, the key not encrypted, as PEM."""
        data = self.read()
        if data[:1] == _SEQUENCE:
            own = self._openssl("-nodes", "-clcerts")
            if "PRIVATE KEY" not in own:
                raise TlsError(f"{self.key}={self.path}: there is no private key in it")
            return own + self._openssl("-nokeys", "-cacerts")
        keys = self._java(data).keys
        if not keys:
            raise TlsError(f"{self.key}={self.path}: there is no private key in it")
        key, chain = keys[0]
        return _pem("PRIVATE KEY", key) + "".join(_pem("CERTIFICATE", one) for one in chain)

    def trusted(self) -> str:
        """Certificates that are trusted: PEM."""
        data = self.read()
        if self.kind == "PEM":
            return data.decode("latin-1")
        if data[:1] == _SEQUENCE:
            return self._openssl("-nokeys")
        return "".join(_pem("CERTIFICATE", one) for one in self._java(data).trusted)

    def _java(self, data: bytes) -> jks.KeyStore:
        try:
            return jks.read(data, self.secret())
        except jks.KeyStoreError as error:
            raise TlsError(f"{self.key}={self.path}: {error}") from None

    def _openssl(self, *what: str) -> str:
        command = ["openssl", "pkcs12", "-in", str(self.path), *what, "-passin", "stdin"]
        try:
            done = subprocess.run(
                command,
                input=f"{self.secret()}\n",
                capture_output=True,
                text=True,
                timeout=_PATIENCE_S,
                check=False,
                env={**os.environ, "LC_ALL": "C"},
            )
        except FileNotFoundError:
            raise TlsError(
                f"{self.key}={self.path}: PKCS12 is read by the command openssl, which is not "
                "here; PEM and JKS are read without it"
            ) from None
        except subprocess.TimeoutExpired:
            raise TlsError(f"{self.key}={self.path}: openssl does not answer") from None
        if done.returncode:
            said = done.stderr
            if "invalid password" in said:
                reason = "the password is another one, or it is damaged"
            elif "unsupported" in said:
                # OpenSSL 3 has RC2 and its like in a provider of their own.
                reason = "its old encryption is not read; write it anew with a present keytool"
            else:
                reason = next(iter(said.splitlines()), "openssl cannot read it")
            raise TlsError(f"{self.key}={self.path}: {reason}")
        return done.stdout


def _bytes(path: Path, key: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TlsError(f"{key}: cannot read {path}: {error.strerror}") from None


def check(kind: str, key: str, location: str) -> None:
    """TlsError for a type of store that cannot be read."""
    if kind not in _READ:
        raise TlsError(f"{key}={location}: {kind} is not supported, {', '.join(_READ)} are")


def _pem(title: str, der: bytes) -> str:
    body = base64.encodebytes(der).decode()
    return f"-----BEGIN {title}-----\n{body}-----END {title}-----\n"
