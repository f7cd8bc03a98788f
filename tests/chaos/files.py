"""The configurations that a walk moves between: plain values, which the model reads, and TOML, which mlbd reads."""

from __future__ import annotations

import json
from dataclasses import dataclass

_PROBE = {
    "interval": "100ms",
    "suspect_interval": "50ms",
    "timeout": "200ms",
    "fall": 10,  # 30 % of loss is no outage
    "rise": 2,
    "hold": "0s",
    "hold_max": "0s",
}


def name_of(number: int) -> str:
    """Of an uplink, and of its interface."""
    return f"wan{number}"


@dataclass(frozen=True, slots=True)
class Policy:
    name: str
    tiers: tuple[tuple[int, ...], ...]
    """Numbers of uplinks."""
    method: str = "random"
    resort: str = "best"
    weights: tuple[tuple[int, int], ...] = ()

    @property
    def members(self) -> list[int]:
        return [number for tier in self.tiers for number in tier]


@dataclass(frozen=True, slots=True)
class Rule:
    """Conditions that are None always hold."""

    name: str
    use: str
    """A policy, an uplink or `main`."""
    port: int | None = None
    place: str | None = None
    """`lan1`, `lan2` or `router`."""
    sticky: bool = False

    def holds(self, place: str, port: int) -> bool:
        return self.place in (None, place) and self.port in (None, port)


@dataclass(frozen=True, slots=True)
class File:
    name: str
    uplinks: tuple[int, ...]
    policies: tuple[Policy, ...]
    """A file without any has the policy `balanced`; so has this value, and the TOML has not."""
    rules: tuple[Rule, ...] = ()
    targets: tuple[str, ...] = ("gateway",)
    quorum: int = 1
    own: str = "route"
    recover: str = "keep"
    tcp: str = "reset"

    def toml(self) -> str:
        uplinks: list[dict[str, object]] = [
            {"name": name_of(n), "interface": name_of(n), "nat6": "masquerade", "gateway": "auto"} for n in self.uplinks
        ]
        policies: list[dict[str, object]] = [
            {
                "name": p.name,
                "method": p.method,
                "members": [[name_of(n) for n in tier] for tier in p.tiers],
                "last_resort": p.resort,
                **({"weights": {name_of(n): weight for n, weight in p.weights}} if p.weights else {}),
            }
            for p in self.policies
            if p.name != "balanced"
        ]
        rules: list[dict[str, object]] = [
            {
                "name": r.name,
                "use": r.use,
                **({"ports": r.port} if r.port is not None else {}),
                **({"interface": "lo" if r.place == "router" else r.place} if r.place is not None else {}),
                **({"sticky": "10m"} if r.sticky else {}),
            }
            for r in self.rules
        ]
        tables: list[tuple[str, dict[str, object]]] = [
            *(("[[uplink]]", u) for u in uplinks),
            *(("[[policy]]", p) for p in policies),
            *(("[[rule]]", r) for r in rules),
            ("[probe]", {**_PROBE, "targets": list(self.targets), "quorum": self.quorum}),
            ("[probe.degrade]", {"loss": []}),
            ("[conntrack]", {"tcp": self.tcp, "tcp_reset_after": "200ms", "on_recover": self.recover}),
            ("[daemon]", {"grace": "2s", "own_connections": self.own}),
        ]
        return "\n".join(
            f"{head}\n" + "".join(f"{key} = {_value(value)}\n" for key, value in table.items())
            for head, table in tables
        )


def _value(value: object) -> str:
    """As TOML has it: like JSON, but for tables."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_value(item)}" for key, item in value.items()) + " }"
    return json.dumps(value)


_SERVERS = ("203.0.113.201", "203.0.113.202")

FILES = {
    file.name: file
    for file in (
        File("plain", (1, 2, 3), (Policy("balanced", ((1, 2, 3),)),)),
        File(
            "tiers",
            (1, 2, 3),
            (
                Policy("wired", ((1, 2), (3,)), resort="unreachable"),
                Policy("backup", ((3,), (1,)), "failover", resort="main"),
                Policy("second", ((2,),), resort="blackhole"),
            ),
            (
                Rule("third", "wan3", port=7777),
                Rule("second", "second", port=81),
                Rule("guests", "backup", place="lan2"),
                Rule("spare", "backup", port=7777),
            ),
            targets=("gateway", _SERVERS[0]),
            quorum=2,
        ),
        File(
            "methods",
            (3, 2, 1),
            (
                Policy("sources", ((3, 2, 1),), "hash-source"),
                Policy("hops", ((1, 2), (3,)), "multipath", "unreachable", ((1, 2), (2, 1))),
                Policy("turns", ((2, 3),), "round-robin", "main"),
            ),
            (Rule("hops", "hops", port=81), Rule("turns", "turns", port=80), Rule("guests", "main", place="lan2")),
            targets=(f"tcp://{_SERVERS[0]}:7", _SERVERS[1]),
        ),
        File(
            "without-2",
            (1, 3),
            (
                Policy("two", ((1, 3),), resort="blackhole", weights=((1, 2), (3, 1))),
                Policy("hops", ((3, 1),), "multipath", "best"),
                Policy("third", ((3,),), resort="unreachable"),
            ),
            (
                Rule("own", "third", port=80, place="router"),
                Rule("third", "third", port=81),
                Rule("hops", "hops", 7777),
            ),
            targets=("arp:gateway", _SERVERS[0]),
            quorum=1,
        ),
        File(
            "marks",
            (2, 3, 1),
            (
                Policy("pair", ((1, 2), (3,)), resort="best"),
                Policy("all", ((1, 2, 3),), "round-robin", "unreachable"),
            ),
            (
                Rule("first", "wan1", port=81, place="lan1"),
                Rule("sticky", "all", port=7777, sticky=True),
                Rule("own", "wan2", port=80, place="router"),
            ),
            targets=("2001:db8:f::c9", _SERVERS[0]),
            own="mark",
            recover="flush",
            tcp="keep",
        ),
        File(
            "without-1",
            (3, 2),
            (Policy("turns", ((2, 3),), "round-robin", "best"),),
            (Rule("second", "wan2", port=80), Rule("guests", "wan3", place="lan2")),
        ),
        File(
            "left-to-main",
            (1, 2, 3),
            (Policy("pair", ((2, 3),), resort="main"), Policy("rest", ((1,),), resort="best")),
            (Rule("rest", "rest", port=80), Rule("third", "wan3", port=81)),
            targets=(_SERVERS[0],),
        ),
    )
}

PORTS = (7, 80, 81, 7777)
"""What new connections are tried on, whatever the file."""

WRONG = {
    "unknown key": '[[uplink]]\nname = "wan1"\ninterface = "wan1"\nwieght = 1\n',
    "no TOML": "[[uplink\n",
    "unknown member": '[[uplink]]\nname = "wan1"\ninterface = "wan1"\n[[policy]]\nname = "p"\nmembers = ["wan9"]\n',
    "other table": '[[uplink]]\nname = "wan3"\ninterface = "wan3"\n[daemon]\ntable_base = 30000\n',
    "nothing": "",
}
"""Files of which a daemon wants to know nothing."""
