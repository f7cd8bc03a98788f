"""Two routers with two cables between them, both with mlbd: TEQL, as in etc/examples/teql-a.toml and teql-b.toml."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlbd.lab.daemon import Daemon
from mlbd.lab.stream import Summary, UdpStream
from tests.vm.pair import PATIENCE, Pair, lost_between, wait_until, wait_usable

EXAMPLES = Path(__file__).parents[2] / "etc/examples"
PACE = '\n[probe]\ninterval = "300ms"\nhold_max = "1s"\n'
A = (EXAMPLES / "teql-a.toml").read_text() + PACE
B = (EXAMPLES / "teql-b.toml").read_text().replace("teql0", "teql1") + PACE
"""The routers share a kernel here, and with it the numbers of TEQL devices."""
DEVICES = (("a", "teql0"), ("b", "teql1"))
FAR = "10.2.0.1"


class Routers:
    def __init__(self, net: Pair, a: Daemon, b: Daemon, taken_over: Summary) -> None:
        """`taken_over`: a stream while mlbd began."""
        self.net, self.a, self.b, self.taken_over = net, a, b, taken_over

    def wait_attached(self, *members: str) -> None:
        for where, device in DEVICES:
            wait_until(
                lambda where=where, device=device: attached(self.net, where, device) == {*members},  # type: ignore[misc]
                what=f"{device} to have {members}",
            )

    def reload(self, a: str, b: str) -> None:
        for daemon, config in ((self.a, a), (self.b, b)):
            daemon.configure(config)
            daemon.reload()

    def stream(self) -> UdpStream:
        return self.net.stream("a", FAR)


def by_hand(net: Pair) -> None:
    """As in the document."""
    for number, (where, device) in enumerate(DEVICES):
        for cable, address in (("eth1", f"10.0.0.{number}/31"), ("eth2", f"10.0.0.{number + 2}/31")):
            net.ip(where, f"addr add {address} dev {cable}", f"link set {cable} up")
            net.run(where, ["tc", "qdisc", "add", "dev", cable, "root", device])
        net.ip(where, f"addr add 10.0.0.{number + 4}/31 dev {device}", f"link set {device} up")
    net.ip("a", "route add 10.2.0.0/24 via 10.0.0.5 dev teql0")
    net.ip("b", "route add 10.1.0.0/24 via 10.0.0.4 dev teql1")


@pytest.fixture(scope="module")
def routers(teql: None) -> Iterator[Routers]:
    """Behind a is 10.1.0.0/24, behind b 10.2.0.0/24. TEQL was made by hand, and then mlbd was started on both."""
    with Pair() as net:
        for number, where in enumerate(("a", "b"), 1):
            net.sysctls(where, {"ipv4/ip_forward": 1, "ipv4/conf/all/rp_filter": 0, "ipv4/conf/default/rp_filter": 0})
            net.ip(where, "link add lan type dummy", "link set lan up", f"addr add 10.{number}.0.1/24 dev lan")
            net.teql(where)
        by_hand(net)
        stream = net.stream("a", FAR)
        with net.daemon("a", A, wait=False) as a, net.daemon("b", B, wait=False) as b:
            for daemon in (a, b):
                for cable in net.cables:
                    wait_usable(daemon, cable)
            found = Routers(net, a, b, stream.stop(2))
            found.wait_attached("eth1", "eth2")
            yield found


def attached(net: Pair, where: str, device: str) -> set[str]:
    return {cable for cable, kind in net.qdiscs(where).items() if kind == device}


def without(config: str, member: str) -> str:
    """The file with only the other member."""
    lines = config.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("members"))
    keep = next(line for line in lines[first : first + 2] if member not in line)
    entry = keep[keep.index("{ ") : keep.index("}") + 1]
    return "\n".join([*lines[:first], f"members = [{entry}]", *lines[first + 2 :]]) + "\n"


def alternates(net: Pair, target: str) -> None:
    assert net.ping("a", target, timeout=10)
    before = [*net.sent("a", "eth1", "eth2"), *net.received("a", "eth1", "eth2")]
    net.run("a", ["ping", "-q", "-c", "100", "-i", "0.02", "-I", "10.1.0.1", target])
    after = [*net.sent("a", "eth1", "eth2"), *net.received("a", "eth1", "eth2")]
    counts = [now - then for now, then in zip(after, before, strict=True)]
    assert counts == pytest.approx([50] * 4, abs=35), target  # and probes of both
    assert abs(counts[0] - counts[1]) < 20


def test_taken_over(routers: Routers) -> None:
    """A TEQL that was made by hand on both, as in the document, is taken over without a lost packet."""
    assert routers.taken_over.lost == 0


def test_packets_alternate(routers: Routers) -> None:
    """As in the document, packets to the other router, and to the network behind it, leave by both cables in turn, and
    so do the answers; whether a route made by hand leads there or a rule.
    """
    for target in ("10.0.0.5", FAR):
        alternates(routers.net, target)
    routers.net.ip("a", "route del 10.2.0.0/24")
    routers.net.ip("b", "route del 10.1.0.0/24")
    alternates(routers.net, FAR)


def test_silent_cable(routers: Routers) -> None:
    """A cable whose far end goes silent without losing carrier takes half of all packets, until both routers have taken
    it out; it is put back when it is heard again, and nothing is lost for that.
    """
    with routers.stream() as stream:
        began = time.monotonic()
        routers.net.silence("eth1")
        routers.wait_attached("eth2")
        moved = time.monotonic()
        time.sleep(2)
        routers.net.speak("eth1")
        routers.wait_attached("eth1", "eth2")
        time.sleep(1)
        summary = stream.stop(2)
    stretch = [p for p in summary.packets if began <= p.sent < moved - 0.5]
    assert sum(p.answered is None for p in stretch) > len(stretch) / 4
    assert lost_between(summary, moved + 0.3, time.monotonic()) == 0


def test_on_purpose(routers: Routers) -> None:
    """Nothing is lost while a member leaves the files and is in them again, nor while mlbd is killed and started."""
    with routers.stream() as stream:
        routers.reload(without(A, "eth2"), without(B, "eth2"))
        routers.wait_attached("eth1")
        time.sleep(0.5)
        routers.reload(A, B)
        routers.wait_attached("eth1", "eth2")
        routers.a.kill()
        routers.a.start(timeout=PATIENCE)
        for cable in routers.net.cables:
            wait_usable(routers.a, cable)
        assert stream.stop(2).lost == 0


def test_reverse_path_filter(routers: Routers) -> None:
    """rp_filter is set to loose on members where it would be strict, only there, and is put back."""

    def read(name: str) -> str:
        return routers.net.run("a", ["cat", f"/proc/sys/net/ipv4/conf/{name}/rp_filter"]).strip()

    def wait(value: str) -> None:
        wait_until(lambda: read("eth1") == value, what=f"rp_filter of eth1 to be {value}")

    assert read("eth1") == "0"
    routers.net.sysctls("a", {"ipv4/conf/all/rp_filter": 1})
    wait("2")
    assert (read("all"), read("teql0")) == ("1", "0")
    alternates(routers.net, FAR)
    routers.net.sysctls("a", {"ipv4/conf/all/rp_filter": 0})
    wait("0")


def test_from_nothing(routers: Routers) -> None:
    """TEQL is made on bare interfaces, and `mlbd release` takes away what mlbd has made."""
    net = routers.net
    routers.wait_attached("eth1", "eth2")
    for daemon in (routers.a, routers.b):
        daemon.kill()
    for where, _ in DEVICES:  # at both ends before anything is down: see docs/schemes/teql.md
        for cable in net.cables:
            net.run(where, ["tc", "qdisc", "del", "dev", cable, "root"])
    for where, device in DEVICES:
        for cable in net.cables:
            net.ip(where, f"addr flush dev {cable}", f"link set {cable} down")
        net.ip(where, f"addr flush dev {device}", f"link set {device} down")
    for daemon in (routers.a, routers.b):
        daemon.start(wait=False)
    routers.wait_attached("eth1", "eth2")
    with routers.stream() as stream:
        time.sleep(1)
        assert stream.stop(2).lost == 0
    routers.a.kill()
    net.run("a", ["mlbd", "release", "-c", str(routers.a.file)])
    assert attached(net, "a", "teql0") == set()
    assert "10.0.0" not in net.run("a", ["ip", "-4", "-o", "address"])


def test_missing_device(routers: Routers) -> None:
    """Without the device that the file names, mlbd says what is missing and how to get it, and goes on trying."""
    routers.b.configure(B.replace("teql1", "teql7"))
    routers.b.reload()
    routers.b.wait_for(
        lambda status: any("max_equalizers=8" in error for error in (status["last_cycle"] or {}).get("errors", [])),
        timeout=PATIENCE,
        what="an error about teql7",
    )
