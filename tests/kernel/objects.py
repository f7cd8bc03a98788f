"""Hypothesis strategies: kernel states that the interfaces `DEVICES` allow, as mlbd might want them."""

from __future__ import annotations

from typing import Any, Literal

from hypothesis import strategies as st
from msgspec.structs import replace

from mlbd.core.settings import FAMILIES, Family
from mlbd.core.state import (
    AddressSet,
    Chain,
    Counter,
    Helper,
    Hook,
    Hop,
    KernelState,
    MarkSet,
    Object,
    Route,
    Rule,
    Saved,
    SlotMap,
    Statement,
    Sysctl,
)
from mlbd.kernel import sysctl

DEVICES = ("k1", "k2.5", "k3")
TABLE_BASE = 20000
PROTOCOL = 109
MAIN_FIRST = [Rule(family, 5, table=254, suppress_prefixlen=0) for family in FAMILIES]
"""Without them a rule could lead to one of our defaults when the kernel checks that an IPv6 gateway is on its link."""
SYSCTLS = sysctl.NAMES


def gateway(device: str, family: Family, host: int = 1) -> str:
    """An address on the device's connected prefix."""
    number = DEVICES.index(device) + 1
    return f"10.9.{number}.{host}" if family == 4 else f"2001:db8:{number}::{host}"


@st.composite
def hops(draw: st.DrawFn, family: Family) -> tuple[Hop, ...]:
    """One to three different hops; IPv6 multipath needs gateways."""
    count = draw(st.integers(1, 3))
    places = draw(st.permutations([(device, host) for device in DEVICES for host in (1, 3)]))[:count]
    bare = draw(st.booleans()) and (family == 4 or count == 1)
    onlink = draw(st.booleans())
    found = []
    for device, host in places:
        weight = draw(st.integers(1, 256)) if count > 1 else 1
        if bare:
            found.append(Hop(device, None, weight))
        elif onlink:
            far = f"192.0.2.{host}" if family == 4 else f"fe80::{host}"
            found.append(Hop(device, far, weight, onlink=True))
        else:
            found.append(Hop(device, gateway(device, family, host), weight))
    unique = {(hop.device, hop.gateway): hop for hop in found}  # without a gateway two hops may be one
    return tuple(unique.values()) if len(unique) > 1 else (replace(found[0], weight=1),)


@st.composite
def routes(draw: st.DrawFn) -> Route:
    family: Family = draw(st.sampled_from([4, 6]))
    kind: Literal["unicast", "unreachable", "blackhole"] = draw(
        st.sampled_from(["unicast", "unreachable", "blackhole"])
    )
    destinations = ["default", "192.0.2.0/24"] if family == 4 else ["default", "2001:db8:ff::/48"]
    return Route(
        family=family,
        table=TABLE_BASE + draw(st.sampled_from([1, 2, 255])),
        metric=draw(st.sampled_from([0, 100, 4294967295])),
        kind=kind,
        hops=draw(hops(family)) if kind == "unicast" else (),
        destination=draw(st.sampled_from(destinations)),
    )


SELECTORS = ("mark", "source", "oif", "iif", "suppress", "destination", "protocol", "source_ports", "ports")


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    """The priority tells which selectors are set, as in mlbd's layout, so that none is a part of another."""
    family: Family = draw(st.sampled_from([4, 6]))
    action: Literal["lookup", "goto", "nop"] = draw(st.sampled_from(["lookup", "goto", "nop"]))
    chosen = draw(st.sets(st.sampled_from(SELECTORS)))
    priority = 10000 + 512 * ("lookup", "goto", "nop").index(action)
    priority += sum(1 << i for i, name in enumerate(SELECTORS) if name in chosen)
    sources = ["10.9.1.2/32", "10.0.0.0/8"] if family == 4 else ["2001:db8:1::/64", "2001:db8::1/128"]
    return Rule(
        family=family,
        priority=priority,
        action=action,
        table=draw(st.sampled_from([254, TABLE_BASE + 1, TABLE_BASE + 200])) if action == "lookup" else None,
        target=draw(st.sampled_from([20000, 20001])) if action == "goto" else None,
        mark=draw(st.sampled_from([0, 0x01000000, 0x02000000])) if "mark" in chosen else None,
        mask=0xFF000000 if "mark" in chosen else None,
        source=draw(st.sampled_from(sources)) if "source" in chosen else None,
        oif=draw(st.sampled_from([*DEVICES, "absent0"])) if "oif" in chosen else None,
        iif=draw(st.sampled_from(["lo", *DEVICES])) if "iif" in chosen else None,
        suppress_prefixlen=draw(st.sampled_from([0, 1])) if "suppress" in chosen and action == "lookup" else None,
        destination=draw(st.sampled_from(sources)) if "destination" in chosen else None,
        protocol=draw(st.sampled_from([6, 17])) if "protocol" in chosen else None,
        source_ports=draw(st.sampled_from([(1, 1), (1, 65534)])) if "source_ports" in chosen else None,
        ports=draw(st.sampled_from([(80, 80), (80, 443)])) if "ports" in chosen else None,
    )


@st.composite
def tables(draw: st.DrawFn) -> list[Object]:
    """Contents of the nftables table, whose parts refer only to each other."""
    names = [f"wish_{i}" for i in range(draw(st.integers(0, 4)))]
    counters = [Counter(f"uplink_{i}") for i in range(draw(st.integers(0, 2)))]
    marks = st.frozensets(st.sampled_from([0x01000000, 0x02000000, 0x7F000000]))
    sets = [MarkSet("dead", draw(marks))] if draw(st.booleans()) else []
    slots = draw(st.lists(st.sampled_from(["", *names]), max_size=9))
    maps = [SlotMap("pick4_x-1", tuple(slots))] if draw(st.booleans()) else []
    families: st.SearchStrategy[Family] = st.sampled_from([4, 6])
    timeouts = st.sampled_from([1, 300])
    addresses = [AddressSet("sticky", draw(families), draw(timeouts))] if draw(st.booleans()) else []
    texts = [
        "meta mark set meta mark & 0x00ffffff | 0x01000000",
        'iifname != { "k1", "k2.5" } accept',
        "ip protocol tcp tcp flags & (syn|rst) == 0 drop",
        *(f'counter name "{counter.name}"' for counter in counters),
        *(f"ct mark & 0x7f000000 @{each.name} accept" for each in sets),
        *(f"update @{each.name} {{ ip{'' if each.family == 4 else 6} saddr }}" for each in addresses),
    ]

    def statements(more: list[str]) -> tuple[Statement, ...]:
        return tuple(map(Statement.of, draw(st.lists(st.sampled_from(texts + more), max_size=4))))

    chains = [Chain(name, None, statements([f"goto {n}" for n in names[i + 1 :]])) for i, name in enumerate(names)]
    uses = [f"numgen inc mod {max(len(each.slots), 1)} vmap @{each.name}" for each in maps]
    uses += [f"jump {name}" for name in names]
    if draw(st.booleans()):
        hook = Hook("filter", "prerouting", draw(st.sampled_from([-150, -149])))
        chains.append(Chain("prerouting", hook, statements(uses)))
    if draw(st.booleans()):
        chains.append(Chain("output", Hook("route", "output", -150), statements(uses)))
    helpers = [Helper(name, "tcp") for name in draw(st.sets(st.sampled_from(HELPERS)))]
    saved = [
        Saved(device, draw(st.sampled_from([(("src_valid_mark", "0"),), tuple((name, "1") for name in SYSCTLS)])))
        for device in draw(st.sets(st.sampled_from([*DEVICES, "absent0", "/ipv4"])))
    ]
    return [*counters, *sets, *addresses, *maps, *chains, *helpers, *saved]


HELPERS = ["ftp"]


def _unique(objects: list[Any]) -> list[Any]:
    return list({o.key: o for o in objects}.values())


sysctls = st.one_of(
    st.builds(Sysctl, st.sampled_from(DEVICES), st.sampled_from(SYSCTLS), st.sampled_from(["0", "1"])),
    st.builds(
        Sysctl,
        st.sampled_from(["/ipv4", "/ipv6"]),
        st.sampled_from(["fib_multipath_hash_fields", "fib_multipath_hash_policy"]),
        st.sampled_from(["1", "3"]),
    ),
)
states: st.SearchStrategy[KernelState] = st.builds(
    lambda *parts: KernelState(o for part in (MAIN_FIRST, *parts) for o in part),
    st.lists(routes(), max_size=8).map(_unique),
    st.lists(rules(), max_size=8).map(_unique),
    tables(),
    st.lists(sysctls, max_size=4).map(_unique),
)
