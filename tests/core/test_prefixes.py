"""Whose IPv6 prefixes are whose, and what LAN prefixes become."""

from __future__ import annotations

import ipaddress

from hypothesis import given
from hypothesis import strategies as st

from mlbd.core.facts import InterfaceFacts
from mlbd.core.prefixes import owned, translations
from mlbd.core.settings import Uplink


def facts(*addresses: str, delegated: tuple[str, ...] = ()) -> InterfaceFacts:
    return InterfaceFacts(name="wan1", index=1, up=True, carrier=True, addresses=addresses, delegated=delegated)


def test_what_belongs_to_an_uplink() -> None:
    """The configured prefix, then what was delegated, then the prefixes of its addresses, the shortest first."""
    found = facts("10.0.0.2/24", "2001:db8:1::2/64", "2001:db8:1::5/128", delegated=("2001:db8:1:100::/56",))
    natural = Uplink(name="a", interface="wan1")
    assert owned(natural, found) == ("2001:db8:1:100::/56", "2001:db8:1::/64", "2001:db8:1::5/128")
    fixed = Uplink(name="a", interface="wan1", prefix6="2001:db8:7::/48")
    assert owned(fixed, found)[0] == "2001:db8:7::/48"
    assert owned(fixed, None) == ("2001:db8:7::/48",)
    assert owned(natural, None) == ()


def test_subnet_numbers_are_kept() -> None:
    """LANs keep their subnet's number under the provider's prefix."""
    lan = ("fd00:10:1:1::/64", "fd00:10:1:2::/64")
    assert translations(lan, ("2001:db8:1:100::/56",)) == (
        ("fd00:10:1:1::/64", "2001:db8:1:101::/64"),
        ("fd00:10:1:2::/64", "2001:db8:1:102::/64"),
    )


def test_subnets_of_one_number_are_told_apart() -> None:
    """Of LANs with the same number, the second gets another one."""
    lan = ("fd00:10:1::/64", "fd00:10:2::/64")
    pairs = dict(translations(lan, ("2001:db8:1:100::/56",)))
    assert pairs["fd00:10:1::/64"] == "2001:db8:1:100::/64"
    assert pairs["fd00:10:2::/64"] == "2001:db8:1:101::/64"


def test_one_network_is_enough_for_one_lan() -> None:
    """To a single /64 one LAN is mapped; the others are left to masquerading."""
    assert translations(("fd00:10:1::/64", "fd00:10:2::/64"), ("2001:db8:1::/64",)) == (
        ("fd00:10:1::/64", "2001:db8:1::/64"),
    )


def test_addresses_of_the_provider_stay() -> None:
    """A LAN that has a part of the delegated prefix is not translated, nor is its part given to another."""
    lan = ("2001:db8:1:100::/64", "fd00:10:1::/64")
    assert translations(lan, ("2001:db8:1:100::/56",)) == (("fd00:10:1::/64", "2001:db8:1:101::/64"),)


def test_what_a_lan_becomes_does_not_depend_on_other_providers() -> None:
    """A part of another provider's prefix, which comes and goes, takes no number from a unique local one."""
    own = ("2001:db8:2:100::/56",)
    alone = dict(translations(("fd00:10:1::/64", "fd00:10:2::/64"), own))
    beside = dict(translations(("2001:db8:1:100::/64", "fd00:10:1::/64", "fd00:10:2::/64"), own))
    assert beside == {**alone, "2001:db8:1:100::/64": "2001:db8:2:102::/64"}


@given(
    st.lists(st.integers(0, 2**64 - 1), max_size=6, unique=True),
    st.integers(48, 64),
    st.integers(0, 2**48 - 1),
)
def test_translations_are_one_to_one(lans: list[int], length: int, site: int) -> None:
    """No two LANs become the same, each keeps its length, and all are inside the uplink's prefix."""
    lan = tuple(sorted(str(ipaddress.IPv6Network((n << 64, 64))) for n in lans))
    own = str(ipaddress.IPv6Network((site << 80, length)))
    outside = [ipaddress.IPv6Network(there) for _, there in translations(lan, (own,))]
    assert len(set(outside)) == len(outside)
    assert all(net.prefixlen == 64 and net.subnet_of(ipaddress.IPv6Network(own)) for net in outside)
