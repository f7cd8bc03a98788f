"""Short outages, outages of everything, and starts in the middle of one (scenarios 1, 2, 8 and 21).

Silence of everything, and a path that stays dead after a reconnection, are in `tests.daemon.test_no_way_out` and
`tests.daemon.test_flaps`.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from mlbd.lab.daemon import Daemon
from mlbd.lab.network import Network
from mlbd.lab.traffic import TcpConversation, connect_many
from tests.health.pace import SOON
from tests.lab.scene import Start, conversation_by, stream_by, tables, wait_usable

LAST = '[[policy]]\nname = "p"\nmembers = ["wan1", "wan2"]\nlast_resort = "{}"\n'
GRACE = '[daemon]\ngrace = "300ms"\n'


def unplug_shortly(net: Network, number: int) -> None:
    net.unplug(number)
    time.sleep(0.1)
    net.plug(number)


def is_answered(talking: TcpConversation, timeout: float = 5.0) -> bool:
    """Whether something said from now on is answered; TCP may have to send it again."""
    begin = time.monotonic()
    while talking.reset is None and talking.exchanges[-1].sent < begin and time.monotonic() < begin + timeout:
        time.sleep(0.01)
    return talking.reset is None and talking.exchanges[-1].sent >= begin


def test_a_short_unplug_within_the_delay_leaves_all_as_it_was(start: Start) -> None:
    """With carrier_delay = "200ms", a cable that is out for 0.1 s is no transition, and traffic stays (scenario 8)."""
    net, daemon = start(extra=('carrier_delay = "200ms"',), prompt_carrier=True)
    with conversation_by(net, 1, interval=0.02) as talking, stream_by(net, 1, rate=100) as stream:
        unplug_shortly(net, 1)
        assert is_answered(talking)
        time.sleep(0.2)
        assert set(stream.stop().by_uplink()) == {1}
    assert connect_many(net, "lan1", 40).keys() == {1, 2}
    assert [u["transitions"] for u in daemon.status()["uplinks"]] == [1, 1]


# Remove the mark with the change that it waits for: three good rounds take longer than tcp_reset_after, and connections
# of an uplink are reset while it is RISING, although it answers again and would carry them (`Router._dead`).


@pytest.mark.parametrize("prompt", [True, False], ids=["prompt", "delayed"])
def test_a_short_unplug_breaks_no_connection(start: Start, prompt: bool) -> None:
    """Without a delay, a cable that is out for 0.1 s breaks no TCP connection, by the settings as shipped, whether it
    talks all the time or first speaks when all is over (scenario 8).
    """
    net, daemon = start(prompt_carrier=prompt)
    with conversation_by(net, 1, interval=0.02) as talking, conversation_by(net, 1) as idle:
        unplug_shortly(net, 1)
        time.sleep(1.6)  # longer than tcp_reset_after
        assert is_answered(talking)
        idle.say()
        daemon.wait_for(lambda status: all(u["usable"] for u in status["uplinks"]))
        assert is_answered(talking)
        idle.say()
    assert [net.wrong_source(1), net.wrong_source(2)] == [0, 0]


def lans_work(net: Network) -> None:
    """Each LAN reaches the router's addresses and the other LAN."""
    for here, there in ((1, 2), (2, 1)):
        for family in (4, 6):
            router = net.lan(here).router if family == 4 else f"fd00:10:{here}::1"
            other = net.lan(there).client if family == 4 else f"fd00:10:{there}::2"
            assert [net.ping(f"lan{here}", router), net.ping(f"lan{here}", other)] == [True, True]


@pytest.mark.parametrize("last_resort", ["best", "unreachable"])
def test_all_cables_out_and_one_back(start: Start, last_resort: str) -> None:
    """With all cables out the LANs reach the router and each other; the first that is back is found by its probes and
    carries all, whatever the last resort (scenario 2).
    """
    net, daemon = start(lans=2, config=SOON + LAST.format(last_resort), prompt_carrier=True)
    net.unplug(1)
    net.unplug(2)
    wait_usable(daemon)
    lans_work(net)
    net.plug(2)
    wait_usable(daemon, "wan2")
    for where in ("lan1", "lan2", "router"):
        assert connect_many(net, where, 20) == {2: 20}
    lans_work(net)
    net.plug(1)
    wait_usable(daemon, "wan1", "wan2")
    assert [net.wrong_source(1), net.wrong_source(2)] == [0, 0]


@pytest.mark.parametrize("how", ["no interfaces", "no carrier"])
def test_boot_with_everything_down(network: Callable[..., Network], how: str) -> None:
    """A daemon that starts before any uplink is there serves the LANs, which reach the router and each other, and takes
    in what comes, one after the other (scenario 21).
    """
    net = network(2, lans=2)
    for number in (1, 2):
        net.remove(number) if how == "no interfaces" else net.unplug(number)
    with Daemon(net, tables(net) + SOON + LAST.format("unreachable") + GRACE) as daemon:
        wait_usable(daemon)
        lans_work(net)
        for number, names in ((2, ["wan2"]), (1, ["wan1", "wan2"])):
            net.restore(number) if how == "no interfaces" else net.plug(number)
            wait_usable(daemon, *names)
            assert connect_many(net, "lan1", 40).keys() == {int(name[-1]) for name in names}
            lans_work(net)
        assert [net.wrong_source(1), net.wrong_source(2)] == [0, 0]
        assert "Traceback" not in daemon.log_text()


def test_a_new_interface_with_a_dead_path_carries_nothing(start: Start) -> None:
    """An interface that is made anew, with address and gateway, while its path is dead, is not used before a probe has
    been answered (scenario 1).
    """
    net, daemon = start(config=SOON)
    net.silence(1, gateway=True)
    net.remove(1)
    wait_usable(daemon, "wan2")
    net.restore(1)
    daemon.wait_for(lambda status: status["uplinks"][0]["gateway"] is not None)
    end = time.monotonic() + 0.8
    while time.monotonic() < end:
        assert connect_many(net, "lan1", 10) == {2: 10}
        assert daemon.uplink("wan1")["usable"] is False
    net.speak(1)
    wait_usable(daemon, "wan1", "wan2")
