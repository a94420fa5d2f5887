"""Many clients, silent ones, hostile ones; a disk that fails."""

from __future__ import annotations

import resource
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.server.operations import OPEN
from tests.server.ourzk import OurServer, ours
from tests.server.port_fuzz import campaign
from tests.server.rawclient import RawClient
from zktrace.wire.message import decode_reply
from zktrace.wire.records import ConnectRequest, CreateRequest, PathWatchRequest

_IDLE: Final = 5000
#: What one of them may cost the server.
_IDLE_KIB: Final = 40


def resident_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if "VmRSS:" in line))


@contextmanager
def open_files(count: int) -> Iterator[None]:
    """Room for so many in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        pytest.fail(f"at most {hard} files can be open here, {count} are wanted")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_five_thousand_idle_connections(tmp_path: Path) -> None:
    request = ConnectRequest(0, 0, 40_000, 0, bytes(16), False).encode()
    frame = struct.pack(">i", len(request)) + request
    with ours(tmp_path) as server, open_files(_IDLE + 200), ExitStack() as stack:
        before = resident_kib(server.pid)
        sockets = []
        for _ in range(_IDLE):
            one = stack.enter_context(socket.create_connection(server.address, timeout=60))
            one.sendall(frame)
            sockets.append(one)
        for one in sockets:
            assert len(one.recv(100)) == 41
        server.wait_for_sessions(_IDLE)
        assert (resident_kib(server.pid) - before) / _IDLE < _IDLE_KIB
        client = RawClient(server.address)
        client.connect()
        for number in range(1, 200):
            client.request(number, 3, PathWatchRequest("/", False))
            assert decode_reply(3, client.replies(1)[0])[0].err == 0
        client.close()


def test_who_connects_and_says_nothing_is_closed(tmp_path: Path) -> None:
    """Or says half of something, and no more."""
    with ours(tmp_path, {"nio.sessionlessCnxnTimeout": "500"}) as server, ExitStack() as stack:
        for said in (b"", b"\0", b"\0\0\0\x2d" + bytes(20), b"ru") * 50:
            one = stack.enter_context(socket.create_connection(server.address, timeout=60))
            one.sendall(said)
        with socket.create_connection(server.address, timeout=60) as last:
            # Closed, all of them, when this one is: it was the last to come.
            assert last.recv(10) == b""
        client = RawClient(server.address)
        assert client.connect() is not None
        client.close()


def test_noise_at_the_port(tmp_path: Path) -> None:
    with ours(tmp_path) as server:
        assert campaign(server, seed=5, seconds=20, most=400) >= 20


_SHIM: Final = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <unistd.h>
int fdatasync(int fd) {
    int (*real)(int) = (int (*)(int)) dlsym(RTLD_NEXT, "fdatasync");
    if (access(FLAG, F_OK) == 0) { errno = EIO; return -1; }
    return real(fd);
}
"""


def test_a_sync_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is acknowledged any more, the server ends and says why, and what it had acknowledged
    is there.
    """
    flag, source, library = tmp_path / "fail", tmp_path / "shim.c", tmp_path / "shim.so"
    source.write_text(_SHIM)
    subprocess.run(
        ["cc", "-shared", "-fPIC", f'-DFLAG="{flag}"', "-o", library, source, "-ldl"], check=True
    )
    monkeypatch.setenv("LD_PRELOAD", str(library))
    server = OurServer(tmp_path / "server", {"clientPort": "0"})
    server.start()
    client = RawClient(server.address)
    client.connect()
    for number in range(1, 51):
        client.request(number, 1, CreateRequest(f"/n{number}", b"", OPEN, 0))
        assert decode_reply(1, client.replies(1)[0])[0].err == 0
    flag.touch()
    client.request(51, 1, CreateRequest("/n51", b"", OPEN, 0))
    client.request(52, 3, PathWatchRequest("/n51", False))
    assert client.replies(2) == []
    client.close()
    assert server.wait() == 1
    said = server.log.read_text()
    assert "cannot be written: Input/output error" in said
    assert "Traceback" not in said
    flag.unlink()
    server.start()
    client = RawClient(server.address)
    client.connect()
    for number in range(1, 51):
        client.request(number, 3, PathWatchRequest(f"/n{number}", False))
        assert decode_reply(3, client.replies(1)[0])[0].err == 0
    client.close()
    assert server.stop() == 0


def test_the_limit_of_files_is_raised(tmp_path: Path) -> None:
    with ours(tmp_path) as server:
        limits = Path(f"/proc/{server.pid}/limits").read_text()
        line = next(line for line in limits.splitlines() if line.startswith("Max open files"))
        soft, hard = line.split()[3:5]
        assert soft == hard
