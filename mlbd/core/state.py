"""Kernel objects as frozen values: the one vocabulary of desired and observed state.

A `KernelState` is a mapping from key to object. An object's key says which object it is, the rest what it is like;
two objects are equal if the kernel would behave the same. Reading normalises what the kernel fills in by itself, so
that `observe(apply(x)) == x` holds for every class here (`tests/kernel/contract.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Iterator, Mapping
from itertools import chain
from typing import Literal

from msgspec import Struct

from mlbd.core.settings import Family

Key = tuple[Hashable, ...]
"""The kind of object, and what tells it from others of its kind."""


class Hop(Struct, frozen=True):
    device: str
    gateway: str | None = None
    weight: int = 1
    """1..256, of a multipath route; 1 where there is a single hop."""
    onlink: bool = False


class Route(Struct, frozen=True):
    """A route in one of our tables. More than one hop: multipath, in the given order."""

    family: Family
    table: int
    metric: int
    kind: Literal["unicast", "unreachable", "blackhole"] = "unicast"
    hops: tuple[Hop, ...] = ()
    destination: str = "default"
    foreign: bool = False
    """It lies in our tables but does not carry our protocol number. Never desired."""

    @property
    def key(self) -> Key:
        return ("route", self.family, self.table, self.destination, self.metric)


class Rule(Struct, frozen=True, cache_hash=True):
    """A routing rule that carries our protocol number. The kernel cannot replace rules, so all of it is its key."""

    family: Family
    priority: int
    action: Literal["lookup", "goto", "nop"] = "lookup"
    table: int | None = None
    target: int | None = None
    """Priority that `goto` goes to."""
    mark: int | None = None
    mask: int | None = None
    source: str | None = None
    """Prefix with length, `192.0.2.2/32`."""
    oif: str | None = None
    iif: str | None = None
    suppress_prefixlen: int | None = None
    destination: str | None = None
    """Prefix with length, like `source`."""
    protocol: int | None = None
    """IP protocol number (FRA_IP_PROTO)."""
    source_ports: tuple[int, int] | None = None
    """First and last (FRA_SPORT_RANGE)."""
    ports: tuple[int, int] | None = None
    """First and last destination port (FRA_DPORT_RANGE)."""
    other: str = ""
    """Attributes that we never set, as text: such a rule is not what we desire."""

    @property
    def key(self) -> Key:
        return ("rule", self)


class Statement(Struct, frozen=True, eq=False):
    """One nftables rule. nft lists rules normalised, so a rule is recognised by the digest in its comment."""

    digest: str
    """First 12 hexadecimal digits of the SHA-256 of the text; "" for a rule that is not ours."""
    text: str = ""

    @classmethod
    def of(cls, text: str) -> Statement:
        return cls(hashlib.sha256(text.encode()).hexdigest()[:12], text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Statement) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


class Hook(Struct, frozen=True):
    """Where a base chain is attached. All have policy accept."""

    type: Literal["filter", "route", "nat"]
    hook: Literal["prerouting", "input", "forward", "output", "postrouting"]
    priority: int


class Chain(Struct, frozen=True):
    name: str
    hook: Hook | None = None
    statements: tuple[Statement, ...] = ()

    @property
    def key(self) -> Key:
        return ("chain", self.name)


class SlotMap(Struct, frozen=True):
    """A verdict map over slot numbers: slot i goes to `slots[i]`, a chain. "" is a slot without an element."""

    name: str
    slots: tuple[str, ...]

    @property
    def key(self) -> Key:
        return ("map", self.name)


class MarkSet(Struct, frozen=True):
    """A set of packet mark values."""

    name: str
    marks: frozenset[int] = frozenset()

    @property
    def key(self) -> Key:
        return ("set", self.name)


class AddressSet(Struct, frozen=True):
    """A set of source addresses that packets fill (nft: `flags dynamic,timeout`). What is in it is not ours to say."""

    name: str
    family: Family
    timeout: int
    """Seconds after which an address that nothing renewed is forgotten."""

    @property
    def key(self) -> Key:
        return ("addresses", self.name)


class Counter(Struct, frozen=True):
    name: str

    @property
    def key(self) -> Key:
        return ("counter", self.name)


class Helper(Struct, frozen=True):
    """A conntrack helper object."""

    name: str
    protocol: Literal["tcp", "udp"]

    @property
    def key(self) -> Key:
        return ("helper", self.name)


class Saved(Struct, frozen=True):
    """The sysctls of a scope as they were before us, kept in the kernel beside what they belong to."""

    scope: str
    """As of `Sysctl`."""
    values: tuple[tuple[str, str], ...]
    """Sorted pairs of a short name (`src_valid_mark`) and its value."""

    @property
    def key(self) -> Key:
        return ("saved", self.scope)


OF_IPV6 = frozenset({"use_oif_addrs_only"})
"""Settings of an interface that are IPv6's."""


class Sysctl(Struct, frozen=True):
    """A setting. One of an interface exists as long as the interface does."""

    scope: str
    """An interface: `net.ipv4.conf.<scope>.<name>`, or ipv6 for those `OF_IPV6`; or `/ipv4`, `/ipv6`, which no
    interface can be called: `net.ipv4.<name>`, `net.ipv6.<name>`; `/netfilter`, `net.netfilter.<name>`."""
    name: str
    value: str

    @property
    def key(self) -> Key:
        return ("sysctl", self.scope, self.name)


class Bond(Struct, frozen=True, kw_only=True):
    """A bond's device. Of ours everything is desired; what the configuration leaves open is desired as it is.

    Durations are milliseconds, as the kernel has them.
    """

    name: str
    owned: bool = False
    """We made it: its alias says so (IFLA_IFALIAS). Only such a one is ever deleted."""
    up: bool = True
    mode: int = 0
    miimon: int = 0
    updelay: int = 0
    downdelay: int = 0
    primary: str = ""
    """An interface; "" for none. Observed only while it is a port (drivers/net/bonding/bond_netlink.c)."""
    active: str = ""
    """The port in use, in modes that have one; "": none, and as desired: whichever the kernel chooses."""
    lacp_rate: int = 0
    xmit_hash_policy: int = 0
    arp_interval: int = 0
    arp_targets: tuple[str, ...] = ()
    mac: str = ""
    mtu: int = 1500

    @property
    def key(self) -> Key:
        return ("bond", self.name)


class Teql(Struct, frozen=True, kw_only=True):
    """A TEQL device, which its module makes; without members it can't be up (net/sched/sch_teql.c)."""

    name: str
    owned: bool = False
    """We set it up: its alias says so. Only of such a one are members ever taken out that nobody speaks of."""
    up: bool = True

    @property
    def key(self) -> Key:
        return ("teql", self.name)


class Port(Struct, frozen=True):
    """An interface that is, or was, or is to be a member of a bundle. It exists as long as the interface does."""

    device: str
    bundle: str = ""
    """The bond that is its master, or the TEQL device whose queueing discipline is its root; "" for none."""
    up: bool = True

    @property
    def key(self) -> Key:
        return ("port", self.device)


class Address(Struct, frozen=True):
    """An IPv4 or IPv6 address of a bundle's device or of a member."""

    device: str
    address: str
    """Canonical, with prefix length."""
    owned: bool = True
    """It carries our protocol number (IFA_PROTO, from Linux 5.18 on). Others are never deleted."""

    @property
    def key(self) -> Key:
        return ("address", self.device, self.address)


Bundling = Bond | Teql | Port | Address
"""What bundles consist of."""
Nft = Chain | SlotMap | MarkSet | AddressSet | Counter | Helper | Saved
"""What lives in the table `inet mlbd`; the table exists exactly as long as one of these does."""
Object = Route | Rule | Nft | Sysctl | Bundling


class KernelState:
    """An immutable set of objects, by key; of one key, the last.

    It is kept by kind, and states that agree on a kind share its dictionary: so what a failover does not touch, which
    is nearly everything, costs it nothing.
    """

    __slots__ = ("_kinds",)

    def __init__(self, objects: Iterable[Object] = ()) -> None:
        self._kinds: dict[object, dict[Key, Object]] = {}
        for item in objects:
            key = item.key
            self._kinds.setdefault(key[0], {})[key] = item

    @classmethod
    def merged(cls, parts: Iterable[KernelState]) -> KernelState:
        """All objects of all parts. Keys are not computed again, so parts are worth keeping."""
        whole = cls()
        own = set()
        for part in parts:
            for kind, objects in part._kinds.items():
                before = whole._kinds.get(kind)
                if before is None:
                    whole._kinds[kind] = objects
                elif before is not objects:
                    if kind not in own:
                        own.add(kind)
                        before = whole._kinds[kind] = before.copy()
                    before.update(objects)
        return whole

    def kind(self, kind: object) -> Mapping[Key, Object]:
        """The objects of one kind; the very same as another state's if neither was changed."""
        return self._kinds.get(kind, _NOTHING)

    def get(self, key: Key) -> Object | None:
        return self._kinds.get(key[0], _NOTHING).get(key)

    def __getitem__(self, key: Key) -> Object:
        return self._kinds[key[0]][key]

    def __contains__(self, key: Key) -> bool:
        return key in self._kinds.get(key[0], _NOTHING)

    def __iter__(self) -> Iterator[Key]:
        return chain.from_iterable(self._kinds.values())

    def __len__(self) -> int:
        return sum(map(len, self._kinds.values()))

    def values(self) -> Iterator[Object]:
        return chain.from_iterable(objects.values() for objects in self._kinds.values())

    def items(self) -> Iterator[tuple[Key, Object]]:
        return chain.from_iterable(objects.items() for objects in self._kinds.values())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, KernelState) and self._kinds == other._kinds

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"KernelState({list(self.values())!r})"

    def changed(self, objects: Mapping[Key, Object | None]) -> KernelState:
        """With these objects put in, or taken out where there is None."""
        copy = KernelState.merged([self])
        for kind in {key[0] for key in objects}:
            copy._kinds[kind] = dict(self.kind(kind))
        for key, item in objects.items():
            if item is None:
                copy._kinds[key[0]].pop(key, None)
            else:
                copy._kinds[key[0]][key] = item
        copy._kinds = {kind: objects for kind, objects in copy._kinds.items() if objects}
        return copy

    def differences(self, other: KernelState) -> Iterator[tuple[Object | None, Object | None]]:
        """Pairs of what is here and what is there under one key, where they are not equal."""
        for kind in {**self._kinds, **other._kinds}:
            mine, others = self.kind(kind), other.kind(kind)
            if mine is others:
                continue
            for key, item in mine.items():
                theirs = others.get(key)
                if item is not theirs and item != theirs:
                    yield item, theirs
            for key, theirs in others.items():
                if key not in mine:
                    yield None, theirs

    def sharing(self, other: KernelState) -> KernelState:
        """The same state, which shares with the other the kinds that they agree on."""
        copy = KernelState()
        for kind, objects in self._kinds.items():
            theirs = other.kind(kind)
            copy._kinds[kind] = other._kinds[kind] if objects == theirs else objects
        return copy


_NOTHING: Mapping[Key, Object] = {}
