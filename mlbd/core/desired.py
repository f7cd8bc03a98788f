"""What the kernel should hold, given settings, identities and a decision.

Facts shape an uplink's own tables, verdicts only the balancing: maps, policy tables, the set of dead uplinks. So an
uplink that is down keeps the very path through which probes will see it recover.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import combinations

from msgspec import Struct

from mlbd.core import peers, routing, ruleset
from mlbd.core.bundling import bundling, left_alone, loosened
from mlbd.core.decision import Decision, View
from mlbd.core.layout import Identities
from mlbd.core.settings import Settings, Uplink
from mlbd.core.state import KernelState, Object, Saved, Sysctl
from mlbd.core.steering import Pins, pins

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

CHANGED = (*OF_ADDRESSED, *OF_NEIGHBOURS, *FIVE_TUPLE, *OF_TEQL, *peers.OF_LAN, *peers.OF_CONNTRACK)
"""Every name that is ever changed."""


def desired(settings: Settings, identities: Identities, decision: Decision, observed: KernelState) -> KernelState:
    """Everything we want to own. `observed` only tells what sysctls were before us."""
    footing = _footing(settings, identities, decision)
    wanted = footing.sysctls
    if any(len(tier) > 1 for policy in settings.policies for tier in policy.tiers):
        wanted = wanted | {scope: _hash(scope, observed) for scope in ("/ipv4", "/ipv6")}
    if peers.peers(settings):
        wanted = wanted | {"/netfilter": peers.OF_CONNTRACK}
    if settings.teqls:
        wanted = wanted | dict.fromkeys(loosened(settings, observed), OF_TEQL)
    parts = [_settings_of_the_kernel(wanted, observed), KernelState(bundling(settings, decision.standings, observed))]
    if settings.uplinks:
        routes = routing.balancing(settings, identities, decision)
        maps = ruleset.balancing(settings, identities, decision, footing.pinned)
        parts += [footing.state, KernelState([*routes, *maps])]
    return KernelState.merged(parts)


def released(observed: KernelState) -> KernelState:
    """Nothing of ours; sysctls as they were."""
    return KernelState([*_restored(set(), observed), *left_alone((), observed)])


class _Footing(Struct, frozen=True):
    """What follows from settings and facts, whatever the verdicts: nearly everything, and it seldom changes."""

    state: KernelState
    sysctls: dict[str, dict[str, str]]
    """Wanted values by scope."""
    pinned: Pins


_Asked = tuple[object, ...]
_last_footing: tuple[_Asked, _Footing] | None = None
_last_sysctls: tuple[_Asked, KernelState] | None = None


def _footing(settings: Settings, identities: Identities, decision: Decision) -> _Footing:
    """The last one while its reasons are the same: to compare those of a hundred uplinks takes 50 us, to hash them, as
    `lru_cache` does, a millisecond. Facts are compared without the carrier, of which nothing here depends.
    """
    global _last_footing  # noqa: PLW0603
    views = [decision.views[u.name] for u in settings.uplinks]
    reasons = [
        (v.routes, v.families, v.prefixes, v.addresses)
        + (() if (f := v.facts) is None else (f.name, f.addresses, f.deprecated, f.delegated, f.neighbours))
        for v in views
    ]
    asked = settings, identities, decision.lan_prefixes, reasons
    if _last_footing is not None:
        before = _last_footing[0]
        if before[0] is settings and before[1] is identities and before[2:] == asked[2:]:
            return _last_footing[1]
    pinned = pins(settings, decision.views)
    parts = (
        [
            *routing.footing(settings, identities, decision.views),
            *ruleset.footing(settings, identities, decision.views, pinned, decision.lan_prefixes),
        ]
        if settings.uplinks
        else []
    )
    made = _Footing(KernelState.merged(parts), _of_interfaces(settings, views), pinned)
    _last_footing = asked, made
    return made


def _of_interfaces(settings: Settings, views: Sequence[View]) -> dict[str, dict[str, str]]:
    alike = _alike(tuple((v.facts.name, v.facts.addresses_of(4)) for v in views if v.facts is not None))
    wanted: dict[str, dict[str, str]] = {}
    for uplink, view in zip(settings.uplinks, views, strict=True):
        of_others = wanted.get(uplink.interface, {})
        wanted[uplink.interface] = of_others | _of_interface(uplink, view, uplink.interface in alike)
    return wanted


def _settings_of_the_kernel(wanted: dict[str, dict[str, str]], observed: KernelState) -> KernelState:
    """Sysctls, and notes of what they were; the last ones while neither what is wanted nor what is there changes."""
    global _last_sysctls  # noqa: PLW0603
    asked = wanted, observed.kind("sysctl"), observed.kind("saved")
    if _last_sysctls is None or _last_sysctls[0] != asked:
        _last_sysctls = asked, KernelState([*_sysctls(wanted, observed), *_restored(set(wanted), observed)])
    return _last_sysctls[1]


def _of_interface(uplink: Uplink, view: View, alike: bool) -> dict[str, str]:
    if uplink.peer:
        return peers.OF_LAN
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
    for item in observed.kind("saved").values():
        if isinstance(item, Saved) and item.scope not in scopes:
            for name, value in item.values:
                if ("sysctl", item.scope, name) in observed:
                    yield Sysctl(item.scope, name, value)
