"""The other router of a pair as an uplink."""

from __future__ import annotations

import pytest

from mlbd.config import ConfigError, parse
from mlbd.core.settings import Policy

LINE = '[[uplink]]\nname = "line1"\nid = 1\ninterface = "wan"\n'
PEER = '[[uplink]]\nname = "line2"\nid = 2\ninterface = "seg1"\npeer = true\n'
FIXED = 'gateway = "192.168.1.3"\n'
FAR = '[probe]\ntargets = ["203.0.113.53"]\n'
NO_PEER = "expected the other router's own address on this interface; an address that moves between routers would be "
REFUSED = {
    LINE + PEER + FAR: f'f:5: uplink[1].gateway: found "auto", {NO_PEER}this router\'s at times',
    LINE
    + PEER
    + 'gateway = "none"\n'
    + FAR: f'f:10: uplink[1].gateway: found "none", {NO_PEER}this router\'s at times',
    LINE + PEER + FIXED + "masquerade = true\n" + FAR: (
        "f:11: uplink[1].masquerade: found masquerade = true with peer = true, expected no masquerade; a peer "
        "translates by its own lines"
    ),
    LINE + PEER + FIXED + 'nat6 = "masquerade"\n' + FAR: (
        'f:11: uplink[1].nat6: found nat6 = "masquerade" with peer = true, expected nat6 = "none"; a peer translates '
        "by its own lines"
    ),
    LINE + PEER + FIXED + FAR + '[[policy]]\nname = "out"\nmembers = ["line1", "line2"]\n': (
        'f:15: policy[0].members: found "line2", a peer, in one tier with "line1", expected peers in a tier of their '
        "own, after all lines; each router would send the other what it should carry itself"
    ),
    PEER + FIXED + FAR: (
        "f:5: uplink[0].peer: found no uplink but peers, expected an uplink of this router's own; a peer stands in for "
        "lines that are dead"
    ),
    LINE + PEER + FIXED + FAR + '[daemon]\nown_connections = "mark"\n': (
        'f:9: uplink[1].peer: found peer = true with own_connections = "mark", expected own_connections = "route"; '
        "marks choose after the source address was chosen, so that a packet of the router would leave here with "
        "another uplink's address"
    ),
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_a_peer_can_not_be(text: str) -> None:
    """It is refused at the key, with what would be right."""
    with pytest.raises(ConfigError) as caught:
        parse(text, "f")
    assert [str(problem) for problem in caught.value.problems] == [REFUSED[text]]


def test_a_peer_is_the_last_choice_and_translates_nothing() -> None:
    """Without a policy it makes a tier of its own, behind all lines, wherever it stands in the file."""
    loaded = parse(PEER + FIXED + LINE + FAR, "f")
    assert loaded.settings.policies == (
        Policy(name="balanced", tiers=(("line1",), ("line2",)), weights=(("line1", 1), ("line2", 1))),
    )
    assert [(u.name, u.peer, u.masquerade) for u in loaded.settings.uplinks] == [
        ("line2", True, False), ("line1", False, True),
    ]  # fmt: skip
    assert loaded.warnings == ()


def test_what_is_unwise_with_a_peer() -> None:
    """A peer of which only the gateway is asked, and lines without an id that both routers share."""
    text = (LINE + PEER + FIXED).replace("id = 1\n", "")
    assert [str(warning) for warning in parse(text, "f").warnings] == [
        "f:1: uplink[0]: without `id`: each line must have the same one on both routers, or connections that are "
        "replicated mean another line there",
        "f:4: uplink[1]: only its gateway is probed: that tells that the other router lives, not that its line works; "
        "name targets in the internet, which it then forwards",
    ]
