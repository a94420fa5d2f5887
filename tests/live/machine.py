"""A machine for classic BPF programs, as the kernel's (net/core/filter.c) but for what is not used.

For tests: says what a program returns for a packet. A load from outside of the packet returns 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from zktrace.capture import bpf
from zktrace.capture.bpf import Instruction

_MASK = 0xFFFF_FFFF


class _Outside(Exception):
    pass


def run(
    program: Sequence[Instruction], packet: bytes, ancillary: Mapping[int, int] | None = None
) -> int:
    """What the program returns; `ancillary` answers loads from special places (default 0)."""
    a = x = 0
    memory = [0] * 16
    at = 0
    told = ancillary or {}

    def load(place: int, size: int) -> int:
        if place >= bpf.ANCILLARY:
            return told.get(place, 0)
        if place + size > len(packet):
            raise _Outside
        return int.from_bytes(packet[place : place + size], "big")

    try:
        for _ in range(len(program)):  # jumps go forward only
            code, jt, jf, k = program[at]
            at += 1
            if code in (bpf.LD_W, bpf.LD_H, bpf.LD_B):
                a = load(k, {bpf.LD_W: 4, bpf.LD_H: 2, bpf.LD_B: 1}[code])
            elif code in (bpf.LD_W_X, bpf.LD_H_X, bpf.LD_B_X):
                a = load(x + k, {bpf.LD_W_X: 4, bpf.LD_H_X: 2, bpf.LD_B_X: 1}[code])
            elif code == bpf.LDX_IMM:
                x = k
            elif code == bpf.LDX_MEM:
                x = memory[k]
            elif code == bpf.LD_MEM:
                a = memory[k]
            elif code == bpf.ST:
                memory[k] = a
            elif code == bpf.STX:
                memory[k] = x
            elif code == bpf.XOR_X:
                a ^= x
            elif code == bpf.MUL_K:
                a = a * k & _MASK
            elif code == bpf.ADD_X:
                a = (a + x) & _MASK
            elif code == bpf.ADD_K:
                a = (a + k) & _MASK
            elif code == bpf.AND_K:
                a &= k
            elif code == bpf.LSH_K:
                a = a << k & _MASK
            elif code == bpf.RSH_K:
                a >>= k
            elif code == bpf.TAX:
                x = a
            elif code == bpf.TXA:
                a = x
            elif code == bpf.JA:
                at += k
            elif code == bpf.JEQ_K:
                at += jt if a == k else jf
            elif code == bpf.JGE_K:
                at += jt if a >= k else jf
            elif code == bpf.JSET_K:
                at += jt if a & k else jf
            elif code == bpf.RET_K:
                return k
            else:
                raise AssertionError(f"instruction {code:#x} is not known here")
    except _Outside:
        return 0
    raise AssertionError("a loop, or no return")
