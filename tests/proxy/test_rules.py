"""Rules as text: what they become, and what is wrong with others."""

from __future__ import annotations

import pytest

from zktrace_proxy.rules import ACTIONS, RuleError, parse


def test_a_rule_is_read() -> None:
    rule = parse('drop-reply   then=hang nth=3 seed=9 for=1.5s when op == "create"')
    assert rule.text == 'drop-reply then=hang nth=3 seed=9 for=1.5s when op == "create"'
    assert (rule.at, rule.action, rule.values) == ("reply", "drop", {"reset": False})
    assert rule.when == ("number", "opcode", "in", (1,))
    limits = (3, 0, None, 1.5, 1.0, 9)
    assert rule.form(7) == (7, "drop-reply", rule.when, "reply", "drop", rule.values, limits)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("latency 100ms jitter=20us direction=to-client",
         {"delay": 0.1, "jitter": 0.00002, "ways": (False, True)}),
        ("bandwidth 64k", {"rate": 65536.0, "ways": (True, True)}),
        ("bandwidth 1M/s direction=to-server", {"rate": 1048576.0, "ways": (True, False)}),
        ("slicer 10 pause=1ms", {"size": 10, "pause": 0.001, "ways": (True, True)}),
        ("timeout", {"delay": None, "ways": (True, True)}),
        ("reset", {"delay": 0.0}),
        ("error NoNode", {"code": -101}),
        ("error -77 at=reply", {"code": -77}),
    ],
)  # fmt: skip
def test_values(text: str, values: dict[str, object]) -> None:
    assert parse(text).values == values


def test_probability() -> None:
    assert parse("down toxicity=25%").probability == 0.25
    assert parse("down probability=0.5").probability == 0.5


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "an action is missing"),
        ("dropreply", "did you mean 'drop-reply'"),
        ("latency", "is missing, as in 'latency 100ms'"),
        ("latency 100", "needs a unit"),
        ("latency 2000000s", "a day at most"),
        ("down 5", "takes no value such as '5'"),
        ("error NoNod", "did you mean 'NoNode'"),
        ("error NoNode at=connection", "at is request or reply"),
        ("down at=reply", "unknown option 'at'"),
        ("down nth=0", "the first is 1"),
        ("down probability=1.5", "is no probability"),
        ("down seed=x", "is no seed"),
        ("down nth=1 nth=2", "nth twice"),
        ("latency 1s 2s", "more than one value"),
        ("drop-reply then=vanish", "then is reset or hang"),
        ("latency 1s direction=up", "a direction is"),
        ("slicer 0", "one byte at least"),
        ("expire when", "a filter is missing"),
        ("error NoNode when error == 0", "'error' is not known when a request passes"),
        ("latency 1s when path == /a", "'path' is not known of a whole connection"),
        ("drop-event when op == create", "'op' is not known of a watch event"),
        ("down when client = 1.2.3.4", "did you mean '=='"),
        ("x" * 5000, "at most"),
    ],
)
def test_what_is_wrong_is_told(text: str, words: str) -> None:
    with pytest.raises(RuleError) as caught:
        parse(text)
    assert words in str(caught.value)


def test_every_action_is_documented() -> None:
    from tests.proxy.conftest import ROOT

    text = (ROOT / "docs" / "faults.md").read_text()
    for name in ACTIONS:
        assert f"`{name}" in text, name
