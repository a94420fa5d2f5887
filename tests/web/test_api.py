"""Answers hold the numbers of ``zktrace stats``, and are what the OpenAPI document says."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest

import zktrace
from tests.support.decoded import decode
from tests.web.conftest import PCAPS, Client, client_of, picture_of
from zktrace.store.picture import Picture
from zktrace.web import models

CAPTURES = (
    "02_basic_ops.pcap",
    "13_session_expiry_move.pcap",
    "25_kazoo_ops.pcap",
    "52_v39_watches.pcap",
    "57_v39_herd.pcap",
    "tcp_gap_replies.pcap",
)

MODELS: dict[str, Any] = {
    "/api/summary": models.Summary,
    "/api/ops": models.Rows[models.OpRow],
    "/api/clients": models.Rows[models.ClientRow],
    "/api/clients/127.0.0.1": models.Client,
    "/api/paths": models.Rows[models.PathRow],
    "/api/paths?depth=1": models.Rows[models.PathRow],
    "/api/fingerprints": models.Rows[models.FingerprintRow],
    "/api/fingerprints?filter=read": models.Rows[models.FingerprintRow],
    "/api/sessions": models.SessionList,
    "/api/servers": models.Rows[models.ServerRow],
    "/api/slow": models.SlowList,
    "/api/watches": models.WatchList,
    "/api/znodes": models.ZnodeList,
    "/api/timeline": models.Timeline,
    "/api/coverage": models.Coverage,
    "/api/ensemble": models.Ensemble,
    "/api/events": models.EventList,
    "/healthz": models.Health,
}


@pytest.mark.parametrize("capture", CAPTURES)
def test_numbers_are_those_of_stats(capture: str, engine: str) -> None:
    stats = zktrace.read(PCAPS / capture).stats(by="op,client,path,session,server")
    client = client_of(picture_of(capture))
    for window in ("all", "7d"):
        for by in ("op", "client", "server", "path"):
            answer = client.json(f"/api/{by}s", window=window, limit=1000)
            rows = answer["rows"]
            for row in rows:
                row.pop("below", None), row.pop("children", None)
                assert row.pop("short") == 0
                assert (row.pop("in_flight") is None) == (row["latency_us"] is None)
            assert rows == stats[f"by_{by}"], (by, window)
            assert answer["rest"] is None
            assert answer["short"] == 0
    total = client.json("/api/summary")["total"]
    assert total.pop("in_flight") is not None
    assert total == stats["total"]
    coverage = client.json("/api/coverage")["coverage"]
    assert {key: coverage[key] for key in stats["coverage"]} == stats["coverage"]


@pytest.mark.parametrize("capture", CAPTURES)
def test_a_filter_counts_the_events_it_selects(capture: str, engine: str) -> None:
    trace = zktrace.read(PCAPS / capture)
    client = client_of(picture_of(capture))
    for expression in ("read", "error != 0", 'path =~ "/**"', "latency > 5ms"):
        stats = trace.filter(expression).stats(by="op,client,path")
        for by in ("op", "client", "path"):
            answer = client.json(f"/api/{by}s", limit=1000, filter=expression)
            rows = answer["rows"]
            for row in rows:
                row.pop("below", None), row.pop("children", None), row.pop("short")
                assert row.pop("in_flight") is None
            key = lambda row: (-row["requests"], str(row))  # noqa: E731
            assert sorted(rows, key=key) == sorted(stats[f"by_{by}"], key=key)
            assert answer["basis"] == "events"
            assert answer["complete"]


@pytest.mark.parametrize("path", MODELS)
def test_answers_are_as_documented(path: str, client: Client) -> None:
    response = client.get(path)
    assert response.status_code == 200, response.text
    MODELS[path].model_validate_json(response.content, strict=False)


def test_the_rest_is_what_is_beyond_the_limit(client: Client) -> None:
    whole = client.json("/api/ops")
    few = client.json("/api/ops", limit=2)
    assert few["rows"] == whole["rows"][:2]
    assert few["groups"] == len(whole["rows"])
    assert few["rest"]["requests"] == sum(row["requests"] for row in whole["rows"][2:])


def test_rows_are_sorted(client: Client) -> None:
    for sort in models.RowSort:
        for path in ("/api/ops", "/api/paths", "/api/ops?filter=read"):
            separator = "&" if "?" in path else "?"
            assert client.get(f"{path}{separator}sort={sort}").status_code == 200
    rows = client.json("/api/ops", sort="p99")["rows"]
    values = [row["latency_us"]["p99"] for row in rows]
    assert values == sorted(values, reverse=True)
    keys = [row["op"] for row in client.json("/api/ops", sort="key")["rows"]]
    assert keys == sorted(keys)


def test_a_level_of_the_tree(client: Client) -> None:
    top = client.json("/api/paths", depth=1)
    row = next(row for row in top["rows"] if row["path"] == "/h")
    below = client.json("/api/paths", under="/h", depth=1)
    assert row["children"] > 0
    assert sum(one["requests"] for one in below["rows"]) == row["requests"]
    assert all(one["path"] == "/h" or one["path"].startswith("/h/") for one in below["rows"])


def test_shapes_of_paths_add_up(client: Client) -> None:
    for extra in ({}, {"window": "7d"}, {"filter": "client == 127.0.0.1"}):
        rows = client.json("/api/fingerprints", **extra)["rows"]
        shapes = {row["fingerprint"]: row["requests"] for row in rows}
        paths = {row["path"]: row["requests"] for row in client.json("/api/paths", **extra)["rows"]}
        below = sum(n for path, n in paths.items() if path is not None and path[:4] == "/h/s")
        assert shapes["/h/s<n>"] == below > paths["/h/s2"] > 0
        assert sum(shapes.values()) == sum(paths.values())


def test_a_path_that_came_late_says_what_it_may_have_missed() -> None:
    picture = picture_of("57_v39_herd.pcap", total_keys=2)
    client = client_of(picture)
    whole = zktrace.read(PCAPS / "57_v39_herd.pcap").stats(by="path")["by_path"]
    true = {row["path"]: row["requests"] for row in whole}
    answer = client.json("/api/paths")
    assert answer["short"] == max(row["short"] for row in answer["rows"]) > 0
    for row in answer["rows"]:
        if not row["below"] and row["path"] is not None:
            assert row["requests"] <= true[row["path"]] <= row["requests"] + row["short"]
    tree = client.json("/api/paths", depth=1)
    top = next(row for row in tree["rows"] if row["path"] == "/h")
    below = sum(n for path, n in true.items() if path is not None and path.startswith("/h"))
    assert top["requests"] <= below <= top["requests"] + top["short"]


def test_what_was_in_flight(engine: str) -> None:
    client = client_of(picture_of("22_pipelined.pcap"))
    exchanges = decode(PCAPS / "22_pipelined.pcap").exchanges
    of_server: dict[str, list[tuple[int, int]]] = {}
    for row in exchanges:
        if row["latency_ns"] is not None and row["op"] not in ("ping", "connect"):
            ends = row["ts_ns"], row["ts_ns"] + row["latency_ns"]
            of_server.setdefault(f"{row['server']}", []).append(ends)
    seen = client.json("/api/coverage")["coverage"]
    seconds = (seen["last_ts_ns"] - seen["first_ts_ns"]) / 1e9
    rows = client.json("/api/servers", sort="in_flight")["rows"]
    assert {row["server"] for row in rows} == set(of_server)
    for row in rows:
        latency = sum(end - start for start, end in of_server[row["server"]]) / 1e9
        assert row["in_flight"]["mean"] == pytest.approx(latency / seconds, abs=1e-4)
        assert row["in_flight"]["most"] > 10
    sessions = {row["session"] for row in client.json("/api/sessions")["rows"]}
    depths = [client.json(f"/api/sessions/{one}")["total"]["in_flight"] for one in sessions]
    assert max(one["most"] for one in depths) == rows[0]["in_flight"]["most"]


def test_sessions() -> None:
    client = client_of(picture_of("13_session_expiry_move.pcap"))
    answer = client.json("/api/sessions", sort="silence_percent")
    rows = {row["session"]: row for row in answer["rows"]}
    expired = rows["0x0100001e10f50000"]
    assert expired["state"] == "expired"
    assert expired["timeout_ms"] == 2000
    assert expired["silence_percent"] > 100
    moved = rows["0x0100001e10f50001"]
    assert (moved["moves"], moved["connects"], moved["state"]) == (1, 2, "closed")
    detail = client.json("/api/sessions/0x0100001e10f50001")
    models.SessionDetail.model_validate(detail)
    events = ["connected", "moved", "connection reset", "closed", "connection closed"]
    assert [one["event"] for one in detail["timeline"]] == events
    assert (expired["silent"], expired["near_misses"]) == ("client", 1)
    # Another client tried this session with a wrong password, and was told that it expired.
    other = rows["0x0300001e110d0000"]
    assert (other["state"], other["silent"]) == ("closed", "client")
    assert client.json("/api/sessions/0100001E10F50001")["session"] == moved


def test_watches(client: Client) -> None:
    answer = client.json("/api/watches")
    assert answer["registered"]["data"] == 480
    assert answer["fired"] == {
        "NodeDataChanged": 400,
        "NodeChildrenChanged": 400,
        "NodeDeleted": 40,
    }
    assert answer["outstanding"]["watches"] == len(answer["outstanding"]["sessions"]) * 2
    assert answer["outstanding"]["growing"] == []
    assert all(write["herd"] for write in answer["writes"][:20])
    write = answer["writes"][0]
    assert (write["op"], write["events"], write["sessions"], write["exact"]) == (
        "delete",
        80,
        40,
        True,
    )
    assert client.json("/api/watches", filter='path == "/none"')["rows"] == []
    windowed = client.json("/api/watches", window="7d")
    assert windowed["rows"][0] == {"path": "/h/n", "registered": None, "fired": 440}


def test_slow_log(client: Client) -> None:
    rows = client.json("/api/slow", limit=10)["rows"]
    assert rows[0]["latency_us"] == 67632
    values = [row["latency_us"] for row in rows]
    assert values == sorted(values, reverse=True)
    some = client.json("/api/slow", limit=10, filter="op == setData", window="7d")["rows"]
    assert some
    assert {row["op"] for row in some} == {"setData"}
    for sort in models.SlowSort:
        assert client.json("/api/slow", sort=sort)["rows"]


def test_outstanding_requests_are_told() -> None:
    client = client_of(picture_of("22_pipelined.pcap"))
    assert max(row["outstanding"] for row in client.json("/api/slow")["rows"]) > 0


def test_the_way_of_writes_is_what_the_command_tells() -> None:
    told = client_of(picture_of("12_leader_kill.pcap")).json("/api/ensemble")["writes"]
    report = zktrace.read(PCAPS / "12_leader_kill.pcap").writes()
    assert told["summary"] == json.loads(json.dumps(report.summary()))
    assert (told["summary"]["complete"], told["slowest"][0]["latency_us"]) == (24, 338_245.0)
    assert told["slowest"][0] == json.loads(json.dumps(report.write(report.slowest(1)[0])))
    # Clients alone: no way is seen.
    nothing = client_of(picture_of("57_v39_herd.pcap")).json("/api/ensemble")
    assert (nothing["available"], nothing["writes"]) == (False, None)


def test_users_are_told_apart() -> None:
    client = client_of(picture_of("30_sasl_digest_md5.pcap"))
    totals, filtered = client.json("/api/users"), client.json("/api/users", filter="read or write")
    assert [row["user"] for row in totals["rows"]] == ["sasl:carol"]
    assert totals["rows"][0]["requests"] < client.json("/api/summary")["total"]["requests"]
    assert {row["user"] for row in filtered["rows"]} == {"sasl:carol", None}
    event = 'event == authenticated and detail == "sasl:carol"'
    assert len(client.json("/api/events", filter=event)["rows"]) == 1


def test_timeline(client: Client) -> None:
    for step in (1, 10, 60):
        answer = client.json("/api/timeline", step=step)
        assert sum(point["requests"] for point in answer["points"]) == 1032
        assert sum(sum(point["bands"]) for point in answer["points"]) == 987
        assert len(answer["bounds_us"]) == len(answer["points"][0]["bands"]) + 1


def test_events(client: Client) -> None:
    answer = client.json("/api/events", limit=5, filter="watch_event" if False else "read")
    assert [row["kind"] for row in answer["rows"]] == ["exchange"] * 5
    times = [row["ts_ns"] for row in answer["rows"]]
    assert len(times) == 5


def test_csv(client: Client) -> None:
    for path in ("ops", "clients", "paths", "servers", "sessions", "slow", "watches", "events"):
        response = client.get(f"/api/{path}?format=csv")
        assert response.headers["content-type"].startswith("text/csv")
        rows = list(csv.DictReader(io.StringIO(response.text)))
        assert rows, path
    rows = list(csv.DictReader(io.StringIO(client.get("/api/ops?format=csv").text)))
    first = client.json("/api/ops")["rows"][0]
    assert rows[0]["op"] == first["op"]
    assert int(rows[0]["requests"]) == first["requests"]
    assert float(rows[0]["latency_p99_us"]) == first["latency_us"]["p99"]
    assert int(rows[0]["in_flight_most"]) == first["in_flight"]["most"]


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/api/ops?window=2m", 422, "window"),
        ("/api/ops?limit=1001", 422, "limit"),
        ("/api/ops?limit=x", 422, "limit"),
        ("/api/paths?depth=0", 422, "depth"),
        ("/api/timeline?step=7", 422, "step"),
        ("/api/clients/nobody", 404, "no IP address"),
        ("/api/clients/10.9.9.9", 404, "10.9.9.9"),
        ("/api/sessions/0xzz", 404, "hex"),
        ("/api/sessions/0x1", 404, "0x0000000000000001"),
        ("/api/nothing", 404, "Not Found"),
        ("/api/ops?filter=(((", 400, ""),
    ],
)
def test_problems_say_what_is_wrong(path: str, status: int, words: str, client: Client) -> None:
    response = client.get(path)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    problem = models.Problem.model_validate(response.json())
    assert problem.status == status
    assert words in problem.detail


def test_a_wrong_filter_is_told_with_its_place(client: Client) -> None:
    expression = 'op == "create" and latencyy > 3'
    for path in ("ops", "paths", "sessions", "slow", "watches", "events", "stream"):
        response = client.get(f"/api/{path}", params={"filter": expression})
        assert response.status_code == 400, path
        problem = response.json()
        assert problem["expression"] == expression
        assert expression[problem["position"] :].startswith("latencyy")


def test_session_ids_can_be_hashed() -> None:
    name = "13_session_expiry_move.pcap"
    plain = client_of(picture_of(name)).json("/api/sessions")["rows"]
    hashed = client_of(picture_of(name, hash_key=bytes(16)))
    rows = hashed.json("/api/sessions")["rows"]
    assert len(rows) == len(plain)
    assert not {row["session"] for row in rows} & {row["session"] for row in plain}
    assert hashed.get(f"/api/sessions/{rows[0]['session']}").status_code == 200
    text = hashed.get("/api/events?limit=1000").text + hashed.get("/api/slow").text
    for row in plain:
        assert row["session"] not in text


def test_nothing_was_seen() -> None:
    client = client_of(picture_of("file_empty.pcap"))
    for path in MODELS:
        if path != "/api/clients/127.0.0.1":
            MODELS[path].model_validate(client.json(path))


def test_the_ensemble_where_quorum_traffic_was_seen(client: Client, engine: str) -> None:
    answer = client_of(picture_of("12_leader_kill.pcap")).json("/api/ensemble")
    models.Ensemble.model_validate(answer)
    assert (answer["available"], answer["complete"]) == (True, True)
    assert answer["report"] == zktrace.read(PCAPS / "12_leader_kill.pcap").ensemble()
    assert [one["epoch"] for one in answer["report"]["leaders"]] == [2, 3]
    assert client.json("/api/ensemble")["available"] is False


def test_a_failed_source_is_told(herd: Picture) -> None:
    picture = Picture()
    picture.ended("failed", "it broke")
    client = client_of(picture)
    assert client.get("/healthz").status_code == 503
    assert client.json("/api/summary")["source"]["error"] == "it broke"


def test_the_largest_znodes(engine: str) -> None:
    client = client_of(picture_of("57_v39_herd.pcap"))
    rows = client.json("/api/znodes")["rows"]
    assert {"/h", "/h/n"} <= {row["path"] for row in rows}
    by_children = client.json("/api/znodes", sort="children", limit=1)["rows"]
    assert by_children[0]["path"] == "/h"
    assert by_children[0]["children"] == max(row["children"] or 0 for row in rows)
    only = client.json("/api/znodes", filter='path == "/h/n"')["rows"]
    assert [row["path"] for row in only] == ["/h/n"]
    assert 0 < only[0]["message_bytes"] < 10_000
    assert only[0]["percent"] == round(only[0]["message_bytes"] / 10_485.75, 1)
