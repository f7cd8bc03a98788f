"""A changed file takes effect without touching what it does not change; a wrong one changes nothing and says why."""

from __future__ import annotations

import re
import time

import pytest

from mlbd.lab.daemon import Daemon
from mlbd.lab.network import Network
from mlbd.lab.stream import UdpStream
from mlbd.lab.traffic import TcpConversation, connect_many
from tests.lab.scene import Start, kernel, mlbd, routing, ruleset, tables, wait_usable

WRONG = """
[[uplink]]
name = "wan1"
interface = "wan1"
wieght = 3

[[uplink]]
name = "WAN2"
interface = "wan2"
weight = 0
"""


def entries(net: Network) -> list[str]:
    """The `[[uplink]]` tables, one by one."""
    return re.findall(r"\[\[uplink\]\][^[]*", tables(net))


def reload(net: Network, daemon: Daemon, config: str) -> None:
    daemon.configure(config)
    done = mlbd(net, "reload", "-c", str(daemon.file))
    assert (done.returncode, done.stdout, done.stderr) == (0, "reloaded\n", "")


def test_an_uplink_is_added(start: Start) -> None:
    """An uplink added by a reload carries its share once it is proven, and no connection of the others notices."""
    net, daemon = start(3)
    daemon.kill()
    mlbd(net, "release", "-c", str(daemon.file))
    first, second, third = entries(net)
    daemon.configure(first + second)
    daemon.start()
    assert "wan3" not in ruleset(net)
    with TcpConversation(net, "lan1", interval=0.02) as one, UdpStream(net, "lan1", rate=500) as stream:
        stream.wait_started()
        reload(net, daemon, first + second + third)
        wait_usable(daemon, "wan1", "wan2", "wan3")
        assert set(connect_many(net, "lan1", 90)) == {1, 2, 3}
        assert set(connect_many(net, "router", 90)) == {1, 2, 3}
        found, reset = stream.stop(), one.reset
    assert (found.lost, len(found.by_uplink()), reset) == (0, 1, None)
    # The two that stayed have kept their verdicts.
    assert [u["transitions"] for u in daemon.status()["uplinks"]] == [1, 1, 1]


def test_an_uplink_is_removed(start: Start) -> None:
    """An uplink removed by a reload leaves nothing in the kernel, its sysctls are as before, and its streams move."""
    net, daemon = start(3)
    with UdpStream(net, "lan1", rate=200) as stream:
        stream.wait_started()
        (gone,) = stream.so_far().by_uplink()
        assert gone is not None
        name = f"wan{gone}"
        kept = [entry for n, entry in enumerate(entries(net), 1) if n != gone]
        reload(net, daemon, "".join(kept))
        daemon.wait_for(lambda status: name not in [u["name"] for u in status["uplinks"]])
        moment = time.monotonic()
        time.sleep(0.3)
        found = stream.stop()
    assert gone not in {p.uplink for p in found.packets if p.sent > moment + 0.1}
    assert found.lost < 0.1 * 200
    assert name not in ruleset(net)
    ours = [line for line in routing(net).splitlines() if "proto 109" in line]
    assert [line for line in ours if f"dev {name} " in line or f"oif {name} " in line] == []
    assert kernel(net)[2][f"/proc/sys/net/ipv4/conf/{name}/src_valid_mark"] == "0\n"
    assert gone not in connect_many(net, "lan1", 60)
    assert net.wrong_source(1) + net.wrong_source(2) + net.wrong_source(3) == 0


def test_own_connections_of_a_removed_uplink_end(start: Start) -> None:
    """An open connection of the router by an uplink that a reload removes is reset when it sends; it does not leave by
    another uplink with the address of the one that was removed.
    """
    net, daemon = start(2)
    held = [TcpConversation(net, "router") for _ in range(20)]
    doomed = [conversation for conversation in held if conversation.uplink == 2]
    reload(net, daemon, entries(net)[0])
    daemon.wait_for(lambda status: [u["name"] for u in status["uplinks"]] == ["wan1"])
    time.sleep(0.3)
    for conversation in doomed:
        with pytest.raises(ConnectionResetError):
            conversation.say()
    for conversation in held:
        if conversation not in doomed:
            conversation.say()
        conversation.close()
    assert doomed
    assert [net.wrong_source(1), net.wrong_source(2)] == [0, 0]


def test_weights_change(start: Start) -> None:
    """New weights hold for new connections; no uplink loses its verdict."""
    policy = '[[policy]]\nname = "p"\nmethod = "round-robin"\nmembers = ["wan1", "wan2"]\nweights = {{ wan1 = {} }}\n'
    net, daemon = start(config=policy.format(1))
    assert connect_many(net, "lan1", 240) == {1: 120, 2: 120}
    reload(net, daemon, tables(net) + policy.format(5))
    assert connect_many(net, "lan1", 240) == {1: 200, 2: 40}
    assert [u["transitions"] for u in daemon.status()["uplinks"]] == [1, 1]


@pytest.mark.parametrize("by", ["command", "signal"])
def test_a_wrong_file_changes_nothing(start: Start, by: str) -> None:
    """A wrong file is refused with all its errors, the old settings stay in force, and a good one is taken again."""
    net, daemon = start()
    before = kernel(net)
    daemon.configure(WRONG)
    if by == "command":
        done = mlbd(net, "reload", "-c", str(daemon.file))
        assert done.returncode == 2
        assert [key in done.stderr for key in ("wieght", "WAN2", "weight")] == [True, True, True]
        assert len(done.stderr.splitlines()) >= 3
    else:
        daemon.reload()
        daemon.wait_for(lambda _: "not reloaded" in daemon.log_text())
        (record,) = [r for r in daemon.log() if "not reloaded" in str(r.get("event"))]
        assert (record["level"], "3 errors" in record["reason"]) == ("error", True)
    assert kernel(net) == before
    assert connect_many(net, "lan1", 20).keys() == {1, 2}
    daemon.configure(tables(net, "weight = 3"))
    daemon.reload()
    daemon.wait_for(lambda status: status["policies"][0]["members"][0]["share"] == 0.75)


def test_what_needs_a_restart_says_so(start: Start) -> None:
    """A change of what is read at start only is refused, by name, and changes nothing."""
    net, daemon = start()
    before = kernel(net)
    daemon.configure(tables(net) + "[daemon]\ntable_base = 30000\n")
    done = mlbd(net, "reload", "-c", str(daemon.file))
    assert done.returncode == 2
    assert "daemon.table_base" in done.stderr
    assert "restart" in done.stderr
    assert kernel(net) == before
