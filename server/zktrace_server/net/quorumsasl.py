"""Keys of zoo.cfg for SASL between servers (QuorumPeerConfig, QuorumAuth), and the exchanges that
come of them.

DIGEST-MD5 with names and passwords from the file that the property java.security.auth.login.config
names: whom this server lets in is in its section QuorumServer, who it is itself in QuorumLearner.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from zktrace_server.core.quorum.auth import Accepting, Dialling, Exchange
from zktrace_server.core.sasl import SERVERS, SaslClient, SaslServer
from zktrace_server.net import jaas

JAAS: Final = "java.security.auth.login.config"
_OF: Final = "quorum.auth."
_NONCE: Final = 32
#: Of Kerberos, and of Java's threads.
_IGNORED: Final = ("quorum.auth.kerberos.servicePrincipal", "quorum.cnxn.threads.size")


class QuorumSaslError(Exception):
    """The keys do not fit together; the text says why."""


class Values(Protocol):
    """The keys of a configuration."""

    def text(self, key: str, default: str | None = None, *, keep: bool = False) -> str | None: ...
    def flag(self, key: str, default: bool, *, keep: bool = False) -> bool: ...


@dataclass(frozen=True, slots=True)
class QuorumSasl:
    """`users`: passwords by name of whom this server lets in; `login`: its own name and password.
    `asks`: whether it proves who it is (learnerRequireSasl); `required`: whether others have to.
    """

    users: Mapping[str, str] = field(repr=False)
    login: tuple[str, str] = field(repr=False)
    asks: bool
    required: bool


def sasl_from(values: Values) -> QuorumSasl | None:
    """What the keys ask for; None where it is nothing. QuorumSaslError if they contradict each
    other, or the names are not to be had.
    """
    enabled = values.flag(f"{_OF}enableSasl", False)
    asks = values.flag(f"{_OF}learnerRequireSasl", False)
    required = values.flag(f"{_OF}serverRequireSasl", False)
    accepts = values.text(f"{_OF}server.saslLoginContext") or "QuorumServer"
    own = values.text(f"{_OF}learner.saslLoginContext") or "QuorumLearner"
    for key in _IGNORED:
        values.text(key)
    strict = values.flag("fips-mode", False)
    if not enabled:
        for name, wanted in (("learnerRequireSasl", asks), ("serverRequireSasl", required)):
            if wanted:
                raise QuorumSaslError(f"{_OF}{name}=true wants {_OF}enableSasl=true")
        return None
    if required and not asks:
        raise QuorumSaslError(f"{_OF}serverRequireSasl=true wants {_OF}learnerRequireSasl=true")
    if strict:
        raise QuorumSaslError(
            f"{_OF}enableSasl=true wants DIGEST-MD5, which fips-mode=true forbids"
        )
    location = values.text(JAAS, keep=True)
    if not location:
        raise QuorumSaslError(f"{_OF}enableSasl=true wants the property {JAAS}")
    try:
        text = Path(location).read_text(encoding="utf-8")
        users, login = jaas.users(text, accepts), jaas.login(text, own)
    except OSError as error:
        raise QuorumSaslError(f"{JAAS}: cannot read {location}: {error.strerror}") from None
    except (jaas.JaasError, UnicodeDecodeError) as error:
        raise QuorumSaslError(f"{JAAS}={location}: {error}") from None
    if users is None or login is None:
        missing = accepts if users is None else own
        raise QuorumSaslError(f"{JAAS}={location}: there is no section {missing}")
    return QuorumSasl(users, login, asks, required)


def accepting(sasl: QuorumSasl | None) -> Exchange | None:
    """What comes first on a connection of another server; None: nothing."""
    if sasl is None:
        return None
    nonce = secrets.token_urlsafe(_NONCE)
    return Accepting(SaslServer(sasl.users, nonce, None, SERVERS), required=sasl.required)


def dialling(sasl: QuorumSasl | None) -> Exchange | None:
    """What comes first on a connection that this server opens; None: nothing."""
    if sasl is None or not sasl.asks:
        return None
    return Dialling(SaslClient(SERVERS, *sasl.login, secrets.token_urlsafe(_NONCE)))
