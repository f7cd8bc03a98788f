"""Single packets that a test sends, by the way they really take, and rules and packets drawn at random."""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import json
import random
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mlbd.config import ConfigError, load, parse
from mlbd.core.match import OWN, TCP, UDP, Packet, matching
from mlbd.core.settings import FAMILIES, Family, Rule
from mlbd.lab import layout
from mlbd.lab.daemon import Daemon
from mlbd.lab.network import Network
from mlbd.lab.traffic import attempts
from tests.lab.scene import QUICK, tables

NAT6 = ('nat6 = "masquerade"',) * 4
MAIN_LEAVES_BY = 4
MARKED = {2: 0x100, 3: 0x80000, 4: 0x80100}
"""What the administrator's nftables sets on packets of the LANs' sources of this number."""

ONE_UPLINK_EACH = "".join(
    f'[[policy]]\nname = "by{n}"\nmethod = "failover"\nmembers = ["wan{n}", "wan{n % 3 + 1}"]\n' for n in (1, 2, 3)
)
"""Policies whose every connection goes by one uplink, so that it tells which policy it took; the first is by1."""

_ADMINISTRATOR = """
table inet administrator {
  set pings { typeof icmp id . oifname; flags dynamic; size 65535; }
  chain marks {
    type filter hook prerouting priority raw; policy accept;
MARKS
  }
  chain watch {
    type filter hook postrouting priority 200; policy accept;
    ip daddr 203.0.113.0/24 icmp type echo-request add @pings { icmp id . oifname }
    ip6 daddr 2001:db8:f::/64 icmpv6 type echo-request add @pings { icmpv6 id . oifname }
  }
}
"""

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """One connection that a test makes. Without a source, from the router, or by the LAN client's own address."""

    where: str = "lan1"
    """`router` or `lan1`.."""
    family: Family = 4
    server: int = 1
    protocol: int = TCP
    port: int | None = 7
    source: int | str = 1
    """The number of the LAN's source, or the address; "": whatever the router chooses."""
    source_port: int | None = None
    """None: any."""
    mark: int = 0
    """SO_MARK of the router's own."""

    def address(self, net: Network) -> str:
        if isinstance(self.source, str):
            return self.source
        return "" if self.where == "router" else net.lan(int(self.where[-1])).source(self.source, self.family)

    def packet(self, net: Network, choosing: str = "route") -> Packet:
        """As the rules see it; `choosing` is `own_connections`. With "mark" the source is what `main` has chosen."""
        own, last = self.where == "router", net.uplink(MAIN_LEAVES_BY)
        chosen = last.address if self.family == 4 else last.address6
        source = self.address(net) or (chosen if choosing == "mark" else "")
        return Packet(
            family=self.family,
            source=int(ipaddress.ip_address(source)) if source else None,
            destination=int(ipaddress.ip_address(layout.server(self.server, self.family))),
            protocol=self.protocol,
            port=self.port,
            source_port=self.source_port,
            interface=OWN if own else self.where,
            mark=self.mark if own or isinstance(self.source, str) else MARKED.get(self.source, 0),
        )


def both(**fields: Any) -> tuple[Sent, Sent]:
    """Forwarded, and the router's own."""
    return Sent(**fields), Sent(**({"source": ""} | fields | {"where": "router"}))


def send(net: Network, sent: Sent) -> int | None:
    """The uplink by which it went; None: by none."""
    if sent.protocol in (TCP, UDP):
        (found,) = attempts(
            net, sent.where, 1, family=sent.family, servers=[sent.server], sources=[sent.address(net)],
            port=sent.port or 7, udp=sent.protocol == UDP, source_port=sent.source_port or 0, mark=sent.mark,
            timeout=1.0,
        )  # fmt: skip
        return found.uplink
    return _ping(net, sent)


def _ping(net: Network, sent: Sent) -> int | None:
    number = 20000 + next(_numbers)
    kind = (socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
    if sent.family == 6:
        kind = (socket.AF_INET6, socket.SOCK_DGRAM, socket.IPPROTO_ICMPV6)
    with net.inside(sent.where), socket.socket(*kind) as s:
        s.bind((sent.address(net), number))
        s.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, sent.mark)
        s.settimeout(1)
        s.connect((layout.server(sent.server, sent.family), 0))
        s.send(bytes([128 if sent.family == 6 else 8, 0, 0, 0, 0, 0, 0, 1]))
        with contextlib.suppress(TimeoutError):
            s.recv(100)
    said = json.loads(net.run("router", ["nft", "-j", "list", "set", "inet", "administrator", "pings"]))
    (found,) = (part["set"] for part in said["nftables"] if "set" in part)
    ways = {name for each in found.get("elem", []) for of, name in [each["concat"]] if of == number}
    assert len(ways) <= 1, ways
    return next((u.number for u in net.uplinks if u.interface in ways), None)


def administrate(net: Network) -> None:
    """Others' marks on forwarded packets, and `main` prefers the last uplink."""
    marks = [
        f"    {'ip' if family == 4 else 'ip6'} saddr {net.lan(k).source(n, family)} meta mark set {mark:#x}"
        for family in FAMILIES
        for k in (1, 2)
        for n, mark in MARKED.items()
    ]
    net.run("router", ["nft", "-f", "-"], text=_ADMINISTRATOR.replace("MARKS", "\n".join(marks)))
    last = net.uplink(MAIN_LEAVES_BY)
    for gateway in (last.gateway, last.gateway6):
        net.run("router", ["ip", "route", "add", "default", "via", gateway, "dev", last.interface, "metric", "5"])


def configuration(net: Network, rules: str, own: str = "route", policies: str = ONE_UPLINK_EACH) -> str:
    return tables(net, *NAT6) + policies + rules + f'[daemon]\nown_connections = "{own}"\n' + QUICK


def configure(daemon: Daemon, text: str) -> tuple[Rule, ...]:
    """Reload, wait until the kernel is as the text says, and return its rules."""
    daemon.configure(text)
    before = daemon.status()["last_cycle"]["at"]
    daemon.command("reload")
    cycle = daemon.wait_for(lambda status: status["last_cycle"]["at"] > before)["last_cycle"]
    assert cycle["errors"] == []
    return load(daemon.file).settings.rules


_SOURCES = [
    "192.168.1.129", "192.168.1.130", "192.168.2.131", "192.168.1.128/30", "192.168.1.0/24", "192.168.0.0/16",
    "10.0.0.0/8", "0.0.0.0/0", "fd00:10:1:1::1", "fd00:10:1:1::/126", "fd00:10:2::/48", "fd00:10::/32", "::/0",
]  # fmt: skip
_DESTINATIONS = [
    "203.0.113.1", "203.0.113.2/31", "203.0.113.0/29", "203.0.113.0/24", "2001:db8:f::1", "2001:db8:f::2/127",
    "2001:db8:f::/64",
]  # fmt: skip
_POOLS: dict[str, list[Any]] = {
    "from": _SOURCES,
    "to": _DESTINATIONS,
    "interface": ["lan1", "lan2", "lo"],
    "protocol": ["tcp", "udp", "icmp", "icmpv6", "gre"],
    "ports": [80, 81, 443, "80-443", "1-79", "444-65535"],
    "source_ports": ["10000-14999", "12500-19999", "20000-65535"],
    "mark": ["0x100/0xf00", "0x80000/0xff0000", "0x80100", "0x100"],
}


def _drawn_rule(draw: random.Random, number: int) -> str:
    lines = [f'[[rule]]\nname = "r{number}"\nuse = "{draw.choice(_USES)}"']
    for key in draw.sample(list(_POOLS), draw.choice([1, 2, 2, 3, 3, 4])):
        values = draw.sample(_POOLS[key], min(len(_POOLS[key]), draw.choice([1, 1, 2, 3])))
        lines.append(f"{key} = {json.dumps([_negated(v) if draw.random() < 0.2 else v for v in values])}")
    return "\n".join(lines) + "\n"


_USES = ["by1", "by2", "by3", "wan2", "wan3", "main"]
_GOES_BY = {"by1": 1, "by2": 2, "by3": 3, "wan2": 2, "wan3": 3, "main": MAIN_LEAVES_BY}


def _negated(value: object) -> str:
    return f"!{value}"


def drawn_packets(draw: random.Random, count: int) -> Iterator[Sent]:
    for _ in range(count):
        where, family = draw.choice(["lan1", "lan2", "router"]), draw.choice(FAMILIES)
        protocol = draw.choice([TCP, TCP, UDP, UDP, 1 if family == 4 else 58])
        ported = protocol in (TCP, UDP)
        own = where == "router"
        bound = draw.choice(["", "", "192.168.1.1" if family == 4 else "fd00:10:1::1"])
        port = next(_numbers) % 5000
        yield Sent(
            where=where,
            family=family,
            server=draw.randrange(1, 10),
            protocol=protocol,
            port=draw.choice([22, 80, 81, 443, 8080]) if ported else None,
            source=bound if own else draw.randrange(1, 6),
            source_port=draw.choice([10000, 15000, 25000]) + port if ported else None,
            mark=draw.choice([0, 0, *MARKED.values()]) if own else 0,
        )


def goes_by(rules: Sequence[Rule], packet: Packet, dead: Sequence[int] = ()) -> int:
    """The uplink that the first rule which decides means."""
    for rule in matching(rules, packet):
        number = _GOES_BY[rule.use]
        if number not in dead:
            return number
        if not rule.use.startswith("wan"):
            return number % 3 + 1
    return 1 if 1 not in dead else 2


def drawn_rules(draw: random.Random, net: Network, count: int) -> str:
    """Rules that the configuration does not refuse."""
    found: list[str] = []
    while len(found) < count:
        rule = _drawn_rule(draw, len(found))
        with contextlib.suppress(ConfigError):
            parse(configuration(net, "".join([*found, rule])), "drawn")
            found.append(rule)
    return "".join(found)
