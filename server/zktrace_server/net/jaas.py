"""Logins of SASL, from the file that Java calls a JAAS configuration and finds by the property
java.security.auth.login.config:

    Server {
        org.apache.zookeeper.server.auth.DigestLoginModule required
        user_alice="her password";
    };

The section is named by zookeeper.sasl.serverconfig, else Server. What begins with user_ is a name
and its password. A section of who logs in itself has username="..." and password="...". Other
modules (Kerberos) are refused.
"""

from __future__ import annotations

import re
from typing import Final

_MODULE: Final = "DigestLoginModule"
_USER: Final = "user_"
#: Comments, strings, punctuation, words.
_TOKEN: Final = re.compile(
    r'\s*(?://[^\n]*|\#[^\n]*|/\*.*?\*/|("(?:[^"\\]|\\.)*"|[{};=]|[^\s{};="]+))', re.DOTALL
)


class JaasError(Exception):
    """No such file as is wanted; the text has no secret."""


def users(text: str, section: str) -> dict[str, str] | None:
    """Passwords by name of a section; None where there is no such section."""
    found = _options(text, section)
    if found is None:
        return None
    return {k.removeprefix(_USER): v for k, v in found.items() if k.startswith(_USER)}


def login(text: str, section: str) -> tuple[str, str] | None:
    """The name and the password of a section; None where there is no such section."""
    found = _options(text, section)
    if found is None:
        return None
    name, password = found.get("username"), found.get("password")
    if name is None or password is None:
        raise JaasError(f"section {section} has no username with its password")
    return name, password


def _options(text: str, section: str) -> dict[str, str] | None:
    words = _words(text)
    found: dict[str, str] | None = None
    pos = 0
    while pos < len(words):
        name = words[pos]
        if words[pos + 1 : pos + 2] != ["{"]:
            raise JaasError(f"there is no {{ behind {name!r}")
        pos, entries, other = _section(words, pos + 2)
        if name.strip('"') == section and found is None:
            if other:
                raise JaasError(f"{other} is not supported, {_MODULE} is")
            found = entries
    return found


def _words(text: str) -> list[str]:
    words = []
    pos, end = 0, len(text.rstrip())
    while pos < end:
        match = _TOKEN.match(text, pos)
        if match is None:
            raise JaasError("a string or comment does not end")
        if match[1] is not None:
            words.append(match[1])
        pos = match.end()
    return words


def _section(words: list[str], pos: int) -> tuple[int, dict[str, str], str]:
    """From behind its { on; gives the place behind its }; the options, and a module that cannot be
    had.
    """
    found: dict[str, str] = {}
    other = ""
    while pos < len(words) and words[pos] != "}":
        module = words[pos]
        if not module.endswith(_MODULE):
            other = module
        # Behind the class comes required, requisite, sufficient or optional.
        pos += 2
        while pos < len(words) and words[pos] != ";":
            if words[pos + 1 : pos + 2] != ["="] or pos + 2 >= len(words):
                raise JaasError(f"an option of {module} is no name=value")
            key, value = words[pos].strip('"'), words[pos + 2]
            found[key] = _unquoted(value)
            pos += 3
        pos += 1
    if words[pos : pos + 2] != ["}", ";"]:
        raise JaasError("a section does not end with };")
    return pos + 2, found, other


def _unquoted(value: str) -> str:
    if not value.startswith('"'):
        return value
    return re.sub(r"\\(.)", r"\1", value[1:-1], flags=re.DOTALL)
