"""The user's own capture filter: what it lets pass is what tcpdump lets pass, and what is wrong is
told with its place.
"""

from __future__ import annotations

import itertools
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.live.machine import run
from tests.live.test_filter import frame, passes
from tests.support.net import ACK, Seg, ip, ip4, tcp
from tests.support.pcapio import Record, read_pcap, write_pcap
from zktrace.capture.bpf import compile_filter
from zktrace.capture.expression import ExpressionError, parse

_HOSTS4 = ("10.0.0.1", "10.0.5.2", "192.168.1.9")
_HOSTS6 = ("fd00::1", "fd00:1::2")
_PORTS = (2181, 2182, 2888, 40_000)

GOOD = (
    "host 10.0.0.1",
    "src host 10.0.0.1",
    "dst 10.0.5.2",
    "net 10.0.0.0/16",
    "src net 10.0.0.0/21 and dst net 192.168.0.0/16",
    "net fd00::/32",
    "host fd00::1",
    "port 2181",
    "src port 2181",
    "dst port 2888",
    "src and dst port 2181",
    "src or dst port 2181",
    "portrange 2181-2182",
    "not portrange 2000-3000",
    "tcp port 2181",
    "ip",
    "ip6",
    "tcp",
    "not ip6 and port 2181",
    "ip host 10.0.0.1",
    "port 2181 or 2888",
    "port 2181 and not host 10.0.0.1",
    "not (host 10.0.0.1 or port 2181)",
    "not host 10.0.0.1 or port 2181",
    "port 2181 or port 2182 and host 10.0.5.2",
    "host 10.0.0.1 and (port 2181 or 2182) and not dst 192.168.1.9",
    "! port 2181 && ! host fd00::1 || src 10.0.5.2",
    "(src 10.0.0.1 and dst 10.0.5.2) or (src 10.0.5.2 and dst 10.0.0.1)",
    "src 10.0.0.1 and dst 10.0.5.2",
    "not not port 2181",
    "net 0.0.0.0/0",
    "src and dst net 10.0.0.0/8",
)


def _packets() -> list[bytes]:
    return [
        ip(Seg(0, (src, sport), (dst, dport), 1, 1, ACK, b"x"))
        for hosts in (_HOSTS4, _HOSTS6)
        for src, dst in itertools.permutations(hosts, 2)
        for sport, dport in itertools.product(_PORTS, repeat=2)
    ]


@pytest.mark.skipif(shutil.which("tcpdump") is None, reason="there is no tcpdump")
@pytest.mark.parametrize("text", GOOD)
def test_passes_what_tcpdump_passes(text: str, tmp_path: Path) -> None:
    frames = [frame(packet) for packet in _packets()]
    every, kept = tmp_path / "every.pcap", tmp_path / "kept.pcap"
    write_pcap(every, [Record(n, data, len(data)) for n, data in enumerate(frames)])
    subprocess.run(
        ["tcpdump", "-r", str(every), "-w", str(kept), text], check=True, capture_output=True
    )
    wanted = [record.data for record in read_pcap(kept).records]
    program = compile_filter((), cooked=False, also=parse(text))
    assert [data for data in frames if run(program, data)] == wanted
    for tags in (1, 2):  # tcpdump needs a word for those
        passed = [p for p in _packets() if passes(program, p, cooked=False, tags=tags)]
        assert [frame(packet) for packet in passed] == wanted
    cooked = compile_filter((), cooked=True, also=parse(text))
    assert [frame(p) for p in _packets() if passes(cooked, p, cooked=True)] == wanted


def test_ports_and_hosts_stay_as_they_are() -> None:
    program = compile_filter([(None, 2181)], cooked=False, also=parse("not host 10.0.0.1"))
    passed = [packet for packet in _packets() if run(program, frame(packet))]
    alone = compile_filter([(None, 2181)], cooked=False)
    assert passed == [
        packet
        for packet in _packets()
        if run(alone, frame(packet)) and bytes([10, 0, 0, 1]) not in (packet[12:16], packet[16:20])
    ]


@pytest.mark.parametrize("text", ["port 2181", "not port 2181", "not (port 1 or port 2)"])
def test_what_is_not_known_passes(text: str) -> None:
    """A later fragment has no ports; its addresses it has."""
    seg = Seg(0, ("10.0.0.1", 1), ("10.0.5.2", 2), 1, 1, ACK, b"x" * 64)
    later = ip4(seg.src[0], seg.dst[0], 6, tcp(seg)[24:], frag=3)
    for addition, good in (("", True), (" and host 10.0.0.1", True), (" and src 10.0.5.2", False)):
        program = compile_filter((), cooked=False, also=parse(text + addition))
        assert (run(program, frame(later)) > 0) is good


BAD = (
    ("", 0, "empty"),
    ("port", 4, "missing"),
    ("port x", 5, "no port"),
    ("port 70000", 5, "no port"),
    ("port 1-2", 5, "no port"),
    ("portrange 5", 10, "a range is N-M"),
    ("host example.org", 5, "no address"),
    ("host 10.0.0.0/8", 5, "a network"),
    ("net 10.0.0", 4, "no network"),
    ("10.0.0.1 port 2", 9, "'and' or 'or' is missing"),
    ("(port 1", 7, "a ) is missing"),
    ("port 1)", 6, "no ( before"),
    ("port 1 and", 10, "a filter is missing"),
    ("udp port 53", 0, "only TCP"),
    ("vlan and port 1", 0, "VLAN"),
    ("zookeeper", 0, "not known"),
    ("port 1 & port 2", 7, "'and' or 'or' is missing"),
    ("src or src port 1", 7, "twice"),
)


@pytest.mark.parametrize(("text", "position", "words"), BAD)
def test_what_is_wrong_is_told_with_its_place(text: str, position: int, words: str) -> None:
    with pytest.raises(ExpressionError) as told:
        parse(text)
    assert words in told.value.message
    assert told.value.position == position


_WORDS = (
    *("(", ")", "not", "and", "or", "!", "&&", "||", "&", "src", "dst", "host", "net", "port"),
    *("portrange", "ip", "ip6", "tcp", "1", "2181", "1-3", "10.0.0.1", "10.0.0.0/8", "x"),
)


@given(st.lists(st.sampled_from(_WORDS), max_size=14))
def test_any_words(words: list[str]) -> None:
    """A program, or an error with a place in the text."""
    text = " ".join(words)
    position = 0
    try:
        compile_filter((), cooked=True, also=parse(text))
    except ExpressionError as error:
        position = error.position
    assert 0 <= position <= len(text)


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(ExpressionError, match="too deeply"):
        parse("(" * 5000 + "port 1" + ")" * 5000)
