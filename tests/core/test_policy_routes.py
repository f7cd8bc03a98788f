"""The route in a policy's table."""

from __future__ import annotations

from msgspec.structs import replace

from mlbd.core.decision import Decision, View, decide
from mlbd.core.facts import Gateway, InterfaceFacts
from mlbd.core.layout import Identities
from mlbd.core.routing import balancing
from mlbd.core.settings import Policy, Settings, Uplink
from mlbd.core.state import Hop, Route

POLICY = Policy(name="all", tiers=(("a", "b"),), weights=(("a", 2), ("b", 1)))
SETTINGS = Settings(
    uplinks=(Uplink(name="a", interface="ppp0"), Uplink(name="b", interface="wan2")), policies=(POLICY,)
)


def view(name: str, gateway: str | None, *, point_to_point: bool = False) -> View:
    paths = None, Gateway(gateway)
    facts = InterfaceFacts(name=name, index=1, up=True, carrier=True, point_to_point=point_to_point)
    return View(True, facts, paths, paths, frozenset((6,)), 0.0)


def hops(views: dict[str, View]) -> tuple[Hop, ...]:
    decision = Decision(views, decide(SETTINGS, views, True), frozenset(), True)
    found = balancing(SETTINGS, Identities({"a": 1, "b": 2}, {"all": 127}), decision)
    return next(o.hops for o in found if isinstance(o, Route) and o.family == 6 and o.table == 20127)


def test_a_point_to_point_link_takes_part_in_ipv6_multipath() -> None:
    """IPv6 wants a gateway for every hop; on a link with one far end any link-local address names it."""
    views = {"a": view("ppp0", None, point_to_point=True), "b": view("wan2", "2001:db8::1")}
    assert hops(views) == (Hop("ppp0", "fe80::1", 2), Hop("wan2", "2001:db8::1", 1))


def test_a_link_without_gateway_is_left_out_of_ipv6_multipath() -> None:
    """Where there may be several neighbours, none can be made up."""
    views = {"a": view("ppp0", None), "b": view("wan2", "2001:db8::1")}
    assert hops(views) == (Hop("wan2", "2001:db8::1", 1),)


def test_a_link_without_gateway_is_used_alone() -> None:
    """A single hop needs no gateway."""
    views = {"a": view("ppp0", None), "b": replace(view("wan2", "2001:db8::1"), usable=False)}
    assert hops(views) == (Hop("ppp0", None, 1),)


def test_links_without_gateways_only() -> None:
    """If no hop has a gateway, the first member is used alone."""
    views = {"a": view("ppp0", None), "b": view("wan2", None)}
    assert hops(views) == (Hop("ppp0", None, 1),)
