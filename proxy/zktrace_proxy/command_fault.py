"""``zktrace proxy fault``: gives rules to a running proxy, lists them, takes them back.

A client of ``/api/faults``, on the proxy's ``--http`` address.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from zktrace.cli.failure import Failure

app = typer.Typer(
    help="Faults of a running proxy (its --http address): add, list, remove.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

_TIMEOUT_S = 10.0

Url = Annotated[str, typer.Option(metavar="URL", help="Where the proxy's --http answers.")]
Token = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT",
        envvar="ZKTRACE_TOKEN",
        show_default=False,
        help="What it wants to know. Better given by ZKTRACE_TOKEN, as others can read command "
        "lines.",
    ),
]
_URL = "http://127.0.0.1:8080"


def _ask(url: str, token: str | None, method: str, path: str, body: Any = None) -> Any:
    """The answer; what is wrong is one line."""
    import httpx

    if not url.startswith(("http://", "https://")):
        raise Failure(f"--url: {url!r} does not begin with http:// or https://")
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    try:
        answer = httpx.request(
            method,
            f"{url.rstrip('/')}/api/faults{path}",
            json=body,
            headers=headers,
            timeout=_TIMEOUT_S,
            trust_env=False,
        )
        told = answer.json()
    except httpx.ConnectError as error:
        reason = str(error).partition("] ")[2] or str(error)
        raise Failure(f"--url {url}: {reason}: no proxy with --http answers there") from None
    except httpx.HTTPError as error:
        raise Failure(f"--url {url}: {error or type(error).__name__}") from None
    except ValueError:
        raise Failure(f"{url}: this is no proxy of zktrace") from None
    if answer.is_error:
        detail = told.get("detail") if isinstance(told, dict) else None
        if answer.status_code == httpx.codes.NOT_FOUND and not path:
            detail = "this is no proxy: zktrace proxy run --http answers here"
        raise Failure(str(detail or answer.reason_phrase))
    return told


@app.command()
def add(
    rule: Annotated[
        list[str],
        typer.Argument(
            metavar="RULE...",
            show_default=False,
            help="ACTION [VALUE] [KEY=VALUE ...] [when FILTER], as one argument or several.",
        ),
    ],
    url: Url = _URL,
    token: Token = None,
) -> None:
    """Put a rule in force; prints its number.

    For example: zktrace proxy fault add 'drop-reply nth=1 when op == "create"'
    """
    print(_ask(url, token, "POST", "", {"rule": " ".join(rule)})["id"])


@app.command("list")
def list_(url: Url = _URL, token: Token = None) -> None:
    """Show the rules in force.

    A line each: its number, how often it matched, how often it did something, the rule.
    """
    from zktrace.export.text import printable

    for row in _ask(url, token, "GET", "")["rows"]:
        over = "  (over)" if row["over"] else ""
        print(f"{row['id']}\t{row['matched']}\t{row['fired']}\t{printable(row['rule'])}{over}")


@app.command()
def remove(
    number: Annotated[
        int | None, typer.Argument(metavar="[NUMBER]", show_default=False, help="Its number.")
    ] = None,
    all: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    url: Url = _URL,
    token: Token = None,
) -> None:
    """Take a rule back."""
    if (number is None) != all:
        raise Failure("give the number of a rule, or --all")
    _ask(url, token, "DELETE", "" if number is None else f"/{number}", {})
