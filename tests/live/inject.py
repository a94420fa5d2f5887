"""Puts frames on an interface as they are: ``python -m tests.live.inject IFACE FILE [--tags N]
[--repeat N] [--pause SECONDS]``.

`--tags` gives each frame of the capture so many VLAN tags. Prints how many frames it sent. The
receiving side gets the outer tag apart from the frame (the kernel takes it off), the sending side
in it.
"""

from __future__ import annotations

import argparse
import socket
import time
from pathlib import Path

from tests.support.pcapio import read_pcap

TAGS = {0: b"", 1: b"\x81\x00\x00\x2a", 2: b"\x88\xa8\x00\x07\x81\x00\x00\x2a"}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("interface")
    parser.add_argument("file", type=Path)
    parser.add_argument("--tags", type=int, default=0)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--pause", type=float, default=0.0)
    given = parser.parse_args()
    tags = TAGS[given.tags]
    frames = [r.data[:12] + tags + r.data[12:] for r in read_pcap(given.file).records]
    sent = 0
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as one:
        one.bind((given.interface, 0))
        for _ in range(given.repeat):
            for frame in frames:
                one.send(frame)
                if given.pause:
                    time.sleep(given.pause)
            sent += len(frames)
    print(sent, flush=True)


if __name__ == "__main__":
    main()
