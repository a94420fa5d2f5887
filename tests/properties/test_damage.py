"""Hostile bytes: nothing raises, and both engines make the same of them.

A failing example prints its seed. ZKTRACE_EXAMPLES=N tries N times as many.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import example, given, note, settings
from hypothesis import strategies as st

from tests.conftest import NATIVE_MISSING
from tests.support import compare, mangle
from tests.support.cases import everything, records
from tests.support.decoded import KINDS, Decoded, decode_bytes
from tests.support.pcapio import Record, pcap_bytes, unpacked
from zktrace.capture.errors import CaptureError

_ENGINES = ("python",) if NATIVE_MISSING else ("python", "native")

#: Small ones, of every kind of message and container.
_FILES = (
    "02_basic_ops",
    "03_multi",
    "04_watches",
    "20_old34_client",
    "25_kazoo_ops",
    "27_midstream",
    "30_sasl_digest_md5",
    "interfaces",
    "sections",
    "ip4_fragments",
    "ip6_fragments",
    "vxlan_vlan",
    "geneve",
    "gre_fields",
    "erspan3",
    "sll2",
    "tcp_joined",
    "tcp_wrap",
    "zk_keeper_v11",
    "zk_secrets",
    "zk_hostile",
    "zk_words",
)
_PAYLOADS = (
    "02_basic_ops",
    "03_multi",
    "04_watches",
    "22_pipelined",
    "zk_secrets",
    "zk_keeper_ops",
)

_MORE = max(1, int(os.environ.get("ZKTRACE_EXAMPLES", "1")))

seeds = st.integers(0, 2**32 - 1)


def agree(data: bytes, block: int = 1 << 30) -> list[Decoded]:
    """Both engines read it, or both refuse it, with the same result."""
    results: list[Decoded | str] = []
    for engine in _ENGINES:
        try:
            results.append(decode_bytes(data, engine=engine, block=block))
        except CaptureError as error:
            results.append(str(error))
    first = results[0]
    for other in results[1:]:
        if isinstance(first, str) or isinstance(other, str):
            assert first == other
            continue
        for kind in KINDS:
            assert first.kind(kind) == other.kind(kind), kind
        assert first.coverage == other.coverage
    decoded = [r for r in results if isinstance(r, Decoded)]
    for one in decoded:
        assert not compare.consistent(one)
    return decoded


@given(name=st.sampled_from(_FILES), seed=seeds, block=st.sampled_from([1 << 30, 4096, 333]))
@settings(max_examples=250 * _MORE)
@example(name="interfaces", seed=0, block=333)
def test_damaged_files(name: str, seed: int, block: int) -> None:
    rng = random.Random(seed)
    data = mangle.damage(unpacked(everything()[name].files[0].read_bytes()), rng)
    note(f"{name} damaged with seed {seed}")
    agree(data, block)


@given(name=st.sampled_from(_PAYLOADS), seed=seeds)
@settings(max_examples=250 * _MORE)
def test_damaged_payloads(name: str, seed: int) -> None:
    made = mangle.damage_payloads(records(name), random.Random(seed))
    note(f"payloads of {name} damaged with seed {seed}")
    agree(pcap_bytes(made, nanoseconds=True))


@given(name=st.sampled_from(_PAYLOADS), seed=seeds)
@settings(max_examples=100 * _MORE)
def test_lossy_and_disordered(name: str, seed: int) -> None:
    """Losses, duplicates, disorder, snap lengths and late beginnings in any mixture."""
    rng = random.Random(seed)
    made: Sequence[Record] = records(name)
    steps: list[Callable[[Sequence[Record]], list[Record]]] = [
        lambda r: mangle.drop(r, rng, 0.05),
        lambda r: mangle.duplicate(r, rng),
        lambda r: mangle.shuffle(r, rng, distance=30, share=0.5),
        lambda r: mangle.snap(r, rng.randrange(50, 200)),
        lambda r: mangle.late_join(r, rng.random() / 2),
        lambda r: mangle.split(r, rng.randrange(1, 20)),
        mangle.merge,
    ]
    for step in rng.sample(steps, 3):
        made = step(made)
    note(f"{name} mangled with seed {seed}")
    agree(pcap_bytes(made, nanoseconds=True))


@given(head=st.sampled_from(["d4c3b2a1", "a1b2c3d4", "4d3cb2a1", "0a0d0d0a"]), rest=st.binary())
@settings(max_examples=100 * _MORE)
def test_noise(head: str, rest: bytes) -> None:
    agree(bytes.fromhex(head) + rest)


@given(rest=st.binary())
@settings(max_examples=50 * _MORE)
def test_not_captures(rest: bytes) -> None:
    agree(rest)


@pytest.mark.parametrize("name", _FILES)
def test_every_truncation(name: str) -> None:
    """A file that ends anywhere (some hundred places)."""
    data = unpacked(everything()[name].files[0].read_bytes())
    for end in range(24, len(data), max(1, len(data) // 25)):
        agree(data[:end])
