"""Clients that others wrote, at this server and at Java's: the C client's shell (Debian's
zookeeper-bin) and Java's own. The same commands, and all that they print compared, but for times
and session ids.

With ZKTRACE_REQUIRE_JAVA=1 a shell that is not there is an error.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.server.ourzk import ours
from tests.support.javazk import CLASSPATH, SMALL, standalone

C_SHELL: Final = Path("/usr/lib/zookeeper/bin/cli_mt")
_REQUIRED: Final = os.environ.get("ZKTRACE_REQUIRE_JAVA", "") not in ("", "0")
#: The end of each command's answer: another command, whose answer nobody mistakes.
_MARK: Final = "/this-is-nowhere-{}"

C_COMMANDS: Final = """\
create /k
create +e /k/e
create +s /k/s
create +es /k/es
create +c /k/c
create2 /k/two
create /k
create /none/there
set /k hello
get /k
ls /k
ls2 /k
exists /k
wexists /later
create /later
wexists /k
set /k again
delete /k
delete /k/two
delete /nothing
get /nothing
addauth digest a:b
sync /k
config
aget /k
als /k
"""

JAVA_COMMANDS: Final = """\
create /j one
create -e /j/e
create -s /j/s
create -c /j/c
create -t 100000 /j/ttl x
create /j
create /none/there
get -s /j
get -w /j
set -s /j two
set -v 7 /j three
ls -R /j
ls -w -s /j
create /j/new
stat /j
setAcl /j world:anyone:rcdw
getAcl -s /j
setAcl /j nobody:x:r
getEphemerals /j
getAllChildrenNumber /j
addauth digest alice:secret
create /j/hers mine auth::cdrwa
getAcl /j/hers
whoami
setquota -n 5 /j
setquota -b 100 /j
listquota /j
delquota -n /j
sync /j
addWatch -m PERSISTENT_RECURSIVE /j
create /j/deep
removewatches /j
delete /j
delete -v 3 /j/new
deleteall /j
ls /
get /nothing
config
reconfig -add server.5=a:1:2;3
bogus
"""
_IGNORED: Final = (
    # Times, and what a shell says of itself. The C shell's second thread may print a duration in
    # the middle of what the first prints: behind node data that has no line end yet.
    (re.compile(r"time = \d+ msec\n"), ""),
    (re.compile(r"(?m)^(\s*[cm]time ?=).*$"), r"\1"),
    (re.compile(r"(?m)^Connecting to .*$"), ""),
    (re.compile(r"0x10[0-9a-f]{14}|\b10[0-9a-f]{14}\b"), "SESSION"),
)


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Where this server is and where Java's, both without any history: zxids are compared."""
    with ours(tmp_path / "ours") as our, standalone(tmp_path / "java") as java:
        yield our.hosts, java.hosts


def normal(text: str) -> list[str]:
    for pattern, instead in _IGNORED:
        text = pattern.sub(instead, text)
    return text.splitlines()


def c_shell(hosts: str) -> list[str]:
    """What it prints for all commands, each sent when the one before is answered."""
    shell = subprocess.Popen(
        [C_SHELL, hosts], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert shell.stdin is not None
    assert shell.stdout is not None
    printed = []
    while b"session id" not in shell.stdout.readline():
        pass
    for number, command in enumerate(["", *C_COMMANDS.splitlines()]):
        mark = _MARK.format(number)
        shell.stdin.write(
            f"{command}\nexists {mark}\n".encode() if command else f"exists {mark}\n".encode()
        )
        shell.stdin.flush()
        for line in shell.stdout:
            text = line.decode(errors="replace")
            if mark in text:
                # Node data has no line end of its own, which the other thread prints after it.
                before = text.partition(mark)[0].removesuffix("Error -101 for ")
                printed.append(before if number else "")
                break
            # Before the first command it tells of connections.
            if number:
                printed.append(text)
    shell.stdin.write(b"quit\n")
    shell.stdin.close()
    with shell.stdout:
        printed.append(shell.stdout.read().decode(errors="replace"))
    assert shell.wait(60) == 0
    return normal("".join(printed))


def test_the_c_client(servers: tuple[str, str]) -> None:
    if not C_SHELL.exists():
        reason = f"there is no {C_SHELL} (Debian: zookeeper-bin)"
        if _REQUIRED:
            pytest.fail(reason)
        pytest.skip(reason)
    printed, expected = map(c_shell, servers)
    # It prints by two threads, and Java has no order of children.
    assert sorted(printed) == sorted(expected)
    assert any("CREATED_EVENT" in line and "/later" in line for line in printed)
    assert any("CHANGED_EVENT" in line and "/k" in line for line in printed)
    assert sum("rc = 0" in line for line in printed) > 12


def java_shell(hosts: str) -> list[str]:
    done = subprocess.run(
        ["java", *SMALL, "-cp", os.pathsep.join(map(str, CLASSPATH)),
         "org.apache.zookeeper.ZooKeeperMain", "-server", hosts],
        input=JAVA_COMMANDS,
        capture_output=True,
        text=True,
        timeout=300,
    )  # fmt: skip
    errors = [
        line for line in done.stderr.splitlines() if not re.search(r"INFO|WARN|^\s+at ", line)
    ]
    return normal(done.stdout) + [line for line in normal("\n".join(errors)) if "JVM" not in line]


def test_java_s_own_client(servers: tuple[str, str]) -> None:
    printed, expected = map(java_shell, servers)
    # Events come by a thread of their own: between other lines, or behind them.
    assert sorted(printed) == sorted(expected)
    assert "two" not in printed
    assert "Node already exists: /j" in printed
    assert sum("WatchedEvent" in line for line in printed) >= 4
