"""The oracle itself: its counts are those of the reference decoder that came with the captures."""

from __future__ import annotations

import pytest

from tests.support import oracle
from tests.support.cases import everything

_WITH_REFERENCE = sorted(name for name, sample in everything().items() if sample.reference)

#: Words that are no words to a server; the reference counts them too ("teln" was sent as such).
_UNKNOWN = {"RUOK", "bogu", "lead", "lsnr", "orst", "teln"}


@pytest.mark.parametrize("name", _WITH_REFERENCE)
def test_counts(name: str) -> None:
    sample = everything()[name]
    counts = sample.reference["client_frames"]
    reading = oracle.read_file(sample.files[0])
    assert reading is not None
    assert reading.holes == 0
    assert reading.count(True) == counts.get("c2s", 0)
    assert reading.count(False) == counts.get("s2c", 0)
    found: dict[str, int] = {}
    for word in reading.words:
        found[word.word] = found.get(word.word, 0) + 1
    expected = {k[4:]: v for k, v in counts.items() if k.startswith("4lw:")}
    assert found == {k: v for k, v in expected.items() if k not in _UNKNOWN}
