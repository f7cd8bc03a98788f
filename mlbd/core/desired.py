"""What the kernel should hold, given settings, identities and a decision.

Facts shape an uplink's own tables, verdicts only the balancing: maps, policy tables, the set of dead uplinks. So an
uplink that is down keeps the very path through which probes will see it recover.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from functools import lru_cache
from itertools import combinations

from mlbd.core.bundling import bundling, left_alone, loosened
from mlbd.core.decision import Decision, View
from mlbd.core.layout import Identities
from mlbd.core.routing import routing
from mlbd.core.ruleset import ruleset
from mlbd.core.settings import Settings, Uplink
from mlbd.core.state import KernelState, Object, Saved, Sysctl

OF_INTERFACES = {
    "arp_filter": "1",
    "ignore_routes_with_linkdown": "1",
    "promote_secondaries": "1",
    "src_valid_mark": "1",
}
"""Of every uplink's interface: ARP for an address is answered where its packets leave, else, on a segment with another
uplink, both answer, and replies come in where a socket bound to the other does not hear them; a dead route is skipped;
a changed address keeps its successors; the reverse path of a marked packet is looked up with its mark, so that the
administrator's rp_filter may be what it is."""

OF_NEIGHBOURS = {"arp_announce": "2", "arp_ignore": "1"}
"""Instead of `arp_filter`, of those that have a network in common: routing can't tell them apart there."""

OF_ADDRESSED = OF_INTERFACES | {"use_oif_addrs_only": "1"}
"""Of those that translate IPv6 or have had an address: one of its own, even a deprecated one, or none is better than
another provider's, which the kernel would prefer (RFC 6724 rule 3; net/ipv6/addrconf.c), also for masquerading. Others
use what the router has elsewhere (RFC 6724 4)."""

FIVE_TUPLE = {"fib_multipath_hash_policy": "3", "fib_multipath_hash_fields": "55"}
"""Of the whole router, where a multipath route spreads connections: by addresses, protocol and ports (0x37,
Documentation/networking/ip-sysctl.rst). Policy 1 is the same where there are no fields, before Linux 5.12; but it takes
the hash of the sending socket where a device hands that over, as a veth does."""

OF_TEQL = {"rp_filter": "2"}
"""Of members of TEQL that a strict one would make deaf (`mlbd.core.bundling.loosened`)."""

CHANGED = (*OF_ADDRESSED, *OF_NEIGHBOURS, *FIVE_TUPLE, *OF_TEQL)
"""Every name that is ever changed."""


def desired(settings: Settings, identities: Identities, decision: Decision, observed: KernelState) -> KernelState:
    """Everything we want to own. `observed` only tells what sysctls were before us."""
    views = [decision.views[u.name] for u in settings.uplinks]
    alike = _alike(tuple((v.facts.name, v.facts.addresses_of(4)) for v in views if v.facts is not None))
    wanted: dict[str, dict[str, str]] = {}
    for uplink, view in zip(settings.uplinks, views, strict=True):
        of_others = wanted.get(uplink.interface, {})
        wanted[uplink.interface] = of_others | _of_interface(uplink, view, uplink.interface in alike)
    if any(len(tier) > 1 for policy in settings.policies for tier in policy.tiers):
        wanted |= {scope: _hash(scope, observed) for scope in ("/ipv4", "/ipv6")}
    wanted |= dict.fromkeys(loosened(settings, observed), OF_TEQL)
    sysctls = [*_sysctls(wanted, observed), *_restored(set(wanted), observed)]
    parts = [KernelState([*bundling(settings, decision.standings, observed), *sysctls])]
    if settings.uplinks:
        parts += [*routing(settings, identities, decision), *ruleset(settings, identities, decision)]
    return KernelState.merged(parts)


def released(observed: KernelState) -> KernelState:
    """Nothing of ours; sysctls as they were."""
    return KernelState([*_restored(set(), observed), *left_alone((), observed)])


def _of_interface(uplink: Uplink, view: View, alike: bool) -> dict[str, str]:
    found = OF_ADDRESSED if view.prefixes or uplink.nat6 != "none" else OF_INTERFACES
    if alike:
        found = {name: value for name, value in found.items() if name != "arp_filter"} | OF_NEIGHBOURS
    return found


@lru_cache(maxsize=8)
def _alike(addresses: tuple[tuple[str, tuple[str, ...]], ...]) -> frozenset[str]:
    """Interfaces that have an IPv4 network in common with another."""
    networks = [(name, ipaddress.IPv4Interface(a).network) for name, found in addresses for a in found]
    pairs = ((a, b) for (a, one), (b, other) in combinations(networks, 2) if a != b and one.overlaps(other))
    return frozenset(name for pair in pairs for name in pair)


def _hash(scope: str, observed: KernelState) -> dict[str, str]:
    if ("sysctl", scope, "fib_multipath_hash_fields") in observed:
        return FIVE_TUPLE
    return {"fib_multipath_hash_policy": "1"}


def _sysctls(wanted: dict[str, dict[str, str]], observed: KernelState) -> Iterator[Object]:
    for scope, values in wanted.items():
        items = [observed.get(("sysctl", scope, name)) for name in CHANGED]
        found = {item.name: item.value for item in items if isinstance(item, Sysctl)}
        saved = observed.get(("saved", scope))
        # As before us; also what an earlier version of us did not change.
        before = found | (dict(saved.values) if isinstance(saved, Saved) else {})
        if before:
            yield Saved(scope, tuple(sorted(before.items())))
        for name in found:
            yield Sysctl(scope, name, values.get(name, before[name]))


def _restored(scopes: set[str], observed: KernelState) -> Iterator[Object]:
    """Sysctls of what we have nothing to do with any more, as they were before."""
    for item in observed.values():
        if isinstance(item, Saved) and item.scope not in scopes:
            for name, value in item.values:
                if ("sysctl", item.scope, name) in observed:
                    yield Sysctl(item.scope, name, value)
