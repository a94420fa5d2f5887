"""Plays the TCP conversations of a capture once more, over real sockets:
``python -m tests.live.talk FILE [--client ADDRESS] [--server ADDRESS] [--server-in PID]``.

Every connection has its old addresses and ports (all clients and all servers other addresses where
told), every byte is sent by who sent it, in the order of the capture; a step begins when the one
before has arrived, so that there is one order. Prints `done` and waits for the end of standard
input: connections that the capture leaves open stay open until then.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import socket
import struct
import sys
from pathlib import Path

from tests.support.net import FIN, RST, SYN, Address, Seg, segment
from tests.support.pcapio import read_pcap

_TIMEOUT_S = 20.0


class Namespaces:
    """Sockets belong to the network namespace in which they are made."""

    def __init__(self, server_pid: int | None) -> None:
        self._own = os.open("/proc/self/ns/net", os.O_RDONLY)
        self._server = self._own
        if server_pid is not None:
            self._server = os.open(f"/proc/{server_pid}/ns/net", os.O_RDONLY)
        self._libc = ctypes.CDLL(None, use_errno=True)

    def socket(self, family: int, *, server: bool) -> socket.socket:
        if self._libc.setns(self._server if server else self._own, 0) != 0:
            raise OSError(ctypes.get_errno(), "setns")
        made = socket.socket(family, socket.SOCK_STREAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.settimeout(_TIMEOUT_S)
        return made


class Conversation:
    """One connection: side 0 opened it."""

    def __init__(self, syn: Seg, ends: tuple[Address, Address], listener: socket.socket) -> None:
        self._starts = [(syn.seq + 1) & 0xFFFFFFFF, None]
        self._next = [0, 0]
        self._listener = listener
        self._ends = ends
        self.sides: list[socket.socket] = []

    def connect(self, namespaces: Namespaces) -> None:
        client, server = self._ends
        opener = namespaces.socket(self._listener.family, server=False)
        opener.bind(client)
        opener.connect(server)
        answerer, _ = self._listener.accept()
        answerer.settimeout(_TIMEOUT_S)
        for one in (opener, answerer):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sides = [opener, answerer]

    def step(self, side: int, seg: Seg) -> None:
        start = self._starts[side]
        if start is None:
            self._starts[side] = (seg.seq + 1) & 0xFFFFFFFF  # its SYN+ACK
            return
        at = (seg.seq - start + 2**31) % 2**32 - 2**31
        if seg.flags & SYN:
            return
        skip = self._next[side] - at
        data = seg.payload[skip:] if skip > 0 else seg.payload
        if data:
            if skip < 0:
                raise SystemExit("the capture is not in order: choose another one")
            self._next[side] += len(data)
            self._pass(side, data)
        if seg.flags & RST:
            linger = struct.pack("ii", 1, 0)
            self.sides[side].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.sides[side].close()
        elif seg.flags & FIN and self.sides[side].fileno() >= 0:
            self.sides[side].shutdown(socket.SHUT_WR)

    def _pass(self, side: int, data: bytes) -> None:
        sender, receiver = self.sides[side], self.sides[1 - side]
        for at in range(0, len(data), 60_000):
            piece = data[at : at + 60_000]
            sender.sendall(piece)
            left = len(piece)
            while left:
                got = len(receiver.recv(left))
                if not got:
                    raise SystemExit("a connection ended early")
                left -= got


def play(
    path: Path, client: str | None, server: str | None, server_pid: int | None
) -> list[Conversation]:
    namespaces = Namespaces(server_pid)
    listeners: dict[Address, socket.socket] = {}
    conversations: dict[tuple[Address, Address], Conversation] = {}
    every = []
    for record in read_pcap(path).records:
        seg = segment(record)
        if seg is None:
            continue
        src, dst = seg.src, seg.dst
        if seg.flags & SYN and (src, dst) not in conversations and (dst, src) not in conversations:
            opener, target = (client or src[0], src[1]), (server or dst[0], dst[1])
            if target not in listeners:
                family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
                listeners[target] = namespaces.socket(family, server=True)
                listeners[target].bind(target)
                listeners[target].listen(64)
            conversation = Conversation(seg, (opener, target), listeners[target])
            conversation.connect(namespaces)
            conversations[src, dst] = conversation
            every.append(conversation)
        elif (src, dst) in conversations:
            conversations[src, dst].step(0, seg)
        elif (dst, src) in conversations:
            conversations[dst, src].step(1, seg)
        else:
            raise SystemExit("the capture has a connection without its SYN: choose another one")
    return every


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("--client")
    parser.add_argument("--server")
    parser.add_argument("--server-in", type=int)
    given = parser.parse_args()
    held = play(given.file, given.client, given.server, given.server_in)
    print("done", len(held), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
