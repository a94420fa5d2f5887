"""Transports of our own are to a protocol what asyncio's are: one suite over both."""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import Awaitable, Callable

import pytest

from zktrace_server.net import sockets as net
from zktrace_server.net.sockets import Listener, Sockets, listen

LARGE = bytes(8 << 20)
PATIENCE_S = 60.0


class Recorder(asyncio.Protocol):
    """Notes what it is told; answers by `answer`."""

    answer: Callable[[Recorder, bytes], None] = staticmethod(lambda self, data: None)

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.got = bytearray()
        self.told: list[str] = []
        self.changed = asyncio.Event()

    def _tell(self, what: str) -> None:
        self.told.append(what)
        self.changed.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._tell("made")

    def data_received(self, data: bytes) -> None:
        self.got += data
        self.changed.set()
        type(self).answer(self, data)

    def pause_writing(self) -> None:
        self._tell("pause")

    def resume_writing(self) -> None:
        self._tell("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self._tell("lost" if exc is None else f"lost: {type(exc).__name__}")

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not holds():
                self.changed.clear()
                await self.changed.wait()


Case = Callable[[socket.socket, Recorder], Awaitable[None]]


def drive(own: bool, case: Case, answer: Callable[[Recorder, bytes], None] | None = None) -> None:
    """A client, in blocking calls of another thread, and the protocol that it has reached."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        made: list[Recorder] = []

        class Answering(Recorder):
            def __init__(self) -> None:
                super().__init__()
                made.append(self)

        if answer is not None:
            Answering.answer = staticmethod(answer)
        listener: Listener | asyncio.Server
        together = None
        if own:
            together = Sockets(loop, lambda: None, lambda: None)
            listener = await listen(together, Answering, "127.0.0.1", 0, 10)
        else:
            listener = await loop.create_server(Answering, "127.0.0.1", 0)
        address = listener.sockets[0].getsockname()
        client = await asyncio.to_thread(socket.create_connection, address, PATIENCE_S)
        async with asyncio.timeout(PATIENCE_S):
            while not made or not made[0].told:
                await asyncio.sleep(0)
        try:
            await case(client, made[0])
        finally:
            client.close()
            listener.close()
            if together is not None:
                together.close()
            await asyncio.sleep(0)

    asyncio.run(main())


own_and_asyncio = pytest.mark.parametrize("own", [True, False], ids=["own", "asyncio"])
pytestmark = pytest.mark.skipif(not net.AVAILABLE, reason="there is no epoll")


@own_and_asyncio
def test_bytes_and_the_end(own: bool) -> None:
    async def case(client: socket.socket, server: Recorder) -> None:
        assert server.transport.get_extra_info("peername") == client.getsockname()
        client.sendall(b"some")
        await server.until(lambda: server.got == b"some")
        server.transport.write(b"answer")
        assert await asyncio.to_thread(client.recv, 100) == b"answer"
        client.shutdown(socket.SHUT_WR)
        await server.until(lambda: server.told == ["made", "lost"])
        assert server.transport.is_closing()
        assert await asyncio.to_thread(client.recv, 100) == b""

    drive(own, case)


@own_and_asyncio
def test_more_than_the_client_takes(own: bool) -> None:
    """Paused above the mark, resumed when it has read most of it; a close waits."""

    async def case(client: socket.socket, server: Recorder) -> None:
        server.transport.set_write_buffer_limits(high=1 << 20)
        server.transport.write(LARGE)
        assert server.told == ["made", "pause"]
        assert server.transport.get_write_buffer_size() > 1 << 20
        server.transport.write(b"last")
        server.transport.close()
        received = bytearray()

        def read() -> None:
            while data := client.recv(1 << 16):
                received.extend(data)

        await asyncio.to_thread(read)
        assert received == LARGE + b"last"
        await server.until(lambda: server.told[-1] == "lost")
        assert "resume" in server.told

    drive(own, case)


@own_and_asyncio
def test_paused_reading(own: bool) -> None:
    async def case(client: socket.socket, server: Recorder) -> None:
        server.transport.pause_reading()
        client.sendall(b"later")
        # Another connection's bytes are read, so that this one's could have been.
        for _ in range(10):
            await asyncio.sleep(0.001)
        assert not server.got
        server.transport.resume_reading()
        await server.until(lambda: server.got == b"later")

    drive(own, case)


@own_and_asyncio
def test_a_reset(own: bool) -> None:
    async def case(client: socket.socket, server: Recorder) -> None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        await server.until(lambda: server.told[-1].startswith("lost"))
        server.transport.write(b"to nobody")
        server.transport.abort()

    drive(own, case)


@own_and_asyncio
def test_abort_drops_what_is_unsent(own: bool) -> None:
    async def case(client: socket.socket, server: Recorder) -> None:
        server.transport.write(LARGE)
        server.transport.abort()
        server.transport.write(b"more")
        await server.until(lambda: server.told[-1] == "lost")

    drive(own, case)


@own_and_asyncio
def test_closed_while_it_is_told_of_bytes(own: bool) -> None:
    def answer(server: Recorder, data: bytes) -> None:
        server.transport.write(b"bye")
        server.transport.close()

    async def case(client: socket.socket, server: Recorder) -> None:
        client.sendall(b"x")
        assert await asyncio.to_thread(client.recv, 100) == b"bye"
        assert await asyncio.to_thread(client.recv, 100) == b""
        await server.until(lambda: server.told == ["made", "lost"])

    drive(own, case, answer)


@own_and_asyncio
def test_a_defect_costs_its_own_connection(own: bool, caplog: pytest.LogCaptureFixture) -> None:
    def answer(server: Recorder, data: bytes) -> None:
        raise ValueError("a defect")

    async def case(client: socket.socket, server: Recorder) -> None:
        client.sendall(b"x")
        await server.until(lambda: server.told[-1].startswith("lost"))
        assert "a defect" in caplog.text

    drive(own, case, answer)


def test_turns_are_told() -> None:
    """All that came is handled between `begun` and `ended`."""

    async def main() -> None:
        told: list[str] = []
        loop = asyncio.get_running_loop()
        together = Sockets(loop, lambda: told.append("begun"), lambda: told.append("ended"))
        made: list[Recorder] = []

        class Noting(Recorder):
            def __init__(self) -> None:
                super().__init__()
                made.append(self)

            def data_received(self, data: bytes) -> None:
                told.append(data.decode())
                super().data_received(data)

        listener = await listen(together, Noting, "127.0.0.1", 0, 10)
        address = listener.sockets[0].getsockname()
        # Nothing runs between here and the first wait: both have come when the loop looks.
        clients = [socket.create_connection(address) for _ in range(2)]
        for client in clients:
            client.sendall(b"x")
        async with asyncio.timeout(PATIENCE_S):
            while told.count("x") < 2:
                await asyncio.sleep(0)
        assert "begun x x ended" in " ".join(told)
        for client in clients:
            client.close()
        listener.close()
        together.close()
        await asyncio.sleep(0)

    asyncio.run(main())


def test_no_file_left(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that cannot be accepted waits, without the loop running hot."""
    monkeypatch.setattr(net, "_PAUSE_S", 0.0)
    failed: list[bool] = []

    class Full(socket.socket):
        def accept(self) -> tuple[socket.socket, object]:
            if not failed:
                failed.append(True)
                raise OSError(errno.EMFILE, "Too many open files")
            return super().accept()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        together = Sockets(loop, lambda: None, lambda: None)
        made: list[Recorder] = []

        def factory() -> Recorder:
            made.append(Recorder())
            return made[-1]

        bound = Full()
        bound.bind(("127.0.0.1", 0))
        listener = Listener(together, factory, [bound], 10)
        with socket.create_connection(bound.getsockname()):
            async with asyncio.timeout(PATIENCE_S):
                while not made:
                    await asyncio.sleep(0)
        listener.close()
        together.close()
        await asyncio.sleep(0)

    asyncio.run(main())
    assert "Too many open files" in caplog.text
