"""What a configuration means."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlbd.config import ConfigError, load, parse
from mlbd.config.values import seconds_text
from mlbd.core.settings import Conntrack, Daemon, GatewaySetting, Policy, Probe, Settings, Target, Uplink

ROOT = Path(__file__).parents[2]

A = '[[uplink]]\nname = "a"\ninterface = "eth1"\n'
B = '[[uplink]]\nname = "b"\ninterface = "eth2"\nweight = 3\n'
C = '[[uplink]]\nname = "c"\ninterface = "eth3"\n'


def settings(text: str) -> Settings:
    return parse(text, "f").settings


def warnings(text: str) -> list[str]:
    return [str(warning) for warning in parse(text, "f").warnings]


def test_defaults() -> None:
    """What the schema calls a default is what the core has as one."""
    assert settings(A + B) == Settings(
        uplinks=(Uplink(name="a", interface="eth1"), Uplink(name="b", interface="eth2", weight=3)),
        policies=(Policy(name="balanced", tiers=(("a", "b"),), weights=(("a", 1), ("b", 3))),),
    )


def test_everything_set() -> None:
    """Every key of the file arrives in the settings, in the core's units."""
    text = """
        [[uplink]]
        name = "a"
        interface = "ppp0"
        gateway = "192.0.2.1"
        gateway6 = "FE80:0::1"
        weight = 256
        masquerade = false
        nat6 = "masquerade"
        prefix6 = "2001:DB8:1::/48"
        id = 100
        carrier_delay = "1m30s"
        [[policy]]
        name = "p"
        method = "hash-source"
        members = ["a"]
        last_resort = "main"
        [probe]
        targets = ["gateway", "2001:DB8::1", "192.0.2.7"]
        quorum = 3
        interval = "2s"
        timeout = "0.25s"
        suspect_interval = "10ms"
        fall = 1
        rise = 1000
        hold = "10s"
        hold_max = "1d"
        window = "4s"
        [conntrack]
        tcp = "keep"
        tcp_reset_after = "0s"
        on_recover = "flush"
        helpers = ["ftp", "RAS"]
        [daemon]
        metrics = "[::1]:80"
        control = "/tmp/s"
        on_exit = "release"
        miimon = "0s"
        grace = "1h"
        fwmark_mask = "0xFF00"
        table_base = 256
        rule_priority = 22000
        protocol = 5
    """
    assert settings(text) == Settings(
        uplinks=(
            Uplink(
                name="a",
                interface="ppp0",
                gateway=GatewaySetting(source="fixed", address="192.0.2.1"),
                gateway6=GatewaySetting(source="fixed", address="fe80::1"),
                weight=256,
                masquerade=False,
                nat6="masquerade",
                prefix6="2001:db8:1::/48",
                id=100,
                carrier_delay=90.0,
                probe=Probe(
                    targets=(
                        Target("gateway"),
                        Target("2001:db8::1", "2001:db8::1", 6),
                        Target("192.0.2.7", "192.0.2.7", 4),
                    ),
                    quorum=3,
                    interval=2.0,
                    timeout=0.25,
                    suspect_interval=0.01,
                    fall=1,
                    rise=1000,
                    hold=10.0,
                    hold_max=86400.0,
                    window=4.0,
                ),
            ),
        ),
        policies=(Policy(name="p", method="hash-source", tiers=(("a",),), weights=(("a", 256),), last_resort="main"),),
        conntrack=Conntrack(tcp="keep", tcp_reset_after=0.0, on_recover="flush", helpers=("ftp", "RAS")),
        daemon=Daemon(
            metrics=("::1", 80),
            control="/tmp/s",
            on_exit="release",
            miimon=0.0,
            grace=3600.0,
            fwmark_mask=0xFF00,
            table_base=256,
            rule_priority=22000,
            protocol=5,
        ),
    )


def test_probe_of_an_uplink() -> None:
    """[uplink.probe] overrides [probe] key by key, wherever in the file [probe] stands."""
    text = A + '[uplink.probe]\nfall = 2\nhold = "1s"\n' + B + '[probe]\nfall = 7\nrise = 8\ntargets = ["192.0.2.1"]\n'
    target = (Target("192.0.2.1", "192.0.2.1", 4),)
    assert [uplink.probe for uplink in settings(text).uplinks] == [
        Probe(targets=target, fall=2, rise=8, hold=1.0),
        Probe(targets=target, fall=7, rise=8),
    ]


def test_probe_that_only_its_overrides_make_right() -> None:
    """What stands in [probe] need not fit together by itself, only with each uplink's own keys."""
    text = A + '[uplink.probe]\ntargets = ["gateway", "192.0.2.1"]\n[probe]\nquorum = 2\n'
    assert settings(text).uplinks[0].probe.quorum == 2
    with pytest.raises(ConfigError):
        settings(B + text)


TIERS = {
    ("random", '["c", "a"]'): (("c", "a"),),
    ("round-robin", '["c", "a"]'): (("c", "a"),),
    ("hash-source", '[["c"], ["b", "a"]]'): (("c",), ("b", "a")),
    ("multipath", '["c", "a"]'): (("c", "a"),),
    ("failover", '["c", "a"]'): (("c",), ("a",)),
    ("failover", '[["c", "b"], ["a"]]'): (("c", "b"), ("a",)),
}


@pytest.mark.parametrize(("method", "members"), TIERS)
def test_tiers(method: str, members: str) -> None:
    """A flat list is one tier, in a failover policy a tier for each member; nested lists are tiers for all."""
    text = f'{A}{B}{C}[[policy]]\nname = "p"\nmethod = "{method}"\nmembers = {members}\n'
    assert settings(text).policies[0].tiers == TIERS[method, members]


def test_weights() -> None:
    """A policy's own weights come before its members' defaults; the result is in member order."""
    policy = '[[policy]]\nname = "p"\nmembers = ["c", "b", "a"]\n'
    first = settings(A + B + C + policy + "weights = { a = 5, c = 7 }\n")
    assert first.policies[0].weights == (("c", 7), ("b", 3), ("a", 5))
    assert first == settings(A + B + C + policy + "[policy.weights]\nc = 7\na = 5\nb = 3\n")


MASKS = {"0xff000000": 0xFF000000, "255": 0xFF, '"0x1FE"': 0x1FE, '"0X000000ff"': 0xFF, "0x7f8000": 0x7F8000}


@pytest.mark.parametrize("written", MASKS)
def test_masks(written: str) -> None:
    """Any eight bits in a row, as a number or as hexadecimal text."""
    assert settings(f"{A}[daemon]\nfwmark_mask = {written}\n").daemon.fwmark_mask == MASKS[written]


DURATIONS = {
    "0s": 0.0, "10ms": 0.01, "1.5s": 1.5, "2.3s": 2.3, "1m30s": 90.0, "2h": 7200.0, "1d1h1m1s1ms": 90061.001,
    "365d": 31536000.0,
}  # fmt: skip


@pytest.mark.parametrize("written", DURATIONS)
def test_durations(written: str) -> None:
    """A number and a unit, or several from the largest unit to the smallest, are seconds."""
    assert settings(f'{A}carrier_delay = "{written}"\n').uplinks[0].carrier_delay == DURATIONS[written]


def test_durations_as_text() -> None:
    """Seconds are told as they could be written."""
    assert [seconds_text(seconds) for seconds in (0, 0.25, 1, 90, 90061.001)] == [
        "0s", "250ms", "1s", "1m30s", "1d1h1m1s1ms"
    ]  # fmt: skip


def test_metrics_off() -> None:
    """No metrics are an absence, not an address."""
    assert settings(A + '[daemon]\nmetrics = "off"\n').daemon.metrics is None


def test_own_connections() -> None:
    """Marks can choose for the router's own connections where every uplink masquerades."""
    assert settings(A + B + '[daemon]\nown_connections = "mark"\n').daemon.own_connections == "mark"


@pytest.mark.parametrize("name", ["eth0", "enp3s0f1np1", "ppp-a.b@c=1", "wlan$x", "ü" * 7, "123456789012345"])
def test_interface_names(name: str) -> None:
    """Whatever Linux and nftables take is taken."""
    assert settings(f'[[uplink]]\nname = "a"\ninterface = "{name}"\n').uplinks[0].interface == name


WARNINGS = {
    "nothing to warn of": (A + B, []),
    "an uplink in no policy": (
        A + B + '[[policy]]\nname = "p"\nmembers = ["a"]\n',
        ['f:4: uplink[1]: "b" is in no policy: it will only carry replies to what comes in by it'],
    ),
    "an uplink that only a rule uses": (
        A + B + '[[policy]]\nname = "p"\nmembers = ["a"]\n[[rule]]\nname = "r"\nfrom = "192.0.2.1"\nuse = "b"\n',
        [],
    ),
    "weights of a failover": (
        A + B + '[[policy]]\nname = "p"\nmethod = "failover"\nmembers = ["a", "b"]\nweights = { a = 2 }\n',
        ["f:12: policy[0].weights: these weights have no effect: every tier has one member"],
    ),
    "weights of a failover with a shared tier": (
        A + B + C + '[[policy]]\nname = "p"\nmethod = "failover"\nmembers = [["a", "b"], ["c"]]\nweights = { a = 2 }\n',
        [],
    ),
    "a gateway that is only the far end": (
        A + 'gateway = "none"\n' + B + 'gateway = "none"\n[uplink.probe]\ntargets = ["192.0.2.1"]\n',
        [
            'f:4: uplink[0].gateway: with gateway = "none", the target "gateway" is the far end of the link, which may '
            "not answer; an address behind it is safer"
        ],
    ),
    "ARP without a gateway": (
        A + 'gateway = "none"\n[uplink.probe]\ntargets = ["arp:192.0.2.1"]\n',
        [
            'f:4: uplink[0].gateway: with gateway = "none" nobody answers ARP, unless the interface is an Ethernet; '
            "name targets that need none"
        ],
    ),
}


@pytest.mark.parametrize("case", WARNINGS)
def test_warnings(case: str) -> None:
    """What is allowed but probably not meant is said, and nothing else is."""
    text, expected = WARNINGS[case]
    assert warnings(text) == expected


FILES = sorted((ROOT / "etc").rglob("*.toml"))


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def test_files_that_come_with_mlbd(path: Path) -> None:
    """Every configuration under etc/ is right, and nothing is to be warned of."""
    assert load(path).warnings == ()


def test_smallest_example() -> None:
    """Two uplinks are a working configuration."""
    assert settings((ROOT / "etc/examples/two-uplinks.toml").read_text()) == Settings(
        uplinks=(Uplink(name="fiber", interface="eth1", weight=3), Uplink(name="cable", interface="eth2")),
        policies=(Policy(name="balanced", tiers=(("fiber", "cable"),), weights=(("fiber", 3), ("cable", 1))),),
    )
