"""Is what the kernel holds what the truth demands? By the output of ip(8) and nft(8), and without anything of mlbd's.

The numbers are those of docs/how-it-works.md.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from mlbd.lab.network import Network
from tests.chaos.events import OFFICE
from tests.chaos.files import Policy
from tests.chaos.truth import FAMILIES, Demand, Line, Truth

_OURS = "109"
_CODE = 0x01000000
_LAST_METRIC = 4294967295
_THEIR_RULES = (
    "pref 5210 fwmark 0x80000/0xff0000 lookup main",
    "pref 12001 fwmark 0x99 lookup 52",
    "pref 14001 from 198.18.0.9 lookup 52",
)
_THEIR_RULES6 = tuple(rule.replace("198.18.0.9", "2001:db8:ffff::9") for rule in _THEIR_RULES)
_THEIR_ROUTES = {4: "blackhole 198.18.0.0/15 table 52", 6: "blackhole 2001:db8:ffff::/48 table 52 metric 7"}
_PER_UPLINK = {"wish", "fact", "arrive"}
_LINE_SYSCTLS = ("src_valid_mark", "ignore_routes_with_linkdown")


_OF_UPLINK = re.compile(r"10\.(\d+)\.|2001:db8:(\d+):")
_STRANGERS = """
table inet strangers {{
  set seen4 {{ type ipv4_addr . ipv4_addr . inet_proto . inet_service; flags dynamic; size 99; }}
  set seen6 {{ type ipv6_addr . ipv6_addr . inet_proto . inet_service; flags dynamic; size 99; }}
  chain arrive {{
    type filter hook prerouting priority -310; policy accept;
    iifname != "customer" accept
    ip saddr != {four} add @seen4 {{ ip saddr . ip daddr . meta l4proto . th dport }}
    ip6 saddr {{ 2001:db8:{number}::/48, fe80::/10, :: }} accept
    add @seen6 {{ ip6 saddr . ip6 daddr . meta l4proto . th dport }}
  }}
}}
"""
"""Of a provider: who sent with wrong addresses, and where to."""


def strangers(net: Network, number: int) -> list[tuple[int | None, str]]:
    """By whom they were sent, if by another uplink's address; and source, destination, protocol and port.

    Not answers to an address that the router had: with own_connections = "mark" they are to whom it was before NAT.
    """
    found = []
    for name in ("seen4", "seen6"):
        listed = json.loads(net.run(f"isp{number}", ["nft", "-j", "list", "set", "inet", "strangers", name]))
        for each in listed["nftables"]:
            for element in each.get("set", {}).get("elem", []):
                text = " ".join(map(str, element["concat"]))
                owner, to = (_OF_UPLINK.match(str(address)) for address in element["concat"][:2])
                if owner or not to:
                    found.append((int(owner[1] or owner[2]) if owner else None, text))
    return found


def forget_strangers(net: Network, number: int) -> None:
    net.run(f"isp{number}", ["nft", "-f", "-"], text="flush set inet strangers seen4\nflush set inet strangers seen6")


def settle_in(net: Network) -> None:
    """Other programs' rules, routes and tables, before mlbd comes; and witnesses at the providers."""
    for uplink in net.uplinks:
        text = _STRANGERS.format(number=uplink.number, four=uplink.customers)
        net.run(f"isp{uplink.number}", ["nft", "-f", "-"], text=text)
    net.run("router", ["nft", "-f", "-"], text=OFFICE)
    for family, rules in ((4, _THEIR_RULES), (6, _THEIR_RULES6)):
        for rule in rules:
            net.run("router", ["ip", f"-{family}", "rule", "add", *rule.split()])
        net.run("router", ["ip", f"-{family}", "route", "add", *_THEIR_ROUTES[family].split()])


def theirs(net: Network) -> str:
    """What other programs have put there, but for what events add and remove."""
    parts = []
    for family in FAMILIES:
        rules = json.loads(net.run("router", ["ip", "-j", f"-{family}", "rule"]))
        parts += [json.dumps(rule) for rule in rules if rule.get("protocol") != _OURS]
        parts.append(net.run("router", ["ip", f"-{family}", "route", "show", "table", "52"]))
    listed = net.run("router", ["nft", "-s", "list", "table", "inet", "office"])
    return "\n".join([*parts, listed])


def marks_lost(net: Network) -> int:
    """Packets that have lost the mark of the other program."""
    listed = net.run("router", ["nft", "list", "counter", "inet", "office", "strange"])
    found = re.search(r"packets (\d+)", listed)
    assert found is not None
    return int(found[1])


def problems(net: Network, truth: Truth, status: dict[str, Any]) -> list[str]:
    """Everything that is not as demanded."""
    codes = _policy_codes(net)
    found: list[str] = []
    for family in FAMILIES:
        found += (f"IPv{family}: {text}" for text in _routing(net, truth, status, codes, family))
    found += _tables(net, truth, status, codes)
    found += _settings(net, truth)
    return found


def _policy_codes(net: Network) -> dict[str, int]:
    """By name, from the chains."""
    listed = net.run("router", ["sh", "-c", "nft list chains inet | grep chain || true"])
    return {name: int(code) for code, name in re.findall(r"wish_(\d+)_(\S+)", listed) if int(code) > 100}


def _chosen(truth: Truth, policy: Policy, family: int, status: dict[str, Any]) -> tuple[Demand, set[int] | None]:
    """What is demanded of the policy and who is to carry it; None: nobody knows, or a model of nobody."""
    demand = truth.of_policy(policy, family)
    if demand.kind == "all":
        return demand, set(demand.uplinks)
    if demand.kind == "one":
        return demand, best_of(truth, policy, demand, status)
    return demand, None if demand.kind == "any" else set()


def best_of(truth: Truth, policy: Policy, demand: Demand, status: dict[str, Any]) -> set[int] | None:
    """The one that mlbd takes for the best; None where what it says may be of the other family."""
    if len(demand.uplinks) == 1:
        return set(demand.uplinks)
    if any(truth.of_policy(policy, family) != demand for family in FAMILIES):
        return None
    said = next(p["last_resort"] for p in status["policies"] if p["name"] == policy.name)
    number = int(str(said).rpartition("wan")[2]) if str(said).startswith("best: ") else None
    return {number} if number in demand.uplinks else None


# Rules and routes.


def _routing(net: Network, truth: Truth, status: dict[str, Any], codes: dict[str, int], family: int) -> Iterator[str]:
    ids = {u["name"]: u["id"] for u in status["uplinks"]}
    rules = json.loads(net.run("router", ["ip", "-j", f"-{family}", "rule"]))
    ours = [rule for rule in rules if rule.get("protocol") == _OURS]
    yield from _doubles("rules", ours)
    wanted: list[tuple[int, str, str | None, str | None]] = [(10000, "main", None, None), (10001, "main", None, None)]
    possible = set(wanted)
    for line in truth.configured:
        n = ids[line.name]
        wanted.append((11000 + n, str(20128 + n), None, line.name))
        wanted.append((12000 + n, str(20000 + n), hex(n * _CODE), None))
    for policy in truth.file.policies:
        code = codes.get(policy.name, 0)
        wanted.append((12000 + code, str(20000 + code), hex(code * _CODE), None))
    found = [(r["priority"], r.get("table"), r.get("fwmark"), r.get("oif")) for r in ours if r["priority"] < 13000]
    if sorted(found, key=str) != sorted(wanted, key=str):
        yield f"rules below 13000: too few {set(wanted) - set(found)}, too many {set(found) - set(wanted) - possible}"
    sources = {(r["priority"] - 13000, r["src"], r.get("srclen")) for r in ours if 13000 <= r["priority"] < 14000}
    demanded = {s for line in truth.configured for s in _sources(net, line, family, ids[line.name])}
    # The addresses and prefixes of a line stay its own while it is away.
    stay = {ids[line.name] for line in truth.configured if not line.has_route(family)}
    if not demanded <= sources or any(number not in stay for number, *_ in sources - demanded):
        yield f"source rules: {sources}, not {demanded}"
    first = codes.get(truth.file.policies[0].name, 0)
    if [r.get("table") for r in ours if r["priority"] == 19000] != [str(20000 + first)]:
        yield "the rule at 19000 does not lead to the first policy"
    yield from _routes(net, truth, status, codes, family)


def _sources(net: Network, line: Line, family: int, number: int) -> set[tuple[int, str, int | None]]:
    if not line.has_route(family):
        return set()
    uplink = net.uplink(line.number)
    return {(number, uplink.address, None) if family == 4 else (number, uplink.prefixes6[-1].partition("/")[0], 64)}


def _routes(net: Network, truth: Truth, status: dict[str, Any], codes: dict[str, int], family: int) -> Iterator[str]:
    ids = {u["name"]: u["id"] for u in status["uplinks"]}
    listed = json.loads(net.run("router", ["ip", "-j", f"-{family}", "route", "show", "table", "all"]))
    ours = [route for route in listed if route.get("protocol") == _OURS]
    yield from _doubles("routes", [{k: r.get(k) for k in ("table", "dst", "metric", "type")} for r in ours])
    wanted: dict[int, list[tuple[object, ...]] | None] = {}
    for line in truth.configured:
        n = ids[line.name]
        way = [("unicast", 1, ((_gateway(net, line, family), line.name),))] if line.has_route(family) else []
        wanted[20000 + n] = [*way, ("unreachable", _LAST_METRIC, ())]
        wanted[20128 + n] = [*way]
        used = any(rule.use == line.name for rule in truth.file.rules)
        wanted[20256 + n] = [*way] if used and truth.carries(line.number, family) else []
    for policy in truth.file.policies:
        demand, chosen = _chosen(truth, policy, family, status)
        table = 20000 + codes.get(policy.name, 0)
        hops = tuple(sorted((_gateway(net, truth.lines[n], family), truth.lines[n].name) for n in chosen or ()))
        refused = demand.kind in ("unreachable", "blackhole")
        wanted[table] = [(demand.kind, 1, ())] if refused else [("unicast", 1, hops)] if hops else []
        if chosen is None:
            wanted[table] = None
    found: dict[int, list[tuple[object, ...]]] = {table: [] for table in wanted}
    for route in ours:
        hops = tuple(sorted((h.get("gateway", ""), h["dev"]) for h in route.get("nexthops", [route]) if "gateway" in h))
        if route["dst"] != "default":
            yield f"a route that is no default route: {route}"
        number = int(route["table"]) if str(route["table"]).isdigit() else 0
        found.setdefault(number, []).append((route.get("type", "unicast"), route.get("metric"), hops))
    for table, routes in found.items():
        if (expected := wanted.get(table, [])) is not None and sorted(routes, key=str) != sorted(expected, key=str):
            yield f"table {table} has {routes}, not {expected}"


def _gateway(net: Network, line: Line, family: int) -> str:
    uplink = net.uplink(line.number)
    return uplink.gateway if family == 4 else uplink.gateway6


def _doubles(what: str, objects: list[dict[str, Any]]) -> Iterator[str]:
    for text, count in Counter(json.dumps(each, sort_keys=True) for each in objects).items():
        if count > 1:
            yield f"{count} equal {what}: {text}"


# nftables.


def _tables(net: Network, truth: Truth, status: dict[str, Any], codes: dict[str, int]) -> Iterator[str]:
    ids = {u["name"]: u["id"] for u in status["uplinks"]}
    listed = json.loads(net.run("router", ["sh", "-c", "nft -j list table inet mlbd || echo '{}'"]))
    objects = listed.get("nftables", [])
    chains = {o["chain"]["name"] for o in objects if "chain" in o}
    roles = {f"{role}_{ids[line.name]}_{line.name}" for line in truth.configured for role in _PER_UPLINK}
    roles |= {f"wish_{codes.get(p.name)}_{p.name}" for p in truth.file.policies}
    there = {name for name in chains if name.partition("_")[0] in _PER_UPLINK}
    if there != roles:
        yield f"chains: too few {roles - there}, too many {there - roles}"
    maps = {o["map"]["name"]: _targets(o["map"]) for o in objects if o.get("map", {}).get("map") == "verdict"}
    wishes = {line.number: f"wish_{ids[line.name]}_{line.name}" for line in truth.configured}
    for family in FAMILIES:
        best: set[int] = set()
        perhaps: set[int] = set()
        for policy in truth.file.policies:
            demand, chosen = _chosen(truth, policy, family, status)
            if chosen is None:
                perhaps |= demand.uplinks or set(policy.members)
                continue
            if demand.kind == "one":
                best |= chosen
            whole = {f"wish_{codes.get(policy.name)}_{policy.name}"}
            refused = demand.kind in ("unreachable", "blackhole")
            wanted = whole if refused or (chosen and policy.method == "multipath") else {wishes[n] for n in chosen}
            if maps.get(f"pick{family}_{policy.name}") != wanted:
                yield f"pick{family}_{policy.name} leads to {maps.get(f'pick{family}_{policy.name}')}, not to {wanted}"
        for line in truth.configured:
            if any(rule.use == line.name for rule in truth.file.rules):
                wanted = {wishes[line.number]} if truth.carries(line.number, family) else set()
                if maps.get(f"use{family}_{line.name}") != wanted:
                    yield f"use{family}_{line.name} leads to {maps.get(f'use{family}_{line.name}')}, not to {wanted}"
        name = f"dead{family}"
        dead = {mark for o in objects if o.get("set", {}).get("name") == name for mark in o["set"].get("elem", [])}
        reset = {ids[truth.lines[n].name] * _CODE for n in truth.reset(family) - best}
        unsure = {ids[truth.lines[n].name] * _CODE for n in perhaps & {*truth.file.uplinks}}
        if not reset - unsure <= dead <= reset:
            yield f"the set {name} has {[*map(hex, dead)]}, not {[*map(hex, reset)]}, {[*map(hex, unsure)]} or not"


def _targets(found: dict[str, Any]) -> set[str]:
    """Of the chains, those to which it leads."""
    verdicts = (next(iter(verdict.values())) for _, verdict in found.get("elem", []))
    return {verdict["target"] for verdict in verdicts if verdict is not None}


def _settings(net: Network, truth: Truth) -> Iterator[str]:
    for line in truth.lines.values():
        if not line.exists or (truth.forgot and line not in truth.configured):
            continue
        wanted = "1" if line in truth.configured else "0"
        for name in _LINE_SYSCTLS:
            found = net.run("router", ["cat", f"/proc/sys/net/ipv4/conf/{line.name}/{name}"]).strip()
            if found != wanted:
                yield f"sysctl {name} of {line.name} is {found}, not {wanted}"
