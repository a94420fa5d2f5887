"""The most memory that a `zktrace` command ever had.

What ``wait`` tells of a child counts what its parent had when it forked, so the process reads its
own number, from /proc (Linux).
"""

from __future__ import annotations

import sys
from typing import Final

_MEASURED: Final = """
import sys
from pathlib import Path
from zktrace.cli.main import run
status = run(sys.argv[1:])
lines = Path("/proc/self/status").read_text().splitlines()
peak = next(line.split()[1] for line in lines if line.startswith("VmHWM"))
print(peak, file=sys.stderr)
sys.exit(status)
"""


def measured(*arguments: str) -> list[str]:
    """The command line that runs `zktrace ARGUMENTS`, and says its peak last on standard error."""
    return [sys.executable, "-c", _MEASURED, *arguments]


def peak_kb(err: str) -> int:
    """The peak in kB, of what such a command said on standard error."""
    return int(err.split()[-1])
