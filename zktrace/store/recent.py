"""The latest events: for the tail, for filters, for details.

``zktrace/_native/src/kept/recent.rs`` is the same for the native engine: a ring, bounded in events,
of which whoever asks takes a view at a moment (:class:`View`) and works on it in its own time. A
reader that follows keeps the number of the last event it saw, so that a slow one falls behind by
itself and delays nobody.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable

if TYPE_CHECKING:
    import pyarrow as pa

    from zktrace.analysis.hashing import SessionHasher

#: Events kept, some 8 MB of the native engine.
RECENT_ROWS: Final = 65_536


class View(Protocol):
    """The latest events at a moment, as an engine gives them."""

    def __len__(self) -> int: ...

    def numbers(self) -> tuple[int, int] | None:
        """Numbers of the first and last."""

    def earliest(self, kinds: Sequence[str]) -> int | None:
        """The earliest time of the events of some kinds."""

    def batches(
        self,
        kinds: Sequence[str],
        from_ns: int | None = None,
        to_ns: int | None = None,
        after: int | None = None,
    ) -> list[Any]:
        """Rows of some kinds (none: all) with a time in [from, to) and a number greater than
        `after`: objects with a ``kind`` that pyarrow makes record batches of.
        """


@runtime_checkable
class HasLines(Protocol):
    """A view that makes JSON lines itself."""

    def lines(self, form: str, hash_key: bytes | None, after: int, most: int) -> tuple[bytes, int]:
        """The last `most` of the events with a number greater than `after`, a line each, and how
        many such events there are. `form` is ``zktrace.export.form.form_text()``.
        """


class Latest:
    """A view with session ids as they may be shown."""

    def __init__(self, view: View, hasher: SessionHasher | None) -> None:
        self.view = view
        self._hasher = hasher
        numbers = view.numbers()
        self.first, self.last = numbers if numbers is not None else (0, -1)

    def __len__(self) -> int:
        return len(self.view)

    @property
    def complete(self) -> bool:
        """They are all there ever were."""
        return self.first == 0

    def batches(
        self,
        *kinds: str,
        from_ns: int | None = None,
        to_ns: int | None = None,
        after: int | None = None,
    ) -> dict[str, pa.RecordBatch]:
        """Record batches by kind (none named: all kinds), see :meth:`View.batches`."""
        import pyarrow as pa

        found: dict[str, pa.RecordBatch] = {}
        for one in self.view.batches(kinds, from_ns, to_ns, after):
            batch = pa.record_batch(one)
            if self._hasher is not None:
                batch = self._hasher.batch(batch)
            known = found.get(one.kind)
            if known is not None:  # cut since its text was long
                table = pa.Table.from_batches([known, batch]).unify_dictionaries()
                batch = table.combine_chunks().to_batches()[0]
            found[one.kind] = batch
        return found


class _Batch:
    """Rows of a kind, for pyarrow."""

    def __init__(self, kind: str, rows: list[tuple[Any, ...]]) -> None:
        from zktrace.analysis.tables import batch_from_rows

        self.kind = kind
        self._batch = batch_from_rows(kind, rows)

    def __arrow_c_array__(self, requested_schema: Any = None) -> Any:
        return self._batch.__arrow_c_array__(requested_schema)


class _RowView:
    def __init__(self, rows: list[tuple[str, tuple[Any, ...]]]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def numbers(self) -> tuple[int, int] | None:
        return (self._rows[0][1][0], self._rows[-1][1][0]) if self._rows else None

    def earliest(self, kinds: Sequence[str]) -> int | None:
        return min((row[1] for kind, row in self._rows if not kinds or kind in kinds), default=None)

    def batches(
        self,
        kinds: Sequence[str],
        from_ns: int | None = None,
        to_ns: int | None = None,
        after: int | None = None,
    ) -> list[_Batch]:
        found: dict[str, list[tuple[Any, ...]]] = {}
        for kind, row in self._rows:
            if (
                (not kinds or kind in kinds)
                and (from_ns is None or row[1] >= from_ns)
                and (to_ns is None or row[1] < to_ns)
                and (after is None or row[0] > after)
            ):
                found.setdefault(kind, []).append(row)
        return [_Batch(kind, rows) for kind, rows in found.items()]


class RowRecent:
    """The ring for the Python engine."""

    def __init__(self, rows: int = RECENT_ROWS) -> None:
        self._rows: deque[tuple[str, tuple[Any, ...]]] = deque(maxlen=rows)

    def add(self, kind: str, row: tuple[Any, ...]) -> None:
        self._rows.append((kind, row))

    def view(self, after: int) -> View:
        """Of events with a number greater than `after`, and perhaps some before."""
        found = []
        for item in reversed(self._rows):
            if item[1][0] <= after:
                break
            found.append(item)
        return _RowView(found[::-1])


def in_order(rows: Mapping[str, Sequence[tuple[Any, ...]]]) -> list[tuple[str, tuple[Any, ...]]]:
    """Rows of all kinds as they came."""
    all_rows = [(kind, row) for kind, some in rows.items() for row in some]
    all_rows.sort(key=lambda item: item[1][0])
    return all_rows
