"""What a call imports: the help no command, a command no other, and none what it does not need."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.cli.test_command import BASIC, environment
from zktrace.cli.lazy import OWN, Commands, Lazy
from zktrace_proxy import commands as proxy_commands
from zktrace_server import commands as server_commands

HEAVY = {
    *("pyarrow", "pandas", "numpy", "rich", "dpkt", "zstandard", "scapy", "fastapi", "textual"),
    *("uvicorn", "httpx", "prometheus_client", "pydantic", "asyncio"),
}


def loaded(*arguments: str, engine: str | None = None) -> set[str]:
    """The modules that a call imports."""
    code = (
        "import sys; from zktrace.cli.main import run; status = run(sys.argv[1:]);"
        "print(*sys.modules, sep=chr(10), file=sys.stderr); sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        env=environment(engine),
        check=True,
        timeout=60,
    )
    return set(done.stderr.decode().splitlines())


def test_help_loads_nothing_heavy_and_no_command() -> None:
    found = loaded("--help")
    assert "typer" in found
    assert not found & HEAVY
    ours = {name for name in found if name.startswith(("zktrace.", "zktrace_"))}
    assert ours <= {
        *("zktrace.cli", "zktrace.cli.main", "zktrace.cli.lazy", "zktrace.cli.failure"),
        *("zktrace_proxy", "zktrace_proxy.commands", "zktrace_server", "zktrace_server.commands"),
    }


def test_a_command_loads_no_other() -> None:
    found = loaded("stats", "--help")
    assert "zktrace.cli.stats" in found
    assert not found & HEAVY
    assert not {f"zktrace.cli.{name}" for name in OWN.keys() - {"stats"}} & found


def test_native_stats_load_no_tables_and_compile_no_codecs() -> None:
    pytest.importorskip("zktrace.engine.native", exc_type=ImportError)
    found = loaded("stats", str(BASIC), engine="native")
    assert "zktrace._native" in found
    assert not found & {
        "pyarrow",
        "numpy",
        "pandas",
        "dpkt",
        "scapy",
        "pydantic",
        "zktrace.wire.records",
    }


def test_each_line_of_the_help_is_what_the_command_says() -> None:
    lazy = {**OWN, **vars(proxy_commands), **vars(server_commands)}
    commands = Commands()
    named = {name for name, one in lazy.items() if isinstance(one, Lazy)}
    assert named == set(commands)
    for name in named:
        assert commands[name].get_short_help_str(200) == lazy[name].help
