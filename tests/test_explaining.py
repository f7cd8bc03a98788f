"""`mlbd explain` as a whole, on a kernel that answers as the routing rules would have it; and as a person reads it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from mlbd.control import Refused
from mlbd.core.explain import Candidate, Explanation, Skipped
from mlbd.core.facts import WideRoute
from mlbd.core.layout import Identities, Layout, assign
from mlbd.core.ports import Connection, Observation, Way
from mlbd.core.settings import Daemon, Family, Rule, Selector, Settings
from mlbd.core.state import KernelState
from mlbd.core.state import Rule as RoutingRule
from mlbd.explaining import Explainer
from mlbd.report.explanation import render
from tests.core.test_explain import BALANCED, UPLINKS, decision
from tests.core.world import policy

LAYOUT = Layout.of(Daemon())
WEB = Rule(name="web", use="cable", ports=Selector(((80, 80),)))


@dataclass
class Router:
    """A kernel: LANs are connected, everything else goes by mark, by source address, or by the first policy."""

    first: int = 1
    """The number of the uplink that the policy's table leads to; 0: it refuses."""
    conntrack: Sequence[Connection] = ()
    full_tunnel: bool = False
    asked: list[tuple[str | None, str | None, int]] = field(default_factory=list)
    """Source, interface and mark."""

    def way(
        self, family: Family, destination: str, *, source: str | None = None, interface: str | None = None,
        mark: int = 0, protocol: int | None = None, port: int | None = None, source_port: int | None = None,
    ) -> Way:  # fmt: skip
        self.asked.append((source, interface, mark))
        if destination in ("192.168.1.1", "10.1.0.2"):
            return Way(table=255, device="lo", gateway=None, source=destination, error="")
        for lan in ("1", "2"):
            if destination.startswith(f"192.168.{lan}."):
                return Way(table=254, device=f"lan{lan}", gateway=None, source=f"192.168.{lan}.1", error="")
        if destination.startswith("10.99."):
            return Way(table=None, device="", gateway=None, source=None, error="Network is unreachable")
        if self.full_tunnel:
            return Way(table=51820, device="wg0", gateway=None, source="10.9.0.2", error="")
        number = (mark & LAYOUT.code_mask) >> 24
        if number == 0 and interface is not None:
            return Way(table=254, device="fiber0", gateway="10.1.0.1", source=source, error="")
        if number > 100 or (number == 0 and self.first == 0):
            return Way(table=None, device="", gateway=None, source=None, error="No route to host")
        number = number or self.first
        device = f"{UPLINKS[number - 1].name}0"
        own = source or f"10.{number}.0.2"
        return Way(table=LAYOUT.table(number), device=device, gateway=f"10.{number}.0.1", source=own, error="")

    def connections(
        self, family: Family, protocol: int, source: str | None, destination: str, port: int | None,
        source_port: int | None,
    ) -> Sequence[Connection]:  # fmt: skip
        return [c for c in self.conntrack if source in (None, c.source) and c.destination == destination]


def explain(
    kernel: Router, settings: Settings, usable: str = "fiber cable lte", *, dead: str = "",
    rules: tuple[RoutingRule, ...] = (), routes: tuple[WideRoute, ...] = (), **asked: object,
) -> Explanation:  # fmt: skip
    now = replace(decision(settings, usable), dead=frozenset((name, 4) for name in dead.split()))
    seen = Observation(KernelState(), foreign_rules=rules, wide_routes=routes)
    explainer = Explainer(kernel, settings, assign(settings, Identities({}, {})), now, seen)
    return asyncio.run(explainer.answer({"destination": "203.0.113.1", **asked}))


def settings(*rules: Rule, **daemon: object) -> Settings:
    return Settings(uplinks=UPLINKS, policies=(BALANCED,), rules=rules, daemon=Daemon(**daemon))  # type: ignore[arg-type]


def connection(mark: int, source: str = "192.168.1.2") -> Connection:
    return Connection(
        family=4, protocol=6, source=source, source_port=4000, destination="203.0.113.1", port=80, mark=mark
    )


def lines(explanation: Explanation) -> list[str]:
    """As a person reads it, from the object and from its JSON alike."""
    text = render(explanation)
    assert render(json.loads(msgspec.json.encode(explanation))) == text
    return text.splitlines()


def candidate(number: int, share: float) -> Candidate:
    name = UPLINKS[number - 1].name
    return Candidate(
        uplink=name, share=share, gateway=f"10.{number}.0.1", device=f"{name}0", source=f"10.{number}.0.2", error=""
    )


def test_a_forwarded_connection() -> None:
    """The interface is found from the source; each candidate has its gateway and the address after masquerading."""
    kernel = Router()
    found = explain(kernel, settings(WEB), source="192.168.1.2")
    assert (found.rule, found.use, found.policy, found.method, found.tier) == (
        None, "balanced", "balanced", "random", 0,
    )  # fmt: skip
    assert found.candidates == (candidate(1, 0.75), candidate(2, 0.25))
    assert (found.asked.interface, found.pinned, found.connections, found.route) == ("lan1", None, {}, None)
    assert ("192.168.1.2", "lan1", LAYOUT.mark(2)) in kernel.asked
    assert lines(found) == [
        "tcp to 203.0.113.1 from 192.168.1.2, coming in by lan1",
        "policy balanced (random), tier 1",
        "  fiber   75.0%  via 10.1.0.1 dev fiber0, source 10.1.0.2",
        "  cable   25.0%  via 10.2.0.1 dev cable0, source 10.2.0.2",
        "note: rule web matches only with --port 80",
    ]


def test_a_rule_with_an_uplink() -> None:
    """One candidate; its way is the route. Not usable, the rule is skipped, and that is said."""
    found = explain(Router(), settings(WEB), source="192.168.1.2", port="80")
    assert found.candidates == (candidate(2, 1.0),)
    assert found.route == Way(LAYOUT.table(2), "cable0", "10.2.0.1", "10.2.0.2", "")
    assert lines(found) == [
        "tcp to 203.0.113.1 port 80 from 192.168.1.2, coming in by lan1",
        "rule web, use = cable",
        "uplink cable",
        "  cable  100.0%  via 10.2.0.1 dev cable0, source 10.2.0.2",
    ]
    found = explain(Router(), settings(WEB), "fiber", source="192.168.1.2", port="80")
    assert (found.rule, found.skipped) == (None, (Skipped("web", "cable"),))
    assert lines(found)[1:3] == ["rule web skipped: cable is not usable", "policy balanced (random), tier 1"]


def test_the_routers_own_connection() -> None:
    """Routing rules choose, so the kernel is asked without a mark; where marks choose, that gives only the source."""
    kernel = Router(first=2)
    found = explain(kernel, settings(), "cable")
    assert (found.asked.interface, found.candidates) == ("lo", (candidate(2, 1.0),))
    assert found.route == Way(LAYOUT.table(2), "cable0", "10.2.0.1", "10.2.0.2", "")
    assert (None, None, 0) in kernel.asked
    assert lines(found)[0] == "tcp to 203.0.113.1, the router's own"
    kernel = Router()
    explain(kernel, settings(own_connections="mark"), "cable")
    assert kernel.asked == [(None, None, 0), *[(None, None, LAYOUT.mark(2))] * 2]


def test_from_an_address_of_the_router() -> None:
    """A socket bound to an uplink's address is the router's own, and leaves by that uplink."""
    found = explain(Router(), settings(WEB), source="10.1.0.2", port="80")
    assert (found.asked.interface, found.rule, found.use) == ("lo", None, "fiber")
    assert found.notes == ("10.1.0.2 is an address of fiber, so it leaves by fiber",)


def test_connections_that_exist() -> None:
    """They stay where they are, whatever new ones do; of several, each is counted."""
    kernel = Router(conntrack=[connection(LAYOUT.mark(3) | LAYOUT.flag | 7)])
    found = explain(kernel, settings(WEB), source="192.168.1.2", port="80")
    assert (found.rule, found.use, found.pinned, found.connections) == ("web", "cable", "lte", {"lte": 1})
    assert found.route == Way(LAYOUT.table(3), "lte0", "10.3.0.1", "10.3.0.2", "")
    assert lines(found)[-2:] == [
        "existing connection: stays on lte",
        "route: via 10.3.0.1 dev lte0, source 10.3.0.2",
    ]
    kernel = Router(conntrack=[connection(LAYOUT.mark(code)) for code in (1, 3, 3, 0, 77)])
    found = explain(kernel, settings(WEB), source="192.168.1.2", port="80")
    assert (found.pinned, found.connections, found.route) == (None, {"lte": 2, "fiber": 1}, None)
    assert lines(found)[-1] == "existing connections: 2 on lte, 1 on fiber; each stays where it is"


def test_pings_that_are_under_way() -> None:
    """They are told, but the one that is asked about is a new one."""
    kernel = Router(conntrack=[connection(LAYOUT.mark(3))])
    found = explain(kernel, settings(), "cable", source="192.168.1.2", protocol="icmp")
    assert (found.pinned, found.connections) == (None, {"lte": 1})
    assert found.route == Way(LAYOUT.table(2), "cable0", "10.2.0.1", "10.2.0.2", "")


def test_connections_of_others() -> None:
    """Those of hosts in the LAN say nothing about the router's own."""
    kernel = Router(conntrack=[connection(LAYOUT.mark(3)), connection(LAYOUT.mark(2), "10.1.0.2")])
    assert explain(kernel, settings()).connections == {"cable": 1}


def test_connections_of_a_dead_uplink() -> None:
    """An established connection of a dead uplink will be reset."""
    kernel = Router(conntrack=[connection(LAYOUT.mark(2))])
    found = explain(kernel, settings(), "fiber", dead="cable", source="192.168.1.2")
    assert found.notes == ("cable is not usable: an established connection by it is reset when its client next sends",)
    assert explain(kernel, settings(), "fiber", dead="cable", source="192.168.1.2", protocol="udp").notes == ()


def test_where_main_has_a_route() -> None:
    """Connected and static routes win over all rules."""
    found = explain(Router(), settings(WEB), destination="192.168.2.9", source="192.168.1.2", port="80")
    assert (found.rule, found.use, found.policy, found.candidates) == (None, "main", None, ())
    assert lines(found)[1:] == [
        "main: not mlbd's to route",
        "route: dev lan2, source 192.168.1.2",
        "note: main has a route to it, dev lan2; mlbd's rules do not apply",
    ]


def test_for_the_router_itself() -> None:
    """What comes in by an uplink for the router is answered by that uplink."""
    found = explain(Router(), settings(), destination="10.1.0.2", source="203.0.113.9", interface="cable0", port="22")
    assert (found.use, found.candidates) == ("main", ())
    assert found.notes == (
        "it comes in by cable, so what answers it leaves by cable, too",
        "it is for the router itself",
    )


def test_left_to_main() -> None:
    """A rule that leaves it to main has the route that main has, and no complaint about it."""
    found = explain(Router(), settings(Rule(name="local", use="main")), source="192.168.1.2")
    assert (found.rule, found.use, found.notes) == ("local", "main", ())
    assert found.route == Way(254, "fiber0", "10.1.0.1", "10.1.0.2", "")


def test_refused() -> None:
    """With the last resort unreachable the kernel's own answer is shown."""
    refusing = replace(settings(), policies=(policy("fiber", last_resort="unreachable"),))
    forwarded: dict[str, Any] = {"source": "192.168.1.2"}
    for asked in (forwarded, {}):
        found = explain(Router(first=0), refusing, "lte", **asked)
        assert (found.last_resort, found.candidates) == ("unreachable", ())
        assert lines(found)[1:] == [
            "policy balanced (random), last resort: unreachable",
            "route: No route to host",
            "note: no member of balanced is usable: it is refused as unreachable",
        ]


def test_a_full_tunnel() -> None:
    """What takes everything away from us is named, with what to do about it."""
    rules = (RoutingRule(4, 9999, table=51820, mark=51820, mask=0xFFFFFFFF, other="not"),)
    routes = (WideRoute(4, 51820, "default", "wg0"),)
    found = explain(Router(full_tunnel=True), settings(), rules=rules, routes=routes)
    assert found.use == "main"
    assert [note.partition(";")[0].partition(": ")[0] for note in found.notes] == [
        "routing rule 9999 of another program sends it to table 51820, dev wg0",
        "routing rule 9999 of another program sends all IPv4 traffic without mark 0xca6c to table 51820, dev wg0",
    ]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"destination": "example.org"}, "destination 'example.org' is not an address"),
        ({"destination": 7}, "explain takes a destination"),
        ({"colour": "red"}, "explain takes a destination and what its options are called"),
        ({"mark": "0x1000000"}, "--mark 0x1000000 has bits of fwmark_mask 0xff000000, which are mlbd's own"),
        ({"source": "10.99.0.1"}, "nothing leads to 10.99.0.1 .Network is unreachable.; say where it comes in by"),
    ],
)
def test_what_cannot_be_answered(asked: dict[str, Any], message: str) -> None:
    """Whoever asks on the socket gets a sentence, not an internal error."""
    with pytest.raises(Refused, match=message):
        explain(Router(), settings(), **asked)


def test_a_kernel_that_does_not_answer() -> None:
    """Its reason is passed on."""

    class Mute(Router):
        def connections(self, *_: object) -> Sequence[Connection]:
            raise OSError(105, "No buffer space available")

    with pytest.raises(Refused, match="the kernel does not say: No buffer space available"):
        explain(Mute(), settings())
