"""Four-letter words: commands sent as the first four bytes of a client connection, answered by
unframed text (org.apache.zookeeper.server.command.FourLetterCommands)."""

from __future__ import annotations

from typing import Final

NAMES: Final[tuple[str, ...]] = (
    "conf",
    "cons",
    "crst",
    "dirs",
    "dump",
    "envi",
    "gtmk",
    "hash",
    "isro",
    "mntr",
    "ruok",
    "srst",
    "srvr",
    "stat",
    "stmk",
    "wchc",
    "wchp",
    "wchs",
)

# What telnet sends on Ctrl-C / close: IAC IP IAC DO. The server takes it for a command to close.
TELNET_CLOSE: Final = bytes.fromhex("fff4fffd")

WORDS: Final[dict[bytes, str]] = {n.encode(): n for n in NAMES} | {TELNET_CLOSE: "telnet close"}

# The word that sets the trace mask is followed by the mask: a long.
SET_TRACE_MASK: Final = b"stmk"
SET_TRACE_MASK_ARGUMENT: Final = 8
