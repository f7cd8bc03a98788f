"""Bundles: members, modes and options that fit together, and the uplinks that leave by one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_address, ip_interface

from msgspec.structs import replace

from mlbd.config.check import Checked
from mlbd.config.policies import which
from mlbd.config.problems import Findings, Path, shown
from mlbd.config.values import seconds_text
from mlbd.core.settings import BOND_MODES, Bond, Probe, Target, Teql, TeqlMember

MAX_ARP_TARGETS = 16
"""BOND_MAX_ARP_TARGETS in include/net/bonding.h."""

MAX_LINKS = 32
"""Of a TEQL; the networks of all of them are compared with each other."""

_MIIMON = 0.1

_ONLY_IN = {
    "lacp_rate": (("802.3ad",), "no other mode speaks LACP"),
    "primary": (("active-backup", "balance-tlb", "balance-alb"), "in the others no member is the active one"),
    "xmit_hash_policy": (("balance-xor", "802.3ad", "balance-tlb"), "the others do not hash"),
    "arp_interval": (
        ("balance-rr", "active-backup", "balance-xor", "broadcast"), "in the others the kernel has no ARP monitor"
    ),
    "arp_targets": (
        tuple(mode for mode in BOND_MODES if mode != "802.3ad"), "LACP tells whether a member's far end is alive"
    ),
}  # fmt: skip
"""In which modes an option means something, and why in no other."""

_PER_PACKET = (
    "it sends packets of one connection by several links, and translated on their way they would seem to come from "
    "several hosts (1+1<1)"
)

Tables = Mapping[str, tuple[Checked, ...]]


def check_bundles(tables: Tables, findings: Findings) -> None:
    """Note what is wrong with the bundles, and with the uplinks because of them."""
    _members(tables, findings)
    for bond in tables["bond"]:
        _modes(bond, findings)
        _monitors(bond, findings)
        _names(bond, findings)
        _addresses(bond, findings)
    for teql in tables["teql"]:
        if teql.sound("members"):
            _links(teql, findings)
    _uplinks(tables, findings)


def bonds(tables: Sequence[Checked], paces: Probe) -> tuple[Bond, ...]:
    """The bonds that the tables mean, probed at these paces; nothing may be wrong with them."""
    found = []
    for table in tables:
        options = table.settings()
        options["arp_targets"] = options["arp_targets"] or ()
        asked = options["arp_targets"] if options["arp_interval"] is None and options["mode"] != "802.3ad" else ()
        targets = tuple(Target(f"arp:{address}", address, 4, "neighbour") for address in asked)
        if options["arp_interval"] is None and options["miimon"] is None:
            options["miimon"] = _MIIMON
        found.append(Bond(**options, probe=replace(paces, targets=targets)))
    return tuple(found)


def teqls(tables: Sequence[Checked], paces: Probe) -> tuple[Teql, ...]:
    """Likewise."""
    return tuple(
        Teql(
            name=table["name"],
            members=tuple(TeqlMember(**member.settings()) for member in table["members"]),
            address=table["address"],
            probe=paces,
        )
        for table in tables
    )


def ports(bundle: Checked) -> Iterator[tuple[Path, str]]:
    """The interfaces that are its members, as far as they are sound, and where each is named."""
    for index, member in enumerate(bundle["members"] or () if bundle.sound("members") else ()):
        if not isinstance(member, Checked):
            yield (*bundle.at("members"), index), member
        elif member.sound("interface"):
            yield member.at("interface"), member["interface"]


def by_name(tables: Sequence[Checked]) -> dict[str, Checked]:
    return {table["name"]: table for table in tables if table.sound("name")}


def entrances(tables: Tables) -> Iterator[tuple[str, str]]:
    """Interfaces by which no packet comes in, although they are there, and why."""
    for bond in tables["bond"]:
        for _, interface in ports(bond):
            yield interface, f"a member of {_named(bond)}, and what comes in by it has come in by the bond"
    for name in by_name(tables["teql"]):
        yield name, "a TEQL, and what its far end sends comes in by its members"


def _members(tables: Tables, findings: Findings) -> None:
    """An interface belongs to one bundle, and then to nobody else."""
    bundles = (*tables["bond"], *tables["teql"])
    names = by_name(bundles)
    owners: dict[str, tuple[Checked, Path]] = {}
    for bundle in bundles:
        if bundle.sound("members") and not bundle["members"]:
            findings.error(bundle.at("members"), "an empty array", "at least one interface")
        for path, interface in ports(bundle):
            if interface in names:
                findings.error(
                    path, shown(interface), "an interface that is no bundle",
                    "of a bundle in a bundle nobody could tell which link is dead"
                )  # fmt: skip
                continue
            owner, earlier = owners.setdefault(interface, (bundle, path))
            if owner is bundle and earlier != path:
                findings.error(path, shown(interface), "each interface only once")
            elif owner is not bundle:
                has = f"{_named(owner)} has it on line {findings.line(earlier)}"
                findings.error(path, shown(interface), "an interface that is in no other bundle", has)
    for uplink in tables["uplink"]:
        if uplink.sound("interface") and uplink["interface"] in owners:
            owner, earlier = owners[uplink["interface"]]
            findings.error(
                uplink.at("interface"), shown(uplink["interface"]), "an interface that is no member of a bundle",
                f"{_named(owner)} has it on line {findings.line(earlier)}; uplinks may leave by the bundle itself"
            )  # fmt: skip


def _named(bundle: Checked) -> str:
    return f"{bundle.table.name} {shown(bundle['name'])}" if bundle.sound("name") else f"a {bundle.table.name}"


# Bonds.


def _modes(bond: Checked, findings: Findings) -> None:
    for key, (modes, reason) in _ONLY_IN.items():
        if bond.sound(key, "mode") and bond[key] and bond["mode"] not in modes:
            expected = f"{_either(modes)}, or no {key}"
            findings.error(bond.at(key), f"{key} with mode = {shown(bond['mode'])}", expected, reason)


def _either(modes: Sequence[str]) -> str:
    *first, last = map(shown, modes)
    return f"mode = {', '.join(first)} or {last}" if first else f"mode = {last}"


def _monitors(bond: Checked, findings: Findings) -> None:
    by_arp = "arp_interval" in bond.where
    if by_arp and "miimon" in bond.where:
        path = bond.at("arp_interval")
        findings.error(path, "arp_interval with miimon", "one of them", "the kernel runs one monitor")
    if by_arp and bond.sound("arp_targets") and not bond["arp_targets"]:
        findings.error(
            bond.at("arp_interval"), "arp_interval without arp_targets", "at least one address in arp_targets",
            "without an answer every member counts as dead"
        )  # fmt: skip
    if by_arp and bond.sound("mode") and bond["mode"] == "balance-xor":
        findings.warn(
            bond.at("arp_interval"), "in balance-xor all replies come in by one member, so that the kernel takes the "
            "others for dead; without arp_interval mlbd asks arp_targets and takes replies by any member"
        )  # fmt: skip
    for key in ("updelay", "downdelay"):
        if key not in bond.where:
            continue
        if by_arp:
            findings.error(
                bond.at(key), f"{key} with arp_interval", f"miimon in its place, or no {key}",
                "the kernel counts delays in looks at the carrier"
            )  # fmt: skip
        elif bond.sound(key, "miimon"):
            delay, step = round(bond[key] * 1000), round((bond["miimon"] or _MIIMON) * 1000)
            if delay % step:
                kept, pace = seconds_text((delay - delay % step) / 1000), seconds_text(step / 1000)
                findings.error(
                    bond.at(key), shown(bond.written[key]), f"a multiple of miimon, which is {pace}",
                    f"the kernel would make it {kept}"
                )  # fmt: skip


def _names(bond: Checked, findings: Findings) -> None:
    if bond.sound("primary", "members") and bond["primary"] is not None and bond["primary"] not in bond["members"]:
        hint = which(bond["primary"], bond["members"])
        findings.error(bond.at("primary"), shown(bond["primary"]), "the name of a member", hint)


def _addresses(bond: Checked, findings: Findings) -> None:
    own = [ip_interface(address) for address in bond["addresses"]] if bond.sound("addresses") else []
    if bond.sound("mtu") and (bond["mtu"] or 1280) < 1280 and any(address.version == 6 for address in own):
        path, least = bond.at("mtu"), "a whole number from 1280 to 65535"
        findings.error(path, shown(bond["mtu"]), least, "the bond has IPv6 addresses, and IPv6 needs that")
    targets = bond["arp_targets"] or () if bond.sound("arp_targets") else ()
    own4 = [address for address in own if address.version == 4]
    if len(targets) > MAX_ARP_TARGETS:
        first = (*bond.at("arp_targets"), MAX_ARP_TARGETS)
        findings.error(first, f"{len(targets)} targets", f"at most {MAX_ARP_TARGETS}", "the kernel takes no more")
    for index, target in enumerate(map(ip_address, targets)):
        place = (*bond.at("arp_targets"), index)
        if any(target == address.ip for address in own4):
            findings.error(place, shown(str(target)), "the address of somebody else", "this is the bond's own")
        elif own4 and not any(target in address.network for address in own4):
            findings.warn(
                place, f"{shown(str(target))} is in no network of the bond's addresses: who is not on the link does "
                "not answer ARP"
            )  # fmt: skip


# TEQL.


def _links(teql: Checked, findings: Findings) -> None:
    """Each link has a network of its own, so that its peer is reached by it and by no other."""
    members = teql["members"]
    if len(members) > MAX_LINKS:
        findings.error((*teql.at("members"), MAX_LINKS), f"{len(members)} members", f"at most {MAX_LINKS}")
        return
    peers: dict[str, Checked] = {}
    for member in members:
        if not member.sound("peer"):
            continue
        first = peers.setdefault(member["peer"], member)
        if first is not member:
            has = f"line {findings.line(first.at('peer'))} has this one"
            findings.error(member.at("peer"), shown(member["peer"]), "another peer for each member", has)
        elif member.sound("address"):
            _peer(member, findings)
    seen: list[Checked] = []
    for table in (*members, teql):
        if not table.sound("address"):
            continue
        network = ip_interface(table["address"]).network
        other = next((t for t in seen if ip_interface(t["address"]).network.overlaps(network)), None)
        if other:
            findings.error(
                table.at("address"), shown(table["address"]), "an address in a network of its own",
                f"line {findings.line(other.at('address'))} has {ip_interface(other['address']).network}; Linux would "
                "reach both by one link"
            )  # fmt: skip
        seen.append(table)


def _peer(member: Checked, findings: Findings) -> None:
    own, peer = ip_interface(member["address"]), ip_address(member["peer"])
    network, reason = own.network, ""
    if peer == own.ip:
        reason = "this is the member's own"
    elif peer not in network:
        reason = "a peer is on the link"
    elif network.num_addresses > 2 and peer in (network.network_address, network.broadcast_address):
        reason = "this one is the network or everybody in it"
    if reason:
        expected = f"the far end's address in {network}"
        findings.error(member.at("peer"), shown(member["peer"]), expected, reason)


# Uplinks that leave by a bundle.


def _uplinks(tables: Tables, findings: Findings) -> None:
    bond_tables, teql_tables = by_name(tables["bond"]), by_name(tables["teql"])
    first: dict[str, Checked] = {}
    for uplink in tables["uplink"]:
        if not uplink.sound("interface"):
            continue
        name = uplink["interface"]
        bond = bond_tables.get(name)
        if name in teql_tables:
            _translation(uplink, "a TEQL", findings)
            _by_teql(uplink, findings)
            earlier = first.setdefault(name, uplink)
            if earlier is not uplink:
                has = f"line {findings.line(earlier.at('interface'))} has this interface, too"
                findings.error(uplink.at("interface"), shown(name), "one uplink for a TEQL", has)
        elif bond and bond.sound("mode") and bond["mode"] == "balance-rr":
            _translation(uplink, "a bond in mode balance-rr", findings)


def _translation(uplink: Checked, what: str, findings: Findings) -> None:
    for key, right in (("masquerade", False), ("nat6", "none")):
        if uplink.sound(key) and uplink[key] != right:
            found = f"{key} = {shown(uplink[key])} by {what}"
            findings.error(uplink.at(key), found, f"{key} = {shown(right)}", _PER_PACKET)


def _by_teql(uplink: Checked, findings: Findings) -> None:
    if uplink.sound("gateway") and uplink["gateway"].source == "auto":
        findings.error(
            uplink.at("gateway"), '"auto" by a TEQL', 'the address of the far end, or "none"',
            "nobody installs a default route on a TEQL"
        )  # fmt: skip
    probe = uplink.inner["probe"]
    for key in ("targets", "quorum"):
        if key in probe.where:
            findings.error(
                probe.at(key), f"{key} by a TEQL", f"no {key} here",
                "replies come in by its members; the uplink is usable while one of them is"
            )  # fmt: skip
