"""The button that saves packets, on a page of what is on the wire: server, traffic and browser in a
network namespace of their own.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Tab, launched
from tests.live.netns import Namespace, namespaces, need_live
from tests.live.served import serving
from tests.live.test_capture import SAMPLES, played
from zktrace.engine.base import choose

_PORTS = [part for n in range(21811, 21815) for part in ("--client-port", str(n))]


@pytest.fixture
def where() -> Iterator[Namespace]:
    need_live()
    with namespaces(1) as [one]:
        yield one


@pytest.fixture
def inside(where: Namespace, tmp_path: Path) -> Iterator[Any]:
    """A browser in the namespace."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or "chromium"
    wrapper = tmp_path / "chromium"
    wrapper.write_text(f'#!/bin/sh\nexec {shlex.join(where.inside(chromium))} "$@"\n')
    wrapper.chmod(0o755)
    with launched(str(wrapper)) as browser:
        yield browser


def test_packets_are_saved_by_a_button(where: Namespace, inside: Any, tmp_path: Path) -> None:
    ring = tmp_path / "ring"
    options = ("-i", "lo", *_PORTS, "--write", str(ring))
    with (
        serving(where, *options, engine=choose().name) as served,
        played(where, SAMPLES["02_basic_ops"]),
    ):
        served.until("api/slow", lambda it: len(it["rows"]) > 10)
        tab = Tab(inside, served.address.rstrip("/"))
        page = tab.open("#/slow")
        row = page.locator("[aria-label='Slowest exchanges'] tbody tr").first
        row.locator("button:text-is('Save packets')").click()
        told = page.locator("[aria-label='Slowest exchanges'] tbody [role=status]:not(:empty)")
        expect(told.first).to_contain_text("zktrace-slice-", timeout=60_000)
        page = tab.open("#/sessions")
        page.click("[aria-label='Sessions'] tbody a[href^='#/sessions/'] >> nth=0")
        page.wait_for_selector("h1:has-text('Session 0x')")
        page.click("p button:text-is('Save packets')")
        status = page.locator("p [role=status]:not(:empty)")
        expect(status).to_contain_text("packets", timeout=60_000)
        tab.shot("session-save")
        assert tab.wrong == []
        tab.context.close()
        slices = sorted(ring.glob("zktrace-slice-*"))
        assert len(slices) == 2
        import zktrace

        assert zktrace.read(str(slices[0])).coverage["exchanges"]["complete"] > 0


def test_without_packets_there_is_no_button(tab: Tab) -> None:
    page = tab.open("#/slow")
    page.wait_for_selector("[aria-label='Slowest exchanges'] tbody tr")
    assert page.query_selector("button:text-is('Save packets')") is None
