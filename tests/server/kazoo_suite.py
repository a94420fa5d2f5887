"""kazoo's own test-suite, as it comes from PyPI, with this server in the place of Java's.

    python -m tests.server.kazoo_suite [--java] [PYTEST ARGUMENT...]

kazoo starts a server with the command ``java``; the one that it finds first is a script that hands
its zoo.cfg and its -D to ``python -m zktrace_server``. With --java it is Java's own
(ZKTRACE_ZOOKEEPER_CLASSPATH, or Debian's), to compare with. An environment of its own, in a
temporary directory, has what the suite wants besides kazoo; so this needs PyPI, and is not in CI.
Left out are the tests of other event loops (gevent, eventlet), which say nothing of servers.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.support.javazk import CLASSPATH

_ROOT: Final = Path(__file__).resolve().parents[2]
#: The release of the lock (requirements/test.txt), and what its tests import.
_WANTED: Final = (
    "kazoo==2.11.0",
    "pytest",
    "pyjks",
    "pyopenssl<24",
    "pure-sasl",
    "setuptools<70",
    "objgraph",
)
_LEFT_OUT: Final = ("test_gevent_handler.py", "test_eventlet_handler.py")
#: Properties and zoo.cfg are handed on; classpath and main class are not.
_JAVA: Final = """\
#!{python}
import os, sys
wanted = [one for one in sys.argv[1:] if one.startswith("-D") or one.endswith(".cfg")]
os.execv(sys.executable, [sys.executable, "-m", "zktrace_server", *wanted])
"""


def prepare(directory: Path) -> Path:
    """The environment's Python."""
    subprocess.run([sys.executable, "-m", "venv", str(directory)], check=True)
    python = directory / "bin" / "python"
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", *_WANTED], check=True)
    return python


def main() -> int:
    """Runs it, and gives pytest's exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--java", action="store_true")
    given, more = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        python = prepare(directory / "venv")
        environment = {
            **os.environ,
            "ZOOKEEPER_CLASSPATH": os.pathsep.join(map(str, CLASSPATH)),
            "ZOOKEEPER_VERSION": "3.9.5",
            "ZOOKEEPER_CLUSTER_SIZE": "1",
        }
        if not given.java:
            command = directory / "bin" / "java"
            command.parent.mkdir()
            command.write_text(_JAVA.replace("{python}", sys.executable))
            command.chmod(0o755)
            environment["PATH"] = f"{command.parent}{os.pathsep}{environment['PATH']}"
            environment["PYTHONPATH"] = os.pathsep.join(map(str, (_ROOT, _ROOT / "server")))
        tests = next((directory / "venv").glob("lib/python*/site-packages/kazoo/tests"))
        ignored = [f"--ignore={tests / one}" for one in _LEFT_OUT]
        arguments = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", *ignored, *more]
        print(shlex.join([*arguments, str(tests)]), flush=True)
        return subprocess.run(
            [*arguments, str(tests)], cwd=directory, env=environment, check=False
        ).returncode


if __name__ == "__main__":
    sys.exit(main())
