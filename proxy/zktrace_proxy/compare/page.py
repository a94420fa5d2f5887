"""A comparison as one HTML file that needs nothing else. No input or output."""

from __future__ import annotations

from html import escape
from typing import Any, Final

_STYLE: Final = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; width: 100%; }
caption { text-align: left; font-weight: 600; padding: .4rem 0; }
th, td { text-align: left; padding: .25rem .6rem; border-bottom: 1px solid #8884; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
.bad { color: #b3261e; font-weight: 600; } .good { color: #1b6e3a; font-weight: 600; }
.later { opacity: .65; }
@media (prefers-color-scheme: dark) { .bad { color: #ff8a80; } .good { color: #7ddc9c; } }
"""


def page(found: dict[str, Any], first: str, second: str) -> str:
    """Of what :meth:`Comparison.as_dict` gives, and the names of both recordings."""
    number = found["differences"]
    verdict = (
        '<p class="good">No differences.</p>'
        if not number
        else f'<p class="bad">{number:,} differences.</p>'
    )
    classes = ("equal", "mapped", "allowed", "different")
    rows = [
        [name, *(found[key].get(one, 0) for one in classes)]
        for name, key in (("exchanges", "exchanges"), ("watch events", "watch_events"))
    ]
    rows += [
        [op, *(counts.get(one, 0) for one in classes)] for op, counts in found["by_op"].items()
    ]
    parts = [
        verdict,
        _table("What was compared", ["", "equal", "equal after mapping", "allowed", "different"],
               rows),
    ]  # fmt: skip
    if found["divergences"]:
        parts.append(_divergences(found))
    if found["allowed"]:
        listed = [[reason, count] for reason, count in found["allowed"].items()]
        parts.append(_table("Allowed to differ", ["why", "times"], listed))
    for name in ("only_first", "only_second"):
        if found["connections"][name]:
            listed = [[client] for client in found["connections"][name]]
            title = f"Connections in {first if name == 'only_first' else second} only"
            parts.append(_table(title, ["client"], listed))
    parts.append(_latency(found["latency"]))
    parts.append(_coverage(found["coverage"], first, second))
    title = f"{escape(first)} and {escape(second)} compared"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><title>'
        f"{title}</title><style>{_STYLE}</style></head><body><h1>{title}</h1>"
        + "".join(parts)
        + "</body></html>\n"
    )


def _divergences(found: dict[str, Any]) -> str:
    rows = []
    for one in found["divergences"]:
        request = one["request"] if one["request"] >= 0 else ""
        rows.append(
            [one["session"], request, one["op"], one["path"] or "", one["what"], one["recorded"],
             one["live"], "may follow from an earlier one" if one["consequence"] else "first"]
        )  # fmt: skip
    more = found["more_divergences"]
    tail = f"<p>{more:,} more are not shown.</p>" if more else ""
    heads = ["session", "request", "op", "path", "what", "first", "second", ""]
    return _table("Differences, in order", heads, rows) + tail


def _latency(rows: list[dict[str, Any]]) -> str:
    listed = [
        [
            row["op"],
            *(
                round(row[side][key])
                for side in ("recorded", "live")
                for key in ("p50_us", "p99_us")
            ),
            row["verdict"] or "",
        ]
        for row in rows
    ]
    heads = ["op", "first p50 (us)", "p99", "second p50 (us)", "p99", "beyond noise"]
    return _table("Latency", heads, listed) if listed else ""


def _coverage(found: dict[str, Any], first: str, second: str) -> str:
    rows = [
        [
            name,
            "yes" if found[key]["filtered"] else "no",
            found[key]["joined"],
            found[key]["gaps"],
            found[key]["replies_without_request"],
            found[key]["flows"].get("tls", 0),
            found[key]["flows"].get("unknown", 0),
        ]
        for name, key in ((first, "first"), (second, "second"))
    ]
    heads = [
        "not seen",
        "filtered",
        "began before",
        "gaps",
        "requests of replies",
        "TLS",
        "unknown protocol",
    ]
    return _table("What was not seen", heads, rows)


def _table(title: str, heads: list[str], rows: list[list[Any]]) -> str:
    def cell(value: Any, tag: str, number: bool) -> str:
        text = f"{value:,}" if isinstance(value, int) else escape(str(value))
        return f"<{tag}{' class=n' if number else ''}>{text}</{tag}>"

    head = "".join(
        cell(text, "th", bool(rows) and isinstance(rows[0][at], int))
        for at, text in enumerate(heads)
    )
    body = "".join(
        f"<tr>{''.join(cell(value, 'td', isinstance(value, int)) for value in row)}</tr>"
        for row in rows
    )
    return (
        f"<table><caption>{escape(title)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table>"
    )
