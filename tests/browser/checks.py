"""Accessibility, as far as a script can tell: names, labels, structure, contrast.

After rules of WCAG 2.2 (1.1.1, 1.3.1, 1.4.3, 2.4.x, 4.1.2); what is found is told element by
element.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

#: Evaluated in the page; gives a list of what is wrong.
SCRIPT: Final = Path(__file__).with_name("checks.js").read_text(encoding="utf-8")
