"""The command as users run it: a process, its output, its exit status."""

from __future__ import annotations

import gzip
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from zktrace.cli.main import run

ROOT = Path(__file__).parents[2]
BASIC = ROOT / "pcaps" / "02_basic_ops.pcap"
HERD = ROOT / "pcaps" / "57_v39_herd.pcap"
ELECTION = ROOT / "pcaps" / "01_election_start.pcap"
MULTI = ROOT / "pcaps" / "03_multi.pcap"

COMMAND = [sys.executable, "-m", "zktrace"]


def environment(engine: str | None = None, **more: str) -> dict[str, str]:
    env = {
        k: v for k, v in os.environ.items() if k not in {"NO_COLOR", "ZKTRACE_ENGINE", "COLUMNS"}
    }
    env["PYTHONPATH"] = os.pathsep.join(map(str, [ROOT, ROOT / "server", ROOT / "proxy"]))
    if engine is not None:
        env["ZKTRACE_ENGINE"] = engine
    return env | more


def zktrace(
    *arguments: str | Path, engine: str | None = None, stdin: bytes | None = None, **env: str
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        input=stdin,
        capture_output=True,
        env=environment(engine, **env),
        timeout=60,
        check=False,
    )


def output(*arguments: str | Path, engine: str | None = None, **env: str) -> str:
    done = zktrace(*arguments, engine=engine, stdin=b"", **env)
    assert done.stderr == b""
    assert done.returncode == 0
    return done.stdout.decode()


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def refused(done: subprocess.CompletedProcess[bytes]) -> str:
    """The one line that says why a call or its input is unusable."""
    assert done.returncode == 2
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("zktrace: ")
    assert done.stdout == b""
    return line


# -- help and version
# -------------------------------------------------------------------------------------


def test_help_lists_the_subcommands() -> None:
    text = output("--help")
    for name in ("decode", "stats", "schema", "--version"):
        assert name in text


def test_without_a_subcommand_it_is_help() -> None:
    done = zktrace()
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode() == output("--help")


@pytest.mark.parametrize("group", [(), ("proxy",), ("proxy", "fault"), ("server",)])
def test_help_says_what_a_subcommand_does_in_whole_words(group: tuple[str, ...]) -> None:
    text = output(*group, "--help")
    assert "..." not in text.partition("Commands:")[2]
    assert "completion" not in text or not group


@pytest.mark.parametrize(
    "command",
    [
        *("decode", "stats", "trace", "verify", "live", "serve", "agent", "demo", "replay"),
        *("proxy run", "server load", "server ensemble"),
    ],
)
def test_help_calls_numbers_by_what_they_are(command: str) -> None:
    assert "range>" not in output(*command.split(), "--help")


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, zktrace; print(sorted({'pyarrow', 'numpy', 'typer'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env=environment(), check=True, timeout=60
    )
    assert done.stdout.strip() == b"[]"


def test_version_says_which_engine(engine: str) -> None:
    assert f"{engine} engine" in output("--version", engine=engine)


def test_an_engine_that_is_not_there() -> None:
    assert "no engine 'turbo'" in refused(zktrace("decode", BASIC, engine="turbo"))


# -- decode
# -----------------------------------------------------------------------------------------------


def test_decode_json(engine: str) -> None:
    rows = objects(output("decode", "--json", BASIC, engine=engine))
    assert rows[-1]["kind"] == "coverage"
    assert rows[-1]["frames"] == {"to_server": 51, "to_client": 51}
    assert rows[-1]["exchanges"] == {"complete": 51, "no_reply": 0, "no_request": 0}
    exchanges = [row for row in rows if row["kind"] == "exchange"]
    truth = json.loads(BASIC.with_suffix(".json").read_text())["events"]
    sent = [event for event in truth if event.get("dir") == "c2s"]
    assert len(exchanges) == len(sent)
    assert all(row["flow"] == f"{row['client']}>{row['server']}" for row in exchanges)


@pytest.mark.parametrize("capture", sorted((ROOT / "pcaps").glob("*.pcap")), ids=lambda p: p.name)
def test_every_capture_ends_with_its_coverage(
    capture: Path,
    engine: str,
    monkeypatch: pytest.MonkeyPatch,
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    monkeypatch.setenv("ZKTRACE_ENGINE", engine)
    status = run(["decode", "--json", str(capture)])
    out, err = capfdbinary.readouterr()
    if status == 2:
        assert len(err.splitlines()) == 1
        return
    assert status == 0
    assert err == b""
    assert objects(out.decode())[-1]["kind"] == "coverage"


def test_decode_text_is_for_people() -> None:
    lines = output("decode", BASIC).splitlines()
    assert "connect" in lines[1]
    assert any("NoNode" in line and "/nope" in line for line in lines)
    assert lines[-3].startswith("captured  119 packets")
    assert lines[-1].startswith("not seen")
    assert "\x1b" not in "".join(lines)


def test_servers_among_themselves() -> None:
    text = output("decode", ELECTION)
    assert "FOLLOWERINFO" in text
    assert "LOOKING" in text
    assert "42 quorum packets; 168 election messages" in text
    assert "not decoded" not in text
    chosen = output("decode", "--filter", 'type == "ACKEPOCH" and epoch >= 0', ELECTION)
    assert chosen.count("ACKEPOCH") == 3


def test_times() -> None:
    assert output("decode", "--time", "relative", BASIC).startswith("0.000000 ")
    assert output("decode", "-t", "epoch", BASIC).startswith("1795354921.829371 ")
    assert output("decode", "-t", "date", BASIC).startswith("2026-11-22 13:42:01.829371 ")
    assert output("decode", "-t", "local", BASIC, TZ="XXX-5").startswith("18:42:01.829371 ")


def test_limit(engine: str) -> None:
    rows = objects(output("decode", "--json", "--limit", "3", HERD, engine=engine))
    assert len(rows) == 4
    assert rows[-1]["kind"] == "coverage"
    assert rows[-1]["limited"] is True
    lines = output("decode", "-n", "2", HERD, engine=engine).splitlines()
    assert "limit reached" in lines[2]


def test_limit_that_nothing_is_left_out_by(engine: str) -> None:
    everything = objects(output("decode", "--json", BASIC, engine=engine))
    count = len(everything) - 1
    rows = objects(output("decode", "--json", "-n", str(count), BASIC, engine=engine))
    assert rows == everything
    rows = objects(output("decode", "--json", "-n", str(count - 1), BASIC, engine=engine))
    assert rows[-1]["limited"] is True
    assert "limit" not in output("decode", "-n", str(count), BASIC, engine=engine).splitlines()[-1]


def test_filter(engine: str) -> None:
    rows = objects(output("decode", "--json", "--filter", 'op == "create"', BASIC, engine=engine))
    assert [row.get("op") for row in rows[:-1]] == ["create"] * 15
    assert rows[-1]["exchanges"]["complete"] == 51, "the coverage is that of the capture"


def test_filtered_lines_are_those_of_all(engine: str) -> None:
    everything = output("decode", "--json", HERD, engine=engine).splitlines()
    some = output("decode", "--json", "--filter", "error != 0", HERD, engine=engine).splitlines()
    assert len(some) == 41
    assert set(some) <= set(everything)


def test_hashed_sessions(engine: str) -> None:
    def sessions(*options: str) -> list[str]:
        rows = objects(output("decode", "--json", *options, BASIC, engine=engine))
        return [row["session"] for row in rows if row.get("session")]

    real, first, second = sessions(), sessions("--hash-sessions"), sessions("--hash-sessions")
    keyed = [sessions("--hash-sessions", "--hash-key", "k") for _ in range(2)]
    assert not set(real) & set(first)
    assert set(first) != set(second), "a random key for each run"
    assert keyed[0] == keyed[1]
    assert all(len(s) == 18 and s.startswith("0x") for s in first)
    assert len(set(first)) == len(set(real))
    raw = output("decode", "--json", "--hash-sessions", BASIC, engine=engine)
    assert not any(s in raw for s in set(real)), "an ephemeral's owner is a session id as well"


# -- sources
# ----------------------------------------------------------------------------------------------


def test_standard_input(engine: str) -> None:
    done = zktrace("decode", "--json", "-", engine=engine, stdin=BASIC.read_bytes())
    assert done.returncode == 0
    assert done.stdout.decode() == output("decode", "--json", BASIC, engine=engine)


def test_compressed(tmp_path: Path, engine: str) -> None:
    import zstandard

    plain = output("decode", "--json", BASIC, engine=engine)
    packed = tmp_path / "no-telling-name"
    packed.write_bytes(gzip.compress(BASIC.read_bytes()))
    assert output("decode", "--json", packed, engine=engine) == plain
    packed.write_bytes(zstandard.compress(BASIC.read_bytes()))
    assert output("decode", "--json", packed, engine=engine) == plain


def test_a_zstd_window_beyond_the_supported(tmp_path: Path, engine: str) -> None:
    import zstandard

    # A frame header by hand (RFC 8878, 3.1.1): no content size, a window of 2 GiB; then a last,
    # raw block of one byte.
    large = b"\x28\xb5\x2f\xfd\x00" + bytes([(31 - 10) << 3]) + b"\x09\x00\x00x"
    packed = tmp_path / "large.pcap.zst"
    packed.write_bytes(large)
    assert "window larger than supported" in refused(zktrace("decode", packed, engine=engine))
    packed.write_bytes(zstandard.compress(BASIC.read_bytes()) + large)
    rows = objects(output("decode", "--json", packed, engine=engine))
    assert rows[:-1] == objects(output("decode", "--json", BASIC, engine=engine))[:-1]
    assert rows[-1]["damaged_places"] == 1


def split(capture: Path, folder: Path, parts: int) -> list[Path]:
    """A pcap cut into rotated files, in time order."""
    raw = capture.read_bytes()
    head, records, at = raw[:24], [], 24
    while at < len(raw):
        end = at + 16 + int.from_bytes(raw[at + 8 : at + 12], "little")
        records.append(raw[at:end])
        at = end
    files = []
    for i in range(parts):
        path = folder / f"part{i}.pcap"
        share = records[i * len(records) // parts : (i + 1) * len(records) // parts]
        path.write_bytes(head + b"".join(share))
        files.append(path)
    return files


def test_rotated_files_are_one_capture(tmp_path: Path, engine: str) -> None:
    files = split(BASIC, tmp_path, 5)
    whole = output("decode", "--json", BASIC, engine=engine)
    assert output("decode", "--json", *files, engine=engine) == whole
    assert output("decode", "--json", *reversed(files), engine=engine) == whole


def test_truncated_capture_is_decoded(tmp_path: Path, engine: str) -> None:
    cut = tmp_path / "cut.pcap"
    cut.write_bytes(BASIC.read_bytes()[:-30])
    rows = objects(output("decode", "--json", cut, engine=engine))
    assert rows[-1]["truncated"] == 1
    assert "cut short" in output("stats", cut, engine=engine)


def test_truncated_gzip_is_decoded(tmp_path: Path, engine: str) -> None:
    cut = tmp_path / "cut.pcap.gz"
    cut.write_bytes(gzip.compress(BASIC.read_bytes())[:3000])
    rows = objects(output("decode", "--json", cut, engine=engine))
    assert len(rows) > 10
    assert rows[-1]["truncated"] >= 1


def test_a_name_that_is_no_utf8(tmp_path: Path, engine: str) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.pcap"))
    try:
        odd.write_bytes(BASIC.read_bytes())
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    plain = output("decode", "--json", BASIC, engine=engine)
    assert output("decode", "--json", odd, engine=engine) == plain
    assert output("stats", odd, odd, engine=engine).startswith("captured  238 packets")
    odd.write_bytes(b"")
    assert "caf?.pcap: is empty" in refused(zktrace("decode", odd, engine=engine))


# -- unusable calls
# ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["decode", "stats"])
def test_unusable_sources(command: str, tmp_path: Path, engine: str) -> None:
    missing, empty, noise = (tmp_path / name for name in ("missing", "empty", "noise"))
    empty.touch()
    noise.write_bytes(b"GET / HTTP/1.1\r\n" * 100)
    for path, why in (
        (missing, "No such file"),
        (empty, "is empty"),
        (noise, "not a pcap"),
        (tmp_path, "directory"),
    ):
        line = refused(zktrace(command, path, engine=engine))
        assert why in line
        assert str(path) in line


def test_one_bad_source_among_good_ones(tmp_path: Path, engine: str) -> None:
    noise = tmp_path / "noise"
    noise.write_bytes(b"x" * 100)
    assert "noise" in refused(zktrace("stats", BASIC, noise, engine=engine))


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["decode"], "SOURCE"),
        (["decode", "--frobnicate", "x"], "--frobnicate"),
        (["frobnicate"], "frobnicate"),
        (["decode", "--client-port", "70000", str(BASIC)], "70000"),
        (["decode", "--client-port", "1.2.3:1", str(BASIC)], "1.2.3"),
        (["decode", "--time", "lunar", str(BASIC)], "lunar"),
        (["stats", "--by", "op,colour", str(BASIC)], "colour"),
        (["stats", "--top", "-1", str(BASIC)], "--top"),
        (["decode", "--filter", "op ==", str(BASIC)], "--filter"),
    ],
)
def test_unusable_calls(arguments: Sequence[str], why: str) -> None:
    assert why in refused(zktrace(*arguments))


@pytest.mark.parametrize("command", ["decode", "stats"])
def test_a_filter_that_is_no_utf8(command: str, engine: str) -> None:
    expression = os.fsdecode(b'path == "\xff\xfe"')
    line = refused(zktrace(command, "--filter", expression, BASIC, engine=engine))
    assert "--filter: the expression is not UTF-8, at >>> in" in line


# -- ports
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("port", ["21811", "127.0.0.1:21811"])
def test_client_port(port: str, engine: str) -> None:
    rows = objects(output("decode", "--json", "--client-port", port, BASIC, engine=engine))
    assert rows[-1]["exchanges"]["complete"] >= 49


# -- stats
# ------------------------------------------------------------------------------------------------


def stats(*arguments: str | Path, engine: str | None = None) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(output("stats", "--json", *arguments, engine=engine))
    return found


def test_stats_json(engine: str) -> None:
    found = stats(BASIC, engine=engine)
    assert list(found) == ["coverage", "duration_s", "total", "by_op"]
    assert found["total"]["requests"] == 51
    by_op = {row["op"]: row for row in found["by_op"]}
    assert by_op["create"]["requests"] == 15
    assert by_op["create"]["errors"]["InvalidACL"] == 2
    assert by_op["ping"]["latency_us"]["max"] > 0
    assert found["coverage"]["packets"] == 119


def test_stats_groupings(engine: str) -> None:
    found = stats("--by", "path,client,session,server", "--depth", "1", HERD, engine=engine)
    assert list(found)[3:] == ["by_path", "by_client", "by_session", "by_server"]
    assert {row["path"] for row in found["by_path"]} == {"/h", None}
    assert found["by_client"][0]["client"] == "127.0.0.1"
    assert found["by_client"][0]["watch_events"] == 840
    assert len(found["by_session"]) == 45


def test_stats_top(engine: str) -> None:
    everything = stats(HERD, engine=engine)["by_op"]
    top = stats("--top", "2", HERD, engine=engine)["by_op"]
    assert top[:2] == everything[:2]
    assert top[2]["rest"] is True
    assert sum(row["requests"] for row in top) == sum(row["requests"] for row in everything)


def test_stats_filter(engine: str) -> None:
    found = stats("--filter", "error != 0", HERD, engine=engine)
    assert found["total"]["requests"] == 40
    assert found["total"]["errors"] == {"NoNode": 40}


def test_stats_hashed_sessions(engine: str) -> None:
    plain = stats("--by", "session", BASIC, engine=engine)["by_session"]
    hashed = stats("--by", "session", "--hash-sessions", BASIC, engine=engine)["by_session"]
    assert not {row["session"] for row in plain} & {row["session"] for row in hashed}
    assert [row["requests"] for row in plain] == [row["requests"] for row in hashed]


def test_stats_text() -> None:
    text = output("stats", "--by", "op,path", "--top", "3", HERD)
    lines = text.splitlines()
    assert lines[0].startswith("captured  3,991 packets")
    assert lines[1].startswith("requests  1,032 (")
    assert "By op" in lines
    assert any(line.endswith("  getData") for line in lines)
    assert any("(the rest: 4 groups)" in line for line in lines)
    assert "Errors" in lines
    assert lines[-1].startswith("not seen")


def test_engines_agree_on_every_byte() -> None:
    outputs = {}
    for name in ("python", "native"):
        done = zktrace("decode", "--json", HERD, engine=name)
        if done.returncode == 2:
            pytest.skip("the native engine was not built")
        outputs[name] = done.stdout
    assert outputs["python"] == outputs["native"]


# -- schema
# -----------------------------------------------------------------------------------------------


def test_schema() -> None:
    data = json.loads(output("schema", "--json"))
    assert any(op["name"] == "getData" and op["number"] == 4 for op in data["opcodes"])
    text = output("schema")
    assert "getData" in text
    assert "ReplyHeader" in text


# -- terminals, pipes, signals
# ----------------------------------------------------------------------------


def on_terminal(*arguments: str | Path, **env: str) -> str:
    """What a command writes when standard output and error are a terminal."""
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            stdout=theirs,
            stderr=theirs,
            stdin=subprocess.DEVNULL,
            env=environment(TERM="xterm", **env),
        )
        os.close(theirs)
        parts = []
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # Linux: the other end is closed
                break
            if not part:
                break
            parts.append(part)
        assert process.wait(60) == 0
        return b"".join(parts).decode()
    finally:
        os.close(ours)


@pytest.mark.parametrize("command", ["decode", "stats"])
def test_colours_on_a_terminal(command: str) -> None:
    assert "\x1b[" in on_terminal(command, BASIC)
    assert "\x1b[" not in on_terminal(command, BASIC, NO_COLOR="1")
    assert "\x1b[" not in on_terminal(command, "--no-color", BASIC)


def test_a_closed_pipe_ends_quietly(engine: str) -> None:
    process = subprocess.Popen(
        [*COMMAND, "decode", "--json", str(HERD)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(engine),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(60) == 0


@pytest.mark.parametrize(
    "arguments",
    [["decode"], ["decode", "--json"], ["decode", "-f", "error == 0", "--json"], ["stats"]],
    ids=" ".join,
)
@pytest.mark.parametrize("capture", [BASIC, HERD], ids=lambda path: path.stem)
def test_a_pipe_closed_from_the_start_is_no_failure(
    arguments: list[str], capture: Path, engine: str
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [*COMMAND, *arguments, str(capture)],
            stdout=writing,
            stderr=subprocess.PIPE,
            env=environment(engine),
            timeout=60,
            check=False,
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def redirected(how: str, *arguments: str | Path, engine: str | None = None) -> tuple[int, bytes]:
    """Exit status and standard error of a command that a shell starts with `how` behind it."""
    done = subprocess.run(
        ["sh", "-c", f'"$@" {how}', "sh", *COMMAND, *map(str, arguments)],
        capture_output=True,
        env=environment(engine),
        timeout=60,
        check=False,
    )
    assert done.stdout == b""
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    "arguments", [["decode", BASIC], ["decode", "--json", BASIC], ["stats", BASIC], ["schema"]]
)
def test_standard_output_closed(arguments: list[str | Path], engine: str) -> None:
    status, errors = redirected(">&-", *arguments, engine=engine)
    assert (status, errors) == (2, b"zktrace: standard output is closed\n")
    assert redirected(">&- 2>&-", *arguments, engine=engine) == (2, b"")


@pytest.mark.parametrize("command", ["decode", "stats"])
def test_standard_input_closed(command: str, engine: str) -> None:
    status, errors = redirected("<&-", command, "-", engine=engine)
    assert (status, errors) == (2, b"zktrace: standard input: is closed\n")


def test_standard_error_closed(engine: str) -> None:
    assert redirected("2>&- >/dev/null", "decode", BASIC, engine=engine)[0] == 0
    assert redirected("2>&-", "decode", "--frobnicate", engine=engine)[0] == 2


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_interrupt_prints_what_is_known(form: list[str], engine: str) -> None:
    process = subprocess.Popen(
        [*COMMAND, "decode", *form, "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(engine),
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdin.write(BASIC.read_bytes()[:4000])
    process.stdin.flush()
    first = process.stdout.readline()  # at once: lines do not wait for a block to fill
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    rest = process.stdout.read().decode()
    assert process.stderr.read() == b""
    for stream in (process.stdin, process.stdout, process.stderr):
        stream.close()
    assert process.wait(60) == 0
    assert b"opened" in first
    if form:
        assert objects(rest)[-1]["interrupted"] is True
    else:
        assert "interrupted" in rest


def test_interrupt_while_it_starts(tmp_path: Path) -> None:
    """Ctrl-C arrives while a library is being imported: one that does nothing else."""
    tmp_path.joinpath("typer.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(9)\n"
    )
    env = environment("python")
    env["PYTHONPATH"] = os.pathsep.join([str(tmp_path), env["PYTHONPATH"]])
    done = subprocess.run(
        [*COMMAND, "decode", str(BASIC)], capture_output=True, env=env, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


def test_interrupt_while_code_of_a_string_runs(tmp_path: Path) -> None:
    """CPython remembers that and would end python -m by the signal, though it was dealt with."""
    tmp_path.joinpath("late.py").write_text(
        "from zktrace.cli import main\n"
        "def run():\n"
        "    try:\n"
        "        exec('raise KeyboardInterrupt')\n"
        "    except KeyboardInterrupt:\n"
        "        return 0\n"
        "main.run = run\n"
        "main.main()\n"
    )
    env = environment("python")
    env["PYTHONPATH"] = os.pathsep.join([str(tmp_path), env["PYTHONPATH"]])
    done = subprocess.run([sys.executable, "-m", "late"], env=env, timeout=60, check=False)
    assert done.returncode == 0
