"""What bundles should be like in the kernel, given who is out of them (`mlbd.core.bundles`).

The configuration names the members and some options; what it leaves open is desired as it is, so that a bond that
ifupdown or systemd-networkd has made is taken over as it stands. What nobody configures any more is deleted if we made
it, and left alone if somebody else did.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from msgspec.structs import replace

from mlbd.core.bundles import by_trial, member_name, out_is
from mlbd.core.decision import Standing
from mlbd.core.settings import BOND_MODES, TRANSMIT_HASHES, Bond, Settings, Teql
from mlbd.core.state import Address, KernelState, Object, Port, Saved, Sysctl
from mlbd.core.state import Bond as BondDevice
from mlbd.core.state import Teql as TeqlDevice

_WITH_PRIMARY = ("active-backup", "balance-tlb", "balance-alb")
_LACP_RATES = ("slow", "fast")
_STRICT, _LOOSE = "1", "2"
"""Of rp_filter: whether a packet must come in where an answer would leave, or need only have a way back at all."""
_ALL = ("sysctl", "/all", "rp_filter")


def bundling(settings: Settings, standings: Mapping[str, Standing], observed: KernelState) -> Iterator[Object]:
    """All but sysctls."""
    yield from left_alone(settings.bundles, observed)
    for bond in settings.bonds:
        yield from _bond(bond, _of(bond.name, bond.members, standings), observed)
    for teql in settings.teqls:
        yield from _teql(teql, _of(teql.name, settings.bundles[teql.name], standings), observed)


def loosened(settings: Settings, observed: KernelState) -> Iterator[str]:
    """Members of TEQL that drop what they receive: the way back to its sender is by the TEQL device, so a strict
    reverse path filter takes every packet for a forged one. The stricter of the interface's own and `all` holds, but
    loose is stricter than strict (Documentation/networking/ip-sysctl.rst, rp_filter).
    """
    general = observed.get(_ALL)
    for teql in settings.teqls:
        for member in teql.members:
            own, saved = (
                observed.get(("sysctl", member.interface, "rp_filter")),
                observed.get(("saved", member.interface)),
            )
            before = dict(saved.values).get("rp_filter") if isinstance(saved, Saved) else None
            values = [item.value for item in (general, own) if isinstance(item, Sysctl)]
            values = [values[0], before] if before is not None and values else values
            if len(values) == 2 and max(values) == _STRICT:
                yield member.interface


def _of(bundle: str, members: Collection[str], standings: Mapping[str, Standing]) -> dict[str, Standing]:
    """Members that exist."""
    found = {name: standings.get(member_name(bundle, name), Standing(None)) for name in members}
    return {name: standing for name, standing in found.items() if standing.facts is not None}


def _bond(bond: Bond, members: Mapping[str, Standing], observed: KernelState) -> Iterator[Object]:
    was = observed.get(("bond", bond.name))
    device = was if isinstance(was, BondDevice) else BondDevice(name=bond.name, owned=True)
    ports = {name: observed.get(("port", name)) for name in members}
    attached = [name for name, port in ports.items() if isinstance(port, Port) and port.bundle == bond.name]
    yield _steered(_configured(bond, device), bond, attached, members)
    yield from _addresses(bond.name, bond.addresses, observed)
    released = out_is(bond) == "released"
    for name, standing in members.items():
        if standing.out and released:
            yield Port(name, up=not by_trial(bond))
        else:
            yield Port(name, bond.name)


def _configured(bond: Bond, device: BondDevice) -> BondDevice:
    """With the options that the configuration names."""
    monitored = bond.arp_interval is None
    miimon = _ms(bond.miimon) if monitored else 0
    return replace(
        device,
        up=True,
        mode=BOND_MODES.index(bond.mode),
        miimon=device.miimon if miimon is None else miimon,
        updelay=_or(_ms(bond.updelay), device.updelay) if monitored else 0,
        downdelay=_or(_ms(bond.downdelay), device.downdelay) if monitored else 0,
        lacp_rate=device.lacp_rate if bond.lacp_rate is None else _LACP_RATES.index(bond.lacp_rate),
        xmit_hash_policy=device.xmit_hash_policy
        if bond.xmit_hash_policy is None
        else TRANSMIT_HASHES.index(bond.xmit_hash_policy),
        arp_interval=_ms(bond.arp_interval) or 0,
        arp_targets=device.arp_targets if monitored else bond.arp_targets,
        mac=bond.mac or device.mac,
        mtu=bond.mtu or device.mtu,
    )


def _steered(device: BondDevice, bond: Bond, attached: list[str], members: Mapping[str, Standing]) -> BondDevice:
    """With the port that should be in use, where there is one and its carrier does not say enough.

    The kernel goes back to its primary with any port's next link event, so while that is out, another one is primary.
    A primary that the file does not name is somebody else's.
    """
    if bond.mode not in _WITH_PRIMARY:
        return device
    configured = bond.primary if bond.primary in attached else None
    if out_is(bond) != "inactive":
        return replace(device, primary=configured or device.primary)
    good = [name for name in attached if members[name].usable]
    # Who is not proven yet keeps what it has.
    stays = [] if device.active not in attached or members[device.active].out else [device.active]
    chosen = next((name for name in (configured, *stays, *good) if name in good or name in stays), None)
    if not good or chosen is None:
        return device
    # When it became primary the kernel may have found it not up yet, and it does not look again.
    return replace(device, primary=device.primary if bond.primary is None else chosen, active=chosen)


def _teql(teql: Teql, members: Mapping[str, Standing], observed: KernelState) -> Iterator[Object]:
    was = observed.get(("teql", teql.name))
    attached = any(isinstance(item, Port) and item.bundle == teql.name for item in observed.kind("port").values())
    into = {name for name, standing in members.items() if not standing.out}
    if isinstance(was, TeqlDevice):
        began = was.owned or not (was.up or attached)
        yield TeqlDevice(name=teql.name, owned=began, up=bool(into) or was.up)
        yield from _addresses(teql.name, (teql.address,), observed)
    else:
        yield TeqlDevice(name=teql.name, owned=True, up=bool(into))
    for member in teql.members:
        if member.interface in members:
            yield Port(member.interface, teql.name if member.interface in into else "")
            yield from _addresses(member.interface, (member.address,), observed)


def _addresses(device: str, addresses: Collection[str], observed: KernelState) -> Iterator[Object]:
    for address in addresses:
        there = observed.get(("address", device, address))
        yield there if there is not None else Address(device, address)


def left_alone(configured: Collection[str], observed: KernelState) -> Iterator[Object]:
    """What is others': addresses everywhere, and bundles that we do not (or no longer) have to do with."""
    foreign = set()
    for item in (*observed.kind("bond").values(), *observed.kind("teql").values()):
        if isinstance(item, BondDevice | TeqlDevice) and item.name not in configured and not item.owned:
            foreign.add(item.name)
            yield item
    yield from (item for item in observed.kind("address").values() if isinstance(item, Address) and not item.owned)
    for item in observed.kind("port").values():
        if isinstance(item, Port) and (not item.bundle or item.bundle in foreign):
            yield item


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)


def _or(value: int | None, otherwise: int) -> int:
    return otherwise if value is None else value
