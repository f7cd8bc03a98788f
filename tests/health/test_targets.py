"""Targets of every kind, over two uplinks of which `main` prefers the first, with real packets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mlbd.lab.daemon import Daemon
from mlbd.lab.network import Network
from tests.health.servers import NAME, NAMES, WEB, WEB6, Servers, trusting
from tests.lab.scene import tables, wait_usable

LINK = ["arp:gateway", "arp:2001:db8:{n}::1"]
FAR = [
    f"tcp://{WEB}:80", f"tcp://[{WEB6}]:80", f"dns://{NAMES}/{NAME}", f"http://{WEB}/generate_204#204",
    f"http://[{WEB6}]/", f"https://{WEB}/", f"http://{NAME}/", f"https://{NAME}/a?b",
]  # fmt: skip
HTTPS = [target for target in FAR if target.startswith("https")]
PACE = (
    '[probe]\ninterval = "200ms"\nsuspect_interval = "100ms"\ntimeout = "500ms"\nfall = 3\nrise = 2\nhold_max = "0s"\n'
)


def config(net: Network, targets: list[str], quorum: int) -> str:
    asked = [f"[uplink.probe]\ntargets = {targets}\nquorum = {quorum}".replace("{n}", str(n)) for n in (1, 2)]
    return tables(net, *asked) + PACE


Lab = tuple[Network, Servers, Daemon]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """All kinds but ICMP, which the gateways ignore; two targets may fail."""
    directory = tmp_path_factory.mktemp("servers")
    with Network(2) as net, Servers(net, directory) as servers, trusting(servers, directory):
        for n in (1, 2):
            net.drop_icmp(n)
        with Daemon(net, config(net, LINK + FAR, len(LINK + FAR) - 2)) as daemon:
            yield net, servers, daemon
            assert "Traceback" not in daemon.log_text()


def reload(lab: Lab, targets: list[str]) -> None:
    """Until the daemon asks these of both uplinks; all must answer."""
    net, _, daemon = lab
    daemon.configure(config(net, targets, len(targets)))
    daemon.reload()
    asked = targets[-1].replace("{n}", "2")
    daemon.wait_for(lambda s: s["uplinks"][1]["targets"][-1]["target"] == asked, what="the reload")


def told(daemon: Daemon, uplink: str) -> dict[str, str]:
    """What is said about each target whose last probe was lost or failed."""
    return {t["target"]: t["reason"] for t in daemon.uplink(uplink)["targets"] if t["reason"]}


def wait_told(daemon: Daemon, targets: list[str], text: str) -> None:
    """Until both uplinks say this of these targets, and nothing of any other."""
    expected = dict.fromkeys(targets, text)
    daemon.wait_for(
        lambda _: told(daemon, "wan1") == told(daemon, "wan2") == expected, what=f"that {text} is said of {targets}"
    )


def wait_well(daemon: Daemon) -> None:
    daemon.wait_for(lambda _: not told(daemon, "wan1") and not told(daemon, "wan2"), what="that all targets answer")


def test_every_kind_by_its_own_uplink(lab: Lab) -> None:
    """All kinds answer by both uplinks, gateways that ignore pings stay up, a silent provider fails its own uplink."""
    net, servers, daemon = lab
    wait_usable(daemon, "wan1", "wan2")
    wait_well(daemon)
    assert servers.asked == {"http": {1, 2}, "https": {1, 2}, "dns": {1, 2}}
    net.silence(1)
    wait_usable(daemon, "wan2")
    daemon.wait_for(lambda _: set(told(daemon, "wan1")) == {*FAR}, what="that all far targets are silent")
    assert told(daemon, "wan2") == {}
    for kind in servers.asked.values():
        kind.clear()
    daemon.wait_for(lambda _: all(servers.asked.values()), what="that all servers are asked again")
    assert servers.asked == {"http": {2}, "https": {2}, "dns": {2}}
    net.speak(1)
    wait_usable(daemon, "wan1", "wan2")
    wait_well(daemon)
    assert [net.wrong_source(n) for n in (1, 2)] == [0, 0]


def test_failing_targets(lab: Lab) -> None:
    """What fails is told of its targets alone, and takes no uplink down while the quorum answers."""
    _, servers, daemon = lab
    query = f"dns://{NAMES}/{NAME}"
    transitions = [daemon.uplink(name)["transitions"] for name in ("wan1", "wan2")]
    for days, own, text in ((-1, False, "certificate has expired"), (2, True, "self-signed certificate")):
        servers.show_certificate(days=days, own=own)
        wait_told(daemon, HTTPS, f"its certificate is not accepted: {text}")
    servers.show_certificate()
    wait_well(daemon)
    for kind, targets in (("https", HTTPS), ("dns", [query])):
        servers.dead.add(kind)
        wait_told(daemon, targets, "no reply")
        servers.dead.remove(kind)
        wait_well(daemon)
    assert [daemon.uplink(name)["transitions"] for name in ("wan1", "wan2")] == transitions


def test_captive_portal(lab: Lab) -> None:
    """An uplink behind a captive portal is down and says so; the other, asked the same, is not."""
    _, servers, daemon = lab
    reload(lab, [f"http://{NAME}/", f"http://{WEB}/generate_204#204"])
    wait_usable(daemon, "wan1", "wan2")
    servers.portal.add(1)
    wait_usable(daemon, "wan2")
    assert "302 to http://portal.example/: a captive portal?" in daemon.uplink("wan1")["reason"]
    servers.portal.clear()
    wait_usable(daemon, "wan1", "wan2")


def test_closed_port(lab: Lab) -> None:
    """A reset takes the uplinks down, with the reason; a target that answers brings them back."""
    _, _, daemon = lab
    reload(lab, [f"tcp://{WEB}:81"])
    daemon.wait_for(lambda s: not any(u["usable"] for u in s["uplinks"]), what="that no uplink is usable")
    assert f"ECONNREFUSED: {WEB} refuses port 81" in daemon.uplink("wan1")["reason"]
    reload(lab, [f"tcp://{WEB}:80"])
    wait_usable(daemon, "wan1", "wan2")


def test_interface_made_again(lab: Lab) -> None:
    """An interface that is deleted and made again is asked again, by its new index, all kinds."""
    net, _, daemon = lab
    reload(lab, LINK + FAR)
    wait_usable(daemon, "wan1", "wan2")
    wait_well(daemon)
    net.remove(1)
    wait_usable(daemon, "wan2")
    net.restore(1)
    wait_usable(daemon, "wan1", "wan2")
    wait_well(daemon)
