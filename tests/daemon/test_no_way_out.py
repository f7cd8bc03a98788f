"""What happens to connections when there is no other uplink for them, or when the settings say to leave them."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

from mlbd.lab import layout
from mlbd.lab.daemon import Daemon
from mlbd.lab.network import Network
from mlbd.lab.traffic import TcpConversation, attempts, connect_many
from tests.lab.scene import QUICK, Start, conversation_by, stream_by, tables, wait_usable

_MASQUERADE = """
table inet office {
  chain post {
    type nat hook postrouting priority srcnat; policy accept;
    oifname "wan3" masquerade
  }
}
"""


def goes_on(talking: TcpConversation) -> bool:
    """Whether it is answered again, without having been reset. Retransmissions may take their time."""
    now = time.monotonic()
    while talking.reset is None and talking.exchanges[-1].sent < now and time.monotonic() < now + 5:
        time.sleep(0.01)
    return talking.reset is None and talking.exchanges[-1].sent > now


@pytest.mark.parametrize("conntrack", ['tcp = "keep"\ntcp_reset_after = "100ms"', 'tcp_reset_after = "20s"'])
def test_tcp_is_not_reset_unless_asked(start: Start, conntrack: str) -> None:
    """With tcp = "keep", or before tcp_reset_after is over, a connection that sends into an outage goes on after it,
    although new ones had moved.
    """
    net, daemon = start(config=QUICK + f"[conntrack]\n{conntrack}\n")
    with conversation_by(net, 1, interval=0.05) as talking:
        net.silence(1, gateway=True)
        wait_usable(daemon, "wan2")
        assert connect_many(net, "lan1", 20) == {2: 20}
        time.sleep(0.3)
        net.speak(1)
        wait_usable(daemon, "wan1", "wan2")
        assert goes_on(talking)


@pytest.mark.parametrize("uplinks", [1, 2])
def test_nothing_is_cut_without_an_alternative(start: Start, uplinks: int) -> None:
    """Connections of the last uplink to die are not reset or deleted, and go on after the outage (scenario 6)."""
    net, daemon = start(uplinks, config=QUICK + '[conntrack]\ntcp_reset_after = "100ms"\n')
    with conversation_by(net, 1, interval=0.05) as talking, stream_by(net, 1, rate=100) as stream:
        if uplinks == 2:
            net.silence(2, gateway=True)
            wait_usable(daemon, "wan1")
        net.silence(1, gateway=True)
        wait_usable(daemon)
        time.sleep(0.3)
        net.speak(1)
        wait_usable(daemon, "wan1")
        assert goes_on(talking)
        assert set(stream.stop().by_uplink()) == {1}
    cut = [record["uplink"] for record in daemon.log() if record.get("event") == "connections cut loose"]
    assert cut == ["wan2"][: uplinks - 1]


_POLICY = '[[policy]]\nname = "p"\nmembers = ["wan1", "wan2"]\nlast_resort = "{}"\n'


@pytest.fixture(scope="module")
def dead() -> Iterator[tuple[Network, Daemon]]:
    """Three uplinks, of which the policy may use two; first 1, then 2 has fallen silent. `main` prefers uplink 3."""
    with Network(3) as net, Daemon(net, tables(net) + QUICK + _POLICY.format("best")) as daemon:
        net.run("router", ["nft", "-f", "-"], text=_MASQUERADE)
        net.run("router", ["ip", "route", "add", "default", "via", net.uplink(3).gateway, "dev", "wan3", "metric", "5"])
        yield net, daemon
        assert "Traceback" not in daemon.log_text()


@pytest.mark.parametrize("last_resort", ["best", "unreachable", "blackhole", "main"])
def test_last_resort(dead: tuple[Network, Daemon], last_resort: str) -> None:
    """With everything dead connections meet the last resort; probes pass it and find what recovers (scenario 2)."""
    net, daemon = dead
    daemon.configure(tables(net) + QUICK + _POLICY.format(last_resort))
    daemon.reload()
    for number, left in ((1, ("wan2", "wan3")), (2, ("wan3",))):
        net.silence(number, gateway=True)
        wait_usable(daemon, *left)
    resort = daemon.wait_for(lambda s: s["policies"][0]["last_resort"] is not None)["policies"][0]["last_resort"]
    before = [net.right_source(n) for n in (1, 2, 3)]
    said = ping(net, "lan1")
    found = {
        place: {(a.uplink, a.error) for a in attempts(net, place, 20, timeout=0.3)} for place in ("lan1", "router")
    }
    sent = [now - then for now, then in zip([net.right_source(n) for n in (1, 2, 3)], before, strict=True)]
    assert ("Destination Host Unreachable" in said) is (last_resort == "unreachable")
    if last_resort == "main":
        assert (resort, found) == ("main", {"lan1": {(3, "")}, "router": {(3, "")}})
    elif last_resort == "best":  # the one that failed last
        assert (resort, found) == ("best: wan2", {"lan1": {(None, "timeout")}, "router": {(None, "timeout")}})
        assert sent[1] >= 40
    else:
        # What the kernel answers its own sockets; it limits how often it tells others.
        assert found["router"] == {(None, {"unreachable": "EHOSTUNREACH", "blackhole": "EINVAL"}[last_resort])}
        assert {uplink for uplink, _ in found["lan1"]} == {None}
        assert (resort, sent[2] < 20) == (last_resort, True)  # probes only
    net.speak(1)
    wait_usable(daemon, "wan1", "wan3")
    assert [connect_many(net, where, 40) for where in ("lan1", "router")] == [{1: 40}, {1: 40}]
    assert daemon.status()["policies"][0]["last_resort"] is None
    net.speak(2)
    wait_usable(daemon, "wan1", "wan2", "wan3")
    assert [net.wrong_source(n) for n in (1, 2, 3)] == [0, 0, 0]


def ping(net: Network, where: str) -> str:
    """What ping(8) says of one request to a server."""
    with net.inside(where):
        command = ["ping", "-n", "-c", "1", "-W", "0.3", layout.server(1)]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout


@pytest.mark.parametrize("family", [4, 6])
def test_probes_find_a_far_target_whatever_routing_says(network: Callable[..., Network], family: int) -> None:
    """Without any default route, with everything dead and the last resort unreachable, probes to a far target still
    leave by their uplink: silence is found, and so is its end (scenario 2).
    """
    net = network(2, default_routes=False)
    extra = [f'gateway = "{u.gateway}"\ngateway6 = "{u.gateway6}"' for u in net.uplinks]
    probe = QUICK.replace("[probe]", f'[probe]\ntargets = ["{layout.server(9, family)}"]')
    with Daemon(net, tables(net, *extra) + probe + _POLICY.format("unreachable")) as daemon:
        for number, left in ((1, ["wan2"]), (2, [])):
            net.silence(number)
            wait_usable(daemon, *left)
        net.speak(1)
        wait_usable(daemon, "wan1")
        time.sleep(0.5)
        assert daemon.uplink("wan2")["usable"] is False  # its probes do not go by uplink 1
        assert "Traceback" not in daemon.log_text()


def test_boot_with_everything_dead(start: Start) -> None:
    """A daemon that starts while no uplink works serves the LAN, and uses the first one that recovers (scenario 21)."""
    net, daemon = start(config=QUICK)
    daemon.stop()
    for number in (1, 2):
        net.silence(number, gateway=True)
    daemon.start()
    assert daemon.status()["settled"] is True
    assert net.ping("lan1", "192.168.1.1")
    net.speak(2)
    wait_usable(daemon, "wan2")
    assert connect_many(net, "lan1", 20) == {2: 20}
