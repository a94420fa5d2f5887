"""``python -m proxy`` in a checkout: the same as ``zktrace proxy``."""

from __future__ import annotations

import sys

from zktrace_proxy.cli import main

sys.exit(main())
