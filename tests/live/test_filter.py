"""The kernel filters: what passes them, and that the kernel takes them."""

from __future__ import annotations

import socket
import struct
import sys
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.live.machine import run
from tests.support.net import ACK, Seg, ip, ip4, ip6, tcp
from zktrace.capture import bpf
from zktrace.capture.bpf import FilterTooLong, Instruction, compile_filter

CLIENT4, SERVER4 = "10.1.2.3", "10.9.8.7"
CLIENT6, SERVER6 = "fd00::1:2", "fd00:0:0:7::9"
TAGS = {1: b"\x81\x00\x00\x2a", 2: b"\x88\xa8\x00\x07\x81\x00\x00\x2a"}


def segment(v6: bool, sport: int, dport: int) -> Seg:
    src, dst = (CLIENT6, SERVER6) if v6 else (CLIENT4, SERVER4)
    return Seg(0, (src, sport), (dst, dport), 1, 1, ACK, b"some payload")


def ethertype(packet: bytes) -> int:
    return 0x86DD if packet[0] >> 4 == 6 else 0x0800


def frame(packet: bytes, tags: int = 0) -> bytes:
    return bytes(12) + TAGS.get(tags, b"") + struct.pack(">H", ethertype(packet)) + packet


def passes(
    program: list[Instruction], packet: bytes, *, cooked: bool, tags: int = 0, bare: bool = False
) -> bool:
    """Does a packet pass, with tags in its frame? `bare`: it begins with IP in spite of them."""
    if not cooked:
        return run(program, frame(packet, tags)) > 0
    tagged = TAGS.get(tags, b"") + struct.pack(">H", ethertype(packet))
    protocol = int.from_bytes(tagged[:2], "big")
    return run(program, packet if bare else tagged[2:] + packet, {bpf.PROTOCOL: protocol}) > 0


@given(
    v6=st.booleans(),
    sport=st.sampled_from([2181, 2888, 40000]),
    dport=st.sampled_from([2181, 2888, 40001]),
    tags=st.integers(0, 2),
    cooked=st.booleans(),
    bare=st.booleans(),
    ports=st.sets(st.sampled_from([2181, 2888, 3888]), min_size=1),
    at=st.sampled_from([None, CLIENT4, SERVER4, CLIENT6, SERVER6, "10.9.8.6"]),
    hosts=st.sets(
        st.sampled_from(["10.1.2.3", "10.9.0.0/16", "192.168.0.0/23", "fd00::/46", "fd00::1:2"]),
        max_size=3,
    ),
)
def test_passes_what_was_asked_for(
    v6: bool,
    sport: int,
    dport: int,
    tags: int,
    cooked: bool,
    bare: bool,
    ports: set[int],
    at: str | None,
    hosts: set[str],
) -> None:
    server = None if at is None else ip_address(at).packed
    networks = [ip_network(host) for host in sorted(hosts)]
    program = compile_filter([(server, port) for port in ports], networks, cooked=cooked)
    seg = segment(v6, sport, dport)
    ends = [(ip_address(host), port) for host, port in (seg.src, seg.dst)]
    asked = any(port in ports and server in (None, host.packed) for host, port in ends)
    if networks:
        asked = asked and any(host in network for host, _ in ends for network in networks)
    assert passes(program, ip(seg), cooked=cooked, tags=tags, bare=bare) == asked


@pytest.mark.parametrize("cooked", [False, True])
@pytest.mark.parametrize("tags", [0, 1, 2])
def test_other_packets_do_not_pass(cooked: bool, tags: int) -> None:
    program = compile_filter([(None, 2181)], cooked=cooked)
    ports = struct.pack(">HHHH", 2181, 2181, 8, 0)
    for packet in (
        ip4(CLIENT4, SERVER4, 17, ports),
        ip4(CLIENT4, SERVER4, 1, ports),
        ip4(CLIENT4, SERVER4, 47, ports),
        ip6(CLIENT6, SERVER6, 17, ports),
        ip6(CLIENT6, SERVER6, 58, ports),
    ):
        assert not passes(program, packet, cooked=cooked, tags=tags)
    if not cooked:
        arp = bytes(12) + TAGS.get(tags, b"") + b"\x08\x06" + bytes(46)
        assert run(program, arp) == 0


@pytest.mark.parametrize("cooked", [False, True])
def test_fragments_and_options(cooked: bool) -> None:
    program = compile_filter([(None, 2181)], cooked=cooked)
    body = tcp(segment(False, 40000, 2181))
    other = tcp(segment(False, 40000, 80))
    assert passes(program, ip4(CLIENT4, SERVER4, 6, body, frag=0x2000), cooked=cooked)
    assert not passes(program, ip4(CLIENT4, SERVER4, 6, other, frag=0x2000), cooked=cooked)
    # The ports are in the first fragment alone.
    assert passes(program, ip4(CLIENT4, SERVER4, 6, b"rest", frag=0x0007), cooked=cooked)
    assert not passes(program, ip4(CLIENT4, SERVER4, 17, b"rest", frag=0x0007), cooked=cooked)
    # An IPv4 header with 8 bytes of options.
    plain = ip4(CLIENT4, SERVER4, 6, body)
    assert passes(program, b"\x47" + plain[1:20] + bytes(8) + plain[20:], cooked=cooked)
    fragment = struct.pack(">BBHI", 6, 0, 0x0100, 7) + body
    assert passes(program, ip6(CLIENT6, SERVER6, 44, fragment), cooked=cooked)
    fragment = struct.pack(">BBHI", 17, 0, 0x0100, 7) + body
    assert not passes(program, ip6(CLIENT6, SERVER6, 44, fragment), cooked=cooked)
    for extension in (0, 43, 60, 51):
        behind = struct.pack(">BB6x", 6, 0) + body
        assert passes(program, ip6(CLIENT6, SERVER6, extension, behind), cooked=cooked)
        # Such as every machine's multicast reports.
        behind = struct.pack(">BB6x", 58, 0) + body
        assert not passes(program, ip6(CLIENT6, SERVER6, extension, behind), cooked=cooked)


@pytest.mark.parametrize("cooked", [False, True])
def test_tunnels(cooked: bool) -> None:
    hosts = [ip_network("192.168.0.0/16")]
    closed = compile_filter([(None, 2181)], hosts, cooked=cooked)
    opened = compile_filter([(None, 2181)], hosts, cooked=cooked, tunnels=True)
    vxlan = struct.pack(">HHHH", 5000, 4789, 40, 0) + bytes(32)
    for packet, wanted in (
        (ip4(CLIENT4, SERVER4, 17, vxlan), True),
        (ip6(CLIENT6, SERVER6, 17, vxlan), True),
        (ip4(CLIENT4, SERVER4, 17, vxlan, frag=5), True),
        (ip4(CLIENT4, SERVER4, 17, struct.pack(">HHHH", 4789, 53, 8, 0)), False),
        (ip4(CLIENT4, SERVER4, 47, bytes(8)), True),
        (ip4(CLIENT4, SERVER4, 4, bytes(20)), True),
        (ip6(CLIENT6, SERVER6, 41, bytes(40)), True),
        (ip4(CLIENT4, SERVER4, 1, bytes(8)), False),
    ):
        assert passes(opened, packet, cooked=cooked) == wanted
        assert not passes(closed, packet, cooked=cooked)


def test_loopback_shows_a_packet_twice_and_it_passes_once() -> None:
    program = compile_filter([(None, 2181)], cooked=False)
    data = frame(ip(segment(False, 40000, 2181)))
    for kind in (0, bpf.OUTGOING):
        for hardware in (1, bpf.LOOPBACK):
            told = {bpf.PACKET_TYPE: kind, bpf.HARDWARE_TYPE: hardware}
            twice = kind == bpf.OUTGOING and hardware == bpf.LOOPBACK
            assert bool(run(program, data, told)) != twice


def test_the_snap_length_is_what_it_returns() -> None:
    program = compile_filter([], cooked=False, snaplen=96)
    assert run(program, frame(ip(segment(False, 1, 2)))) == 96


@given(st.binary(max_size=80), st.booleans(), st.sampled_from([0x0800, 0x86DD, 0x8100, 0x88A8]))
def test_any_bytes(data: bytes, cooked: bool, protocol: int) -> None:
    program = compile_filter(
        [(None, 2181), (bytes(4), 9)], [ip_network("10.0.0.0/9")], cooked=cooked, tunnels=True
    )
    assert run(program, data, {bpf.PROTOCOL: protocol}) in (0, bpf.WHOLE)


@pytest.mark.parametrize("cooked", [False, True])
def test_jumps_over_more_than_a_byte(cooked: bool) -> None:
    """Conditional jumps have 8 bits: 600 ports on two servers need longer ones."""
    ports: list[bpf.Endpoint] = [(None, 3 * n) for n in range(600)]
    ports += [
        (ip_address(at).packed, 10_001 + 3 * n) for n in range(200) for at in (SERVER4, SERVER6)
    ]
    program = compile_filter(ports, cooked=cooked)
    for v6 in (False, True):
        for port in (0, 3, 900, 1797):
            assert passes(program, ip(segment(v6, 7, port)), cooked=cooked)
            assert passes(program, ip(segment(v6, port, 7)), cooked=cooked)
            assert not passes(program, ip(segment(v6, port + 1, 7)), cooked=cooked)
        for port in (10_001, 10_598):
            assert passes(program, ip(segment(v6, 7, port)), cooked=cooked)
            assert not passes(program, ip(segment(v6, port, 7)), cooked=cooked)
    with pytest.raises(FilterTooLong, match="4096"):
        compile_filter([(None, n) for n in range(5000)], cooked=cooked)


@pytest.mark.skipif(sys.platform != "linux", reason="packet filters of Linux")
def test_the_kernel_takes_the_programs() -> None:
    """It checks every jump, load and return; any socket will do, also without rights."""
    from zktrace.capture.packetsocket import _attach

    hosts = [ip_network("10.0.0.0/9"), ip_network("fd00::/46")]
    for cooked in (False, True):
        for tunnels in (False, True):
            for ports in ([], [(None, 2181)], [(bytes(16), n) for n in range(400)]):
                program = compile_filter(ports, hosts, cooked=cooked, tunnels=tunnels)
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
                    _attach(one, program)
