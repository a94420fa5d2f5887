"""No output of any kind holds a secret: passwords, credentials, tokens, ACL digests, node data.

Passwords are looked for as they are on the wire and as they can be computed from session ids; every
output is searched for the raw, hex, base64 and escaped forms.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

import zktrace
from tests.support.cases import everything
from tests.support.decoded import KINDS
from tests.support.pcapio import Capture, pcap_bytes, read_pcap
from tests.support.secrets import computed_password, forms, secrets
from tests.truth.test_command import run
from zktrace.engine.base import GROUPINGS

#: The rewrapped captures hold what their original holds.
_NAMES = sorted(name for name, sample in everything().items() if "same_truth_as" not in sample.meta)

#: Words in the lists of secrets that tell what is meant, but are no secret themselves.
_PROSE = {"the SASL tokens"}


def _capture(name: str) -> Capture:
    return read_pcap(everything()[name].files[0])


def _wanted(name: str) -> dict[bytes, str]:
    """Forms of all secrets of a capture, with what they are."""
    capture = _capture(name)
    out: dict[bytes, str] = {}
    for what, secret in secrets(capture.records, capture.linktype):
        out |= dict.fromkeys(forms(secret, halves=what != "data"), what)
    for text in everything()[name].meta.get("secrets_that_must_never_be_shown", []):
        if text in _PROSE:
            continue
        out |= dict.fromkeys(forms(text.encode()), "listed")
        if len(text) == 32 and set(text) <= set("0123456789abcdef"):
            out |= dict.fromkeys(forms(bytes.fromhex(text)), "listed")
    return out


def _search(output: bytes, wanted: dict[bytes, str], where: str) -> None:
    for form, what in wanted.items():
        at = output.find(form)
        if at >= 0:
            around = output[max(0, at - 60) : at + len(form) + 20]
            raise AssertionError(f"{what} {form!r} in {where}: ...{around!r}...")


def test_the_search_finds_what_there_is() -> None:
    """The secrets of captures that are known to hold some are found in their bytes."""
    kinds = {what for what, _ in secrets(_capture("zk_secrets").records)}
    assert kinds == {"password", "credential", "ACL", "token", "data"}
    kinds = {what for what, _ in secrets(_capture("30_sasl_digest_md5").records)}
    assert {"password", "token"} <= kinds
    kinds = {what for what, _ in secrets(_capture("25_kazoo_ops").records)}
    assert {"password", "ACL", "credential"} <= kinds
    assert any(what == "token" for what, _ in secrets(_capture("42_quorum_sasl").records))
    for name in ("02_basic_ops", "zk_secrets"):
        capture = _capture(name)
        raw = b"".join(record.data for record in capture.records)
        assert any(secret in raw for _, secret in secrets(capture.records))


def test_passwords_can_be_computed() -> None:
    """As the reference says: whoever knows the id can compute the password."""
    from tests.support import oracle

    reading = oracle.read(_capture("02_basic_ops").records)
    for pair in reading.pairs:
        if pair.opcode == -10 and pair.reply is not None and pair.session:
            assert pair.reply.payload[20:36] == computed_password(pair.session)


@pytest.mark.parametrize("name", _NAMES)
def test_tables_and_numbers(
    name: str, engine: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    wanted = _wanted(name)
    with caplog.at_level(logging.DEBUG):
        trace = zktrace.read(str(everything()[name].files[0]))
        for kind in KINDS:
            rows = getattr(trace, kind).to_pylist()
            _search(repr(rows).encode("utf-8", "replace"), wanted, kind)
            raw = json.dumps(rows, ensure_ascii=False).encode("utf-8", "replace")
            _search(raw, wanted, f"{kind} as JSON")
        _search(repr(trace.stats(by=list(GROUPINGS))).encode(), wanted, "stats")
        _search(repr(trace.coverage).encode(), wanted, "coverage")
        _search(repr(trace).encode(), wanted, "repr")
    _search(caplog.text.encode(), wanted, "logs")
    printed = capfd.readouterr()
    _search((printed.out + printed.err).encode(), wanted, "standard output")


_COMMANDS = [
    ["decode"],
    ["decode", "--json"],
    ["stats", "--by", ",".join(GROUPINGS)],
    ["stats", "--json", "--by", ",".join(GROUPINGS)],
]


@pytest.mark.parametrize("command", _COMMANDS, ids=lambda c: " ".join(c[:2]))
@pytest.mark.parametrize("name", ["zk_secrets", "25_kazoo_ops", "30_sasl_digest_md5"])
def test_commands(name: str, command: list[str], engine: str) -> None:
    path = str(everything()[name].files[0])
    done = run(command[0], path, *command[1:], engine=engine)
    assert done.returncode == 0, done.stderr
    _search(done.stdout + done.stderr, _wanted(name), " ".join(command))


def test_errors(engine: str, tmp_path: Path) -> None:
    """Files that cannot be read, and damaged ones: messages hold none of their bytes."""
    wanted = _wanted("zk_secrets")
    capture = _capture("zk_secrets")
    whole = pcap_bytes(capture.records)
    damaged = {
        "headless": whole[24:],
        "cut": whole[: len(whole) * 2 // 3],
        "hurt": whole[:2000] + b"\xff" * 40 + whole[2040:],
        "payloads": b"".join(record.data for record in capture.records),
    }
    for name, data in damaged.items():
        path = tmp_path / name
        path.write_bytes(data)
        for arguments in (["decode", str(path)], ["decode", "--json", str(path)]):
            done = run(*arguments, engine=engine)
            _search(done.stdout + done.stderr, wanted, f"{name}: {arguments}")
            assert b"Traceback" not in done.stderr


def test_no_control_characters(engine: str) -> None:
    """What a hostile path holds cannot drive a terminal or forge a line."""
    path = str(everything()["zk_hostile"].files[0])
    forbidden = set(range(32)) | {0x7F} | set(range(0x80, 0xA0)) | {0x202E, 0x2066, 0x2028}
    forbidden -= {ord("\n")}
    for arguments in (
        ["decode", path],
        ["decode", "--json", path],
        ["stats", path, "--by", "path"],
    ):
        done = run(*arguments, engine=engine)
        assert done.returncode == 0, done.stderr
        text = done.stdout.decode()
        bad = {hex(ord(c)) for c in text if ord(c) in forbidden}
        assert not bad, (arguments, bad)
        if "--json" in arguments:
            kinds = [json.loads(line)["kind"] for line in text.split("\n")[:-1]]
            assert kinds.count("coverage") == 1
            assert kinds[-1] == "coverage"
