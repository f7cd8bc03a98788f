"""Which hooks are run, with what they are told."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from msgspec.structs import replace

from mlbd.core.settings import GatewaySetting
from mlbd.core.status import Transition
from mlbd.hooks import Hooks, methods
from tests.hooks.running import DEGRADED, FACTS, LTE, Told, busy, run, script, until_not
from tests.report.values import DOWN, MEMBER_DOWN, MEMBER_UP, UP


def common(event: Transition, reason: str) -> dict[str, str]:
    return {
        **{"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
        **{"IFACE": "wwan0", "LOGICAL": "wwan0", "VERBOSITY": "0"},
        **{"MLBD_UPLINK": "lte", "MLBD_BUNDLE": "", "MLBD_EVENT": event.event, "MLBD_REASON": reason},
        "MLBD_USABLE": " ".join(event.usable),
    }


def test_environment(directory: Path, tmp_path: Path) -> None:
    """A hook sees ifupdown's variables once per address family for up and down, and for others only who and what; and
    nothing of the daemon's own environment.
    """
    out = tmp_path / "out"
    script(directory / "tell", f"env -0 >>{out}; printf '\\0' >>{out}")
    told = run(directory, UP, DEGRADED, DOWN)
    runs = [dict(v.split("=", 1) for v in part.split("\0")) for part in out.read_text().strip("\0").split("\0\0")]
    tickets = [variables.pop("MLBD_RUN") for variables in runs]
    assert len({*tickets}) == 5
    for variables in runs:
        variables.pop("PWD")  # of the shell
        for extra in ("_", "OLDPWD", "SHLVL"):
            variables.pop(extra, None)
    start = {**common(UP, "3 good rounds"), "MODE": "start", "PHASE": "post-up"}
    stop = {**common(DOWN, "3 of 3 probes lost"), "MODE": "stop", "PHASE": "pre-down"}
    families = [{"ADDRFAM": "inet", "METHOD": "dhcp"}, {"ADDRFAM": "inet6", "METHOD": "auto"}]
    assert runs == [
        *({**start, **family} for family in families),
        common(DEGRADED, "30 % lost"),
        *({**stop, **family} for family in families),
    ]
    assert told.results == ["ok"] * 5


def test_members_of_bundles(directory: Path, tmp_path: Path) -> None:
    """A member of a bundle comes and goes like an interface of ifupdown's, once for each event; it is no uplink."""
    out = tmp_path / "out"
    script(directory / "tell", f"env | grep -E '^(MLBD_[^R]|MODE|PHASE|IFACE|LOGICAL|ADDR|METHOD)' | sort >>{out}")
    script(directory / "if-up.d" / "x", "echo up")
    script(directory / "if-down.d" / "x", "echo down; false")

    async def until(hooks: Hooks, told: Told) -> None:
        hooks.notify(MEMBER_DOWN, None, FACTS)
        hooks.notify(MEMBER_UP, None, None)
        await until_not(lambda: len(told.results) < 4)

    told = run(directory, until=until)
    common = ["IFACE=eth1", "LOGICAL=bond0", "METHOD=manual", "MLBD_BUNDLE=bond0"]
    assert out.read_text().splitlines() == [
        *("ADDRFAM=inet", *common, "MLBD_EVENT=member_down", "MLBD_UPLINK=", "MLBD_USABLE=eth2"),
        *("MODE=stop", "PHASE=pre-down"),
        *("ADDRFAM=inet", *common, "MLBD_EVENT=member_up", "MLBD_UPLINK=", "MLBD_USABLE=eth1 eth2"),
        *("MODE=start", "PHASE=post-up"),
    ]
    who = {"bundle": "bond0", "interface": "eth1"}
    assert told.records == [
        ("hook output", {"reason": "down", "hook": "if-down.d/x", **who}),
        ("a hook failed", {"reason": "it exited with status 1", "hook": "if-down.d/x", **who, "result": "failed"}),
        ("hook output", {"reason": "up", "hook": "if-up.d/x", **who}),
    ]


def test_a_family_that_is_gone_is_stopped(directory: Path) -> None:
    """`stop` comes for the families that `start` came for, also when addresses went with the carrier."""
    script(directory / "tell", 'echo "$MODE $ADDRFAM"')

    async def until(hooks: Hooks, told: Told) -> None:
        hooks.notify(UP, LTE, FACTS)
        hooks.notify(DOWN, LTE, replace(FACTS, addresses=("192.0.2.2/24",)))
        hooks.notify(UP, LTE, replace(FACTS, addresses=("192.0.2.2/24",)))
        hooks.notify(DOWN, LTE, None)
        hooks.notify(DOWN, LTE, None)
        await until_not(lambda: len(told.results) < 7)

    told = run(directory, until=until)
    up, down = ["start inet", "start inet6"], ["stop inet", "stop inet6"]
    assert told.said("tell") == [*up, *down, "start inet", "stop inet", "stop inet"]


@pytest.mark.parametrize(
    ("gateway", "gateway6", "expected"),
    [
        (GatewaySetting(source="auto"), GatewaySetting(source="auto"), {4: "dhcp", 6: "auto"}),
        (
            GatewaySetting(source="fixed", address="192.0.2.1"),
            GatewaySetting(source="fixed", address="fe80::1"),
            {4: "static", 6: "static"},
        ),
        (GatewaySetting(source="none"), GatewaySetting(source="none"), {4: "ppp", 6: "manual"}),
    ],
)
def test_methods(gateway: GatewaySetting, gateway6: GatewaySetting, expected: dict[int, str]) -> None:
    """METHOD is guessed from where the gateway comes from; without any address it is IPv4's."""
    uplink = replace(LTE, gateway=gateway, gateway6=gateway6)
    assert methods(uplink, FACTS) == expected
    assert methods(uplink, None) == {4: expected[4]}


def test_which_and_in_which_order(directory: Path) -> None:
    """Hooks run by name as in the C locale, then those of if-up.d or if-down.d; as by run-parts, some are passed by."""
    for name in ("b", "10-a", "9", "B", "if-up.d/postfix", "if-down.d/postfix"):
        script(directory / name, "echo ran")
    for name in ("a~", "#a#", ".hidden", "x.dpkg-old", "y.dpkg-dist", "z.bak", "w.disabled", "sp ace", "über"):
        script(directory / name, "echo ran")
    script(directory / "readme", "", mode=0o644)
    (directory / "dangling").symlink_to("nowhere")
    facts = replace(FACTS, addresses=("192.0.2.2/24",))
    for transition, more in ((UP, ["if-up.d/postfix"]), (DOWN, ["if-down.d/postfix"]), (DEGRADED, [])):
        told = run(directory, transition, facts=facts)
        ran = [fields["hook"] for event, fields in told.records]
        assert ran == ["10-a", "9", "B", "b", *more]


def test_no_hooks(directory: Path) -> None:
    """Without a directory, or with something else in its place, nothing is run and nothing is said."""
    (directory / "file").write_text("")
    for there in (directory / "missing", directory / "file", directory):
        told = run(there, UP)
        assert (told.records, told.results) == ([], [])


def test_slow_hooks(directory: Path) -> None:
    """When too much waits, an uplink's older news give way to the newest; up and down are not lost to other events."""
    script(directory / "tell", 'echo "$MLBD_UPLINK $MLBD_EVENT"')
    told = Told()

    async def story() -> None:
        hooks = Hooks(str(directory), told, told.results.append)
        other = replace(LTE, name="fiber")
        hooks.notify(replace(DOWN, uplink="fiber"), other, None)
        for _ in range(500):
            hooks.notify(DOWN, LTE, None)
            hooks.notify(DEGRADED, LTE, None)
            hooks.notify(UP, LTE, None)
        task = asyncio.create_task(hooks.run())
        await until_not(lambda: busy(hooks))
        task.cancel()
        await asyncio.wait({task})

    asyncio.run(story())
    said = told.said("tell")
    assert len(said) < 70
    assert said[0] == "fiber uplink_down"
    assert said[-2:] == ["lte uplink_degraded", "lte uplink_up"] or said[-1] == "lte uplink_up"
    assert "lte uplink_degraded" in said
    assert {event for event, _ in told.records} == {"hook output", "hooks are too slow, older events are left out"}
