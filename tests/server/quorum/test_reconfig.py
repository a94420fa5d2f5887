"""Reconfiguration of an ensemble of Java's servers and ours, led by either, while clients write: a
server joins, gets a vote, the leader is taken out, and at last all members are given anew; then the
other program goes on with the configuration files of each.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import (
    BadArgumentsError,
    BadVersionError,
    ConnectionLoss,
    MarshallingError,
    NewConfigNoQuorumError,
    NoAuthError,
    ReconfigInProcessError,
)

from tests.server.quorum.mixed import (
    PATIENCE_S,
    Mixed,
    Writer,
    mixed,
    nothing_differs,
    program,
    tree,
)

_CONFIG: Final = "/zookeeper/config"
#: Of super:secret, as DigestAuthenticationProvider.generateDigest has it.
_SUPER: Final = {
    "reconfigEnabled": "true",
    "DigestAuthenticationProvider.superDigest": "super:lK75jTNcA+U9vtVEw5vB51mj/w4=",
}


#: What is refused, and how, in the order in which it is looked at: rights come last.
_REFUSED: Final = [
    ((None, "1", None, 7), BadVersionError),
    ((None, "x", None, -1), MarshallingError),
    ((None, "1,2", None, -1), BadArgumentsError),
    (("server.4=h", None, None, -1), BadArgumentsError),
    (("server.4=127.0.0.1:1:2", None, None, -1), BadArgumentsError),
    (("server.x=127.0.0.1:1:2;3", None, None, -1), MarshallingError),
    (("server.4=127.0.0.1:1:2:boss;3", None, None, -1), BadArgumentsError),
    (("server.4=10.0.0.1:1:2;3,server.5=10.0.0.1:1:2;3", None, None, -1), BadArgumentsError),
    ((None, None, "server.1=127.0.0.1:1:2;3", -1), BadArgumentsError),
    ((None, None, "server.1=127.0.0.1:1:2:observer;3", -1), MarshallingError),
    ((None, None, "tickTime=3", -1), BadArgumentsError),
    ((None, None, "server.7=a:1:2;3,server.8=b:3:4;3", -1), NewConfigNoQuorumError),
    ((None, "1", None, -1), NoAuthError),
]


class _Operator:
    """Asks whoever leads, and waits until it is so everywhere."""

    def __init__(self, servers: Mixed) -> None:
        self.servers = servers
        self.client = KazooClient(servers.hosts, timeout=8)
        self.client.start(PATIENCE_S)

    def ask(
        self, joining: str | None = None, leaving: str | None = None, new: str | None = None
    ) -> bytes:
        """The configuration that came of it. Asked again where that is no harm: the ensemble was
        not ready for it, or it is not known what became of it.
        """

        def once() -> bytes | None:
            try:
                return bytes(self.client.reconfig(joining, leaving, new)[0])
            except (NewConfigNoQuorumError, ReconfigInProcessError, ConnectionLoss):
                return None

        told = self.servers.until(once)
        self.servers.until(lambda: all(text == told for text in self.everywhere()) or None)
        return told

    def everywhere(self) -> list[bytes]:
        """What each server that runs shows as its configuration."""
        found = []
        for server in self.servers:
            if server.running:
                client = KazooClient(server.hosts, timeout=8)
                client.start(PATIENCE_S)
                found.append(bytes(client.get(_CONFIG)[0]))
                client.stop()
                client.close()
        return found

    def close(self) -> None:
        self.client.stop()
        self.client.close()


def _is(servers: Mixed, sid: int, *modes: str) -> None:
    servers.until(lambda: servers.of(sid).mode() in modes or None)


@pytest.mark.parametrize("kinds", ["ojoj", "jojo"])
def test_members_come_and_go(tmp_path: Path, kinds: str) -> None:
    with mixed(tmp_path, kinds[:3], **_SUPER) as servers:
        writer = Writer(servers.hosts)
        writer.start()
        writer.more(servers)
        operator = _Operator(servers)
        # The first configuration has the version of NEWLEADER.
        assert {text.split(b"\n")[-1][-9:] for text in operator.everywhere()} == {b"100000000"}
        for arguments, refused in _REFUSED:
            with pytest.raises(refused):
                operator.client.reconfig(*arguments)
        operator.client.add_auth("digest", "super:secret")

        servers.join(kinds[3])
        operator.ask(joining=servers.line(4, "observer"))
        _is(servers, 4, "observer")
        voting = operator.ask(joining=servers.line(4, "participant"))
        _is(servers, 4, "follower")
        for server in servers:
            said = server.ask("conf") or ""
            assert said.partition("membership: \n")[2] == voting.decode()
            assert "\npeerType=0\n" in said
        writer.more(servers)

        gone = servers.leader()
        assert gone.sid is not None
        text = operator.ask(leaving=str(gone.sid))
        assert f"server.{gone.sid}=".encode() not in text
        _is(servers, gone.sid, "follower")
        assert servers.leader().sid != gone.sid
        writer.more(servers)

        # It comes back, in one request for all of them; client ports are theirs from now on.
        operator.ask(new=",".join(servers.line(sid, "participant") for sid in (1, 2, 3, 4)))
        writer.more(servers)
        for sid in (1, 2):
            server = servers.of(sid)
            server.stop()
            other = "j" if type(server) is program("o") else "o"
            servers.replace(sid, other).start()
            servers.all_serve()
            writer.more(servers)
        assert len(set(operator.everywhere())) == 1

        writer.end()
        operator.close()
        trees = [tree(server.hosts) for server in servers]
        assert all(one == trees[0] for one in trees)
        assert not {f"/load/{name}" for name in writer.known} - set(trees[0])
        nothing_differs(servers)


def test_from_one_server_on(tmp_path: Path) -> None:
    """standaloneEnabled=false: an ensemble of one, which grows, and loses the first of it."""
    with mixed(tmp_path, "o", standaloneEnabled="false", **_SUPER) as servers:
        operator = _Operator(servers)
        operator.client.add_auth("digest", "super:secret")
        servers.join("o")
        operator.ask(joining=servers.line(2, "participant"))
        servers.join("o")
        operator.ask(joining=servers.line(3, "participant"))
        assert servers.leader().sid == 1
        operator.ask(leaving="1")
        servers.of(1).stop()
        servers.until(lambda: servers.leader().sid in (2, 3))
        operator.close()
        tree(servers.of(3).hosts)
