"""The screen: a headline, a table, a line that says where one is.

Asks once a second, one question at a time: an answer that is late delays the next question, never
the keys. What is shown stays when asking fails, with the reason.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Final

from rich.text import Text
from textual import work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.widgets import DataTable, Footer, Input, Static, Tab, Tabs

from zktrace.top.source import Source, SourceError
from zktrace.top.views import (
    VIEWS,
    WINDOWS,
    Object,
    Place,
    cells,
    headline,
    next_sort,
    seconds_of,
)

#: How often numbers are asked for; the API makes new ones as often.
EVERY_S: Final = 1.0


class Top(App[None]):
    """The application. `source` is entered and left by the caller."""

    TITLE = "zktrace top"
    CSS = """
    #headline { height: 3; padding: 0 1; }
    #filter { display: none; }
    #filter.shown { display: block; }
    #where { height: 1; padding: 0 1; background: $boost; }
    #told { height: auto; padding: 0 1; color: $error; display: none; }
    #told.shown { display: block; }
    DataTable { height: 1fr; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q,ctrl+c", "quit", "Quit"),
        Binding("slash", "filter", "Filter"),
        Binding("s", "sort", "Sort"),
        Binding("w", "window", "Window"),
        Binding("p", "pause", "Pause"),
        Binding("escape", "back", "Back"),
        *(
            Binding(str(number), f"view({name!r})", VIEWS[name].title, show=False)
            for number, name in enumerate(VIEWS, 1)
        ),
    ]

    def __init__(self, source: Source, place: Place) -> None:
        super().__init__()
        self._source = source
        self._places = [place]
        self._rows: list[Object] = []
        self._paused = False
        self._asking = False
        self._columns: tuple[str, ...] = ()

    @property
    def place(self) -> Place:
        return self._places[-1]

    def compose(self) -> ComposeResult:
        yield Static("asking ...", id="headline", markup=False)
        yield Tabs(
            *(Tab(f"{number} {view.title}", id=name) for number, (name, view) in numbered()),
            active=self.place.view,
        )
        yield Static("", id="where", markup=False)
        yield Static("", id="told", markup=False)
        with Horizontal(id="filter"):
            yield Input(placeholder='op == "setData" and latency > 10ms')
        yield DataTable[Any](cursor_type="row", zebra_stripes=True)
        yield Footer()

    def on_mount(self) -> None:
        self.query_one(DataTable).focus()
        self.set_interval(EVERY_S, self._tick)
        self._ask()

    def _tick(self) -> None:
        if not self._paused and not self._asking:
            self._ask()

    # -- asking

    @work(exclusive=True, group="ask")
    async def _ask(self) -> None:
        """Asks for what is to be shown now. A new wish ends the question before it."""
        place = self.place
        view = VIEWS[place.view]
        self._asking = True
        try:
            summary = await self._source.get("summary", {"window": place.window})
            answer = await self._source.get(view.path, view.params(place))
        except SourceError as error:
            if self._shown:
                self._tell(self._explain(error, place))
            return
        finally:
            self._asking = False
        if place == self.place and self._shown:
            self._tell("")
            self._show(place, summary, answer)

    @property
    def _shown(self) -> bool:
        """Whether there is a screen to show an answer on: it may come when that is being closed."""
        return bool(self.query("#told"))

    def _explain(self, error: SourceError, place: Place) -> str:
        if error.position is None or place.filter is None:
            return str(error)
        return f"{place.filter}\n{' ' * error.position}^ {error}"

    def _tell(self, words: str) -> None:
        told = self.query_one("#told", Static)
        told.set_class(bool(words), "shown")
        told.update(words)

    # -- showing

    def _show(self, place: Place, summary: Object, answer: Object) -> None:
        self.query_one("#headline", Static).update("\n".join(headline(summary)))
        view = VIEWS[place.view]
        table = self.query_one(DataTable)
        titles = tuple(
            f"{column.title} v" if column.sort and column.sort == place.sort else column.title
            for column in view.columns
        )
        at, over = table.cursor_row, table.scroll_y
        if titles != self._columns:
            self._columns = titles
            table.clear(columns=True)
            for title, column in zip(titles, view.columns, strict=True):
                table.add_column(Text(title, justify="right" if column.right else "left"))
            at, over = 0, 0.0
        else:
            table.clear()
        self._rows = answer["rows"]
        seconds = seconds_of(answer, summary)
        for row in self._rows:
            table.add_row(
                *(
                    Text(text, justify="right" if column.right else "left")
                    for text, column in zip(cells(view, row, seconds), view.columns, strict=True)
                )
            )
        if self._rows:
            table.move_cursor(row=min(at, len(self._rows) - 1), scroll=False)
            table.scroll_to(y=over, animate=False)
        self.query_one("#where", Static).update(self._where(place, answer))

    def _where(self, place: Place, answer: Object) -> str:
        view = VIEWS[place.view]
        parts = [view.title]
        if view.windowed:
            parts.append(f"window {place.window}")
        if place.under is not None:
            parts.append(f"under {place.under}")
        if place.filter is not None:
            parts.append(f"filter {place.filter}")
        shown, groups = len(answer["rows"]), answer.get("groups")
        if groups is not None and groups > shown:
            parts.append(f"{shown} of {groups:,} rows")
        if answer.get("basis") == "events":
            parts.append(f"of the latest {answer['events']:,} events")
        if answer.get("complete") is False:
            parts.append("which do not reach back as far as the window")
        if answer.get("short"):
            parts.append(f"rows may be short by {answer['short']:,} requests")
        if self._paused:
            parts.append("PAUSED")
        return " | ".join(parts)

    # -- going places

    def _go(self, place: Place) -> None:
        self._places.append(place)
        self._arrive()

    def _arrive(self) -> None:
        tabs = self.query_one(Tabs)
        if tabs.active != self.place.view:
            tabs.active = self.place.view
        self._ask()

    def on_tabs_tab_activated(self, event: Tabs.TabActivated) -> None:
        name = event.tab.id
        if name is not None and name != self.place.view:
            self._go(Place(name, self.place.window, None, self.place.filter))
            self.query_one(DataTable).focus()

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        if event.cursor_row < len(self._rows):
            place = VIEWS[self.place.view].leads(self.place, self._rows[event.cursor_row])
            if place is not None:
                self._go(place)

    def action_view(self, name: str) -> None:
        self.query_one(Tabs).active = name

    async def action_back(self) -> None:
        field = self.query_one("#filter")
        if field.has_class("shown"):
            field.remove_class("shown")
            self.query_one(DataTable).focus()
        elif len(self._places) > 1:
            self._places.pop()
            self._arrive()

    def action_sort(self) -> None:
        self._change(sort=next_sort(VIEWS[self.place.view], self.place.sort))

    def action_window(self) -> None:
        now = WINDOWS.index(self.place.window)
        self._change(window=WINDOWS[(now + 1) % len(WINDOWS)])

    def action_pause(self) -> None:
        self._paused = not self._paused
        self._ask()

    def action_filter(self) -> None:
        self.query_one("#filter").add_class("shown")
        field = self.query_one(Input)
        field.value = self.place.filter or ""
        field.focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self.query_one("#filter").remove_class("shown")
        self.query_one(DataTable).focus()
        self._go(Place(self.place.view, self.place.window, None, event.value.strip() or None))

    def _change(self, **changes: Any) -> None:
        self._places[-1] = replace(self.place, **changes)
        self._ask()


def numbered() -> list[tuple[int, tuple[str, Any]]]:
    """The views with the keys that choose them."""
    return list(enumerate(VIEWS.items(), 1))
