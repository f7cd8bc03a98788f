"""A network that can be broken: clients, the router, its providers, an internet. The plan is in `layout`.

    with Network(uplinks=3) as net:
        net.run("router", ["ip", "route"])
        net.silence(1)
        with net.inside("lan1"):
            sock = socket.socket()

It lives in the sandbox (`mlbd.lab.sandbox`) of the process that builds it, and under names of its own, so that several
stand side by side. Every method may be called from one thread at a time.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mlbd.lab import echo, layout, sandbox
from mlbd.lab.layout import Faults, Uplink
from mlbd.lab.namespaces import LabError, entered, has_ipv6, ip_each, ip_here, path_of, set_down, set_sysctls
from mlbd.lab.nft import Nft

_numbers = itertools.count(1)

_EVERYWHERE = {
    "ipv6/conf/all/accept_dad": 0,
    "ipv6/conf/default/accept_dad": 0,
    "ipv4/icmp_ratelimit": 0,  # ICMP errors have a budget for the whole host, and tests would run out of it
    "ipv4/icmp_ratemask": 0,
    "ipv6/icmp/ratelimit": 0,
    "ipv4/ping_group_range": "0 0",
    "ipv6/ip_nonlocal_bind": 1,  # the many addresses of servers and clients are routes, not addresses
}
_FORWARDS = {"ipv4/ip_forward": 1, "ipv6/conf/all/forwarding": 1}
_FIVE_TUPLE = {  # policy 1 takes the hash of the sender's socket, which a veth hands over: not what a cable does
    f"{family}/fib_multipath_hash_{key}": value
    for family in ("ipv4", "ipv6")
    for key, value in (("policy", 3), ("fields", 0x37))
}


class Network:
    """Where is one of `router`, `internet`, `lan1`.., `isp1`..; uplinks are given by number, from 1."""

    def __init__(
        self,
        uplinks: int = 2,
        lans: int = 1,
        *,
        interfaces: Sequence[str] = (),
        default_routes: bool = True,
        rp_filter: int = 2,
        prompt_carrier: bool = False,
    ) -> None:
        """Build it. Raises LabError.

        `interfaces`: the uplinks' names, else wan1, wan2, ..
        `default_routes`: whether the router's `main` has one by each provider, with metric 100 + number.
        `rp_filter`: of all the router's interfaces; 2 is what systemd sets.
        `prompt_carrier`: the kernel tells of carrier at once, else as late as for a network card (`layout.wan_link`).
        """
        if not sandbox.inside():
            raise LabError("A lab network is only built inside `python -m mlbd.lab.sandbox COMMAND...`.")
        names = list(interfaces) or [f"wan{n}" for n in range(1, uplinks + 1)]
        if not 1 <= uplinks == len(names) <= layout.MOST_UPLINKS:
            raise LabError(f"{uplinks} uplinks with {len(names)} interfaces: they must be as many, and 1 to 100.")
        self.lans = lans
        self._prefix = f"lab{os.getpid()}x{next(_numbers)}"
        self._uplinks = {n: Uplink(n, name) for n, name in enumerate(names, 1)}
        self._faults = dict.fromkeys(self._uplinks, Faults())
        self._default_routes, self._prompt_carrier = default_routes, prompt_carrier
        self._stack = contextlib.ExitStack()
        self._nft: dict[int, Nft] = {}
        self.directory = Path(tempfile.mkdtemp(prefix=f"{self._prefix}-", dir="/run"))
        """For what belongs to this network, sockets and configurations; goes with it."""
        self._stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
        try:
            self._build(rp_filter)
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End what was spawned, and remove everything."""
        self._stack.close()

    def _build(self, rp_filter: int) -> None:
        uplinks = self.uplinks
        self._stack.callback(self._remove_namespaces)
        ip_here([f"netns add {self.namespace(where)}" for where in self.places])
        for where in self.places:
            with self.inside(where):
                set_sysctls(_EVERYWHERE)
                if where == "router":
                    set_sysctls(_FORWARDS | _FIVE_TUPLE)
                    set_sysctls({f"ipv4/conf/{name}/rp_filter": rp_filter for name in ("all", "default")})
                elif where.startswith("isp"):
                    set_sysctls(_FORWARDS)
        # After the sysctls: an interface takes the defaults of the moment it is made.
        ip_here(layout.links(self._prefix, uplinks, self.lans, prompt_carrier=self._prompt_carrier))
        for uplink in uplinks:
            nft = self._stack.enter_context(Nft(self.namespace(f"isp{uplink.number}")))
            nft.run(layout.provider_rules(uplink))
            self._nft[uplink.number] = nft
        # The router comes last: a device whose peer is already up has carrier at once, without an event to wait for.
        others = {self.namespace("internet"): layout.internet(uplinks)}
        others |= {self.namespace(f"lan{k}"): layout.client(k) for k in range(1, self.lans + 1)}
        others |= {self.namespace(f"isp{u.number}"): layout.provider(u) for u in uplinks}
        ip_each(others)
        ip_each({self.namespace("router"): layout.router(uplinks, self.lans, default_routes=self._default_routes)})
        ip_each({name: ["link show"] for name in others})  # reading a link's state ends the wait for its carrier event
        self._wait_for_ipv6(*uplinks)
        with self.inside("internet"):
            server = echo.start()
        self._stack.callback(_end, server)

    def _wait_for_ipv6(self, *uplinks: Uplink) -> None:
        places = {"router": [u.address6 for u in uplinks]} | {f"isp{u.number}": [u.gateway6] for u in uplinks}
        for where, addresses in places.items():
            with self.inside(where):
                wait_until(partial(has_ipv6, addresses), what=f"that {', '.join(addresses)} receives")

    def _remove_namespaces(self) -> None:
        ip_here(
            [f"netns del {self._prefix}-{where}" for where in self.places if path_of(self.namespace(where)).exists()]
        )

    # What there is

    @property
    def uplinks(self) -> list[Uplink]:
        return list(self._uplinks.values())

    def uplink(self, i: int) -> Uplink:
        """Names and addresses as they are now."""
        return self._uplinks[i]

    @property
    def places(self) -> list[str]:
        lans = [f"lan{k}" for k in range(1, self.lans + 1)]
        return ["router", "internet", *lans, *(f"isp{n}" for n in self._uplinks)]

    def namespace(self, where: str) -> str:
        """The name under which ip(8) knows the place."""
        return f"{self._prefix}-{where}"

    # Working in it

    def inside(self, where: str) -> AbstractContextManager[None]:
        """What this thread opens or starts in the block belongs to the place; see `namespaces.entered`."""
        return entered(self.namespace(where))

    def run(self, where: str, command: Sequence[str], *, text: str | None = None) -> str:
        """Run a program to its end; `text` is its input. Returns what it printed. Raises LabError if it fails."""
        with self.inside(where):
            done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise LabError(
                f"{' '.join(command)} in {where}: {done.returncode}: {done.stderr.strip() or done.stdout.strip()}"
            )
        return done.stdout

    def spawn(self, where: str, command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        """Start a program, options as of `subprocess.Popen`. It is killed with the network if it still runs."""
        with self.inside(where):
            process = subprocess.Popen(command, **options)
        self._stack.callback(_end, process)
        return process

    def sysctls(self, where: str, values: Mapping[str, object]) -> None:
        """Set, by names below /proc/sys/net: `{"ipv4/conf/wan1/rp_filter": 1}`."""
        with self.inside(where):
            set_sysctls(values)

    def ping(self, where: str, address: str, *, timeout: float = 1.0) -> bool:
        """Whether one echo request is answered in time, seconds."""
        with self.inside(where):
            command = ["ping", "-n", "-q", "-c", "1", "-W", str(timeout), address]
            return subprocess.run(command, capture_output=True, check=False).returncode == 0

    # What the providers saw

    def right_source(self, i: int) -> int:
        """Packets from the router with a source this customer may use, IPv4 and IPv6, link-local ones not counted."""
        counters = self._nft[i].counters("provider")
        return counters["right4"] + counters["right6"]

    def wrong_source(self, i: int) -> int:
        """Packets from the router with any other source. They were dropped."""
        counters = self._nft[i].counters("provider")
        return counters["wrong4"] + counters["wrong6"]

    def dropped(self, i: int) -> int:
        """Packets that a fault of this provider has taken, in both directions."""
        return self._nft[i].counters("provider")["dropped"]

    # Faults; each is in force when the call returns

    def _fail(self, i: int, faults: Faults) -> None:
        self._nft[i].run(faults.rules())
        self._faults[i] = faults

    def silence(self, i: int, *, gateway: bool = False, neighbours: bool = False) -> None:
        """Nothing passes the provider any more, its link stays up.

        `gateway`: the gateway falls silent too, but for ARP and neighbour discovery. `neighbours`: these as well.
        """
        gone = gateway or neighbours
        self._fail(i, replace(self._faults[i], silent=True, gateway=gone, neighbours=neighbours))

    def speak(self, i: int) -> None:
        """End `silence`."""
        self._fail(i, replace(self._faults[i], silent=False, gateway=False, neighbours=False))

    def drop_icmp(self, i: int, *, drop: bool = True) -> None:
        """Echo requests through the provider or to its gateway get no answer; the rest works."""
        self._fail(i, replace(self._faults[i], icmp=drop))

    def lose(self, i: int, ratio: float) -> None:
        """The provider loses this ratio of what the router sends, at random; 0 ends it."""
        self._fail(i, replace(self._faults[i], loss=ratio))

    def unplug(self, i: int) -> None:
        """Pull the cable: the router's interface loses its carrier."""
        with self.inside(f"isp{i}"):
            set_down("customer")

    def plug(self, i: int) -> None:
        """Put it back."""
        # With its addresses: when the device went down the kernel removed the IPv6 ones, and routes with them.
        ip_each({self.namespace(f"isp{i}"): layout.provider_customer(self._uplinks[i])})
        self._wait_for_ipv6(self._uplinks[i])

    def remove(self, i: int) -> None:
        """Delete the uplink's interface, as when a modem is pulled out."""
        ip_each({self.namespace("router"): [f"link del {self._uplinks[i].interface}"]})

    def restore(self, i: int) -> None:
        """Make the uplink's interface again, with its addresses and default routes."""
        uplink = self._uplinks[i] = replace(self._uplinks[i], generation=self._uplinks[i].generation + 1)
        ip_here([layout.wan_link(self._prefix, uplink, prompt_carrier=self._prompt_carrier)])
        ip_each({self.namespace(f"isp{i}"): layout.provider_customer(uplink)})
        ip_each({self.namespace("router"): layout.router_wan(uplink, default_routes=self._default_routes)})
        ip_each({self.namespace(f"isp{i}"): ["link show"]})  # as in _build
        self._wait_for_ipv6(uplink)

    def move_gateway(self, i: int) -> Uplink:
        """The provider's gateway gets another address in the same network, and the router's default routes follow."""
        old = self._uplinks[i]
        return self._change(old, replace(old, gateway_host=254 if old.gateway_host == 1 else 1))

    def renumber(self, i: int) -> Uplink:
        """The provider moves its customer to another network: new address, new gateway, as after a new DHCP lease."""
        old = self._uplinks[i]
        return self._change(old, replace(old, subnet=old.subnet + 1))

    def _change(self, old: Uplink, new: Uplink) -> Uplink:
        provider = [
            f"address add {new.gateway}/24 dev customer",
            f"address add {new.gateway6}/64 dev customer nodad",
            f"route replace 2001:db8:{new.number}:100::/56 via {new.address6} dev customer",
            f"address del {old.gateway}/24 dev customer",
            f"address del {old.gateway6}/64 dev customer",
        ]
        router = []
        if new.address != old.address:
            router += [
                f"address add {new.address}/24 dev {new.interface}",
                f"address add {new.address6}/64 dev {new.interface} nodad",
            ]
        if self._default_routes:
            router += [f"route replace {route}" for route in new.default_routes()]
        if new.address != old.address:
            router += [
                f"address del {old.address}/24 dev {old.interface}",
                f"address del {old.address6}/64 dev {old.interface}",
            ]
        self.sysctls(f"isp{new.number}", {"ipv4/conf/customer/promote_secondaries": 1})
        ip_each({self.namespace(f"isp{new.number}"): provider})
        ip_each({self.namespace("router"): router})
        self._wait_for_ipv6(new)
        self._uplinks[new.number] = new
        return new


def wait_until(holds: Callable[[], bool], *, timeout: float = 5.0, what: str = "it") -> float:
    """Ask every 5 ms until it holds; returns how long that took, seconds. Raises LabError after the timeout."""
    start = time.monotonic()
    while not holds():
        if time.monotonic() - start > timeout:
            raise LabError(f"Waited {timeout:g} s, and {what} did not happen.")
        time.sleep(0.005)
    return time.monotonic() - start


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            stream.close()
