"""The shape of a path: what a program counted, drew or took from a host is left out of its name.

``/locks/job-7/_c_2f1c...-lock-0000000012`` becomes ``/locks/job-<n>/_c_<uuid>-lock-<seq>``, so
that the ten thousand znodes of one recipe are one row. ``zktrace/_native/src/fingerprint.rs`` is
the same in Rust. Rules, per component of the path, from left to right; letters and digits are
those of ASCII, and a word is a longest run of them:

* where a word begins: a UUID (8-4-4-4-12 hex digits) is ``<uuid>``, four numbers joined by dots are
  ``<ip>``, if no letter or digit follows;
* a word of digits is ``<port>`` after a colon, ``<seq>`` where it is the last ten characters of the
  component (``PrepRequestProcessor`` appends ``%010d`` to sequential znodes), else ``<n>``;
* a word of 0x and hex digits is ``<hex>``, and so is one of at least :data:`HEX_DIGITS` hex digits
  with a letter and a digit among them;
* of any other word the digits at its end are ``<n>``, or, at the end of the component, the last ten
  of them ``<seq>`` (those before them stay).

What it does not know: a name that a person chose may look like one that was drawn (``deadbeef1``),
and then is left out as well. Two paths of one fingerprint are alike, not the same thing.
"""

from __future__ import annotations

import re
from typing import Final

#: So many hex digits are an identifier; shorter ones are words such as ``cafe1``.
HEX_DIGITS: Final = 8
#: ``%010d`` of the counter in a sequential znode's name.
SEQUENCE_DIGITS: Final = 10

_PART: Final = re.compile(
    r"(?P<uuid>[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}"
    r"(?![0-9A-Za-z]))"
    r"|(?P<ip>[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}(?![0-9A-Za-z]))"
    r"|(?P<word>[0-9A-Za-z]+)"
)
_HEX: Final = re.compile(
    r"0[xX][0-9A-Fa-f]+|(?=.*[0-9])(?=.*[A-Fa-f])[0-9A-Fa-f]{%d,}" % HEX_DIGITS
)
_TAIL: Final = re.compile(r"[0-9]+$")


def _word(word: str, before: str, last: bool) -> str:
    """What is left of a word; `before`: the character before it, `last`: it ends a component."""
    if word.isdigit():
        if before == ":":
            return "<port>"
        return "<seq>" if last and len(word) == SEQUENCE_DIGITS else "<n>"
    if _HEX.fullmatch(word):
        return "<hex>"
    tail = _TAIL.search(word)
    if tail is None:
        return word
    if last and len(word) - tail.start() >= SEQUENCE_DIGITS:
        return word[:-SEQUENCE_DIGITS] + "<seq>"
    return word[: tail.start()] + "<n>"


def _component(name: str) -> str:
    def shape(found: re.Match[str]) -> str:
        if found.lastgroup != "word":
            return f"<{found.lastgroup}>"
        start, end = found.span()
        return _word(found.group(), name[start - 1 : start], end == len(name))

    return _PART.sub(shape, name)


def fingerprint(path: str) -> str:
    """The shape of a path."""
    return "/".join(map(_component, path.split("/")))
