"""A server of its own and Debian's chromium. Without chromium the tests are skipped, and with
ZKTRACE_REQUIRE_BROWSER=1 (CI) they fail.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
#: Screenshots; not kept by git.
ARTIFACTS = ROOT / "artifacts" / "browser"
_ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def start(*arguments: str) -> tuple[subprocess.Popen[str], str]:
    """``zktrace serve`` on a free port; the process and its address."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "server"), str(ROOT / "proxy")])
    process = subprocess.Popen(
        [sys.executable, "-m", "zktrace", "serve", "--http", "127.0.0.1:0", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert process.stderr is not None
    line = process.stderr.readline()
    found = re.search(r"http://[^ ]+?/", line)
    assert found, line + process.stderr.read()
    return process, found.group().rstrip("/")


def stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    process.wait(20)
    assert process.stderr is not None
    process.stderr.close()


@pytest.fixture(scope="module")
def served() -> Iterator[str]:
    process, address = start(
        "-r", str(ROOT / "pcaps/57_v39_herd.pcap"), "-r", str(ROOT / "pcaps/02_basic_ops.pcap")
    )
    yield address
    stop(process)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    executable = shutil.which("chromium") or shutil.which("chromium-browser")
    if executable is None:
        if os.environ.get("ZKTRACE_REQUIRE_BROWSER", "") not in ("", "0"):
            pytest.fail("ZKTRACE_REQUIRE_BROWSER is set, but there is no chromium")
        pytest.skip("no chromium (make system-deps installs it)")
    with launched(executable) as running:
        yield running


@contextmanager
def launched(executable: str) -> Iterator[Any]:
    """A browser that runs."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=executable, args=list(_ARGUMENTS))
        yield running
        running.close()


class Tab:
    """A page that takes note of everything that went wrong in it."""

    def __init__(self, browser: Any, address: str, **options: Any) -> None:
        options.setdefault("viewport", {"width": 1280, "height": 800})
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.address = address
        self.wrong: list[str] = []
        self.hosts: set[str] = set()
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", lambda request: self.hosts.add(request.url.split("/")[2]))

    def _console(self, message: Any) -> None:
        # A refused filter is an answer, which browsers note as an error.
        if message.type in ("error", "warning") and "status of 400" not in message.text:
            self.wrong.append(message.text)

    def open(self, where: str) -> Any:
        self.page.goto(f"{self.address}/{where}")
        self.page.wait_for_selector("#view h1, #view h2")
        if where != "docs":
            # Another view of the page: the last one stays until the answer is there.
            at = self.page.evaluate("CSS.escape(location.hash)")
            self.page.wait_for_selector(f"#view[data-at='{at}']")
        return self.page

    def shot(self, name: str) -> None:
        ARTIFACTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=str(ARTIFACTS / f"{name}.png"))


@pytest.fixture
def tab(browser: Any, served: str) -> Iterator[Tab]:
    made = Tab(browser, served)
    yield made
    made.context.close()
    assert made.wrong == []
    assert made.hosts <= {served.split("/")[2]}, "the page asked another host"
