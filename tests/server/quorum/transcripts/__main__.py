"""Writes all transcripts anew; what changed is for version control to show."""

from __future__ import annotations

from tests.server.quorum.transcripts import files, rewritten

for path in files():
    path.write_text(rewritten(path.read_text(encoding="utf-8")), encoding="utf-8")
    print(path.name)
