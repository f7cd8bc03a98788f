"""Makes the netlink seeds: what the kernel of this machine says about a small router, `python -m tests.fuzz.capture`.

Run in the sandbox (`mlbd.lab.sandbox`), once, when a new kind of message is to be learned.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from pathlib import Path

from mlbd.kernel import links, neighbours, nftlook, routes, rules
from mlbd.kernel.netlink import HEADER, NETLINK_NETFILTER, NETLINK_ROUTE, Requests
from mlbd.lab.daemon import Daemon, uplink_tables
from mlbd.lab.network import Network
from mlbd.lab.traffic import connect_many
from tests.fuzz.target import SEEDS

_GROUPS = 0x7FFFFFFF
_NEW_GENERATION = 10 << 8 | 15
_SOME = 60
"""Messages of a kind."""


def _dump(requests: Requests, kind: int, payload: bytes) -> list[bytes]:
    messages = requests.dump(kind, payload)
    return [message + bytes(-len(message) % 4) for message in messages][:_SOME]


def _looks() -> Iterable[bytes]:
    requests = Requests()
    yield from _dump(requests, links.GET, links.DUMP_REQUEST)
    for family in (4, 6):
        yield from _dump(requests, routes.GET, routes.dump_request(family))
        yield from _dump(requests, rules.GET, rules.dump_request(family))
    yield from _dump(requests, links.GET_ADDRESS, links.ADDRESS_DUMP_REQUEST)
    yield from _dump(requests, neighbours.GET, neighbours.dump_request(socket.if_nametoindex("wan1")))
    yield from _dump(requests, neighbours.GET_TABLE, neighbours.TABLE_DUMP_REQUEST)[:4]


def _table() -> Iterable[bytes]:
    requests = Requests(NETLINK_NETFILTER)
    ours = nftlook._TABLE_IS_OURS
    yield requests.get(nftlook._GET_GENERATION, nftlook._FAMILY_INET)
    yield requests.get(nftlook._GET_TABLE, ours)
    for kind in (nftlook._GET_SET, nftlook._GET_OBJECT, nftlook._GET_FLOWTABLE, nftlook._GET_CHAIN):
        yield from _dump(requests, kind, ours)
    yield from (m for m in _dump(requests, nftlook._GET_RULE, ours) if len(m) < 300)
    for name in (b"saved", b"dead4"):
        listed = struct.pack("=HH", 5 + len(name), 2) + name + bytes(4 - len(name) % 4)
        yield from _dump(requests, nftlook._GET_ELEMENTS, ours + listed)


def _way() -> Iterable[bytes]:
    requests = Requests()
    for family, destination in ((socket.AF_INET, "203.0.113.1"), (socket.AF_INET6, "2001:db8:f::1")):
        packed = socket.inet_pton(family, destination)
        header = struct.pack("=BBBBBBBBI", family, len(packed) * 8, 0, 0, 0, 0, 0, 0, 0x1000 * (len(packed) == 4))
        found = requests.get(routes.GET, header + struct.pack("=HH", 4 + len(packed), 1) + packed)
        yield found + bytes(-len(found) % 4)


def _told(net: Network) -> Iterable[bytes]:
    listening = []
    for protocol, groups in ((NETLINK_ROUTE, _GROUPS), (NETLINK_NETFILTER, 1 << 6)):
        made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
        made.bind((0, groups))
        made.settimeout(0.5)
        listening.append(made)
    for command in (
        "ip link set lan1 mtu 1400", "ip addr add 10.9.9.9/24 dev lan1", "ip route add unreachable 2001:db8:7::/56",
        "ip rule add priority 7 from 10.7.0.0/16 table 7", "ip route add default via 10.1.0.1 metric 7",
        "nft add element inet mlbd dead { 0x77000000 }", "ip link del lan1",
    ):  # fmt: skip
        net.run("router", command.split())
    for made in listening:
        try:
            while True:
                yield made.recv(1 << 16)
        except TimeoutError:
            made.close()


def main() -> None:
    with Network(2) as net, Daemon(net, uplink_tables(net)) as daemon:
        net.serve("lan1")
        for family in (4, 6):
            connect_many(net, "lan1", 5, family=family)
            connect_many(net, "lan1", 5, family=family, udp=True)
        for command in (
            "ip route add 0.0.0.0/1 via 10.1.0.1 dev wan1", "ip rule add priority 900 not fwmark 0xca6c table 51820",
            "ip route add default dev lan1 table 51820", "ip -6 route add unreachable 2001:db8:1:100::/56",
            "ip -6 rule add from 2001:db8::/32 to 2001:db8:f::/64 iif lan1 tos 0x10 table main",
            "ip rule add ipproto tcp dport 80-90 sport 7 oif wan1 suppress_prefixlength 0 table main",
            "ip route add 198.51.100.0/24 proto 109 nexthop via 10.1.0.1 weight 3 nexthop via 10.2.0.1",
        ):  # fmt: skip
            net.run("router", command.split())
        with net.inside("router"):
            kinds = {"look": [*_looks()], "table": [*_table()], "way": [*_way()]}
            tracked = Requests(NETLINK_NETFILTER)
            kinds["connections"] = _dump(tracked, 0x101, struct.pack("=BBH", 0, 0, 0))
            daemon.kill()
            kinds["notifications"] = [*_told(net)]
    for name, messages in kinds.items():
        _write(SEEDS / f"{name}.netlink", messages)


def _write(path: Path, messages: Iterable[bytes]) -> None:
    data = b"".join(messages)
    assert HEADER.unpack_from(data)[0] <= len(data)
    path.write_bytes(data)
    print(f"{path.name}: {len(data)} bytes")


if __name__ == "__main__":
    main()
