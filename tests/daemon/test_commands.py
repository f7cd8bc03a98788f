"""The commands, run as a user runs them, on a router with and without a daemon."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable

from mlbd.lab.daemon import Daemon
from mlbd.lab.network import Network
from mlbd.lab.traffic import connect_many
from tests.lab.scene import QUICK, Start, kernel, mlbd, tables, wait_usable

BAD = """
[[uplink]]
name = "wan1"
interface = "wan1"
wieght = 3

[[uplink]]
name = "wan1"
interface = 7

[[policy]]
name = "p"
method = "rondom"
members = ["wan1", "wan9"]
"""


def test_check_names_every_error(network: Callable[..., Network]) -> None:
    """`mlbd check` shows all errors of a file at once, by file and line, and exits with 2; a good one with 0."""
    net = network(1)
    bad, good, text = (net.directory / name for name in ("bad.toml", "good.toml", "text.toml"))
    bad.write_text(BAD)
    done = mlbd(net, "check", str(bad))
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.startswith(f"{bad}:")]
    assert [any(key in line for line in lines) for key in ("wieght", "interface", "rondom", "wan9")] == [True] * 4
    good.write_text(tables(net))
    assert mlbd(net, "check", str(good)).returncode == 0
    assert mlbd(net, "check", "-c", str(good)).stdout == (
        f"{good} is good: uplinks wan1 (wan1); policies balanced (random).\n"
    )
    text.write_text("this is = not [ TOML")
    assert mlbd(net, "check", str(text)).returncode == 2
    assert mlbd(net, "check", "/nonexistent.toml").returncode == 2
    assert mlbd(net, "run", "-c", str(bad)).returncode == 2


def test_plan_before_any_daemon(network: Callable[..., Network]) -> None:
    """Without a daemon `mlbd plan` shows all that it would do, with status 3, and does none of it."""
    net = network(2)
    file = net.directory / "mlbd.toml"
    file.write_text(tables(net))
    before = kernel(net)
    done = mlbd(net, "plan", "-c", str(file))
    assert done.returncode == 3
    assert "No daemon is running" in done.stderr
    assert all(line[0] in "+~- " for line in done.stdout.splitlines())
    assert "+ ip -4 rule 12001: from all fwmark 0x1000000/0x7f000000 lookup 20001" in done.stdout.splitlines()
    changes = json.loads(mlbd(net, "plan", "--json", "-c", str(file)).stdout)
    assert {change["action"] for change in changes} == {"add", "replace"}
    assert kernel(net) == before


def test_plan_beside_a_daemon(start: Start) -> None:
    """Beside a settled daemon there is nothing to do, status 0; a changed file's consequences are shown, status 3, and
    not carried out; what was changed behind its back is shown as well.
    """
    net, daemon = start()
    done = mlbd(net, "plan", "-c", str(daemon.file))
    assert (done.returncode, done.stdout, done.stderr) == (0, "Nothing to change.\n", "")
    before = kernel(net)
    daemon.configure(tables(net, "weight = 3"))
    done = mlbd(net, "plan", "-c", str(daemon.file))
    assert done.returncode == 3
    assert "~ nft map pick4_balanced: wish_1_wan1 180/240, wish_2_wan2 60/240" in done.stdout
    assert kernel(net) == before
    daemon.configure("nonsense")
    assert mlbd(net, "plan", "-c", str(daemon.file)).returncode == 2
    daemon.configure(tables(net))
    daemon.kill()
    # The same without the daemon: what it left is what it would make.
    assert mlbd(net, "plan", "-c", str(daemon.file)).returncode == 0


def test_status(start: Start) -> None:
    """`mlbd status` tells of each uplink and policy: 0 with something usable, 3 with nothing, 1 without a daemon."""
    net, daemon = start(config=QUICK)
    done = mlbd(net, "status", "-c", str(daemon.file))
    assert (done.returncode, done.stderr) == (0, "")
    assert [word in done.stdout for word in ("wan1", "wan2", "UP", "balanced", "50.0%", "2 of 2 uplinks usable")] == [
        True
    ] * 6
    for number in (1, 2):
        net.silence(number, gateway=True)
    wait_usable(daemon)
    done = mlbd(net, "status", "-c", str(daemon.file))
    assert done.returncode == 3
    assert "probes lost" in done.stdout
    assert "last resort: best" in done.stdout
    daemon.stop()
    done = mlbd(net, "status", "-c", str(daemon.file))
    assert (done.returncode, done.stdout) == (1, "")
    assert "no daemon answers" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_another_file_than_the_daemons(start: Start) -> None:
    """`plan` and `reload` with a file that the daemon does not run with are refused, and both files are named."""
    net, daemon = start()
    other = net.directory / "other.toml"
    other.write_text(daemon.file.read_text())
    for command in ("plan", "reload"):
        done = mlbd(net, command, "-c", str(other))
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"mlbd: the daemon runs with {daemon.file}, not with {other}\n"


def test_status_is_watched(start: Start) -> None:
    """`mlbd status --watch` shows it again every second, over a restart of the daemon, until interrupted."""
    net, daemon = start(config=QUICK)
    command = [sys.executable, "-m", "mlbd", "status", "--watch", "-c", str(daemon.file)]
    watching = net.spawn("router", command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert watching.stdout is not None
    headlines = (line for line in watching.stdout if line.startswith(b"mlbd"))
    assert b"2 of 2 uplinks usable" in next(headlines)
    daemon.kill()
    assert any(b"no daemon answers" in line for line in headlines)
    daemon.start()
    assert any(b"2 of 2 uplinks usable" in line for line in headlines)
    watching.send_signal(signal.SIGINT)
    assert (watching.wait(timeout=5), watching.communicate()[1]) == (130, b"")


def test_status_as_json(start: Start) -> None:
    """`mlbd status --json` has the promised keys, and the values of the moment."""
    net, daemon = start()
    told = json.loads(mlbd(net, "status", "--json", "-c", str(daemon.file)).stdout)
    assert told.keys() >= {"version", "uplinks", "policies", "bundles", "last_cycle"}
    uplink = told["uplinks"][0]
    assert uplink.keys() >= {
        *("name", "interface", "id", "carries", "usable", "degraded", "drained", "verdict", "reason", "since"),
        *("carrier", "gateway", "gateway6", "loss", "rtt", "jitter", "targets"),
    }
    first = net.uplink(1)
    assert {key: uplink[key] for key in ("name", "interface", "id", "usable", "verdict", "carrier", "loss")} == {
        **{"name": "wan1", "interface": "wan1", "id": 1, "usable": True},
        **{"verdict": "UP", "carrier": True, "loss": 0.0},
    }
    assert (uplink["gateway"], uplink["gateway6"]) == (first.gateway, first.gateway6)
    assert 0 < uplink["rtt"] < 0.5
    assert told["policies"] == [
        {
            "name": "balanced",
            "method": "random",
            "carries": True,
            "members": [{"uplink": f"wan{n}", "tier": 0, "share": 0.5} for n in (1, 2)],
            "last_resort": None,
        }
    ]


NAMES = {
    *("build_info", "uplink_info", "uplink_usable", "uplink_degraded", "uplink_carrier", "uplink_verdict"),
    *("uplink_loss_ratio", "uplink_rtt_seconds", "uplink_jitter_seconds", "uplink_transitions_total"),
    *("uplink_last_transition_timestamp_seconds", "uplink_hold_seconds", "uplink_receive_bytes_total"),
    *("uplink_transmit_bytes_total", "uplink_connections_total", "probe_sent_total"),
    *("probe_received_total", "probe_rtt_seconds", "probe_errors_total", "policy_member_share"),
    *("cycles_total", "cycle_duration_seconds", "changes_total", "failover_duration_seconds"),
    *("drift_repairs_total", "flows_flushed_total", "netlink_overruns_total", "hook_runs_total"),
    *("config_last_reload_successful", "config_last_reload_success_timestamp_seconds"),
}


def scrape(net: Network) -> dict[str, float]:
    """Values by name with labels."""
    lines = [line for line in exposition(net).splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def exposition(net: Network) -> str:
    with net.inside("router"), urllib.request.urlopen("http://127.0.0.1:9617/metrics", timeout=5) as answer:
        text: bytes = answer.read()
    return text.decode()


def test_metrics(start: Start) -> None:
    """The endpoint has every promised name, and counts what happened: connections, transitions, flushes, failovers."""
    net, daemon = start(config=QUICK, metrics="127.0.0.1:9617")
    before = scrape(net)
    assert connect_many(net, "lan1", 1000)[None] == 0
    after = scrape(net)
    counted = [f'mlbd_uplink_connections_total{{uplink="wan{n}"}}' for n in (1, 2)]
    # A probe socket's first request may be among them: to the kernel it is a connection too.
    assert 1000 <= sum(after[name] - before[name] for name in counted) <= 1004
    assert sum(after[f'mlbd_uplink_transmit_bytes_total{{uplink="wan{n}"}}'] for n in (1, 2)) > 1000 * 60
    net.silence(1, gateway=True)
    wait_usable(daemon, "wan2")
    net.run("router", ["ip", "rule", "del", "pref", "12002"])
    daemon.wait_for(lambda _: "repaired" in daemon.log_text())
    end = scrape(net)
    expected = {
        'mlbd_uplink_usable{uplink="wan1"}': 0,
        'mlbd_uplink_usable{uplink="wan2"}': 1,
        'mlbd_uplink_verdict{uplink="wan1",verdict="DOWN"}': 1,
        'mlbd_uplink_verdict{uplink="wan1",verdict="UP"}': 0,
        'mlbd_uplink_transitions_total{uplink="wan1"}': 2,
        'mlbd_flows_flushed_total{uplink="wan1"}': 1,
        'mlbd_drift_repairs_total{kind="rule"}': 1,
        'mlbd_policy_member_share{policy="balanced",uplink="wan2"}': 1,
        "mlbd_config_last_reload_successful": 1,
    }
    assert {name: end.get(name) for name in expected} == expected
    assert 0 < end["mlbd_failover_duration_seconds_sum"] < 1
    # Families are announced also while they have no values.
    families = {line.split()[2] for line in exposition(net).splitlines() if line.startswith("# TYPE")}
    assert {f"mlbd_{name}" for name in NAMES} - families == set()
    assert {"process_resident_memory_bytes", "mlbd_process_resident_memory_bytes"} & families


def test_release_while_it_runs_is_refused(start: Start) -> None:
    """`mlbd release` does not fight a running daemon, and names it."""
    net, daemon = start()
    before = kernel(net)
    done = mlbd(net, "release", "-c", str(daemon.file))
    assert done.returncode == 1
    assert str(daemon.pid) in done.stderr
    assert kernel(net) == before


def test_a_second_daemon_is_refused(start: Start) -> None:
    """A second `mlbd run` names the first by its process, exits with 1 and changes nothing."""
    net, daemon = start()
    before = kernel(net)
    second = Daemon(net, tables(net))
    done = mlbd(net, "run", "-c", str(second.file))
    assert done.returncode == 1
    assert str(daemon.pid) in done.stderr
    assert kernel(net) == before
    assert set(connect_many(net, "lan1", 20)) == {1, 2}
