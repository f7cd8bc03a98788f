"""What `mlbd init` sees of a machine, and which of it leads out of it.

An uplink is an interface with a default route in `main`, or a PPP link that is up: pppd leaves a default route alone
that is there before it. Tunnels have default routes as well, but what they carry leaves by an uplink after all, so they
are proposed only where there is nothing else.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Mapping, Sequence
from math import inf

from msgspec import Struct
from msgspec.structs import replace

from mlbd.core.facts import InterfaceFacts
from mlbd.core.settings import MAX_UPLINK_ID, Family
from mlbd.core.state import Bond, Hop

TUNNELS = frozenset(
    {
        "erspan", "fou", "geneve", "gre", "gretap", "ip6erspan", "ip6gre", "ip6gretap", "ip6tnl", "ipip", "ovpn", "sit",
        "tun", "vti", "vti6", "vxlan", "wireguard", "xfrm",
    }
)  # fmt: skip
"""Kinds of interfaces whose packets leave by another one."""

RESERVED = ("main", "balanced", "ordered")
"""Names that no uplink gets: the first stands for other routing, the others are policies of the draft."""

_MOST_LINKS = 32
_TEQLS = frozenset(f"teql{number}" for number in range(100))
"""Both as the configuration has it."""
_LONGEST_NAME = 15
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz")
_NAME = _LETTERS | frozenset("0123456789_-")


class Interface(Struct, frozen=True, kw_only=True):
    facts: InterfaceFacts
    kind: str = ""
    """The kernel's word for it (IFLA_INFO_KIND), as `ppp`, `bond`, `vlan`; `teql`; "" for hardware."""
    master: str = ""
    """The bond, bridge, VRF or TEQL device that it is a member of; "" for none."""
    bond: Bond | None = None
    """What it is as a bond."""

    @property
    def name(self) -> str:
        return self.facts.name


class DefaultRoute(Struct, frozen=True):
    """Of another program, in `main`."""

    family: Family
    metric: int
    protocol: int
    """Who made it (RTPROT_*, linux/rtnetlink.h)."""
    hops: tuple[Hop, ...]


class Survey(Struct, frozen=True, kw_only=True):
    interfaces: tuple[Interface, ...] = ()
    """All but the loopback one, in the kernel's order."""
    defaults: tuple[DefaultRoute, ...] = ()
    forwarding: bool = True
    """Whether IPv4 packets are forwarded at all."""


class Out(Struct, frozen=True):
    """One hop of a default route."""

    route: DefaultRoute
    hop: Hop


class Proposal(Struct, frozen=True, kw_only=True):
    """An uplink for the draft; keys as the configuration has them."""

    name: str = ""
    interface: Interface
    outs: tuple[Out, ...] = ()
    """Its default routes: IPv4 before IPv6, the lowest metric first."""
    gateway: str = "auto"
    gateway6: str = "auto"
    weight: int = 1

    @property
    def rank(self) -> tuple[int, float]:
        """By metric, IPv4's where it has any, as the two say nothing about each other; without a route it is last."""
        if not self.outs:
            return 2, inf
        first = self.outs[0].route
        return (0 if first.family == 4 else 1), first.metric

    @property
    def metered(self) -> bool:
        """A mobile modem, by the kernel's kind or name (wwan0) or udev's name for it (wwp0s20f0u6, wwx...)."""
        return self.interface.kind == "wwan" or self.interface.name.startswith(("wwan", "wwp", "wwx"))


class Choice(Struct, frozen=True, kw_only=True):
    uplinks: tuple[Proposal, ...] = ()
    """In the order of their metrics."""
    tunnels: tuple[Proposal, ...] = ()
    """What might be an uplink, too."""
    refused: tuple[tuple[str, str], ...] = ()
    """Interfaces that have a default route and can't be uplinks, each with the reason."""
    lans: tuple[Interface, ...] = ()
    """Interfaces with private addresses and without a default route."""
    silent: tuple[Interface, ...] = ()
    """Likewise with public IPv4 addresses: perhaps an uplink whose default route was not made."""


def choose(survey: Survey, unfit: Mapping[str, str]) -> Choice:
    """`unfit`: interfaces that the configuration can't name, each with the reason."""
    proposals: list[Proposal] = []
    refused: list[tuple[str, str]] = []
    outs = _outs(survey.defaults)
    for each in survey.interfaces:
        found = outs.get(each.name, ())
        if not found and not _is_dialled(each, survey.interfaces):
            continue
        if each.name in unfit:
            refused.append((each.name, f"{unfit[each.name]}; rename it"))
        elif each.master:
            refused.append((each.name, f"it is a member of {shown(each.master)}, which may be an uplink in its place"))
        elif each.kind == "teql" and teql_problem(survey, each, unfit):
            refused.append((each.name, teql_problem(survey, each, unfit)))
        else:
            proposals += _proposals(each, found)
    proposals.sort(key=lambda p: (p.rank, p.interface.facts.index))
    uplinks = [p for p in proposals if p.interface.kind not in TUNNELS] or proposals
    tunnels = [p for p in proposals if p not in uplinks]
    refused += [(p.interface.name, f"there are {MAX_UPLINK_ID} uplinks already") for p in uplinks[MAX_UPLINK_ID:]]
    uplinks = uplinks[:MAX_UPLINK_ID]
    tunnels = tunnels[: MAX_UPLINK_ID - len(uplinks)]
    if len({p.weight for p in uplinks}) == 1:
        uplinks = [replace(p, weight=1) for p in uplinks]
    named = _named([*uplinks, *tunnels])
    taken = {*outs, *(p.interface.name for p in proposals)}
    others = [
        each
        for each in survey.interfaces
        if each.facts.up and not each.master and each.kind != "teql" and not {each.name} & {*taken, *unfit}
    ]
    public = [each for each in others if any(_is_public(a) for a in each.facts.addresses_of(4))]
    return Choice(
        uplinks=tuple(named[: len(uplinks)]),
        tunnels=tuple(named[len(uplinks) :]),
        refused=tuple(refused),
        lans=tuple(each for each in others if each.facts.addresses and each not in public),
        silent=tuple(each for each in public if each.kind not in TUNNELS),
    )


def name_for(interface: str, taken: Sequence[str]) -> str:
    """A valid name of an uplink, like the interface's, that is not taken."""
    plain = "".join(c if c in _NAME else "-" for c in interface.lower())
    base = (plain if plain[:1] in _LETTERS and plain else f"u{plain}")[:_LONGEST_NAME]
    name, number = base, 1
    while name in taken:
        number += 1
        name = f"{base[: _LONGEST_NAME - len(str(number)) - 1]}-{number}"
    return name


def shown(name: str) -> str:
    """An interface's name in prose, whatever is in it."""
    return name if name.isprintable() else ascii(name)


def members(survey: Survey, bundle: str) -> list[Interface]:
    return [each for each in survey.interfaces if each.master == bundle]


def teql_link(interface: Interface) -> tuple[str, str] | None:
    """A member's own IPv4 address with its length, and the far end's; None where the network does not tell that."""
    for address in interface.facts.addresses_of(4):
        own = ipaddress.IPv4Interface(address)
        hosts = [str(host) for host in own.network.hosts() if host != own.ip] if own.network.prefixlen >= 30 else []
        if len(hosts) == 1 and interface.facts.peer in (None, hosts[0]) and not own.is_link_local:
            return address, hosts[0]
    return None


def teql_problem(survey: Survey, teql: Interface, unfit: Mapping[str, str]) -> str:
    """Why no `[[teql]]` table can be made of what is there; "" if one can."""
    links = members(survey, teql.name)
    if not links:
        return "no interface is attached to it"
    if len(links) > _MOST_LINKS or teql.name not in _TEQLS:
        return f"mlbd looks after teql0 to teql99, each with at most {_MOST_LINKS} members"
    if odd := [each.name for each in links if each.name in unfit or teql_link(each) is None]:
        return f"of its member {shown(odd[0])} the far end's address is not known, as it is in a network of /30 or /31"
    own = teql_link(teql)
    if own is None:
        return "it has no address in a network of /30 or /31"
    networks = {ipaddress.ip_interface(link[0]).network for link in (own, *map(teql_link, links)) if link}
    return "" if len(networks) == len(links) + 1 else "two of its links are in the same network"


def _outs(defaults: Sequence[DefaultRoute]) -> dict[str, tuple[Out, ...]]:
    found: dict[str, list[Out]] = {}
    for route in sorted(defaults, key=lambda r: (r.family, r.metric)):
        for hop in route.hops:
            found.setdefault(hop.device, []).append(Out(route, hop))
    return {name: tuple(outs) for name, outs in found.items()}


def _is_dialled(interface: Interface, all_of_them: Sequence[Interface]) -> bool:
    """Whether it is a PPP link out; on a server, the links of all who dialled in have one address on this side."""
    if interface.kind != "ppp" or not interface.facts.up:
        return False
    count = Counter(_ip(a) for each in all_of_them for a in each.facts.addresses_of(4))
    own = [_ip(a) for a in interface.facts.addresses_of(4)]
    return bool(own) and all(count[address] == 1 for address in own)


def _proposals(interface: Interface, outs: tuple[Out, ...]) -> list[Proposal]:
    """Several where one multipath route names several gateways behind the interface: one uplink each."""
    weight = outs[0].hop.weight if outs else 1
    if interface.kind == "ppp":
        return [Proposal(interface=interface, outs=outs, gateway="none", weight=weight)]
    first = outs[0]
    if interface.kind == "teql":
        gateway = first.hop.gateway if first.route.family == 4 and is_fixable(first.hop.gateway) else "none"
        return [Proposal(interface=interface, outs=outs, gateway=gateway or "none", weight=weight)]
    own = {out.hop.gateway: out for out in reversed(outs) if out.route is first.route}
    if first.route.family == 6 or len(own) == 1 or not all(map(is_fixable, own)):
        return [Proposal(interface=interface, outs=outs, weight=weight)]
    gateway6 = next((out.hop.gateway for out in outs if out.route.family == 6 and _is_fixable6(out.hop.gateway)), None)
    return [
        Proposal(
            interface=interface, outs=(out,), gateway=str(gateway), weight=out.hop.weight,
            gateway6=gateway6 if gateway6 and not number else "auto",
        )
        for number, (gateway, out) in enumerate(reversed(own.items()))
    ]  # fmt: skip


def is_fixable(gateway: str | None) -> bool:
    """Whether it can be written down as a next hop of IPv4: link-local ones are with `auto` only."""
    return gateway is not None and ":" not in gateway and _is_somebody(gateway) and not _of(gateway).is_link_local


def _is_fixable6(gateway: str | None) -> bool:
    return gateway is not None and _is_somebody(gateway)


def _is_somebody(address: str) -> bool:
    found = _of(address)
    return not (found.is_multicast or found.is_loopback or found.is_unspecified or found.is_reserved)


def _of(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return ipaddress.ip_address(address)


def _ip(address: str) -> str:
    return address.partition("/")[0]


def _is_public(address: str) -> bool:
    return _of(_ip(address)).is_global


def _named(proposals: Sequence[Proposal]) -> list[Proposal]:
    taken = [*RESERVED]
    found = []
    for each in proposals:
        name = name_for(each.interface.name, taken)
        taken.append(name)
        found.append(replace(each, name=name))
    return found
