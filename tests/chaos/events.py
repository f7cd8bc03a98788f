"""What can happen: when it can, what is done to the lab, and what that makes of the truth."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from mlbd.lab.daemon import Daemon
from mlbd.lab.namespaces import LabError
from mlbd.lab.network import Network
from tests.chaos.files import FILES, WRONG
from tests.chaos.truth import GATEWAY, NEIGHBOURS, UPSTREAM, Line, Truth
from tests.lab.scene import forget_connections

Hurts = Literal["nobody", "line", "talking", "all"]
"""Whose connections may break: of no uplink, of this one, of those that send meanwhile, all."""

OFFICE = """
table inet office {
  counter strange { }
  chain pre {
    type filter hook prerouting priority raw; policy accept;
    iifname "lan1" meta mark set meta mark | 0x00000042
  }
  chain post {
    type filter hook postrouting priority 200; policy accept;
    oifname "wan*" iifname "lan1" meta mark & 0x00ffffff != 0x00000042 counter name strange
  }
}
"""
"""Of another program: marks beside mlbd's, and counts where they got lost."""


@dataclass
class Lab:
    """What events are done to."""

    net: Network
    daemon: Daemon
    truth: Truth

    def ip(self, *lines: str) -> None:
        self.net.run("router", ["ip", "-batch", "-"], text="".join(f"{line}\n" for line in lines))

    def shell(self, *lines: str) -> None:
        """Commands that may fail, one by one: what they are to spoil need not be there."""
        self.net.run("router", ["sh", "-c", "\n".join(f"{line} 2>/dev/null" for line in lines) + "\ntrue"])


@dataclass(frozen=True)
class Event:
    name: str
    weight: float
    """How often, relative to the others; of those for each line, all lines together."""
    possible: Callable[[Truth, Line], bool]
    do: Callable[[Lab, Line], None]
    changes: Callable[[Truth, Line], None] = lambda truth, line: None
    hurts: Hurts = "line"
    spoils: bool = False
    """While it is not repaired, packets may have wrong sources."""
    each: bool = True
    """It happens to one of the uplinks."""


def _lose(loss: float, lab: Lab, line: Line) -> None:
    lab.net.lose(line.number, loss)


def _set(**values: object) -> Callable[[Truth, Line], None]:
    def change(truth: Truth, line: Line) -> None:
        for name, value in values.items():
            setattr(line, name, value)

    return change


# The line.


def _gone(truth: Truth, line: Line) -> None:
    line.exists = False
    _no_detour(truth, line)


def _no_detour(truth: Truth, line: Line) -> None:
    if truth.detour == line.number:
        truth.detour = None


def _back(truth: Truth, line: Line) -> None:
    line.exists = line.up = line.plugged = True
    line.leases = {4: True, 6: True}


def _ifdown(truth: Truth, line: Line) -> None:
    line.up = False
    _no_detour(truth, line)


def _ifup(lab: Lab, line: Line) -> None:
    """As ifup(8) does: what the kernel dropped when it went down comes again."""
    uplink = lab.net.uplink(line.number)
    lab.ip(f"link set {line.name} up", *_addresses(lab, line, *[f for f, leased in line.leases.items() if leased]))
    lab.net.run("router", ["ip", "link", "show", "dev", uplink.interface])


def _addresses(lab: Lab, line: Line, *families: int) -> list[str]:
    uplink = lab.net.uplink(line.number)
    found = {4: f"{uplink.address}/{uplink.length}", 6: f"{uplink.address6}/64 nodad"}
    return [
        *(f"address replace {found[family].replace(' ', f' dev {line.name} ', 1)}" if family == 6 else
          f"address replace {found[family]} dev {line.name}" for family in families),
        *(f"route replace {uplink.default_routes()[(4, 6).index(family)]}" for family in families),
    ]  # fmt: skip


def _lease(family: int, lab: Lab, line: Line) -> None:
    lab.ip(*_addresses(lab, line, family))


def _no_lease(family: int, lab: Lab, line: Line) -> None:
    """As a DHCP client whose lease has run out."""
    uplink = lab.net.uplink(line.number)
    route = uplink.default_routes()[(4, 6).index(family)]
    address = f"{uplink.address}/{uplink.length}" if family == 4 else f"{uplink.address6}/64"
    lab.ip(f"route del {route}", f"address del {address} dev {line.name}")


def _set_lease(family: int, there: bool, truth: Truth, line: Line) -> None:
    line.leases[family] = there


def _may_end(family: int, truth: Truth, line: Line) -> bool:
    return line.exists and line.up and line.leases[family] and truth.detour != line.number


def _leave(truth: Truth, line: Line) -> bool:
    """What changes addresses asks for an intact link, and no route of others that depends on them."""
    return line.intact and truth.detour != line.number


_LINES = [
    Event(
        "unplug", 6, lambda t, x: x.exists and x.plugged, lambda lab, x: lab.net.unplug(x.number), _set(plugged=False)
    ),
    Event(
        "plug", 16, lambda t, x: x.exists and not x.plugged and x.up and x.leases[6],
        lambda lab, x: lab.net.plug(x.number), _set(plugged=True),
    ),
    Event("silence", 5, lambda t, x: not x.silent, lambda lab, x: lab.net.silence(x.number), _set(silent=UPSTREAM)),
    Event(
        "silence-gateway", 5, lambda t, x: not x.silent,
        lambda lab, x: lab.net.silence(x.number, gateway=True), _set(silent=GATEWAY),
    ),
    Event(
        "silence-arp", 4, lambda t, x: not x.silent,
        lambda lab, x: lab.net.silence(x.number, neighbours=True), _set(silent=NEIGHBOURS),
    ),
    Event("speak", 34, lambda t, x: bool(x.silent), lambda lab, x: lab.net.speak(x.number), _set(silent=0)),
    Event("no-pings", 3, lambda t, x: x.pings, lambda lab, x: lab.net.drop_icmp(x.number), _set(pings=False)),
    Event(
        "pings", 9, lambda t, x: not x.pings, lambda lab, x: lab.net.drop_icmp(x.number, drop=False), _set(pings=True)
    ),
    Event("loss", 3, lambda t, x: not x.loss, partial(_lose, 0.3), _set(loss=0.3)),
    Event("no-loss", 14, lambda t, x: bool(x.loss), partial(_lose, 0.0), _set(loss=0.0)),
    Event("renumber", 4, _leave, lambda lab, x: _ignored(lab.net.renumber(x.number))),
    Event("move-gateway", 4, _leave, lambda lab, x: _ignored(lab.net.move_gateway(x.number))),
    Event("remove", 4, lambda t, x: x.exists, lambda lab, x: lab.net.remove(x.number), _gone),
    Event("restore", 20, lambda t, x: not x.exists, lambda lab, x: lab.net.restore(x.number), _back),
    Event(
        "ifdown", 3, lambda t, x: x.exists and x.up, lambda lab, x: lab.ip(f"link set {x.name} down"), _ifdown
    ),
    Event("ifup", 12, lambda t, x: x.exists and not x.up, _ifup, _set(up=True)),
    *(
        Event(f"{name}{family}", weight, possible, partial(do, family), partial(_set_lease, family, there))
        for family in (4, 6)
        for name, weight, possible, do, there in (
            ("no-lease", 2, partial(_may_end, family), _no_lease, False),
            ("lease", 9, partial(lambda f, t, x: x.exists and x.up and not x.leases[f], family), _lease, True),
        )
    ),
]  # fmt: skip


def _ignored(_: object) -> None:
    pass


# The daemon.


def _start(lab: Lab, line: Line) -> None:
    lab.daemon.start()


def _frozen(lab: Lab, line: Line) -> None:
    os.kill(lab.daemon.pid, signal.SIGSTOP)
    time.sleep(1.0)
    os.kill(lab.daemon.pid, signal.SIGCONT)


def _load(name: str, lab: Lab, line: Line) -> None:
    lab.daemon.configure(FILES[name].toml())
    if lab.truth.running:
        lab.daemon.command("reload")


def _load_wrong(name: str, lab: Lab, line: Line) -> None:
    lab.daemon.configure(WRONG[name])
    with contextlib.suppress(LabError):
        lab.daemon.command("reload")
        raise AssertionError(f"The daemon took a file with {name}.")
    lab.daemon.configure(lab.truth.file.toml())


def _stopped(truth: Truth, line: Line) -> None:
    truth.stopped()


_DAEMON = [
    Event("kill", 4, lambda t, x: t.running, lambda lab, x: lab.daemon.kill(), _stopped, "nobody", each=False),
    Event(
        "stop", 3, lambda t, x: t.running, lambda lab, x: _ignored(lab.daemon.stop()), _stopped, "nobody", each=False
    ),
    Event("start", 30, lambda t, x: not t.running, _start, lambda t, x: t.started(), "nobody", each=False),
    Event("freeze", 3, lambda t, x: t.running, _frozen, hurts="nobody", each=False),
    Event("hangup", 2, lambda t, x: t.running, lambda lab, x: lab.daemon.reload(), hurts="nobody", each=False),
    Event(
        "drain", 5, lambda t, x: t.running and x in t.configured and not x.drained,
        lambda lab, x: _ignored(lab.daemon.command("drain", uplink=x.name)), _set(drained=True), "nobody",
    ),
    Event(
        "resume", 8, lambda t, x: t.running and x.drained,
        lambda lab, x: _ignored(lab.daemon.command("resume", uplink=x.name)), _set(drained=False), "nobody",
    ),
    *(
        Event(
            f"load-{name}", 2, partial(lambda wanted, t, x: t.file.name != wanted, name), partial(_load, name),
            partial(lambda wanted, t, x: t.loaded(FILES[wanted]), name), "nobody", each=False,
        )
        for name in FILES
    ),
    *(
        Event(
            f"load-wrong-{name.replace(' ', '-')}", 0.6, lambda t, x: t.running, partial(_load_wrong, name),
            hurts="nobody", each=False,
        )
        for name in WRONG
    ),
]  # fmt: skip


# Other programs.


def _nft(command: str) -> Callable[[Lab, Line], None]:
    return lambda lab, line: lab.shell(command)


def _flush_ruleset(lab: Lab, line: Line) -> None:
    """As a firewall that is started again."""
    lab.net.run("router", ["nft", "-f", "-"], text=f"flush ruleset\n{OFFICE}")


def _torn(truth: Truth, line: Line) -> None:
    truth.lost_table()


def _flush_map(lab: Lab, line: Line) -> None:
    first = lab.truth.file.policies[0].name
    lab.shell(*(f"nft flush map inet mlbd pick{family}_{first}" for family in (4, 6)))


def _delete_rules(lab: Lab, line: Line) -> None:
    for family in (4, 6):
        rules = json.loads(lab.net.run("router", ["ip", "-j", f"-{family}", "rule"]))
        ours = [r for r in rules if r.get("protocol") == "109" and "table" in r]
        lab.shell(*(f"ip -{family} rule del pref {r['priority']} lookup {r['table']}" for r in ours))


def _flush_tables(lab: Lab, line: Line) -> None:
    tables = [20000 + (line.id or 1), 20128 + (line.id or 1), 20127, 20126]
    lab.shell(*(f"ip -{family} route flush table {table}" for family in (4, 6) for table in tables))


def _extra_rule(lab: Lab, line: Line) -> None:
    lab.shell(f"ip rule add pref 12500 lookup {20000 + (line.id or 1)} proto 109")


def _hijack(lab: Lab, line: Line) -> None:
    """Another uplink's table leads here."""
    via = f"via {lab.net.uplink(line.number).gateway} dev {line.name}"
    others = [other.id for other in lab.truth.configured if other.id not in (None, line.id)]
    lab.shell(
        *(f"ip route replace default {via} table {20000 + other} metric 1 proto 109" for other in others if other)
    )


def _sysctls(lab: Lab, line: Line) -> None:
    """With a route that comes and goes: mlbd is not told of sysctls, and finds them when it looks."""
    names = ("src_valid_mark", "ignore_routes_with_linkdown", "arp_filter", "promote_secondaries")
    lab.net.sysctls("router", {f"ipv4/conf/{line.name}/{name}": 0 for name in names})
    for action in ("add", "del"):
        lab.ip(f"route {action} 198.18.7.0/24 dev lan1")


def _detour(action: str, lab: Lab, line: Line) -> None:
    uplink = lab.net.uplink(line.number)
    lab.ip(*(f"route {action} default via {via} dev {line.name} metric 5" for via in (uplink.gateway, uplink.gateway6)))


def _set_detour(truth: Truth, line: Line) -> None:
    truth.detour = line.number


def _always(truth: Truth, line: Line) -> bool:
    return True


def _spoils(
    name: str,
    do: Callable[[Lab, Line], None],
    changes: Callable[[Truth, Line], None] = lambda truth, line: None,
    *,
    possible: Callable[[Truth, Line], bool] = _always,
    each: bool = False,
) -> Event:
    return Event(name, 1.2, possible, do, changes, "talking", spoils=True, each=each)  # fmt: skip


_OTHERS = [
    _spoils("flush-ruleset", _flush_ruleset, _torn),
    _spoils("delete-table", _nft("nft delete table inet mlbd"), _torn),
    _spoils("flush-chain", _nft("nft flush chain inet mlbd prerouting; nft flush chain inet mlbd srcnat")),
    _spoils("flush-map", _flush_map),
    _spoils("insert-rule", _nft("nft insert rule inet mlbd choose meta mark set 0x02000000 return")),
    _spoils("bury", _nft("nft add element inet mlbd dead '{ 0x01000000, 0x02000000, 0x03000000 }'")),
    _spoils("delete-rules", _delete_rules),
    _spoils("flush-tables", _flush_tables, each=True),
    _spoils("hijack", _hijack, possible=lambda t, x: x.intact and x.id is not None, each=True),
    _spoils("extra-rule", _extra_rule, each=True),
    Event("sysctls", 1.5, lambda t, x: x.exists and x.up, _sysctls, hurts="nobody"),
    Event(
        "detour", 2, lambda t, x: t.detour is None and x.intact, partial(_detour, "add"), _set_detour, "nobody"
    ),
    Event("no-detour", 3, lambda t, x: t.detour == x.number, partial(_detour, "del"), _no_detour, "nobody"),
    Event("forget", 2, _always, lambda lab, x: forget_connections(lab.net), hurts="all", each=False),
]  # fmt: skip

EVENTS = {event.name: event for event in (*_LINES, *_DAEMON, *_OTHERS)}
