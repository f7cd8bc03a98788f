"""Asking the kernel about one packet, and for the connections there are."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator

import pytest

from mlbd.core.ports import Connection, Way
from mlbd.core.settings import Family
from mlbd.kernel import LinuxKernel
from tests.kernel.contract import K1, K2, K3
from tests.kernel.namespace import run, veth_pairs
from tests.kernel.objects import PROTOCOL, TABLE_BASE


@pytest.fixture
def kernel() -> Iterator[LinuxKernel]:
    with veth_pairs():
        linux = LinuxKernel(PROTOCOL, TABLE_BASE)
        yield linux
        linux.close()


def test_ways_of_own_packets(kernel: LinuxKernel) -> None:
    """Mark, protocol, port and source decide as in the routing rules; the table, gateway and source come back."""
    run(
        "ip route add default via 10.9.1.1",
        "ip route add default via 10.9.2.1 table 77",
        "ip route add unreachable default table 78",
        "ip route add default via 10.9.3.1 table 79",
        "ip rule add priority 5 fwmark 0x100/0xff00 lookup 77",
        "ip rule add priority 6 ipproto tcp dport 25 lookup 78",
        "ip rule add priority 7 from 10.9.3.2 lookup 79",
        "ip rule add priority 8 ipproto udp sport 99 lookup 77",
        f"ip -6 route add default via fe80::1 dev {K2}",
    )
    by_default = Way(table=254, device=K1, gateway="10.9.1.1", source="10.9.1.2", error="")
    by_table = Way(table=77, device=K2, gateway="10.9.2.1", source="10.9.2.2", error="")
    assert kernel.way(4, "192.0.2.1") == by_default
    assert kernel.way(4, "192.0.2.1", mark=0x100) == by_table
    assert kernel.way(4, "192.0.2.1", protocol=17, source_port=99) == by_table
    assert kernel.way(4, "192.0.2.1", protocol=6, port=80) == by_default
    assert kernel.way(4, "192.0.2.1", protocol=47) == by_default
    assert kernel.way(4, "192.0.2.1", protocol=6, port=25) == Way(
        table=None, device="", gateway=None, source=None, error="No route to host"
    )
    assert kernel.way(4, "192.0.2.1", source="10.9.3.2") == Way(
        table=79, device=K3, gateway="10.9.3.1", source="10.9.3.2", error=""
    )
    assert kernel.way(4, "10.9.1.2") == Way(table=255, device="lo", gateway=None, source="10.9.1.2", error="")
    assert kernel.way(6, "2001:db8:ffff::1") == Way(
        table=254, device=K2, gateway="fe80::1", source="2001:db8:2::2", error=""
    )


def test_ways_of_forwarded_packets(kernel: LinuxKernel) -> None:
    """A packet that came in goes where rules by its interface lead; an absent interface is an error that says so."""
    run(
        "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1",
        "ip route add default via 10.9.1.1",
        f"ip rule add priority 5 iif {K3} lookup 77",
        "ip route add default via 10.9.2.1 table 77",
        f"ip -6 rule add priority 5 iif {K3} lookup 77",
        f"ip -6 route add default via fe80::1 dev {K2} table 77",
    )
    assert kernel.way(4, "192.0.2.1", source="10.9.3.7", interface=K3, mark=7) == Way(
        table=77, device=K2, gateway="10.9.2.1", source="10.9.3.7", error=""
    )
    way = kernel.way(6, "2001:db8:ffff::1", source="2001:db8:3::7", interface=K3)
    assert (way.table, way.device, way.gateway, way.error) == (77, K2, "fe80::1", "")
    assert kernel.way(6, "2001:db8:ffff::1", source="2001:db8:1::7", interface=K1).error == "Network is unreachable"
    with pytest.raises(OSError, match="there is no interface absent0"):
        kernel.way(4, "192.0.2.1", source="10.9.3.7", interface="absent0")


def test_connections(kernel: LinuxKernel) -> None:
    """Entries made by real packets are found by what is said of them, and carry their marks."""
    text = "table inet marks {\n chain output {\n  type filter hook output priority 0\n  ct mark set 0x1000005\n }\n}\n"
    subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)
    made = []
    ends: list[tuple[Family, int, str]] = [(4, socket.AF_INET, "127.0.0.1"), (6, socket.AF_INET6, "::1")]
    for family, af, address in ends:
        with socket.socket(af, socket.SOCK_DGRAM) as sender:
            for port in (7001, 7002):
                sender.sendto(b"x", (address, port))
                made.append(Connection(family, 17, address, sender.getsockname()[1], address, port, 0x1000005))
    first, second, *of_ipv6 = made
    find = kernel.connections
    assert find(4, 17, "127.0.0.1", "127.0.0.1", 7001, first.source_port) == [first]
    assert find(4, 17, None, "127.0.0.1", 7002, None) == [second]
    assert sorted(find(6, 17, None, None, None, None), key=lambda c: c.port or 0) == of_ipv6
    assert find(4, 6, None, "127.0.0.1", None, None) == []
    assert find(4, 17, "127.0.0.2", "127.0.0.1", None, None) == []
    assert find(4, 17, None, "127.0.0.1", 7001, 1) == []
