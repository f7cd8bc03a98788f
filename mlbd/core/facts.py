"""What the kernel says now about the interfaces that uplinks use."""

from __future__ import annotations

from msgspec import Struct

from mlbd.core.settings import Family


class Gateway(Struct, frozen=True):
    """A next hop that somebody else's default route names. `address` None: the device is enough (point-to-point)."""

    address: str | None
    onlink: bool = False
    """The route carries RTNH_F_ONLINK: the gateway is reached without a connected prefix that covers it."""


def told(gateway: Gateway | None) -> str | None:
    """For a person: its address, or `none` where there is one that needs none."""
    return None if gateway is None else gateway.address or "none"


class WideRoute(Struct, frozen=True):
    """Somebody else's route to at least half of all addresses, in any table that is not ours."""

    family: Family
    table: int
    destination: str
    """`default`, `0.0.0.0/1`, ..."""
    device: str
    """"" for one that leads to no device."""


class PortFacts(Struct, frozen=True, kw_only=True):
    """What an interface is to the bundle that it is a member of."""

    bundle: str = ""
    """The bond or TEQL device; "" for none."""
    hardware: str = ""
    """Its own Ethernet address, `02:00:00:00:00:01`, not the one that its bond gives it; "" without one."""
    of_bundle: str = ""
    """The Ethernet address of its bond, also while it is none of its ports; "" if there is no bond."""
    active: bool = False
    """The kernel may send by it: state active (IFLA_BOND_SLAVE_STATE) and link up; or, of a TEQL device, attached."""
    fault: str = ""
    """Why the kernel's own monitor does not use it although there is carrier, for a person; "" if it does, or if it is
    merely the backup."""


class InterfaceFacts(Struct, frozen=True, kw_only=True):
    """One interface that exists. An interface that does not exist has no facts."""

    name: str
    index: int
    up: bool
    """Administratively up (IFF_UP)."""
    carrier: bool
    point_to_point: bool = False
    addresses: tuple[str, ...] = ()
    """Usable addresses with prefix length, canonical and sorted, `192.0.2.2/24`, `2001:db8::2/64`: of IPv4 all but
    scope host, of IPv6 global scope only, and neither tentative nor failed (dadfailed) nor deprecated ones."""
    deprecated: tuple[str, ...] = ()
    """IPv6 addresses like these that are meant for old connections (RFC 4862 5.5.4); they work."""
    peer: str | None = None
    """The far end's IPv4 address on a point-to-point interface (IFA_ADDRESS where it differs from IFA_LOCAL)."""
    gateway4: Gateway | None = None
    """From the default route with the lowest metric on this interface, in `main`, that is not ours and not expired."""
    gateway6: Gateway | None = None
    delegated: tuple[str, ...] = ()
    """IPv6 prefixes that a DHCPv6 client was given for this uplink, canonical and sorted: those of the unreachable or
    blackhole routes that others put into `main` for them (systemd-networkd, dhcpcd), as far as they share their
    first 32 bits with an address of this interface, and more bits than with any other interface asked for."""

    port: PortFacts | None = None
    """Of members of bundles."""

    neighbours: tuple[tuple[str, str], ...] = ()
    """Of the addresses that were asked for, those that answered on this interface, and the hardware address of each."""

    def gateway(self, family: Family) -> Gateway | None:
        return self.gateway4 if family == 4 else self.gateway6

    def addresses_of(self, family: Family) -> tuple[str, ...]:
        """Addresses with prefix length of one family, deprecated ones last."""
        return tuple(a for a in (*self.addresses, *self.deprecated) if (":" in a) == (family == 6))
