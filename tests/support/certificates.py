"""Certificates for tests of TLS, made by openssl, and by keytool where Java's stores are wanted."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

PASSWORD: Final = "storepass"


class Certificates:
    """An authority, and what it has signed, in a directory."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self.authority = directory / "ca.pem"
        self._key = directory / "ca.key"
        _openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-keyout", self._key, "-out", self.authority, "-subj", "/CN=zktrace test ca"),
            *("-days", "3650"),
        )

    def issue(
        self,
        name: str,
        subject: str,
        *,
        rsa: bool = False,
        names: str = "IP:127.0.0.1,DNS:localhost",
        days: int = 3650,
    ) -> Path:
        """A certificate with its key, both in one PEM file; with negative days one that has
        expired.
        """
        key, request, made = (self._directory / f"{name}.{end}" for end in ("key", "csr", "crt"))
        kind = ("rsa:2048",) if rsa else ("ec", "-pkeyopt", "ec_paramgen_curve:P-256")
        extensions = self._directory / f"{name}.ext"
        extensions.write_text(f"subjectAltName={names}\n")
        _openssl(
            *("req", "-newkey", *kind, "-nodes", "-utf8", "-keyout", key, "-out", request),
            *("-subj", subject, "-multivalue-rdn"),
        )
        _openssl(
            *("x509", "-req", "-in", request, "-CA", self.authority, "-CAkey", self._key),
            *("-CAcreateserial", "-days", str(days), "-extfile", extensions, "-out", made),
        )
        whole = self._directory / f"{name}.pem"
        whole.write_text(key.read_text() + made.read_text() + self.authority.read_text())
        return whole

    def java_store(self, pem: Path, *, kind: str = "JKS") -> Path:
        """The same key and chain as a key store of Java."""
        between, store = pem.with_suffix(".p12"), pem.with_suffix(f".{kind.lower()}")
        _openssl(
            *("pkcs12", "-export", "-in", pem, "-out", between, "-name", "one"),
            *("-passout", f"pass:{PASSWORD}"),
        )
        if kind == "PKCS12":
            return between
        store.unlink(missing_ok=True)
        _run(
            *("keytool", "-importkeystore", "-noprompt", "-deststoretype", kind),
            *("-srckeystore", between, "-srcstoretype", "PKCS12", "-srcstorepass", PASSWORD),
            *("-destkeystore", store, "-deststorepass", PASSWORD),
        )
        return store

    def java_trust(self, kind: str = "JKS") -> Path:
        """The authority, in a trust store of Java."""
        store = self._directory / f"trust.{kind.lower()}"
        store.unlink(missing_ok=True)
        _run(
            *("keytool", "-importcert", "-noprompt", "-alias", "ca", "-file", self.authority),
            *("-storetype", kind, "-keystore", store, "-storepass", PASSWORD),
        )
        return store


def _openssl(*arguments: str | Path) -> None:
    _run("openssl", *arguments)


def _run(*arguments: str | Path) -> None:
    done = subprocess.run([str(a) for a in arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
