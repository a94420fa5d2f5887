"""Every view is clicked through, on real captures, and looked at by script."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.checks import SCRIPT
from tests.browser.conftest import ROOT, Tab, start, stop

VIEWS = {
    "overview": "#/",
    "clients": "#/clients",
    "client": "#/clients/127.0.0.1",
    "paths": "#/paths",
    "path": "#/paths?under=/h",
    "fingerprints": "#/fingerprints",
    "znodes": "#/znodes",
    "sessions": "#/sessions",
    "session": "#/sessions/0x0100007fb0e9000b",
    "watches": "#/watches",
    "slow": "#/slow",
    "events": "#/events",
    "servers": "#/servers",
    "users": "#/users",
    "findings": "#/findings",
    "coverage": "#/coverage",
    "ensemble": "#/ensemble",
    "docs": "docs",
}


def text(page: Any, selector: str) -> str:
    found: str = page.inner_text(selector)
    return found


@pytest.mark.parametrize("look", ["light", "dark", "phone"])
def test_every_view_is_accessible(browser: Any, served: str, look: str) -> None:
    size = {"width": 390, "height": 800} if look == "phone" else {"width": 1280, "height": 800}
    tab = Tab(browser, served, viewport=size, color_scheme="dark" if look == "dark" else "light")
    found = {}
    for name, where in VIEWS.items():
        page = tab.open(where)
        page.wait_for_timeout(150)
        tab.shot(f"{name}-{look}")
        wrong = page.evaluate(SCRIPT)
        if wrong:
            found[name] = wrong
    tab.context.close()
    assert found == {}
    assert tab.wrong == []


def test_a_stranger_finds_the_hottest_znode_and_the_slowest_client(tab: Tab) -> None:
    page = tab.open("")
    cards = text(page, "[aria-label='What stands out']")
    assert re.search(r"Hottest znode\s+/h/n\s+533 requests", cards)
    assert re.search(r"Slowest client\s+127\.0\.0\.1\s+p99", cards)
    page.click("[aria-label='What stands out'] >> text='/h/n'")
    page.wait_for_selector("h1:text-is('Paths')")
    assert "/h/n" in text(page, "table")


def test_each_point_of_the_heat_map_has_a_column(tab: Tab) -> None:
    page = tab.open("")
    # 43 of them: 23 / 43 * 43 is less than 23 in floats, and a column was left white.
    filled = page.evaluate("""async () => {
        const { heat } = await import("/static/charts.js");
        const points = Array.from({ length: 43 }, (_, i) => ({ t: 100 + i, bands: [i + 1, 0] }));
        const figure = heat("Heat", { points, step_s: 1, bounds_us: [1, 2, 4] }, String);
        const canvas = figure.querySelector("canvas");
        const pixels = canvas.getContext("2d").getImageData(0, 1, canvas.width, 1).data;
        return Array.from({ length: canvas.width }, (_, x) => pixels[x * 4 + 3]);
    }""")
    assert filled == [255] * 43


def test_coverage_is_always_visible(tab: Tab) -> None:
    for where in VIEWS.values():
        if where != "docs":
            page = tab.open(where)
            assert page.is_visible("#coverage")
            assert "packets" in text(page, "#coverage")
    page.click("#coverage")
    page.wait_for_selector("h1:text-is('Coverage')")


def test_clicking_through(tab: Tab) -> None:
    page = tab.open("")
    for name in ("Clients", "Paths", "Sessions", "Watches", "Slow log", "Events", "Ensemble"):
        page.click(f"nav >> text={name}")
        page.wait_for_selector(f"h1:text-is('{name}')")
        assert text(page, "nav [aria-current]") == name
    page.click("nav >> text=Clients")
    page.click("table >> text=127.0.0.1")
    page.wait_for_selector("h1:text-is('Client 127.0.0.1')")
    page.click("[aria-label='Sessions'] tbody a >> nth=0")
    page.wait_for_selector("h1:has-text('Session 0x')")
    assert "connected" in text(page, "ol.timeline")
    page.go_back()
    page.wait_for_selector("h1:text-is('Client 127.0.0.1')")


def test_the_tree_is_walked(tab: Tab) -> None:
    page = tab.open("#/paths")
    page.click("table >> text='/h'")
    page.wait_for_selector(".crumbs >> text=h")
    page.wait_for_selector("table >> text='/h/n'")
    page.click(".crumbs a >> nth=0")
    page.wait_for_selector("table >> text='/zookeeper'")
    page.click("text=Flat, all depths")
    page.wait_for_selector("table >> text='/h/n'")


def test_a_rest_of_paths_is_told_from_operations_without_one(tab: Tab) -> None:
    """Both have no path; what was not kept apart is another thing."""

    def rest(route: Any) -> None:
        answer = route.fetch()
        body = answer.json()
        [none] = [row for row in body["rows"] if row["path"] is None]
        body["rows"].append({**none, "below": True})
        route.fulfill(response=answer, json=body)

    tab.page.route("**/api/paths*", rest)
    page = tab.open("#/paths")
    expect(page.locator("span:text-is('(other paths, not kept apart)')")).to_have_count(1)
    expect(page.locator("span:text-is('(operations without a path)')")).to_have_count(1)


def test_shapes_lead_to_their_paths(tab: Tab) -> None:
    page = tab.open("#/paths")
    page.click("text=By shape")
    page.wait_for_selector("h1:text-is('Shapes of paths')")
    page.click("table >> text='/h/s<n>'")
    page.wait_for_selector("h1:text-is('Paths')")
    page.wait_for_selector("table >> text='/h/s2'")


@pytest.mark.parametrize("view", ["fingerprints", "znodes"])
def test_views_within_paths_belong_to_their_tab_and_lead_back(tab: Tab, view: str) -> None:
    page = tab.open(f"#/{view}")
    assert text(page, "nav [aria-current]") == "Paths"
    page.click("text=As a tree")
    page.wait_for_selector("h1:text-is('Paths')")


def test_tables_sort(tab: Tab) -> None:
    page = tab.open("#/")
    page.click("[aria-label='Operations'] button:text-is('p99')")
    page.wait_for_selector("th[aria-sort='descending']:has-text('p99')")
    assert "sort=p99" in page.url
    focused = page.evaluate("document.activeElement.textContent")
    assert focused == "p99"


def test_filters(tab: Tab) -> None:
    page = tab.open("#/paths")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "filter"
    page.keyboard.type("op == setData")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=Of the latest")
    page.fill("#filter", "op == setData and foo > 3")
    page.keyboard.press("Enter")
    page.wait_for_selector("#filter-problem:has-text('foo')")
    told = text(page, "#filter-problem")
    assert told.splitlines()[-1].index("^") == "op == setData and foo".index("foo")
    assert page.get_attribute("#filter", "aria-invalid") == "true"
    page.click("#filter-clear")
    expect(page.locator("#filter-problem")).to_have_text("")


def test_events_open_and_lead_on(tab: Tab) -> None:
    page = tab.open("#/events?filter=op%20%3D%3D%20setData")
    page.wait_for_selector(".events li")
    assert "setData" in text(page, ".events li >> nth=0")
    page.click(".events summary >> nth=0")
    page.click(".events dd a[href^='#/sessions/'] >> nth=0")
    page.wait_for_selector("h1:has-text('Session 0x')")


def test_keys_pause_and_theme(tab: Tab) -> None:
    page = tab.open("")
    page.keyboard.press("4")
    page.wait_for_selector("h1:text-is('Sessions')")
    page.keyboard.press("p")
    assert page.get_attribute("#pause", "aria-pressed") == "true"
    page.keyboard.press("p")
    assert page.get_attribute("#pause", "aria-pressed") == "false"
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.keyboard.press("t")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before
    page.keyboard.press("?")
    assert page.is_visible("#keys")
    page.keyboard.press("Escape")
    assert not page.is_visible("#keys")


def test_the_time_range(tab: Tab) -> None:
    page = tab.open("")
    assert page.input_value("#window") == "all"
    page.wait_for_selector("text=1,083 in all")
    # The first of the two captures is two hours older.
    page.select_option("#window", "10s")
    page.wait_for_selector("text=1,032 in all")
    page.select_option("#window", "7d")
    page.wait_for_selector("text=1,083 in all")


def test_the_api_is_documented_offline(tab: Tab) -> None:
    page = tab.open("docs")
    page.wait_for_selector("text=GET /api/ops")
    page.wait_for_selector("text=POST /api/slice")
    page.click("#ops_api_ops_get button")
    page.wait_for_selector("#ops_api_ops_get pre:has-text('getData')")


def test_captured_text_is_never_markup(browser: Any, served: str) -> None:
    tab = Tab(browser, served)
    page = tab.open("#/clients/%3Cimg%20src=x%20onerror=alert(1)%3E")
    assert page.query_selector("#view img") is None
    page = tab.open("#/paths?under=/%3Cscript%3Ealert(1)%3C/script%3E")
    assert page.query_selector("#view script") is None
    tab.context.close()


def test_a_capture_that_is_being_read_moves_on(browser: Any) -> None:
    process, address = start("-r", str(ROOT / "pcaps/57_v39_herd.pcap"), "--speed", "0.05")
    try:
        tab = Tab(browser, address)
        page = tab.open("#/events")
        page.wait_for_selector(".events li", timeout=60_000)
        tab.open("#/")
        first = page.wait_for_selector("#coverage").inner_text()
        expect(page.locator("#coverage")).not_to_have_text(first, timeout=60_000)
        assert "at 0.05x speed" in text(page, "#source")
        assert tab.wrong == []
        tab.context.close()
    finally:
        stop(process)


def test_the_way_of_writes_is_drawn(browser: Any) -> None:
    process, address = start("-r", str(ROOT / "pcaps/12_leader_kill.pcap"))
    for look, width in (("light", 1280), ("phone", 380)):
        tab = Tab(browser, address, viewport={"width": width, "height": 900})
        page = tab.open("#/ensemble")
        tab.shot(f"ensemble-writes-{look}")
        assert "29 writes, 24 answered, 24 followed all the way" in text(page, "#view")
        widths = page.evaluate(
            "[...document.querySelector('.way').children].map(e => e.getBoundingClientRect().width)"
        )
        # server, leader, quorum, commit, reply of the slowest, as long as they took
        assert len(widths) == 5
        assert widths[3] > widths[4] > widths[2] > widths[0] > 0
        assert page.evaluate(SCRIPT) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        # Rows lead to what they are made of.
        page.click("[aria-label='Leaders'] tbody a >> nth=0")
        page.wait_for_selector("h1:text-is('Events')")
        page.wait_for_selector(".events li")
        assert tab.wrong == []
        tab.context.close()
    stop(process)
