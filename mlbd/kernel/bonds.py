"""Codec: `Bond` and what ports are to it <-> the attributes of rtnetlink link messages.

Attributes are applied one by one, in an order of the kernel's own, and those before a refused one stay applied. Some
are refused although they change nothing. So only what differs is written, and what belongs together in one message.

Sources: linux/if_link.h (IFLA_*, IFLA_INFO_*, IFLA_BOND_*, IFLA_BOND_SLAVE_*); drivers/net/bonding/bond_netlink.c and
bond_options.c of Linux; Documentation/networking/bonding.rst.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Mapping

from mlbd.core.state import Bond
from mlbd.kernel.links import Link
from mlbd.kernel.netlink import address, attribute, attributes, each_attribute, number, reading

ADDRESS, MTU, QDISC, MASTER, LINKINFO, ALIAS = 1, 4, 6, 10, 18, 20
"""IFLA_*: Ethernet address, MTU, root queueing discipline, index of the bond (or bridge, or VRF), what kind it is, and
a text of the administrator's."""
_KIND, _DATA, _PORT_KIND, _PORT_DATA = 1, 2, 4, 5
_MODE, _ACTIVE, _MIIMON, _UPDELAY, _DOWNDELAY, _ARP_INTERVAL, _ARP_TARGETS = 1, 2, 3, 4, 5, 7, 8
_PRIMARY, _XMIT_HASH_POLICY, _LACP_RATE = 11, 14, 21
_PORT_STATE, _PORT_MII, _PORT_HARDWARE, _PORT_LACP = 1, 2, 4, 7
_STATE_ACTIVE = 0
_MII_UP, _MII_BACK = 0, 3
"""BOND_LINK_UP; BOND_LINK_BACK, which waits for the end of updelay."""
_LACP_MODE = 4
_WITH_ACTIVE = (1, 5, 6)
"""Modes that have a primary and an active port: active-backup, balance-tlb, balance-alb."""
_ETHERNET = 6

MARK = b"mlbd"
"""The alias of what is ours."""
NAME = b"bond"
_TOLD = (MASTER, LINKINFO, ADDRESS, MTU, ALIAS)


def _u32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))


def _u8(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=B", value))


# Reading.


def marked(link: Link) -> bool:
    return ALIAS in link.shown and link.shown[ALIAS].rstrip(b"\0") == MARK


def hardware(link: Link) -> str:
    """Its Ethernet address; "" without one."""
    return _ethernet(link.shown.get(ADDRESS, b""))


def mtu(link: Link) -> int:
    return number(link.shown.get(MTU, b""))


def _ethernet(value: bytes) -> str:
    return value.hex(":") if len(value) == _ETHERNET else ""


def _info(link: Link) -> dict[int, bytes]:
    return attributes(link.shown.get(LINKINFO, b""), 0)


def kind(link: Link) -> bytes:
    """`bond`, `veth`, ...; b"" for hardware, and for TEQL devices."""
    return _info(link).get(_KIND, b"").rstrip(b"\0")


def master(link: Link) -> int:
    """The index of what it is a port of, be it a bond or not; 0 if it is none."""
    return number(link.shown.get(MASTER, b""))


def bond(link: Link) -> int:
    """The index of the bond that it is a port of; 0 if it is none."""
    return master(link) if _info(link).get(_PORT_KIND, b"").rstrip(b"\0") == NAME else 0


def told(link: Link) -> tuple[bytes | None, ...] | None:
    """What a notification tells of a bond or a port, for comparison; None of all other links."""
    return tuple(map(link.shown.get, _TOLD)) if NAME in link.shown.get(LINKINFO, b"") else None


@reading("a bond")
def read(link: Link, names: Mapping[int, str]) -> Bond:
    """Raises OSError for what can't be read. `names`: of interfaces, by index."""
    found = attributes(_info(link)[_DATA], 0)

    def value(attribute: int) -> int:
        return number(found.get(attribute, b""))

    return Bond(
        name=link.name,
        owned=marked(link),
        up=link.up,
        mode=number(found[_MODE]),
        miimon=value(_MIIMON),
        updelay=value(_UPDELAY),
        downdelay=value(_DOWNDELAY),
        primary=names.get(value(_PRIMARY), ""),
        active=names.get(value(_ACTIVE), ""),
        lacp_rate=value(_LACP_RATE),
        xmit_hash_policy=value(_XMIT_HASH_POLICY),
        arp_interval=value(_ARP_INTERVAL),
        arp_targets=tuple(map(address, each_attribute(found.get(_ARP_TARGETS, b"")))),
        mac=hardware(link),
        mtu=mtu(link),
    )


@reading("a bond's port")
def port_hardware(link: Link) -> str:
    """The Ethernet address that a port has when it is none."""
    return _ethernet(attributes(_info(link).get(_PORT_DATA, b""), 0).get(_PORT_HARDWARE, b""))


@reading("a bond's port")
def judged(link: Link, bond: Bond) -> tuple[bool, str]:
    """Whether the kernel may send by a port of this bond; and why it does not although there is carrier, where its own
    monitor knows more than carrier, as the ARP monitor does, and LACP (IEEE 802.1AX 6.4.2.3).

    In 802.3ad a port may be active without distributing: if no far end speaks LACP, one is used nevertheless.
    """
    found = attributes(_info(link).get(_PORT_DATA, b""), 0)
    state, mii = number(found[_PORT_STATE]), number(found[_PORT_MII])
    active = state == _STATE_ACTIVE and mii == _MII_UP
    fault = ""
    if bond.mode == _LACP_MODE:
        if not active and mii == _MII_UP and _PORT_LACP in found:  # there is none at the very first
            fault = f"LACP: the far end does not agree (state {number(found[_PORT_LACP]):#04x})"
    elif bond.arp_interval and mii not in (_MII_UP, _MII_BACK):
        fault = "the far end does not answer the bond's ARP requests"
    return active, fault if link.carrier else ""


# Writing.


def with_data(data: bytes) -> bytes:
    """What a link message has for a bond with these options."""
    return attribute(LINKINFO, attribute(_KIND, NAME + b"\0") + attribute(_DATA, data))


def enslave(index: int) -> bytes:
    """What a link message has to make it a port of that bond; index 0: of none."""
    return _u32(MASTER, index)


def sized(mtu: int) -> bytes:
    """What a link message has to set the MTU."""
    return _u32(MTU, mtu)


def renamed(alias: bytes) -> bytes:
    """What a link message has to set the alias; b"" takes it away."""
    return attribute(ALIAS, alias)


def device(now: Bond, new: Bond) -> bytes:
    """Address and MTU, as far as they differ."""
    mac = attribute(ADDRESS, bytes.fromhex(new.mac.replace(":", ""))) if new.mac not in ("", now.mac) else b""
    return mac + (sized(new.mtu) if new.mtu != now.mtu else b"")


def first_options(new: Bond, primary: int) -> bytes:
    """Options of a bond that is made now. `primary`: its index, 0 if it is none or does not exist yet.

    The active port is none of them, as there are no ports yet.
    """
    data = _u8(_MODE, new.mode)
    if new.miimon:
        data += _mii(new)
    elif not new.arp_interval:
        data += _u32(_MIIMON, 0)  # some modes begin with 100
    data += _u32(_ARP_INTERVAL, new.arp_interval) if new.arp_interval else b""
    data += _arp_targets(new) if new.arp_targets else b""
    data += _u32(_PRIMARY, primary) if primary else b""
    data += _u8(_XMIT_HASH_POLICY, new.xmit_hash_policy)
    return data + (_u8(_LACP_RATE, new.lacp_rate) if new.lacp_rate else b"")


def options_of_a_bond_that_is_down(now: Bond, new: Bond) -> bytes:
    """Those that differ, and can only be changed while it is down. A change of the mode also wants no ports."""
    data = _u8(_MODE, new.mode) if new.mode != now.mode else b""
    return data + (_u8(_LACP_RATE, new.lacp_rate) if new.lacp_rate != now.lacp_rate else b"")


Index = Callable[[str], int]
"""Of an interface; raises OSError if there is none."""


def _monitoring(now: Bond, new: Bond, _: Index) -> bytes:
    """By carrier. Delays are kept in multiples of the interval, so all three are written together."""
    if not new.miimon:  # ARP monitoring turns it off
        return _u32(_MIIMON, 0) if now.miimon and not new.arp_interval else b""
    wanted = (new.miimon, *(delay - delay % new.miimon for delay in (new.updelay, new.downdelay)))
    return _mii(new) if wanted != (now.miimon, now.updelay, now.downdelay) else b""


def _arp_monitoring(now: Bond, new: Bond, _: Index) -> bytes:
    data = _u32(_ARP_INTERVAL, new.arp_interval) if new.arp_interval != now.arp_interval else b""
    return data + (_arp_targets(new) if new.arp_targets != now.arp_targets else b"")


def _hashing(now: Bond, new: Bond, _: Index) -> bytes:
    policy = new.xmit_hash_policy
    return _u8(_XMIT_HASH_POLICY, policy) if policy != now.xmit_hash_policy else b""


def _primary(now: Bond, new: Bond, index: Index) -> bytes:
    if new.primary == now.primary:
        return b""
    return _u32(_PRIMARY, index(new.primary) if new.primary else 0)


def _active(now: Bond, new: Bond, index: Index) -> bytes:
    """After the primary, which the kernel makes active by itself."""
    return _u32(_ACTIVE, index(new.active)) if new.active not in ("", now.active) else b""


OPTIONS = {
    "miimon": _monitoring,
    "arp_interval": _arp_monitoring,
    "xmit_hash_policy": _hashing,
    "primary": _primary,
    "active port": _active,
}
"""Each gives what it takes from the one bond to the other, in one message, b"" if nothing; one may change what the next
finds."""


def _mii(new: Bond) -> bytes:
    return _u32(_MIIMON, new.miimon) + _u32(_UPDELAY, new.updelay) + _u32(_DOWNDELAY, new.downdelay)


def _arp_targets(new: Bond) -> bytes:
    """A list that replaces the one there is."""
    return attribute(_ARP_TARGETS, b"".join(attribute(0, socket.inet_aton(target)) for target in new.arp_targets))
