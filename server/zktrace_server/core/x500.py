"""Names in certificates, as ACLs of scheme x509 have them: RFC 2253 text, made as Java's
X500Principal.getName() makes it.

Certificates are bytes of strangers (after TLS has checked their signature): each length is checked
against what is there, and what is no certificate is a :class:`BadCertificate`.
"""

from __future__ import annotations

import re
from typing import Final

#: Attribute types with a word of their own in RFC 2253; all others are dotted numbers.
_WORDS: Final = {
    "2.5.4.3": "CN",
    "2.5.4.7": "L",
    "2.5.4.8": "ST",
    "2.5.4.10": "O",
    "2.5.4.11": "OU",
    "2.5.4.6": "C",
    "2.5.4.9": "STREET",
    "0.9.2342.19200300.100.1.25": "DC",
    "0.9.2342.19200300.100.1.1": "UID",
}
_SEQUENCE: Final = 0x30
_SET: Final = 0x31
_OID: Final = 0x06
_VERSION: Final = 0xA0
#: UTF8String, NumericString, PrintableString, TeletexString, IA5String, UniversalString, BMPString.
_STRINGS: Final = {
    0x0C: "utf-8",
    0x12: "ascii",
    0x13: "ascii",
    0x14: "latin-1",
    0x16: "ascii",
    0x1C: "utf-32-be",
    0x1E: "utf-16-be",
}
#: What RFC 2253, 2.4, escapes.
_SPECIAL: Final = ',=+<>#;"\\'
#: `type=value`, the value quoted, in hex, or with escapes; + and , (or ;) between.
_RDN: Final = re.compile(
    r"\s*(?:[A-Za-z][A-Za-z0-9.-]*|(?:[Oo][Ii][Dd]\.)?\d+(?:\.\d+)+)\s*=\s*"
    r'(?:"(?:[^"\\]|\\.)*"|#(?:[0-9A-Fa-f]{2})+|(?:[^,;+"\\=<>#]|\\.)(?:[^,;+"\\<>]|\\.)*|)'
    r"\s*(?:[,;+]|\Z)",
    re.DOTALL,
)


class BadCertificate(ValueError):
    """Bytes that are no certificate with a subject."""


def valid_name(text: str) -> bool:
    """Whether an ACL may name it: what X500Principal's constructor takes, but for keywords that it
    does not know.
    """
    pos = 0
    while pos < len(text):
        match = _RDN.match(text, pos)
        if match is None:
            return False
        pos = match.end()
    return not text or text.rstrip()[-1] not in ",;+"


def subject(certificate: bytes) -> str:
    """The subject of a certificate (DER; RFC 5280, 4.1)."""
    tag, pos, end = _element(certificate, 0, len(certificate))
    _expect(tag, _SEQUENCE)
    tag, pos, end = _element(certificate, pos, end)
    _expect(tag, _SEQUENCE)
    tag, _, after = _element(certificate, pos, end)
    if tag == _VERSION:
        tag, _, after = _element(certificate, after, end)
    # Serial number; then signature, issuer and validity; then the subject.
    for _ in range(4):
        tag, start, after = _element(certificate, after, end)
    _expect(tag, _SEQUENCE)
    names = []
    pos, end = start, after
    while pos < end:
        tag, start, after = _element(certificate, pos, end)
        _expect(tag, _SET)
        names.append(_relative(certificate, start, after))
        pos = after
    return ",".join(reversed(names))


def _relative(data: bytes, pos: int, end: int) -> str:
    parts = []
    while pos < end:
        tag, start, after = _element(data, pos, end)
        _expect(tag, _SEQUENCE)
        tag, oid_at, oid_end = _element(data, start, after)
        _expect(tag, _OID)
        kind = _dotted(data[oid_at:oid_end])
        tag, value_at, value_end = _element(data, oid_end, after)
        if kind in _WORDS and tag in _STRINGS:
            try:
                text = data[value_at:value_end].decode(_STRINGS[tag])
            except UnicodeDecodeError:
                raise BadCertificate("a name that is not in its character set") from None
            parts.append(f"{_WORDS[kind]}={_escaped(text)}")
        else:
            parts.append(f"{kind}=#{data[oid_end:value_end].hex()}")
        pos = after
    if not parts:
        raise BadCertificate("an empty part of a name")
    return "+".join(parts)


def _escaped(text: str) -> str:
    out = "".join("\\" + c if c in _SPECIAL else c for c in text)
    if text.startswith(" "):
        out = "\\" + out
    if text.endswith(" ") and len(text) > 1:
        out = out[:-1] + "\\ "
    return out


def _dotted(data: bytes) -> str:
    if not data or data[-1] & 0x80:
        raise BadCertificate("an object identifier that is cut off")
    numbers = []
    value = 0
    for byte in data:
        value = value << 7 | byte & 0x7F
        if value.bit_length() > 128:
            raise BadCertificate("an object identifier that is too large")
        if not byte & 0x80:
            numbers.append(value)
            value = 0
    first = min(numbers[0] // 40, 2)
    return ".".join(map(str, (first, numbers[0] - 40 * first, *numbers[1:])))


def _expect(tag: int, wanted: int) -> None:
    if tag != wanted:
        raise BadCertificate(f"tag {tag:#x} where {wanted:#x} should be")


def _element(data: bytes, pos: int, end: int) -> tuple[int, int, int]:
    """Tag, beginning and end of the content of the element at `pos` (X.690, definite lengths)."""
    if end - pos < 2:
        raise BadCertificate("an element that is cut off")
    tag, length = data[pos], data[pos + 1]
    pos += 2
    if length & 0x80:
        count = length & 0x7F
        if not 1 <= count <= 4 or end - pos < count:
            raise BadCertificate("a length that is cut off, or too large")
        length = int.from_bytes(data[pos : pos + count], "big")
        pos += count
    if end - pos < length:
        raise BadCertificate("an element that is cut off")
    return tag, pos, pos + length
