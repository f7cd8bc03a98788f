"""Making, changing and deleting the devices of bundles, and addresses."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from msgspec.structs import replace

from mlbd.core.plan import Change
from mlbd.core.state import Address, Bond, Port, Teql
from mlbd.kernel import addresses, bonds, teql
from mlbd.kernel.linkchanges import LinkChanges, trying
from mlbd.kernel.links import Link
from mlbd.kernel.netlink import CREATE, EXCL, RefusedError, Requests
from mlbd.kernel.ports import Ports

_BONDING = Path("/sys/module/bonding")
_NO_ADDRESS = (errno.EADDRNOTAVAIL, errno.ENODEV)
_WITHOUT_MEMBERS = errno.EUNATCH


class Devices:
    """Changes of bundles. Every method looks first at what is there now."""

    def __init__(self, requests: Requests, protocol: int) -> None:
        self._links = LinkChanges(requests)
        self._protocol = protocol
        self.module = teql.Module()
        self._ports = Ports(self._links, self.module)

    def change(self, change: Change) -> None:
        """Make one change of a bundle. Raises OSError or ValueError, which say why not."""
        match change.new if change.new is not None else change.old:
            case Bond() as bond:
                self._delete_bond(bond.name) if change.new is None else self._put_bond(bond, change.old)
            case Teql() as device:
                self._delete_teql(device.name) if change.new is None else self._put_teql(device)
            case Port() as port:
                self._ports.remove(port) if change.new is None else self._ports.put(port)
            case Address() as address:
                self._delete_address(address) if change.new is None else self._put_address(address)

    # Bonds.

    def _put_bond(self, new: Bond, old: object) -> None:
        link = self._links.find(new.name)
        if link is None:
            if self._make_bond(new):
                return
            link = self._links.need(new.name)
        elif old is None and new.owned and not bonds.marked(link):
            raise OSError(errno.EEXIST, f"{new.name} exists by now, and somebody else made it")
        if bonds.kind(link) != bonds.NAME:
            raise OSError(errno.EEXIST, f"{new.name} exists, and is no bond")
        self._change_bond(link, _meant(new, old))

    def _make_bond(self, new: Bond) -> bool:
        """False: the module was loaded for it, which made a bond of that name by itself (max_bonds)."""
        loaded = _BONDING.exists()
        primary = self._links.find(new.primary) if new.primary else None
        data = bonds.first_options(new, 0 if primary is None else primary.index)
        try:
            with trying(f"the bond {new.name} can't be made"):
                content = bonds.with_data(data) + bonds.device(Bond(name=new.name), new)
                self._links.make(new.name, content, CREATE | EXCL, up=new.up)
        except RefusedError as error:
            if error.errno == errno.EEXIST and not loaded:
                return False
            if error.errno == errno.EOPNOTSUPP and not _BONDING.exists():
                reason = f"the bond {new.name} can't be made: this kernel has no module bonding"
                raise OSError(error.errno, reason) from None
            raise
        if new.owned:  # the message that makes it can't
            self._links.change(self._links.need(new.name), bonds.renamed(bonds.MARK))
        return True

    def _change_bond(self, link: Link, new: Bond) -> None:
        now = self._read(link)
        if data := bonds.options_of_a_bond_that_is_down(now, new):
            self._change_while_down(link, now, data, with_ports=new.mode == now.mode)
            now = self._read(link)
        for name, option in bonds.OPTIONS.items():
            if data := option(now, new, self._index):
                with trying(f"the {name} of {new.name} can't be changed"):
                    self._links.change(link, bonds.with_data(data))
                now = self._read(link)
        with trying(f"{new.name} can't be changed"):
            content = bonds.device(now, new)
            if new.owned != now.owned:
                content += bonds.renamed(bonds.MARK if new.owned else b"")
            if content or new.up != now.up:
                self._links.change(link, content, up=new.up if new.up != now.up else None)

    def _change_while_down(self, link: Link, now: Bond, data: bytes, *, with_ports: bool) -> None:
        """The ports, if they can't stay, and whether it is up are as before afterwards, whatever happens."""
        ports = [] if with_ports else self._ports_of(link, now)
        try:
            for port in ports:
                self._ports.take_out_of_bond(port)
            with trying(f"the mode or lacp_rate of {now.name} can't be changed"):
                self._links.change(link, up=False)
                self._links.change(link, bonds.with_data(data))
        except OSError:
            with suppress(OSError):
                self._put_back(link, now, ports)
            raise
        self._put_back(link, now, ports)

    def _put_back(self, link: Link, now: Bond, ports: Sequence[Link]) -> None:
        """Raises the first refusal, after everything has been tried."""
        refusals: list[OSError] = []
        for port in ports:
            try:
                self._ports.enslave(port, link)
            except OSError as error:
                refusals.append(error)
        if now.up:
            self._links.change(link, up=True)
        if refusals:
            raise refusals[0]

    def _ports_of(self, link: Link, now: Bond) -> list[Link]:
        """First the one that the bond has its address from: without ports it would have none, and take the first's."""
        ports = [each for each in self._links.all() if bonds.master(each) == link.index]
        return sorted(ports, key=lambda port: (bonds.port_hardware(port) != now.mac, port.index))

    def _delete_bond(self, name: str) -> None:
        link = self._links.find(name)
        if link is None:
            return
        if not bonds.marked(link) or bonds.kind(link) != bonds.NAME:
            raise OSError(errno.EPERM, f"{name} is not deleted: it is not of ours")
        with trying(f"{name} can't be deleted"):
            self._links.delete(link)

    def _read(self, link: Link) -> Bond:
        """As it is now, with names of ports."""
        found = {each.index: each for each in self._links.all()}
        return bonds.read(found[link.index], {index: each.name for index, each in found.items()})

    def _index(self, name: str) -> int:
        return self._links.need(name).index

    # TEQL.

    def _put_teql(self, new: Teql) -> None:
        link = self._links.find(new.name)
        if link is None:
            raise self.module.missing(new.name)
        if not teql.is_device(link):
            raise OSError(errno.EEXIST, f"{new.name} exists, and is no TEQL device")
        if new.owned != bonds.marked(link):
            self._links.change(link, bonds.renamed(bonds.MARK if new.owned else b""))
        if new.up == link.up:
            return
        try:
            with trying(f"{new.name} can't be set {'up' if new.up else 'down'}"):
                self._links.change(link, up=new.up)
        except RefusedError as error:
            if error.errno == _WITHOUT_MEMBERS:
                raise OSError(error.errno, f"{new.name} can't be set up: it has no members yet") from None
            raise

    def _delete_teql(self, name: str) -> None:
        """It stays, as it was before us."""
        link = self._links.find(name)
        if link is not None and bonds.marked(link):
            with trying(f"{name} can't be set down"):
                self._links.change(link, bonds.renamed(b""), up=False)

    # Addresses.

    def _put_address(self, new: Address) -> None:
        """One that is there already stays whose it is: the kernel can't change that."""
        payload = addresses.encode(new, self._links.need(new.device).index, self._protocol)
        try:
            with trying(f"{new.device} can't have {new.address}"):
                self._links.request(addresses.NEW, CREATE | EXCL, payload)
        except RefusedError as error:
            if error.errno != errno.EEXIST:
                raise

    def _delete_address(self, old: Address) -> None:
        if not old.owned:
            raise OSError(errno.EPERM, f"{old.address} of {old.device} is not deleted: it is not of ours")
        link = self._links.find(old.device)
        if link is None:
            return
        try:
            with trying(f"{old.device} can't lose {old.address}"):
                self._links.request(addresses.DELETE, 0, addresses.encode(old, link.index, self._protocol))
        except RefusedError as error:
            if error.errno not in _NO_ADDRESS:
                raise


def _meant(new: Bond, old: object) -> Bond:
    """Without an active port that the change leaves as it was: the kernel may have another one by now, or soon."""
    return replace(new, active="") if isinstance(old, Bond) and new.active == old.active else new
