"""Making interfaces members of bundles, and taking them out."""

from __future__ import annotations

import errno

from mlbd.core.state import Port
from mlbd.kernel import bonds, teql
from mlbd.kernel.linkchanges import LinkChanges, trying
from mlbd.kernel.links import Link
from mlbd.kernel.netlink import CREATE, REPLACE, RefusedError


class Ports:
    """Every method looks first at what is there now. Raises OSError, which says why not."""

    def __init__(self, changes: LinkChanges, module: teql.Module) -> None:
        self._links, self._module = changes, module

    def put(self, wanted: Port) -> None:
        """Into its bundle, or out of any, and up or down."""
        link = self._links.need(wanted.device)
        device = self._links.find(wanted.bundle) if wanted.bundle else None
        if not wanted.bundle:
            self._take_out(link)
        elif device is not None and bonds.kind(device) == bonds.NAME:
            self._enslave(link, device)
        elif teql.is_name(wanted.bundle):
            self._attach(link, wanted, device)
        else:
            what = f"there is no bond {wanted.bundle}" if device is None else f"{wanted.bundle} is no bond"
            raise OSError(errno.ENODEV, f"{wanted.device} can't be a member: {what}")
        self._set(self._links.need(wanted.device), wanted)

    def remove(self, old: Port) -> None:
        """Out of the bundle that it was in."""
        link = self._links.find(old.device)
        if link is not None:
            self._take_out(link)

    def take_out_of_bond(self, link: Link) -> None:
        """It is down afterwards, with its own address and MTU."""
        with trying(f"{link.name} can't be taken out of its bond"):
            self._links.change(link, bonds.enslave(0))

    def enslave(self, link: Link, bond: Link) -> None:
        """It is up afterwards. What is up can't be a port, so it is taken down in the same message."""
        try:
            with trying(f"{link.name} can't be a port of {bond.name}"):
                self._links.change(link, bonds.enslave(bond.index), up=False)
        except RefusedError:
            if link.up:
                self._links.change(link, up=True)
            raise

    def _enslave(self, link: Link, bond: Link) -> None:
        if bonds.master(link) == bond.index:
            return
        self._detach(link)
        if bonds.bond(link):  # released and enslaved at once, though it is up
            with trying(f"{link.name} can't be a port of {bond.name}"):
                self._links.change(link, bonds.enslave(bond.index))
        elif bonds.master(link):
            raise OSError(errno.EBUSY, f"{link.name} can't be a port of {bond.name}: it is a port of something else")
        else:
            self.enslave(link, bond)

    def _attach(self, link: Link, wanted: Port, device: Link | None) -> None:
        """While the device is up, it refuses members with a smaller MTU than its own, which it first found out from
        its members; it is lowered then.
        """
        if device is None:
            raise self._module.missing(wanted.bundle)
        if bonds.bond(link):
            self.take_out_of_bond(link)
            link = self._links.need(link.name)
        if wanted.up and not link.up:
            self._links.change(link, up=True)
        if teql.attached(link) == wanted.bundle:
            return
        with trying(f"{link.name} can't be a member of {wanted.bundle}"):
            if device.up and bonds.mtu(link) < bonds.mtu(device):
                self._links.change(device, bonds.sized(bonds.mtu(link)))
            self._links.request(teql.NEW_QDISC, CREATE | REPLACE, teql.qdisc(link.index, wanted.bundle))

    def _take_out(self, link: Link) -> None:
        if bonds.bond(link):
            self.take_out_of_bond(link)
        self._detach(link)

    def _detach(self, link: Link) -> None:
        kind = teql.attached(link)
        if not kind:
            return
        try:
            with trying(f"{link.name} can't be taken out of {kind}"):
                self._links.request(teql.DELETE_QDISC, 0, teql.qdisc(link.index, kind))
        except RefusedError as error:
            if error.errno not in (errno.ENOENT, errno.ENODEV):  # gone
                raise

    def _set(self, link: Link, wanted: Port) -> None:
        """Up or down. A member of TEQL that goes down under traffic can crash the kernel: what the driver says of a
        packet that it has dropped, sch_teql takes for "not sent", and goes on with it (teql_master_xmit, Linux 6.1).
        """
        if link.up == wanted.up:
            return
        if not wanted.up and teql.attached(link):
            raise OSError(errno.EBUSY, f"{link.name} is not taken down while it is a member of a TEQL device")
        with trying(f"{link.name} can't be set {'up' if wanted.up else 'down'}"):
            self._links.change(link, up=wanted.up)
