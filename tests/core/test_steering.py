"""Rules of the configuration become nftables chains and routing rules; both must mean what `mlbd.core.match` says.

Both are interpreted here as the kernel would: rules and packets are drawn at random from few values, so that they often
touch, overlap and contain each other.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlbd.core.classify import Classifier
from mlbd.core.decision import View
from mlbd.core.facts import Gateway, InterfaceFacts
from mlbd.core.layout import Identities, Layout
from mlbd.core.match import OWN, Box, Packet, box, matching
from mlbd.core.routing import MAIN_TABLE, footing
from mlbd.core.settings import MAIN, Daemon, Family, Policy, Rule, Selector, Settings, Uplink
from mlbd.core.state import Rule as KernelRule
from mlbd.core.steering import _entries

WEIGHTS = (("a", 1), ("b", 1))
POLICIES = (
    Policy(name="first", tiers=(("a", "b"),), weights=WEIGHTS),
    Policy(name="second", tiers=(("a",), ("b",)), weights=WEIGHTS),
)
UPLINKS = (Uplink(name="a", interface="wan1"), Uplink(name="b", interface="wan2"))
IDENTITIES = Identities({"a": 1, "b": 2}, {"first": 127, "second": 126})
LAYOUT = Layout.of(Daemon())

PREFIXES: dict[Family, list[str]] = {
    4: ["10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "10.1.2.3/32", "10.1.2.4/32", "192.168.0.0/16", "0.0.0.0/0"],
    6: ["fd00::/16", "fd00:1::/32", "fd00:1::/64", "fd00:1::1/128", "2001:db8::/32", "::/0"],
}
PORTS = [(1, 79), (80, 80), (80, 443), (81, 81), (443, 443), (1024, 65535)]
PROTOCOLS = [1, 6, 17, 47, 58]
INTERFACES = ["lan1", "lan2", OWN]
MARKS = [(0x1, 0xFF), (0x80000, 0xFF0000), (0x100, 0xF00)]


def selectors(values: list[object]) -> st.SearchStrategy[Selector]:  # type: ignore[type-arg]
    some = st.lists(st.sampled_from(values), max_size=3, unique=True).map(tuple)
    none = st.one_of(st.just(()), st.lists(st.sampled_from(values), max_size=1).map(tuple))
    return st.one_of(st.just(Selector()), st.builds(Selector, some, none))


ADDRESSES = [*PREFIXES[4], *PREFIXES[6]]
rules = st.builds(
    Rule,
    name=st.just("r"),
    use=st.sampled_from(["first", "second", "a", "b", MAIN]),
    sources=selectors(list(ADDRESSES)),
    destinations=selectors(list(ADDRESSES)),
    interfaces=selectors(list(INTERFACES)),
    protocols=selectors(list(PROTOCOLS)),
    ports=selectors(list(PORTS)),
    source_ports=selectors(list(PORTS[:2])),
    marks=selectors(list(MARKS)),
)


@st.composite
def packets(draw: st.DrawFn) -> Packet:
    family: Family = draw(st.sampled_from((4, 6)))
    addresses = [int(ipaddress.ip_network(p)[n]) for p in PREFIXES[family] for n in (0, -1)]
    protocol = draw(st.sampled_from(PROTOCOLS))
    ported = protocol in (6, 17)
    return Packet(
        family=family,
        source=draw(st.sampled_from(addresses)),
        destination=draw(st.sampled_from(addresses)),
        protocol=protocol,
        port=draw(st.sampled_from([1, 79, 80, 81, 443, 444, 65534])) if ported else None,
        source_port=draw(st.sampled_from([1, 80, 5000])) if ported else None,
        interface=draw(st.sampled_from(INTERFACES)),
        mark=draw(st.sampled_from([0, 1, 0x80000, 0x80001, 0x100])),
    )


def meant(wanted: list[Rule], packet: Packet, usable: frozenset[str]) -> str:
    """What the first matching rule uses; "" if none matches."""
    for rule in matching(wanted, packet):
        if rule.use not in ("a", "b") or rule.use in usable:
            return rule.use
    return ""


# nftables.

RETURN = "return"


def evaluate(chain: str, chains: Mapping[str, tuple[str, ...]], packet: Packet, usable: frozenset[str]) -> str | None:
    """What the chain does with the packet: the policy or uplink, `main`, or None if it comes out at the end."""
    for statement in chains[chain]:
        found = run(statement, chains, packet, usable)
        if found == RETURN:
            return None
        if found is not None:
            return found
    return None


def run(text: str, chains: Mapping[str, tuple[str, ...]], packet: Packet, usable: frozenset[str]) -> str | None:
    while True:
        if text == RETURN:
            return RETURN
        if text == "accept":
            return MAIN
        if text.startswith("goto draw"):
            return text.partition("_")[2]
        if text.startswith("jump "):
            return evaluate(text.removeprefix("jump "), chains, packet, usable)
        if gate := re.fullmatch(r"numgen inc mod 1 vmap @use[46]_(\w+)", text):
            return gate[1] if gate[1] in usable else None
        if mark := re.match(r"meta mark & (\w+) (==|!=) (\w+) ", text):
            if (packet.mark & int(mark[1], 16) == int(mark[3], 16)) != (mark[2] == "=="):
                return None
            text = text[mark.end() :]
            continue
        found = re.match(r"(ip6? [sd]addr|iifname|meta l4proto|th [sd]port) (vmap |!= )?(\{.*?\}|[^ ]+)( |$)", text)
        assert found, text
        value = {
            "saddr": packet.source, "daddr": packet.destination, "iifname": packet.interface,
            "l4proto": packet.protocol, "dport": packet.port, "sport": packet.source_port,
        }[found[1].split()[-1]]  # fmt: skip
        parts = found[3].strip("{} ").split(", ")
        if found[2] == "vmap ":
            pairs = [part.partition(" : ") for part in parts]
            hits = [verdict for words, _, verdict in pairs if within(value, words)]
            assert len(hits) <= 1, "intervals overlap"
            return run(hits[0], chains, packet, usable) if hits else None
        if any(within(value, words) for words in parts) == (found[2] == "!= "):
            return None
        text = text[found.end() :]


def within(value: object, words: str) -> bool:
    if words.startswith('"'):
        return value == words.strip('"')
    if not isinstance(value, int):
        return False
    low, _, high = words.partition("-")
    if "." in words or ":" in words:
        if "/" in words:
            network = ipaddress.ip_network(words)
            return int(network[0]) <= value <= int(network[-1])
        return int(ipaddress.ip_address(low)) <= value <= int(ipaddress.ip_address(high or low))
    return int(low) <= value <= int(high or low)


@settings(max_examples=400)
@given(st.lists(rules, max_size=12), st.lists(packets(), min_size=1, max_size=8), st.sampled_from(["", "a", "ab"]))
def test_chains_mean_what_the_rules_say(wanted: list[Rule], seen: list[Packet], names: str) -> None:
    """Whatever the rules, the chains send each packet where the first rule that matches it says."""
    usable = frozenset(names)
    by_name = {policy.name: policy for policy in POLICIES}
    for packet in seen:
        own = packet.interface == OWN
        classifier = Classifier(packet.family)
        top = classifier.statements(_entries(tuple(wanted), by_name, packet.family, own=own))
        chains = {**classifier.chains, "top": tuple(top)}
        asked = packet
        assert (evaluate("top", chains, asked, usable) or "") == meant(wanted, packet, usable)


def many(count: int) -> tuple[Rule, ...]:
    """As an administrator with many tenants would write: each has a network, and one of its ports is special."""
    out = []
    for n in range(count // 2):
        network = Selector((f"10.{n // 200}.{n % 200}.0/24",))
        out.append(Rule(name=f"w{n}", use="second", sources=network, ports=Selector(((80, 80), (443, 443)))))
        out.append(Rule(name=f"t{n}", use="first" if n % 2 else MAIN, sources=network))
    return tuple(out)


def test_many_rules_become_one_map() -> None:
    """Five hundred rules over sources are one look-up, and then the few that are left for the source."""
    classifier = Classifier(4)
    by_name = {policy.name: policy for policy in POLICIES}
    top = classifier.statements(_entries(many(500), by_name, 4, own=False))
    assert len(top) == 1
    assert max(map(len, classifier.chains.values())) <= 2
    assert len(classifier.chains) == 2, "sources with the same rules left share their chain"


def test_overlapping_rules_do_not_explode() -> None:
    """Rules that all overlap in every field are tried in turn instead of being multiplied out."""
    wanted = [
        Rule(
            name=f"r{n}", use="first", sources=Selector((f"10.{n}.0.0/16", "11.0.0.0/8")),
            ports=Selector(((n + 1, 60000),)),
        )
        for n in range(200)
    ]  # fmt: skip
    classifier = Classifier(4)
    top = classifier.statements(_entries(tuple(wanted), {p.name: p for p in POLICIES}, 4, own=False))
    assert sum(map(len, top)) + sum(len(s) for c in classifier.chains.values() for s in c) < 200_000


# Routing rules.


def view(n: int) -> View:
    paths = Gateway(f"10.{n}.0.1"), Gateway(f"2001:db8:{n}::1")
    found = InterfaceFacts(name=f"wan{n}", index=n, up=True, carrier=True)
    return View(True, found, paths, paths, frozenset((4, 6)), 0.0)


def kernel_rules(wanted: list[Rule]) -> list[KernelRule]:
    """The routing rules by priority, those of both families."""
    all_settings = Settings(uplinks=UPLINKS, policies=POLICIES, rules=tuple(wanted))
    views = {"a": view(1), "b": view(2)}
    found = [o for part in footing(all_settings, IDENTITIES, views) for o in part.values()]
    return sorted((o for o in found if isinstance(o, KernelRule)), key=lambda rule: rule.priority)


def route(listed: list[KernelRule], packet: Packet, empty: frozenset[int]) -> int:
    """The table in which the kernel finds a route, if `empty` tables have none, and `main` has only a default."""
    rest: Iterator[KernelRule] = iter([r for r in listed if r.family == packet.family])
    waiting = 0
    for rule in rest:
        if rule.priority < waiting or not hit(rule, packet) or rule.action == "nop":
            continue
        if rule.action == "goto":
            assert rule.target is not None
            waiting = rule.target
        elif rule.suppress_prefixlen is None and rule.table not in empty:
            assert rule.table is not None
            return rule.table
    return MAIN_TABLE


def hit(rule: KernelRule, packet: Packet) -> bool:
    def inside(prefix: str | None, address: int | None) -> bool:
        return prefix is None or within(address, prefix)

    def between(span: tuple[int, int] | None, port: int | None) -> bool:
        return span is None or (port is not None and span[0] <= port <= span[1])

    return (
        inside(rule.source, packet.source)
        and inside(rule.destination, packet.destination)
        and rule.protocol in (None, packet.protocol)
        and between(rule.ports, packet.port)
        and between(rule.source_ports, packet.source_port)
        and (rule.iif is None or packet.interface == OWN)
        and rule.oif is None
        and (rule.mask is None or packet.mark & rule.mask == rule.mark)
    )


@settings(max_examples=400)
@given(st.lists(rules, max_size=6), st.lists(packets(), min_size=1, max_size=8), st.sampled_from(["", "a", "ab"]))
def test_routing_rules_mean_what_the_rules_say(wanted: list[Rule], seen: list[Packet], names: str) -> None:
    """Whatever the rules, a packet of the router's own finds its route in the table that the first match says."""
    usable = frozenset(names)
    listed = kernel_rules(wanted)
    empty = frozenset(LAYOUT.use_table(IDENTITIES.uplinks[name]) for name in "ab" if name not in usable)
    tables = {"first": 20127, "second": 20126, "a": 20257, "b": 20258, MAIN: MAIN_TABLE, "": 20127}
    for packet in seen:
        own = Packet(**{f: getattr(packet, f) for f in Packet.__struct_fields__} | {"interface": OWN})
        assert route(listed, own, empty) == tables[meant(wanted, own, usable)]


def test_an_empty_policy_table_leaves_its_traffic_to_main() -> None:
    """Own connections of a policy whose last resort is `main` go on behind all of ours, not to the next rule."""
    wanted = [
        Rule(name="web", use="second", ports=Selector(((80, 80),))),
        Rule(name="rest", use="first"),
    ]
    packet = Packet(family=4, source=0, destination=1, protocol=6, port=80, source_port=5000)
    assert route(kernel_rules(wanted), packet, frozenset({20126})) == MAIN_TABLE
    assert route(kernel_rules(wanted), packet, frozenset()) == 20126


@pytest.mark.parametrize(
    ("one", "other", "covered"),
    [
        (Rule(name="r", use=MAIN), Rule(name="r", use=MAIN, ports=Selector(((80, 80),))), True),
        (Rule(name="r", use=MAIN, ports=Selector(((80, 80),))), Rule(name="r", use=MAIN), False),
        (
            Rule(name="r", use=MAIN, sources=Selector(("10.0.0.0/8",))),
            Rule(name="r", use=MAIN, sources=Selector(("10.1.0.0/16",)), interfaces=Selector(("lan1",))),
            True,
        ),
        (
            Rule(name="r", use=MAIN, interfaces=Selector((), ("lan1",))),
            Rule(name="r", use=MAIN, interfaces=Selector(("lan2",))),
            True,
        ),
    ],
)
def test_what_covers_what(one: Rule, other: Rule, covered: bool) -> None:
    """A rule covers another if all that matches the other matches it."""
    first, second = box(one, 4), box(other, 4)
    assert isinstance(first, Box)
    assert isinstance(second, Box)
    assert first.covers(second) is covered


@given(rules, rules, packets())
def test_what_is_covered_matches_nothing_more(one: Rule, other: Rule, packet: Packet) -> None:
    """No packet matches a covered rule but not the one that covers it."""
    first, second = box(one, packet.family), box(other, packet.family)
    if first is not None and second is not None and first.covers(second) and second.matches(packet):
        assert first.matches(packet)
