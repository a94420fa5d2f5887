"""``zktrace schema``: the opcode table and the records, as the decoder knows them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

from zktrace.cli.options import JsonOption, NoColor
from zktrace.cli.terminal import look, need_stdout, prepare_stdout


def schema(json: JsonOption = False, no_color: NoColor = False) -> None:
    """Show what is known of the protocol.

    Opcodes with the records they carry, error codes, watch events, words.
    """
    from zktrace.wire.schema import describe

    need_stdout()
    data = describe()
    if json:
        from json import dumps

        sys.stdout.write(dumps(data, indent=2) + "\n")
        return
    from zktrace.export.summary import joined

    prepare_stdout()
    sys.stdout.write(joined(_lines(data, look(no_color))))


def _lines(data: dict[str, Any], style: Any) -> Iterator[str]:
    from zktrace.export.summary import table

    yield style.paint("Opcodes", "bold")
    rows = [
        [
            str(op["number"]),
            op["name"],
            op["effect"],
            op["since"],
            op["request"]["record"],
            op["reply"]["record"],
        ]
        for op in data["opcodes"]
    ]
    heads = ["number", "name", "effect", "since", "request", "reply"]
    yield from table(heads, rows, style, left=frozenset(range(1, 6)))
    yield ""
    yield style.paint("Records", "bold")
    for name, record in data["records"].items():
        yield f"{style.paint(name, 'op')} {{{_fields(record['fields'])}}}"
    for title, key in (
        ("Errors", "errors"),
        ("Watch events", "events"),
        ("Keeper states", "keeper_states"),
        ("Quorum packets", "quorum_packets"),
        ("Election states", "election_states"),
    ):
        yield ""
        yield style.paint(title, "bold")
        yield from table(
            ["number", "name"], list(map(list, data[key].items())), style, frozenset({1})
        )
    yield ""
    yield style.paint("Four-letter words", "bold")
    yield " ".join(data["four_letter_words"].values())


def _fields(fields: Sequence[dict[str, Any]]) -> str:
    return ", ".join(f"{f['name']}: {f['type']}{'?' if f['optional'] else ''}" for f in fields)
