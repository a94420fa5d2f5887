"""kazoo's own tests against Java ZooKeeper, without the proxy and through it: each ends the same.

    python -m tests.proxy.kazoo_suite [-k EXPRESSION]

kazoo's tests start an ensemble of three by themselves (of the release that ``tests.support.javazk``
finds). Through the proxy, each of its servers has a listener in front, which is what clients are
told instead. Differences are listed; with them the exit status is 1.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

from tests.support.javazk import CLASSPATH, missing

_ROOT: Final = Path(__file__).resolve().parents[2]
_SWITCH: Final = "ZKTRACE_KAZOO_THROUGH_PROXY"


def pytest_configure() -> None:
    """As a plugin of kazoo's run: puts proxies in front of its servers."""
    if os.environ.get(_SWITCH):
        _intervene()


def _intervene() -> None:
    from contextlib import ExitStack

    from kazoo.testing.common import ManagedZooKeeper

    import zktrace_proxy

    stack = ExitStack()
    proxies: dict[int, zktrace_proxy.Between] = {}

    def address(self: ManagedZooKeeper) -> str:
        port: int = self.client_port
        if port not in proxies:
            proxies[port] = stack.enter_context(zktrace_proxy.between(f"127.0.0.1:{port}"))
        return proxies[port].hosts

    ManagedZooKeeper.address = property(address)


def _run(through: bool, more: list[str]) -> dict[str, str]:
    """Outcome by test."""
    with tempfile.TemporaryDirectory() as name:
        report = Path(name) / "report.xml"
        path = os.pathsep.join(str(_ROOT / part) for part in ("", "server", "proxy"))
        environment = {
            **os.environ,
            "PYTHONPATH": path,
            "ZOOKEEPER_CLASSPATH": os.pathsep.join(map(str, CLASSPATH)),
            "ZOOKEEPER_VERSION": os.environ.get("ZOOKEEPER_VERSION", "3.8.0"),
            _SWITCH: "1" if through else "",
        }
        command = [
            *(sys.executable, "-m", "pytest", "--pyargs", "kazoo.tests", "-q", "--no-header"),
            *("-p", "tests.proxy.kazoo_suite", "-p", "no:cacheprovider", "-W", "ignore"),
            *(f"--junitxml={report}", "--import-mode=importlib", *more),
        ]
        subprocess.run(command, cwd=name, env=environment, check=False)
        cases = ElementTree.parse(report).getroot().iter("testcase")
        return {f"{one.get('classname')}.{one.get('name')}": _outcome(one) for one in cases}


def _outcome(case: ElementTree.Element) -> str:
    kinds = {child.tag for child in case}
    return next((kind for kind in ("error", "failure", "skipped") if kind in kinds), "passed")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-k", metavar="EXPRESSION", help="only these tests")
    given = parser.parse_args()
    reason = missing()
    if reason is not None:
        sys.exit(reason)
    more = [] if given.k is None else ["-k", given.k]
    without, through = _run(False, more), _run(True, more)
    for name, outcomes in (("without", without), ("through the proxy", through)):
        counts = {
            kind: list(outcomes.values()).count(kind) for kind in sorted({*outcomes.values()})
        }
        print(f"{name}: {counts}")
    differ = {name for name in {*without, *through} if without.get(name) != through.get(name)}
    for name in sorted(differ):
        print(f"{name}: {without.get(name)} without, {through.get(name)} through the proxy")
    print(f"{len(differ)} of {len(without)} differ")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
