"""What a look says of bundles: devices, ports, addresses, and what members are to them. All of it is in the link and
address messages that a look reads anyway.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from mlbd.core.facts import InterfaceFacts, PortFacts
from mlbd.core.state import Bond, KernelState, Object, Port, Teql
from mlbd.kernel import addresses, bonds, teql
from mlbd.kernel.links import Link


class Bundles(Struct, frozen=True):
    """As they were asked for."""

    asked: Mapping[str, Collection[str]]
    links: Mapping[int, Link]
    """All, by index."""
    protocol: int

    @property
    def members(self) -> set[str]:
        """All that were asked for."""
        return {name for members in self.asked.values() for name in members}

    def objects(self, address_messages: Iterable[bytes]) -> list[Object]:
        """Devices, ports and addresses, as `Observation.state` has them. Raises OSError for what can't be read."""
        devices = [link for link in self.links.values() if bonds.marked(link) or link.name in self.asked]
        names = {index: link.name for index, link in self.links.items()}
        found = {index: made for index, made in ((d.index, _device(d, names)) for d in devices) if made is not None}
        ports = {link.index: port for link, port in self._ports({made.name for made in found.values()})}
        listed = addresses.read(address_messages, names, found.keys() | ports.keys(), self.protocol)
        return [*found.values(), *ports.values(), *listed]

    def with_ports(self, facts: Mapping[str, InterfaceFacts]) -> dict[str, InterfaceFacts]:
        """These facts, those of members with what they are to their bundles. Raises OSError for what can't be read."""
        by_name = {link.name: link for link in self.links.values()}
        wanted = {member: bundle for bundle, members in self.asked.items() for member in members}
        return {
            name: replace(each, port=self._port_facts(by_name[name], by_name.get(wanted[name])))
            if name in wanted
            else each
            for name, each in facts.items()
        }

    def _ports(self, devices: Collection[str]) -> Iterator[tuple[Link, Port]]:
        members = self.members
        if not members and not devices:
            return
        for link in self.links.values():
            bundle = self._bundle(link)
            if link.name in members or bundle in devices:
                yield link, Port(link.name, bundle, link.up)

    def _bundle(self, link: Link) -> str:
        """That it is in now."""
        bond = self.links.get(bonds.bond(link)) if bonds.master(link) else None
        return teql.attached(link) if bond is None else bond.name

    def _port_facts(self, link: Link, wanted: Link | None) -> PortFacts:
        of_bundle = bonds.hardware(wanted) if wanted is not None and bonds.kind(wanted) == bonds.NAME else ""
        device = self.links.get(bonds.bond(link))
        if device is None:
            bundle = teql.attached(link)
            return PortFacts(bundle=bundle, hardware=bonds.hardware(link), of_bundle=of_bundle, active=bool(bundle))
        active, fault = bonds.judged(link, bonds.read(device, {}))
        return PortFacts(
            bundle=device.name,
            hardware=bonds.port_hardware(link) or bonds.hardware(link),
            of_bundle=of_bundle,
            active=active,
            fault=fault,
        )


def _device(link: Link, names: Mapping[int, str]) -> Bond | Teql | None:
    """None: it is another kind of device."""
    if bonds.kind(link) == bonds.NAME:
        return bonds.read(link, names)
    return Teql(name=link.name, owned=bonds.marked(link), up=link.up) if teql.is_device(link) else None


def on_teql(asked: Mapping[str, Collection[str]], state: KernelState) -> Sequence[str]:
    """Interfaces that are members of TEQL devices, or were asked for as such, and exist."""
    ports = [item for item in state.values() if isinstance(item, Port)]
    wanted = {name for bundle, members in asked.items() if teql.is_name(bundle) for name in members}
    devices = {item.name for item in state.values() if isinstance(item, Teql)} if ports else ()
    return [port.device for port in ports if port.device in wanted or port.bundle in devices]
