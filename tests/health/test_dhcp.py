"""An uplink by DHCP, with Debian's dhcpd at the provider and dhclient on the router (scenarios 4 and 23)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mlbd.lab.daemon import Daemon
from mlbd.lab.network import Network, wait_until
from mlbd.lab.traffic import connect_many
from tests.health.dhcp import NEEDS_DHCP, Dhcp
from tests.health.pace import SOON
from tests.lab.scene import stream_by, tables, wait_usable

pytestmark = NEEDS_DHCP

Scene = tuple[Network, Daemon, Dhcp]
OTHER_FIRST = '[[policy]]\nname = "p"\nmethod = "failover"\nmembers = ["wan2", "wan1"]\n'
OFF_LINK = "100.64.1.2"
"""An address of provider 1 that is not on the router's link, as of a DHCP server behind a relay."""
_REQUESTS = """
table inet requests {
  counter unicast { }
  counter nobody { }
  chain arrive {
    type filter hook prerouting priority -400;
    iifname "customer" ip daddr != 255.255.255.255 udp dport 67 counter name unicast
    iifname "customer" ip saddr 0.0.0.0 udp dport 67 counter name nobody
  }
}
"""
"""Of DHCP clients, at a provider: to one server, and with no address yet (which the provider counts as a wrong one)."""


@pytest.fixture
def scene() -> Iterator[Scene]:
    """Uplink 1 has no address and nobody gives it one; uplink 2 works, with an address of its own."""
    with Network(2) as net:
        dhcp = Dhcp(net)
        for number in (1, 2):
            net.run(f"isp{number}", ["nft", "-f", "-"], text=_REQUESTS)
        with Daemon(net, tables(net) + SOON) as daemon:
            wait_usable(daemon, "wan2")
            yield net, daemon, dhcp
            assert "Traceback" not in daemon.log_text()
            assert [net.wrong_source(1), net.wrong_source(2)] == requests(net, "nobody")
            assert requests(net, "nobody")[1] == 0


def requests(net: Network, counter: str = "unicast") -> list[int]:
    """DHCP requests that each provider got."""
    listed = (net.run(f"isp{n}", ["nft", "list", "counter", "inet", "requests", counter]) for n in (1, 2))
    return [int(text.split("packets")[1].split()[0]) for text in listed]


def works(net: Network, address: str) -> None:
    """Both uplinks carry connections, uplink 1 with this address."""
    assert connect_many(net, "lan1", 40).keys() == {1, 2}
    assert connect_many(net, "router", 60).keys() == {1, 2}
    assert connect_many(net, "router", 5, sources=[address]) == {1: 5}
    assert f"inet {address}/" in net.run("router", ["ip", "address", "show", "dev", "wan1"])


def test_a_lease_is_used_renewed_lost_and_released(scene: Scene) -> None:
    """A lease makes an uplink; renewals change nothing, nor does another client that takes the lease over; a server
    that refuses it and leases another network is followed; a lease that runs out or is released takes the uplink out.
    Nothing of this touches the other uplink's traffic.
    """
    net, daemon, dhcp = scene
    other = daemon.uplink("wan2")["transitions"]
    stream = stream_by(net, 2, rate=100)
    assert daemon.uplink("wan1")["reason"].startswith("no address on wan1")

    # Leased: address and gateway are the client's.
    dhcp.serve("10.1.0.50/24", "10.1.0.1", lease=6, renew=1, rebind=5)
    dhcp.start_client()
    wait_usable(daemon, "wan1", "wan2")
    assert (daemon.uplink("wan1")["gateway"], daemon.uplink("wan1")["transitions"]) == ("10.1.0.1", 1)
    works(net, "10.1.0.50")

    # Renewed: by unicast, past the end of the first lease's half.
    dhcp.wait_renewed(2)
    # A client that was killed and started again asks for what it had (INIT-REBOOT), and adds address and route anew.
    dhcp.kill_client()
    dhcp.start_client()
    dhcp.wait_renewed(1)
    assert [requests(net)[0] >= 2, requests(net)[1]] == [True, 0]
    assert (daemon.uplink("wan1")["usable"], daemon.uplink("wan1")["transitions"]) == (True, 1)
    works(net, "10.1.0.50")

    # Refused (DHCPNAK) when it asks for the old address once more: the provider has renumbered.
    dhcp.end_server()
    dhcp.kill_client()
    net.run("isp1", ["ip", "address", "add", "10.1.1.1/24", "dev", "customer"])
    net.run("isp1", ["ip", "address", "del", "10.1.0.1/24", "dev", "customer"])
    dhcp.serve("10.1.1.50/24", "10.1.1.1", lease=3, renew=1, rebind=2)
    dhcp.start_client()
    wait_until(lambda: dhcp.said("^DHCPNAK ") > 0, what="that the server refuses")
    daemon.wait_for(lambda s: s["uplinks"][0]["gateway"] == "10.1.1.1", what="that the new gateway is used")
    wait_usable(daemon, "wan1", "wan2")
    assert daemon.uplink("wan1")["targets"][0]["address"] == "10.1.1.1"
    works(net, "10.1.1.50")

    # Run out: the server has gone, although the path still works.
    dhcp.end_server()
    wait_usable(daemon, "wan2")
    assert daemon.uplink("wan1")["reason"].startswith("no address on wan1")
    for where in ("lan1", "router"):
        assert connect_many(net, where, 20) == {2: 20}

    # Back, and released.
    dhcp.serve("10.1.1.50/24", "10.1.1.1")
    wait_usable(daemon, "wan1", "wan2")
    works(net, "10.1.1.50")
    dhcp.release()
    wait_usable(daemon, "wan2")
    assert dhcp.said("^DHCPRELEASE ") == 1
    dhcp.end_server()

    done = stream.stop()
    assert (done.lost, set(done.by_uplink())) == (0, {2})
    assert daemon.uplink("wan2")["transitions"] == other


def test_unicast_renewals_leave_by_their_own_uplink(scene: Scene) -> None:
    """A lease of a server that is not on the link is renewed through its own uplink, also where the router's own
    connections all go by another one (scenario 23).
    """
    net, daemon, dhcp = scene
    daemon.configure(tables(net) + SOON + OTHER_FIRST)
    daemon.reload()
    dhcp.serve("10.1.0.50/24", "10.1.0.1", identifier=OFF_LINK, lease=60, renew=1, rebind=50)
    dhcp.start_client()
    wait_usable(daemon, "wan1", "wan2")
    wait_until(lambda: requests(net) != [0, 0], timeout=5.0, what="a renewal")
    assert requests(net)[1] == 0
    dhcp.wait_renewed(1)
