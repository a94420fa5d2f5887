"""All checks in Python, over decoded tables: the reference of the native engine's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

# Each registers its checks.
from zktrace.analysis.verify import alarms, epochs, orders, quorums, sessions  # noqa: F401
from zktrace.analysis.verify.columns import of_tables
from zktrace.analysis.verify.evidence import Evidence
from zktrace.analysis.verify.guarantees import CHECKS
from zktrace.analysis.verify.model import RUNS, Outcome

if TYPE_CHECKING:
    import pyarrow as pa


def check_tables(
    tables: Mapping[str, pa.Table],
    coverage: Mapping[str, Any],
    names: Iterable[str],
    voters: int | None = None,
    hash_key: bytes | None = None,
) -> list[Outcome]:
    """Runs checks over decoded tables; parameters as those of
    :meth:`zktrace.analysis.verify.Checking.verified`.
    """
    evidence = Evidence(of_tables(tables), coverage, voters=voters, session=_shown(hash_key))
    outcomes = [Outcome(CHECKS[name]) for name in names]
    for outcome in outcomes:
        RUNS[outcome.check.name](evidence, outcome)
    return outcomes


def _shown(key: bytes | None) -> Any:
    """What is shown in place of a session's id."""
    if key is None:
        return None
    from zktrace.analysis.hashing import SessionHasher

    hasher = SessionHasher(key)
    return lambda real: hasher.session(real) or 0
