"""Uplinks that share an interface."""

from __future__ import annotations

import pytest

from mlbd.config import ConfigError, parse

APART = "line 3 has this interface, too; uplinks with one interface are told apart by their gateways"
REFUSED = {
    ("", ""): (
        'interface: found "eth1", expected another interface, or an address as gateway of each; '
        + APART
        + "; where DHCP gives them out, make a macvlan for each"
    ),
    ('gateway = "192.0.2.1"', 'gateway = "none"'): (
        'interface: found "eth1", expected another interface, or an address as gateway of each; '
        + APART
        + "; where DHCP gives them out, make a macvlan for each"
    ),
    ('gateway = "192.0.2.1"', 'gateway = "192.0.2.1"'): (
        'gateway: found "192.0.2.1", expected another gateway; ' + APART
    ),
    ('gateway = "192.0.2.1"', 'gateway = "192.0.2.2"\nmasquerade = false'): (
        "masquerade: found false, expected masquerade = true; line 3 has this interface, too; "
        "translation is by interface"
    ),
    ('gateway6 = "fe80::1"', 'gateway = "192.0.2.2"\ngateway6 = "fe80::2"'): (
        'gateway6: found "fe80::2", expected no gateway6; line 3 has this interface, too; only one of them can have '
        "IPv6"
    ),
}


def two(first: str, second: str) -> str:
    return "".join(
        f'[[uplink]]\nname = "{name}"\ninterface = "eth1"\n{more}\n' for name, more in (("a", first), ("b", second))
    )


@pytest.mark.parametrize(("first", "second"), REFUSED)
def test_what_can_not_be_told_apart(first: str, second: str) -> None:
    """It is refused with the reason, at the second uplink."""
    with pytest.raises(ConfigError) as caught:
        parse(two(first, second), "f")
    assert [str(problem).partition("uplink[1].")[2] for problem in caught.value.problems] == [REFUSED[first, second]]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ('gateway = "192.0.2.1"', 'gateway = "192.0.2.2"'),
        ('gateway = "192.0.2.1"\ngateway6 = "fe80::1"', 'gateway = "192.0.2.2"'),
        ('gateway = "192.0.2.1"', 'gateway6 = "fe80::1"\nmasquerade = false'),
    ],
)
def test_what_can_be_told_apart(first: str, second: str) -> None:
    """Gateways of their own are enough, and one of them may be the one for IPv6."""
    assert [uplink.interface for uplink in parse(two(first, second), "f").settings.uplinks] == ["eth1", "eth1"]
