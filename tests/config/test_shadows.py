"""Rules that never get a turn, and what else of rules has no effect."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlbd.config import parse
from mlbd.config.shadows import boxes, shadows
from mlbd.core.settings import Rule, Selector
from tests.config.test_rules import AB, A


def warnings(text: str) -> list[str]:
    return [str(warning) for warning in parse(text, "f").warnings]


def rule(name: str, use: str = "balanced", **conditions: str) -> str:
    lines = "".join(f"{key.rstrip('_')} = {value}\n" for key, value in conditions.items())
    return f'[[rule]]\nname = "{name}"\nuse = "{use}"\n{lines}'


def shadowed(line: int, name: str, number: int, by: str, at: int) -> str:
    return (
        f'f:{line}: rule[{number}]: the rule "{name}" can never match: the rule "{by}" on line {at} takes all that it '
        "means"
    )


def everything(line: int, name: str, number: int) -> str:
    return f'f:{line}: rule[{number}]: the rule "{name}" takes everything: no later rule can match'


FAILOVER = '[[policy]]\nname = "p"\nmethod = "{}"\nmembers = ["a", "b"]\n'

WARNINGS = {
    "a wider rule first": (
        AB + rule("r", from_='"10.0.0.0/8"') + rule("s", "main", from_='"10.1.0.0/16"', ports="80"),
        [shadowed(11, "s", 1, "r", 7)],
    ),
    "a narrower rule first": (AB + rule("r", from_='"10.1.0.0/16"') + rule("s", from_='"10.0.0.0/8"'), []),
    "main leaves nothing either": (
        AB + rule("r", "main", to='"2001:db8::/32"') + rule("s", "a", to='["2001:db8:1::/48", "!2001:db8:1::1"]'),
        [shadowed(11, "s", 1, "r", 7)],
    ),
    "an uplink may be unusable": (AB + rule("r", "a", from_='"10.0.0.0/8"') + rule("s", from_='"10.1.0.0/16"'), []),
    "one family only": (AB + rule("r", from_='"0.0.0.0/0"') + rule("s", ports="80"), []),
    "all of a family": (
        AB + rule("r", to='"0.0.0.0/0"') + rule("s", from_='"10.0.0.0/8"'),
        [shadowed(11, "s", 1, "r", 7)],
    ),
    "all of both families": (AB + rule("r", to='["0.0.0.0/0", "::/0"]') + rule("s"), [everything(7, "r", 0)]),
    "a rule for everything in the middle, told once": (
        AB + rule("q", ports="80") + rule("q2", ports="80") + rule("r", "main") + rule("s") + rule("t", ports="80"),
        [shadowed(11, "q2", 1, "q", 7), everything(15, "r", 2)],
    ),
    "a rule for everything at the end": (AB + rule("q", ports="80") + rule("r"), []),
    "an uplink for everything in the middle": (AB + rule("r", "a") + rule("s"), []),
    "two that only together leave nothing": (
        AB + rule("r", from_='"10.0.0.0/9"') + rule("s", from_='"10.128.0.0/9"') + rule("t", from_='"10.0.0.0/8"'),
        [],
    ),
    "an uplink's interface": (
        AB + rule("r", interface='["lan0", "eth1", "!eth2"]'),
        [
            'f:10: rule[0].interface[1]: "eth1" is the interface of the uplink "a": what comes in by an uplink is '
            "answered by it, and no rule decides about that"
        ],
    ),
    "sticky": (AB + rule("r", sticky='"1s"'), []),
    "sticky with one uplink": (
        A + rule("r", sticky='"1s"'),
        ['f:7: rule[0].sticky: no effect: every tier of "balanced" has one member'],
    ),
    "sticky with failover": (
        AB + FAILOVER.format("failover") + rule("r", "p", sticky='"1s"'),
        ['f:14: rule[0].sticky: no effect: every tier of "p" has one member'],
    ),
    "sticky with a hash of the source": (
        AB + FAILOVER.format("hash-source") + rule("r", "p", sticky='"1s"'),
        ['f:14: rule[0].sticky: no effect: the method of "p" is "hash-source", and a source keeps its uplink'],
    ),
    "sticky for the router itself": (
        AB + rule("r", interface='"lo"', sticky='"1s"'),
        ['f:11: rule[0].sticky: no effect: the router\'s own connections do not stick with own_connections = "route"'],
    ),
    "sticky for the router itself, by mark": (
        AB + rule("r", interface='"lo"', sticky='"1s"') + '[daemon]\nown_connections = "mark"\n',
        [],
    ),
}


@pytest.mark.parametrize("case", WARNINGS)
def test_warnings(case: str) -> None:
    """Rules that never get a turn, and keys without effect, are warned of; nothing else is."""
    text, expected = WARNINGS[case]
    assert warnings(text) == expected


def selector(values: list[Any]) -> st.SearchStrategy[Selector[Any]]:
    some = st.lists(st.sampled_from(values), max_size=2, unique=True).map(tuple)
    return st.builds(Selector, some, some)


some_rules = st.builds(
    Rule,
    name=st.just("r"),
    use=st.just("p"),
    sources=selector(["10.0.0.0/8", "10.1.0.0/16", "0.0.0.0/0", "2001:db8::/32"]),
    destinations=selector(["192.0.2.0/24", "192.0.2.1/32", "::/0"]),
    ports=selector([(80, 80), (1, 100), (1, 65535)]),
    interfaces=selector(["lo", "lan0"]),
)


@settings(deadline=None)
@given(st.lists(st.tuples(some_rules, st.booleans()), max_size=12))
def test_shadows(found: list[tuple[Rule, bool]]) -> None:
    """Looking up whom to compare with finds the same as comparing each with each."""
    all_boxes, deciding = [boxes(rule) for rule, _ in found], [decides for _, decides in found]
    expected = []
    for position, mine in enumerate(all_boxes):
        expected.append(
            next(
                (
                    number
                    for number in range(position)
                    if deciding[number]
                    and all(
                        one is None or (earlier is not None and earlier.covers(one))
                        for earlier, one in zip(all_boxes[number], mine, strict=True)
                    )
                ),
                None,
            )
        )
    assert shadows(all_boxes, deciding) == expected
