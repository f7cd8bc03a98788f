"""What the administrator wants: the frozen result of a checked configuration. Durations are seconds."""

from __future__ import annotations

from typing import Generic, Literal, TypeVar, get_args

from msgspec import Struct, field

T = TypeVar("T")
Family = Literal[4, 6]
FAMILIES: tuple[Family, Family] = (4, 6)

Method = Literal["random", "round-robin", "hash-source", "multipath", "failover"]
LastResort = Literal["best", "unreachable", "blackhole", "main"]
Nat6 = Literal["none", "masquerade", "prefix"]

MAIN = "main"
"""What a rule uses for traffic that is not ours to route; no uplink or policy may be called so."""

MAX_UPLINK_ID = 100
"""Uplink ids are 1..100; the codes above them belong to `main` and to policies (see `mlbd.core.layout`)."""


Kind = Literal["icmp", "neighbour", "tcp", "dns", "http"]
"""icmp: an echo request. neighbour: an ARP request or a neighbour solicitation. tcp: a connection that is accepted.
dns: a query that is answered. http: a GET with the wanted status, by TLS too."""


class Target(Struct, frozen=True):
    """One thing a probe asks. `address` is None for the uplink's gateway, whatever that is at the moment."""

    text: str
    """As written, canonical; the label in metrics and status."""
    address: str | None = None
    """Canonical IP address text (as `str(ipaddress.ip_address(...))`), or None for the gateway and for a name."""
    family: Family | None = None
    """Family of `address`; None exactly when `address` is."""
    kind: Kind = "icmp"
    name: str = ""
    """Host name that is resolved through the uplink; "" where there is an address or the gateway is meant."""
    port: int = 0
    """tcp, dns, http."""
    query: str = ""
    """dns: the name asked for; http: path and query, beginning with a slash."""
    tls: bool = False
    status: int | None = None
    """http: the status wanted; None: any from 200 to 299."""


GATEWAY = Target("gateway")


class Degrade(Struct, frozen=True, kw_only=True):
    """Over the first number of a pair an uplink is degraded, under the second it is not any more; None: not asked."""

    loss: tuple[float, float] | None = None
    """Ratios."""
    rtt: tuple[float, float] | None = None
    """Seconds."""
    jitter: tuple[float, float] | None = None
    """Seconds."""


class Probe(Struct, frozen=True, kw_only=True):
    """How an uplink is probed."""

    targets: tuple[Target, ...] = (GATEWAY,)
    quorum: int = 1
    interval: float = 1.0
    timeout: float | None = None
    """None: from the round trips measured, as RFC 6298 computes a retransmission timeout, kept in 0.1..1 s."""
    suspect_interval: float = 0.1
    fall: int = 5
    rise: int = 3
    hold: float = 0.0
    hold_max: float = 300.0
    window: float = 60.0
    degrade: Degrade = Degrade(loss=(0.2, 0.05))


class GatewaySetting(Struct, frozen=True, kw_only=True):
    """Where the next hop of a family comes from."""

    source: Literal["auto", "fixed", "none"]
    """auto: routes that others installed; fixed: `address`; none: point-to-point, the device is enough."""
    address: str | None = None


AUTO = GatewaySetting(source="auto")


class Uplink(Struct, frozen=True, kw_only=True):
    name: str
    interface: str
    gateway: GatewaySetting = AUTO
    gateway6: GatewaySetting = AUTO
    weight: int = 1
    masquerade: bool = True
    nat6: Nat6 = "none"
    prefix6: str | None = None
    """The IPv6 prefix that is this uplink's, canonical; None: found out (`mlbd.core.prefixes`)."""
    peer: bool = False
    """The gateway is another router of the same networks, with lines of its own (`mlbd.core.peers`)."""
    id: int | None = None
    """The id the administrator chose; None: given once and kept by name (`mlbd.core.layout.assign`)."""
    carrier_delay: float = 0.0
    probe: Probe = field(default_factory=Probe)
    """Without targets, facts alone decide."""
    members: tuple[str, ...] = ()
    """Where `interface` is a TEQL bundle, its members: by these its packets come in."""
    port: bool = False
    """A port of a bond, which has neither addresses nor gateways of its own. Only `mlbd.core.bundles` makes such."""

    def gateway_setting(self, family: Family) -> GatewaySetting:
        return self.gateway if family == 4 else self.gateway6


class Policy(Struct, frozen=True, kw_only=True, cache_hash=True):
    name: str
    method: Method = "random"
    tiers: tuple[tuple[str, ...], ...]
    """Uplink names; the first tier with a usable member carries the traffic."""
    weights: tuple[tuple[str, int], ...] = ()
    """Weight of every member, in member order; resolved: the policy's own number or the uplink's default."""
    last_resort: LastResort = "best"

    @property
    def members(self) -> tuple[str, ...]:
        return tuple(name for tier in self.tiers for name in tier)


class Selector(Struct, Generic[T], frozen=True):
    """One condition of a rule: among `some` (empty: anything), and not among `none`."""

    some: tuple[T, ...] = ()
    none: tuple[T, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.some or self.none)


class Rule(Struct, frozen=True, kw_only=True):
    """Which new connections use what. All its conditions must hold."""

    name: str
    use: str
    """A policy, an uplink, or `MAIN`."""
    sources: Selector[str] = Selector()
    """Canonical prefixes with length, of both families, `192.168.1.0/24`. One that names positive prefixes of one
    family only says nothing about the other family's packets: the rule does not apply to them."""
    destinations: Selector[str] = Selector()
    interfaces: Selector[str] = Selector()
    """By which the packet came in; `lo`: the router itself sent it. Without one, both forwarded and own."""
    protocols: Selector[int] = Selector()
    """IP protocol numbers."""
    ports: Selector[tuple[int, int]] = Selector()
    """Destination ports, first and last; with neither these nor `source_ports` any protocol matches, with one of
    them and no protocol TCP and UDP do."""
    source_ports: Selector[tuple[int, int]] = Selector()
    marks: Selector[tuple[int, int]] = Selector()
    """Value and mask of the packet's mark as others set it; the mask has none of our own bits."""
    sticky: float | None = None
    """Seconds for which a source keeps its uplink after it was last seen; None: it does not."""

    def __hash__(self) -> int:
        # Of everything it takes a millisecond for some hundred rules, in every failover.
        return hash(self.name)


BondMode = Literal["balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad", "balance-tlb", "balance-alb"]
BOND_MODES: tuple[BondMode, ...] = get_args(BondMode)
"""In the kernel's order: a mode's number is its index (Documentation/networking/bonding.rst)."""
TransmitHash = Literal["layer2", "layer3+4", "layer2+3", "encap2+3", "encap3+4", "vlan+srcmac"]
TRANSMIT_HASHES: tuple[TransmitHash, ...] = get_args(TransmitHash)
"""Likewise."""
LacpRate = Literal["slow", "fast"]


class Bond(Struct, frozen=True, kw_only=True):
    """A bundle of ports that the kernel's bonding driver makes."""

    name: str
    mode: BondMode
    members: tuple[str, ...]
    """Interfaces."""
    addresses: tuple[str, ...] = ()
    """Canonical, with prefix length."""
    miimon: float | None = 0.1
    """Seconds between the kernel's looks at carriers; None: it asks by ARP instead."""
    updelay: float | None = None
    """Seconds, a multiple of `miimon`; this and what follows: None, as it is."""
    downdelay: float | None = None
    primary: str | None = None
    lacp_rate: LacpRate | None = None
    xmit_hash_policy: TransmitHash | None = None
    arp_interval: float | None = None
    """Seconds between the kernel's own ARP requests to `arp_targets`. Without, mlbd asks them, by each port."""
    arp_targets: tuple[str, ...] = ()
    mac: str | None = None
    """`02:00:00:00:00:01`."""
    mtu: int | None = None
    probe: Probe = field(default_factory=Probe)
    """Its targets are `arp_targets`, where mlbd asks them."""


class TeqlMember(Struct, frozen=True, kw_only=True):
    interface: str
    address: str
    """Canonical, with prefix length, `10.0.0.0/31`."""
    peer: str
    """The far end's address on the same link; what is probed."""


class Teql(Struct, frozen=True, kw_only=True):
    """A bundle of links to one far end, which take packets in turn (net/sched/sch_teql.c)."""

    name: str
    """`teql0`, ...: the kernel's name for the device, which makes it and the queueing discipline of its members."""
    members: tuple[TeqlMember, ...]
    address: str
    """Canonical, with prefix length."""
    probe: Probe = field(default_factory=Probe)
    """For each member with its peer as the only target."""


Bundle = Bond | Teql


class Conntrack(Struct, frozen=True, kw_only=True):
    tcp: Literal["reset", "keep"] = "reset"
    tcp_reset_after: float = 1.0
    on_recover: Literal["keep", "flush"] = "keep"
    helpers: tuple[str, ...] = ()


class Daemon(Struct, frozen=True, kw_only=True):
    metrics: tuple[str, int] | None = ("127.0.0.1", 9617)
    """Address and port; None: off."""
    control: str = "/run/mlbd/control.sock"
    hooks: str = "/etc/mlbd/hooks.d"
    on_exit: Literal["keep", "release"] = "keep"
    miimon: float = 0.1
    """Seconds between carrier readings; 0: events only."""
    grace: float = 5.0
    own_connections: Literal["route", "mark"] = "route"
    fwmark_mask: int = 0xFF000000
    table_base: int = 20000
    rule_priority: int = 10000
    protocol: int = 109


class Settings(Struct, frozen=True, kw_only=True):
    uplinks: tuple[Uplink, ...]
    policies: tuple[Policy, ...]
    """At least one; the first is what traffic takes that no rule matches."""
    bonds: tuple[Bond, ...] = ()
    teqls: tuple[Teql, ...] = ()
    rules: tuple[Rule, ...] = ()
    """The first that matches a connection's first packet decides; one that uses an uplink matches only while that
    is usable."""
    conntrack: Conntrack = Conntrack()
    daemon: Daemon = Daemon()

    @property
    def bundles(self) -> dict[str, tuple[str, ...]]:
        """Names of bundles, and the interfaces that are their members."""
        found = {bond.name: bond.members for bond in self.bonds}
        return found | {teql.name: tuple(m.interface for m in teql.members) for teql in self.teqls}

    @property
    def memberships(self) -> frozenset[tuple[str, str]]:
        """Pairs of a bundle and an interface."""
        return frozenset((name, member) for name, members in self.bundles.items() for member in members)

    def marks_own(self, family: Family) -> bool:
        """Whether marks choose the uplink of the router's own connections. In a family in which some uplink does not
        translate to its own address they can't: the source address was chosen before.
        """
        return self.daemon.own_connections == "mark" and all(
            u.masquerade if family == 4 else u.nat6 == "masquerade" for u in self.uplinks
        )

    def uplink(self, name: str) -> Uplink:
        """The uplink of that name; KeyError if there is none."""
        for uplink in self.uplinks:
            if uplink.name == name:
                return uplink
        raise KeyError(name)
