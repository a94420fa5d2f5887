"""kazoo's own tests against Java ZooKeeper, without the proxy and through it: each ends the same.

    python -m tests.proxy.kazoo_suite [-k EXPRESSION]

kazoo's tests start their servers by themselves. Through the proxy, each server has a
``zktrace proxy run`` in front, whose address is what clients are told instead. Differences are
listed; with them the exit status is 1. What the suite wants, and what is left out, is as for
:mod:`tests.server.kazoo_suite`.
"""

from __future__ import annotations

import argparse
import atexit
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

from tests.server.kazoo_suite import _LEFT_OUT, prepare
from tests.support.javazk import CLASSPATH, free_ports, missing

_ROOT: Final = Path(__file__).resolve().parents[2]
#: The Python that runs proxies; where it is set, they are put in between.
_SWITCH: Final = "ZKTRACE_KAZOO_THROUGH_PROXY"
_COMMAND: Final = "import sys; from zktrace_proxy.cli import main; sys.exit(main(sys.argv[1:]))"


def pytest_configure() -> None:
    """As a plugin of kazoo's run: puts proxies in front of its servers."""
    if os.environ.get(_SWITCH):
        _intervene(os.environ[_SWITCH])


def _intervene(python: str) -> None:
    from kazoo.testing.common import ManagedZooKeeper

    proxies: dict[int, str] = {}

    def address(self: ManagedZooKeeper) -> str:
        port: int = self.client_port
        if port not in proxies:
            proxies[port] = _proxy(python, port)
        return proxies[port]

    ManagedZooKeeper.address = property(address)


def _proxy(python: str, port: int) -> str:
    """Where a proxy in front of this port listens; it ends with this process."""
    process = subprocess.Popen(
        [python, "-c", _COMMAND, "run", "--listen", "127.0.0.1:0",
         "--upstream", f"127.0.0.1:{port}"],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    atexit.register(process.kill)
    assert process.stderr is not None
    return process.stderr.readline().split()[1]


def _run(python: Path, folder: Path, through: bool, more: list[str]) -> dict[str, str]:
    """Outcome by test."""
    report = folder / "report.xml"
    report.unlink(missing_ok=True)
    path = os.pathsep.join(str(_ROOT / part) for part in ("", "server", "proxy"))
    environment = {
        **os.environ,
        "PYTHONPATH": path,
        "ZOOKEEPER_CLASSPATH": os.pathsep.join(map(str, CLASSPATH)),
        "ZOOKEEPER_VERSION": os.environ.get("ZOOKEEPER_VERSION", "3.8.0"),
        "ZOOKEEPER_CLUSTER_SIZE": "1",
        # Its servers take the ports behind it.
        "ZOOKEEPER_PORT_OFFSET": str(min(free_ports(1)[0], 60_000)),
        _SWITCH: sys.executable if through else "",
    }
    tests = next(python.parents[1].glob("lib/python*/site-packages/kazoo/tests"))
    command = [
        *(str(python), "-m", "pytest", "-q", "-p", "tests.proxy.kazoo_suite"),
        *("-p", "no:cacheprovider", f"--junitxml={report}"),
        *(f"--ignore={tests / one}" for one in _LEFT_OUT),
        *more,
        str(tests),
    ]
    subprocess.run(command, cwd=folder, env=environment, check=False)
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
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        python = prepare(folder / "venv")
        without = _run(python, folder, False, more)
        through = _run(python, folder, True, more)
    for name, outcomes in (("without", without), ("through the proxy", through)):
        kinds = sorted({*outcomes.values()})
        print(f"{name}: { ({kind: list(outcomes.values()).count(kind) for kind in kinds}) }")
    differ = {name for name in {*without, *through} if without.get(name) != through.get(name)}
    for name in sorted(differ):
        print(f"{name}: {without.get(name)} without, {through.get(name)} through the proxy")
    print(f"{len(differ)} of {len(without)} differ")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
