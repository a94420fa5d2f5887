"""What the tests of ensembles take for a digest that differs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.server.core.test_fast import framed
from tests.server.quorum.mixed import Mixed, nothing_differs
from tests.server.quorum.test_quick import Way
from zktrace.wire.message import encode_request
from zktrace.wire.records import SetDataRequest
from zktrace.wire.txn import Transaction
from zktrace_server.core import request as op
from zktrace_server.storage.txnlog import TxnLog


def _server(directory: Path, txns: list[bytes], said: str) -> SimpleNamespace:
    logs = directory / "data" / "version-2"
    logs.mkdir(parents=True)
    log = TxnLog(logs, preallocate=0)
    log.append(txns)
    log.close()
    (directory / "log").write_text(said)
    return SimpleNamespace(data=directory / "data", log=directory / "log")


def _java(zxid: int, digest: int) -> str:
    """As 3.8.0 says it."""
    return (
        f"WARN DataTree - Message:Digests are not matching. Value is Zxid. Value:{zxid}\n"
        f"ERROR DataTree - First digest mismatch on txn: -72,1,{zxid},1796067031755,1\n"
        f", '/a,#6e,F,34\n, expected digest is 2,{digest}\n, actual digest is 1438602416262, \n"
    )


def test_whose_digest_is_wrong(tmp_path: Path) -> None:
    way = Way(True)
    for number in range(5):
        asked = SetDataRequest("/zookeeper/quota", b"x" * number, -1)
        way.receive(0, framed(encode_request(1, op.SET_DATA, asked)))
    whole = [Transaction.decode(payload) for payload in way.proposed]
    last = whole[-1]
    assert last.digest is not None
    zxid, digest = last.header.zxid, last.digest.tree_digest
    part = way.proposed[2:]

    def ensemble(name: str, said: str) -> Mixed:
        servers = Mixed()
        for number, (txns, text) in enumerate(((part, ""), (way.proposed, ""), (part, said))):
            servers.append(_server(tmp_path / name / str(number), txns, text))  # type: ignore[arg-type]
        return servers

    nothing_differs(ensemble("quiet", ""))
    nothing_differs(ensemble("right", _java(zxid, digest)))
    for name, said in (
        ("wrong", _java(zxid, digest + 1)),
        ("later", _java(zxid + 1, digest)),
        ("unsaid", _java(zxid, digest).partition("\n")[0]),
        ("ours", "ERROR this server's tree differs from that of the server that made"),
    ):
        with pytest.raises(AssertionError):
            nothing_differs(ensemble(name, said))
