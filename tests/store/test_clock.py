"""The wall clock is set while packets come: their times jump, and nothing is lost or made up.

A clock that is set back by more than a minute begins windows of that time anew, one that is set
forward leaves the time between empty. Of exchanges under way at that moment the one that ends
before it began has no latency; the one that ends an hour later has an hour, as its packets say.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support import net, zk
from tests.support.pcapio import write_pcap
from tests.support.talk import CLIENT, SERVER, Scene, Talk
from zktrace.store.feed import Feed
from zktrace.store.picture import Picture
from zktrace.web import views

HOUR = 3600 * 10**9


def stepped(path: Path, step: int) -> int:
    """Reads of a client, a second apart; amid one the clock is set by `step`. Gives how many."""
    scene = Scene()
    talk = Talk(scene).open()
    talk.connect(0x100)
    for xid in range(1, 11):
        talk.get(xid, f"/n{xid % 3}", xid)
        scene.tick(10**9)
    talk.send(CLIENT, talk.request(11, 4, zk.path_watch("/amid")))
    scene.now += step
    talk.send(SERVER, talk.reply(11, 11, -101))
    for xid in range(12, 22):
        scene.tick(10**9)
        talk.get(xid, f"/n{xid % 3}", xid)
    talk.close()
    write_pcap(path, map(net.record, scene.segs))
    return 21


def picture_of(path: Path) -> Picture:
    picture = Picture()
    feed = Feed(picture, [str(path)])
    feed.start()
    assert feed.join(60)
    assert picture.state == "done", picture.error
    return picture


@pytest.mark.parametrize("step", [-HOUR, -300 * 10**9, -3 * 10**9, 300 * 10**9, HOUR])
def test_nothing_is_lost_when_the_clock_is_set(engine: str, tmp_path: Path, step: int) -> None:
    path = tmp_path / "stepped.pcap"
    gets = stepped(path, step)
    picture = picture_of(path)
    whole = views.rows(picture, "op", "all", 10, "requests", None)
    by_op = {row["op"]: row for row in whole["rows"]}
    assert by_op["getData"]["requests"] == by_op["getData"]["replies"] == gets
    # The one amid: not at all, or as long as its packets are apart.
    latency = by_op["getData"]["latency_us"]
    assert latency["min"] > 0
    assert latency["max"] < 10**6 if step < 0 else latency["max"] > step / 1000
    assert latency["p90"] < 10**6
    # All windows together have each request once, whatever the order of their times.
    assert sum(window.part("op").numbers[:, 0].sum() for window in _seconds(picture)) == gets + 1
    # What is asked for last is of the time that is now.
    last = views.rows(picture, "op", "10s", 10, "requests", None)
    assert {row["op"] for row in last["rows"]} == {"getData"}
    both = 3 if abs(step) < 60 * 10**9 else 0  # seconds that came twice
    assert 1 <= last["rows"][0]["requests"] <= 11 + both
    paths = views.paths(picture, "all", 10, "requests", None, None, None)["rows"]
    assert sum(row["requests"] for row in paths if row["path"]) == gets
    assert picture.coverage()["gaps"] == 0


def _seconds(picture: Picture) -> list[Any]:
    return [window for tier, window in picture.windows.save().windows if tier == 0]
