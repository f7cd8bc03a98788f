"""A configuration made of what is there: the text that `mlbd init` prints.

It is in force as it stands. Lines that begin with "#" and no space are proposals, and make a right file as well when
the "#" is taken away; "# " is for the reader.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby

from msgspec import Struct

from mlbd.core.settings import BOND_MODES, TRANSMIT_HASHES
from mlbd.core.survey import (
    RESERVED,
    Choice,
    Interface,
    Out,
    Proposal,
    Survey,
    choose,
    is_fixable,
    members,
    name_for,
    shown,
    teql_link,
    teql_problem,
)

_WIDTH = 118
_MOST_NAMED = 12
"""A machine with containers may have thousands of interfaces; so many are named."""
_PROTOCOLS = {
    2: "kernel", 3: "boot", 4: "static", 9: "ra", 11: "zebra", 12: "bird", 16: "dhcp", 18: "keepalived", 42: "babel",
    186: "bgp", 187: "isis", 188: "ospf",
}  # fmt: skip
"""As ip(8) shows them (RTPROT_* in linux/rtnetlink.h)."""
_NOT_RENEWED = (3, 4)
"""By hand, by ifupdown, by dhclient's script; by the static configuration of networkd and NetworkManager."""

_WITH_ACTIVE = ("active-backup", "balance-tlb", "balance-alb")
_WITH_HASH = ("balance-xor", "802.3ad", "balance-tlb")
_WITH_ARP = ("balance-rr", "active-backup", "balance-xor", "broadcast")
_LEAST_MONITORED = 10
"""Milliseconds; the configuration takes no shorter interval."""


class Draft(Struct, frozen=True):
    text: str
    uplinks: tuple[str, ...]
    """Their names; without any, the text is a template that has to be completed."""
    remarks: tuple[str, ...]
    """What should be known before the file is used, one sentence or two each."""


def draft(survey: Survey, unfit: Mapping[str, str]) -> Draft:
    """`unfit`: interfaces that the configuration can't name, each with the reason."""
    choice = choose(survey, unfit)
    parts = [
        _head(choice),
        *(_uplink(each) for each in choice.uplinks),
        _more(survey, choice),
        _left_out(choice),
        _probes(choice),
        _policies(choice),
        _lans(choice),
        _bundles(survey, choice, unfit),
    ]
    text = "\n".join("\n".join(lines) + "\n" for lines in map(list, parts) if lines)
    return Draft(text, tuple(each.name for each in choice.uplinks), tuple(_remarks(survey, choice)))


# What it is made of.


def _prose(text: str) -> list[str]:
    """A paragraph of comment, in lines of `_WIDTH`."""
    lines = ["#"]
    for word in text.split(" "):
        if len(lines[-1]) + 1 + len(word) > _WIDTH and lines[-1] != "#":
            lines.append("#")
        lines[-1] += f" {word}"
    return lines


def _lines(*settings: str, offered: bool = False, note: str = "") -> list[str]:
    """Lines of TOML, arrays of texts broken where they are long; `offered`: commented out. `note`: behind the last."""
    found: list[str] = []
    for setting in settings:
        if "\n" in setting:
            found += setting.split("\n")
            continue
        first, *rest = setting.split(", ")
        line = first
        for part in rest:
            if len(line) + len(part) > _WIDTH - 4:
                found.append(f"{line},")
                line = f"    {part}"
            else:
                line += f", {part}"
        found.append(line)
    if note:
        found[-1] = f"{found[-1]:<{30 if offered else 31}} # {note}"
    return [f"#{line.lstrip()}" for line in found] if offered else found


def _text(value: str) -> str:
    """As TOML has it; nothing in the draft needs an escape."""
    return f'"{value}"'


def _array(values: Iterable[str]) -> str:
    return f"[{', '.join(map(_text, values))}]"


def _named(interfaces: Sequence[Interface]) -> str:
    first = [f"{i.name} ({', '.join(i.facts.addresses[:3])})" for i in interfaces[:_MOST_NAMED]]
    more = len(interfaces) - len(first)
    return ", ".join(first) + (f" and {more} more" if more > 0 else "")


# The parts.


def _head(choice: Choice) -> Iterator[str]:
    usable = "It can be used as it is." if choice.uplinks else "It is a template: there was no uplink to put in."
    yield from _prose(
        f"Configuration of mlbd, made by `mlbd init` of what this machine had at that time. {usable} "
        'Lines that begin with "#" and no space are proposals: take the "#" away to have them. Check the file with '
        "`mlbd check`, see what it would change with `mlbd plan`. Keys that do not stand here have their defaults; "
        "docs/configuration.md tells of all."
    )
    yield ""
    if choice.uplinks:
        yield "# ---- Uplinks: each way out that was found. Everything shows their names: rename them as you like."
        yield from _prose(
            "IPv4 packets that leave by one get its address, unless it says `masquerade = false`; a firewall that does "
            "the same does no harm."
        )
        if sum(any(out.route.family == 6 for out in each.outs) for each in choice.uplinks) > 1:
            yield from _prose(
                'IPv6 packets leave as they are (`nat6 = "none"`), and from a provider\'s prefix by that one only. '
                'With `nat6 = "masquerade"` or "prefix" in each [[uplink]] they fail over like IPv4; '
                "docs/schemes/ipv6.md tells what suits whom."
            )
    else:
        yield "# ---- Uplinks: none was found, that is no interface with a default route. Name yours here."


def _uplink(proposal: Proposal, *, offered: bool = False) -> Iterator[str]:
    interface = proposal.interface
    kind = f" ({interface.kind})" if interface.kind else ""
    found = "; ".join(map(_route, proposal.outs)) or "no default route"
    if not offered:
        yield from _prose(f"{interface.name}{kind}: {found}.")
    yield from _lines(*_table(proposal.name, interface.name), offered=offered)
    if interface.kind == "ppp":
        note = "the link is enough; its far end must answer pings, else see [probe]"
        yield from _lines(f"gateway = {_text(proposal.gateway)}", offered=offered, note=note)
    elif proposal.gateway != "auto":
        yield from _lines(f"gateway = {_text(proposal.gateway)}", offered=offered)
    else:
        first = next((out for out in proposal.outs if out.route.family == 4), None)
        gateway = first.hop.gateway if first and first.route.protocol in _NOT_RENEWED else None
        if gateway and is_fixable(gateway):
            note = "if nobody puts the route back when the link was down"
            yield from _lines(f"gateway = {_text(gateway)}", offered=True, note=note)
    if proposal.gateway6 != "auto":
        yield from _lines(f"gateway6 = {_text(proposal.gateway6)}", offered=offered)
    if proposal.weight != 1:
        yield from _lines(f"weight = {proposal.weight}", offered=offered, note="as in the multipath route")
    if interface.kind == "teql":
        yield from _lines("masquerade = false", offered=offered, note="packet by packet, nothing is translated")


def _table(name: str, interface: str) -> tuple[str, ...]:
    return "[[uplink]]", f"name = {_text(name)}", f"interface = {_text(interface)}"


def _route(out: Out) -> str:
    by = f" via {out.hop.gateway}" if out.hop.gateway else " without a gateway"
    maker = _PROTOCOLS.get(out.route.protocol, f"protocol {out.route.protocol}")
    several = f", one of {len(out.route.hops)} next hops" if len(out.route.hops) > 1 else ""
    return f"IPv{out.route.family}{by} ({maker}, metric {out.route.metric}{several})"


def _more(survey: Survey, choice: Choice) -> Iterator[str]:
    """What to write for a further uplink, where there are fewer than two."""
    taken = [*RESERVED, *(each.name for each in (*choice.uplinks, *choice.tunnels))]
    for each in choice.silent[:_MOST_NAMED]:
        yield from _prose(
            f"{each.name} has a public address ({each.facts.addresses_of(4)[0]}) and no default route. If it is an "
            "uplink, let its DHCP client make one with a metric of its own, or write its gateway here:"
        )
        taken.append(name_for(each.name, taken))
        yield from _lines(*_table(taken[-1], each.name), 'gateway = "192.0.2.1"', offered=True)
    missing = 2 - len(choice.uplinks) - len(choice.silent)
    if missing <= 0:
        return
    if choice.uplinks:
        yield from _prose(
            "One uplink only: it is watched, and its connections are translated. With a second one, connections are "
            "spread over both, and each stands in for the other:"
        )
    else:
        yield from _prose(
            "An uplink's gateway is taken from the default route that DHCP, ifupdown or a router advertisement has "
            "put on its interface; where nobody does that, it is written down. The interface need not exist yet."
        )
    known = {each.name for each in survey.interfaces}
    free = [name for name in (f"eth{number}" for number in range(1, len(known) + 4)) if name not in known]
    for interface in free[:missing]:
        taken.append(name_for(interface, taken))
        keys = (*_table(taken[-1], interface), 'gateway = "auto"')
        yield from _lines(*keys, offered=True, note='or an address, or "none" for PPP and tunnels')


def _left_out(choice: Choice) -> Iterator[str]:
    for refused, reason in choice.refused[:_MOST_NAMED]:
        yield from _prose(f"{shown(refused)} has a default route but is no uplink here: {reason}.")
    for each in choice.tunnels:
        yield from _prose(
            f"{each.interface.name} ({each.interface.kind}) is a tunnel with a default route. What it carries leaves "
            "by one of the uplinks after all, so it is none of them unless you say so:"
        )
        yield from _uplink(each, offered=True)


def _probes(choice: Choice) -> Iterator[str]:
    yield "# ---- Probes: how mlbd finds out whether an uplink works."
    yield from _prose(
        "By default each uplink's gateway is pinged. It answers even if all behind it is dead, and a few never answer. "
        "Better are two or three addresses further away, of more than one operator, that you may ping: each provider's "
        "name server, for instance. The quorum lets one of them be silent. The addresses here are examples."
    )
    yield "[probe]"
    yield from _lines('targets = ["gateway", "192.0.2.53", "198.51.100.53"]', "quorum = 2", offered=True)


def _policies(choice: Choice) -> Iterator[str]:
    yield "# ---- Policies: how connections are spread. The first one counts where no rule says otherwise."
    ranks = [(rank, [p.name for p in group]) for rank, group in groupby(choice.uplinks, key=lambda p: p.rank)]
    if len(ranks) > 1:
        yield from _prose(
            "The uplinks' metrics differ. That alone does not say that one is the better one: without mlbd only the "
            "default route with the lowest metric is used, and so DHCP clients give each another. Therefore new "
            "connections are spread over all uplinks. If the metrics are meant as an order, so that an uplink carries "
            "traffic only while those before it are dead, take this:"
        )
        tiers = ", ".join(_array(names) for _, names in ranks)
        yield from _lines("[[policy]]", 'name = "ordered"', f"members = [{tiers}]", offered=True)
        yield ""
    paid = [p.name for p in choice.uplinks if p.metered]
    free = [p.name for p in choice.uplinks if not p.metered]
    if paid and free:
        yield from _prose(
            f"{', '.join(paid)}: a mobile modem is often paid by volume, so it is used only while no other uplink "
            "works. To use it always, write all names into one tier."
        )
        yield from _lines("[[policy]]", 'name = "balanced"', f"members = [{_array(free)}, {_array(paid)}]")
    elif choice.uplinks:
        yield from _prose(
            'There is one without being written: "balanced", of all uplinks by their weights (`weight = 3` in an '
            "[[uplink]] is three times the share)."
        )


def _lans(choice: Choice) -> Iterator[str]:
    if not choice.lans:
        return
    yield "# ---- Rules: which connections use what. Without one, all take the first policy."
    yield from _prose(
        f"Networks of yours: {_named(choice.lans)}. What comes from there is balanced without being named. If one of "
        "them is an uplink whose default route is missing, make it an [[uplink]]."
    )
    # "!", "," and "any" mean something in a rule.
    plain = [each.name for each in choice.lans if not {*each.name} & {*"!,"} and each.name != "any"]
    if choice.uplinks and plain:
        interface, use = plain[0], choice.uplinks[0].name
        keys = 'name = "guests"', f"interface = {_text(interface)}", f"use = {_text(use)}"
        yield from _lines("[[rule]]", *keys, offered=True, note="while it is usable; else as all others")


def _bundles(survey: Survey, choice: Choice, unfit: Mapping[str, str]) -> Iterator[str]:
    uplinks = {each.interface.name for each in choice.uplinks}
    possible = {each.name for each in choice.silent} | uplinks
    teqls = {each.name for each in survey.interfaces if each.kind == "teql"}
    heading = ["# ---- Bundles: interfaces made of several, which mlbd can look after member by member."]
    for each in survey.interfaces:
        ports = [port.name for port in members(survey, each.name)]
        if {each.name, *ports} & unfit.keys() or not ports or each.master in teqls:
            continue
        if each.bond is not None:
            yield from heading
            yield from _bond(each, ports, each.name in possible)
        elif each.kind == "teql" and not teql_problem(survey, each, unfit):
            yield from heading
            yield from _teql(survey, each, offered=each.name not in uplinks)
        else:
            continue
        heading = []


def _bond(interface: Interface, ports: Sequence[str], is_uplink: bool) -> Iterator[str]:
    bond = interface.bond
    assert bond is not None
    mode = BOND_MODES[bond.mode] if bond.mode < len(BOND_MODES) else ""
    if not mode or (is_uplink and mode == "balance-rr"):
        reason = "an uplink by it could not be translated" if mode else f"its mode {bond.mode} is not known"
        yield from _prose(f"{interface.name} is a bond, and stays to whoever made it: {reason}.")
        return
    yield from _prose(
        f"{interface.name} is a bond as written here. Taken in, mlbd keeps its members in it, and with arp_targets (in "
        "802.3ad by LACP) takes out one whose far end is dead. Its addresses stay to whoever gives them."
    )
    keys = [f"name = {_text(interface.name)}", f"mode = {_text(mode)}", f"members = {_array(ports)}"]
    by_arp = mode in _WITH_ARP and bond.arp_interval >= _LEAST_MONITORED and bond.arp_targets
    if by_arp:
        keys += [f'arp_interval = "{bond.arp_interval}ms"', f"arp_targets = {_array(bond.arp_targets)}"]
    elif bond.miimon >= _LEAST_MONITORED:
        delays = {"miimon": bond.miimon, "updelay": bond.updelay, "downdelay": bond.downdelay}
        keys += [f'{key} = "{value}ms"' for key, value in delays.items() if value]
    if bond.primary in ports and mode in _WITH_ACTIVE:
        keys.append(f"primary = {_text(bond.primary)}")
    if mode == "802.3ad":
        keys.append(f'lacp_rate = "{"fast" if bond.lacp_rate else "slow"}"')
    if mode in _WITH_HASH and bond.xmit_hash_policy < len(TRANSMIT_HASHES):
        keys.append(f"xmit_hash_policy = {_text(TRANSMIT_HASHES[bond.xmit_hash_policy])}")
    yield from _lines("[[bond]]", *keys, offered=True)


def _teql(survey: Survey, teql: Interface, *, offered: bool) -> Iterator[str]:
    why = "is offered as it is" if offered else "is an uplink, so mlbd must know its members: replies come in by them"
    yield from _prose(f"{teql.name} {why}.")
    tables = "".join(
        f"    {{ interface = {_text(port.name)}, address = {_text(link[0])}, peer = {_text(link[1])} }},\n"
        for port in members(survey, teql.name)
        if (link := teql_link(port))
    )
    own, _ = teql_link(teql) or ("", "")
    keys = f"name = {_text(teql.name)}", f"members = [\n{tables}]", f"address = {_text(own)}"
    yield from _lines("[[teql]]", *keys, offered=offered)


def _remarks(survey: Survey, choice: Choice) -> Iterator[str]:
    """For the terminal."""
    if not choice.uplinks:
        yield (
            "no uplink was found: no interface has a default route of another program, and none is a PPP link that is "
            "up. This is a template; name your uplinks in it"
        )
    for name, reason in choice.refused:
        yield f"{shown(name)} has a default route but is no uplink here: {reason}"
    for each in choice.tunnels:
        yield (
            f"{each.interface.name} is a tunnel with a default route; with this file, connections go past it by the "
            "uplinks. See the file"
        )
    for silent in choice.silent[:_MOST_NAMED]:
        yield f"{silent.name} has a public address but no default route; if it is an uplink, see the file"
    if not survey.forwarding and choice.lans:
        yield "IPv4 forwarding is off: `sysctl -w net.ipv4.ip_forward=1` lets networks behind this router out"
