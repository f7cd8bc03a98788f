"""The tables of bundles, `[[bond]]` and `[[teql]]`; a part of `mlbd.config.schema`.

What the bonding driver does with its options is told in Documentation/networking/bonding.rst, TEQL in
net/sched/sch_teql.c.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta

from mlbd.config import bundle_values, values
from mlbd.config.keys import Absent, Key, Table

INTERFACE = 'the name of a network interface, such as "eth1"'
MEMBER = 'a table such as { interface = "eth1", address = "10.0.0.0/31", peer = "10.0.0.1" }'

BOND = Table(
    name="bond",
    many=True,
    explanation="Interfaces that the kernel's bonding driver makes one. What is not written stays as it is.",
    keys=(
        Key(
            name="name", type=str, default=Absent.REQUIRED, read=bundle_values.name,
            expected='the name of a network interface, such as "bond0"',
            explanation="The bond's interface. It is made where it is not there yet, and adopted where it is.",
        ),
        Key(
            name="mode", type=int | str, default=Absent.REQUIRED, read=bundle_values.mode, expected=bundle_values.MODE,
            explanation="How the members share the traffic; see [Modes](#modes).",
        ),
        Key(
            name="members", type=str, holds="array", each_once=True, default=Absent.REQUIRED, read=values.interface,
            expected=INTERFACE,
            explanation="The interfaces that are its ports. They need not exist yet.",
        ),
        Key(
            name="miimon", type=int | str, default=Absent.NONE, expected=values.DURATION,
            read=bundle_values.milliseconds(
                least=0.01, zero="without a look at the carriers a dead member is used for ever"
            ),
            explanation="How often the kernel looks at the members' carriers. Without it and without `arp_interval`: "
            "`\"100ms\"`.",
        ),
        Key(
            name="updelay", type=int | str, default=Absent.NONE, read=bundle_values.milliseconds(),
            expected=values.DURATION,
            explanation="How long a carrier must be back before its member is used; a multiple of `miimon`.",
        ),
        Key(
            name="downdelay", type=int | str, default=Absent.NONE, read=bundle_values.milliseconds(),
            expected=values.DURATION,
            explanation="How long a carrier must be gone before its member is not used any more; likewise.",
        ),
        Key(
            name="primary", type=str, default=Absent.NONE, read=values.interface, expected="the name of a member",
            explanation="The member that is active whenever it works; in the modes that have an active one.",
        ),
        Key(
            name="lacp_rate", type=Literal["slow", "fast"], default=Absent.NONE, expected='"slow" or "fast"',
            explanation="Whether the far end is to speak every 30 seconds or every second; `802.3ad` only. A silent "
            "one is noticed after three times as long.",
        ),
        Key(
            name="xmit_hash_policy", type=str, default=Absent.NONE, read=bundle_values.transmit_hash,
            expected=bundle_values.HASH,
            explanation="What of a packet chooses its member, in the modes that hash.",
        ),
        Key(
            name="arp_interval", type=int | str, default=Absent.NONE, expected=values.DURATION,
            read=bundle_values.milliseconds(least=0.01, zero="leave the key out for no ARP by the kernel"),
            explanation="How often the kernel itself asks `arp_targets`, in place of `miimon`. Without it mlbd asks "
            "them, by each member, at the pace of `[probe]`.",
        ),
        Key(
            name="arp_targets", type=str, holds="array", each_once=True, default=Absent.NONE,
            read=bundle_values.neighbour, expected=bundle_values.NEIGHBOUR,
            explanation="Who is asked by ARP whether a member's far end is alive: one answer is enough. At most 16.",
        ),
        Key(
            name="mac", type=str, default=Absent.NONE, read=bundle_values.mac, expected=bundle_values.MAC,
            explanation="The bond's hardware address. Without it, that of its first member.",
        ),
        Key(
            name="mtu", type=Annotated[int, Meta(ge=68, le=65535)], default=Absent.NONE,
            expected="a whole number from 68 to 65535",
            explanation="The largest packet in bytes, for the bond and its members.",
        ),
        Key(
            name="addresses", type=str, holds="array", each_once=True, default=[], read=bundle_values.address,
            expected=bundle_values.ADDRESS,
            explanation="Addresses that the bond has, IPv4 and IPv6. Those of others on it are left alone.",
        ),
    ),
)  # fmt: skip

TEQL_MEMBER = Table(
    name="member",
    many=False,
    explanation="One link of a TEQL to the far end.",
    keys=(
        Key(
            name="interface", type=str, default=Absent.REQUIRED, read=values.interface, expected=INTERFACE,
            explanation="The interface. It need not exist yet.",
        ),
        Key(
            name="address", type=str, default=Absent.REQUIRED, read=bundle_values.address4,
            expected=bundle_values.ADDRESS4,
            explanation="Its own address, in a network of its own.",
        ),
        Key(
            name="peer", type=str, default=Absent.REQUIRED, read=bundle_values.peer,
            expected='the IPv4 address of the far end, such as "10.0.0.1"',
            explanation="The far end's address on this link, which is pinged to tell whether the link works.",
        ),
    ),
)  # fmt: skip

TEQL = Table(
    name="teql",
    many=True,
    explanation="Links to one far end that take packets in turn.",
    keys=(
        Key(
            name="name", type=Annotated[str, Meta(pattern=r"^teql(0|[1-9][0-9]?)\Z")], default=Absent.REQUIRED,
            expected=bundle_values.TEQL,
            explanation="The device. The kernel makes it, and knows the members by its name.",
        ),
        Key(
            name="members", type=dict[str, Any], holds="array", default=Absent.REQUIRED, expected=MEMBER,
            table=TEQL_MEMBER,
            explanation="The links, each with the keys below.",
        ),
        Key(
            name="address", type=str, default=Absent.REQUIRED, read=bundle_values.address4,
            expected=bundle_values.ADDRESS4,
            explanation="The bundle's own address; the far end's, in the same network, is what routes go to.",
        ),
    ),
)  # fmt: skip
