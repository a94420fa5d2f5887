"""The native extension, as the engine uses it; what is for tests only (debug_...) is left out.

Sources: zktrace/_native/src/python.rs. Without this file type checkers would take the crate's
folder for the module.
"""

from collections.abc import Sequence
from typing import Any, final

_Port = tuple[bytes | None, int]

@final
class ArrowBatch:
    """Rows of one kind, by the Arrow C data interface."""

    @property
    def kind(self) -> str: ...
    @property
    def num_rows(self) -> int: ...
    def __len__(self) -> int: ...
    def __arrow_c_schema__(self) -> object: ...
    def __arrow_c_array__(
        self, requested_schema: object | None = None
    ) -> tuple[object, object]: ...

@final
class Engine:
    """See zktrace.engine.base.Engine, which says what each method does."""

    def __new__(
        cls,
        schema: str,
        bounds: Sequence[int],
        *,
        client_ports: Sequence[_Port],
        quorum_ports: Sequence[_Port],
        election_ports: Sequence[_Port],
        tables: bool,
        aggregate_by: Sequence[str] | None,
        path_depth: int | None,
        max_connections: int,
    ) -> Engine: ...
    @property
    def name(self) -> str: ...
    def add_source(self, name: str, first_ts_ns: int) -> int: ...
    def wanted(self) -> int | None: ...
    def feed(self, source: int, block: bytes) -> int: ...
    def end_source(self, source: int) -> None: ...
    def finish(self) -> None: ...
    def take_step(self) -> list[ArrowBatch]: ...
    def coverage(self) -> dict[str, Any]: ...
    def aggregates(self) -> dict[str, Any]: ...
