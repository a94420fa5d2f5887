"""Live capture by scapy, on Linux too, so that it is tested at all."""

from __future__ import annotations

import signal
from ipaddress import ip_network

import pytest

from tests.live.netns import Namespace
from tests.live.test_capture import BASIC, injected, judge_rows
from tests.support.decoded import from_json
from zktrace.capture.interfaces import Interface
from zktrace.capture.live import Plan
from zktrace.capture.sniffer import expression

pytest.importorskip("scapy")
PLAN = Plan(
    (Interface("lo", 1, 772),),
    ports=((None, 2181), (bytes([10, 0, 0, 1]), 2182), (bytes(15) + b"\1", 2183)),
    hosts=(ip_network("10.0.0.0/8"), ip_network("fd00::/64")),
    tunnels=True,
)


def test_expression() -> None:
    text = expression(PLAN)
    assert "port 2181 or (src host 10.0.0.1 and src port 2182) or (dst host 10.0.0.1" in text
    assert "net 10.0.0.0/8 or net fd00::/64" in text
    assert text.count("(") == text.count(")")


def test_libpcap_takes_the_expression() -> None:
    from scapy.arch.common import compile_filter
    from scapy.error import Scapy_Exception

    for plan in (PLAN, Plan(PLAN.interfaces)):
        try:
            compile_filter(expression(plan), linktype=1)
        except ImportError:
            pytest.skip("there is no libpcap")
        except Scapy_Exception as error:
            if "libpcap" in str(error):
                pytest.skip("there is no libpcap")
            raise


def test_listens(alone: Namespace, engine: str) -> None:
    with alone.python("-m", "tests.live.sniff", "lo", ZKTRACE_ENGINE=engine) as process:
        line = process.popen.stderr.readline().decode() if process.popen.stderr else ""
        if "libpcap" in line or "tcpdump" in line:
            pytest.skip(line)
        assert "listening on lo" in line, line
        injected(alone, "lo", "--pause=0.003")  # it does not keep up with more
        out, _ = process.ended(signal.SIGINT)
    decoded = from_json(out.splitlines())
    judge_rows(BASIC, decoded)
    assert decoded.coverage["kernel_drops"] is None
