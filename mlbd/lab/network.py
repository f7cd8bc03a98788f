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

import ipaddress
import time
from collections.abc import Callable, Sequence
from functools import partial

from msgspec.structs import replace

from mlbd.lab import layout, provider
from mlbd.lab.advertise import Advertisement, Advertiser
from mlbd.lab.layout import Lan, Uplink
from mlbd.lab.lines import EVERYWHERE, FIVE_TUPLE, FORWARDS, Lines
from mlbd.lab.namespaces import LabError, has_ipv6, ip_each, set_sysctls
from mlbd.lab.provider import Faults


class Network(Lines):
    """Where is one of `router`, `internet`, `lan1`.., `isp1`.., or attached; uplinks are given by number, from 1."""

    def __init__(
        self,
        uplinks: int = 2,
        lans: int = 1,
        *,
        interfaces: Sequence[str] = (),
        default_routes: bool = True,
        rp_filter: int = 2,
        prompt_carrier: bool = False,
        subnets: Sequence[str] = (),
        lan_subnets: Sequence[str] = (),
        ra: bool = False,
    ) -> None:
        """Build it. Raises LabError.

        `interfaces`: the uplinks' names, else wan1, wan2, ..
        `default_routes`: whether the router's `main` has one by each provider, with metric 100 + number.
        `rp_filter`: of all the router's interfaces; 2 is what systemd sets.
        `prompt_carrier`: the kernel tells of carrier at once, else as late as for a network card (`layout.wan_link`).
        `subnets`: the router's address on each uplink and its prefix length, `192.168.1.2/24`, at most 24, else
        10.N.0.2/24; the gateway is the first host.
        `lan_subnets`: the LANs' networks, else 192.168.K.0/24, or 10.10.K.0/24 where `subnets` are given.
        `ra`: the providers advertise IPv6 and their gateways, and the router has nothing but that. See `advertise`.
        """
        names = list(interfaces) or [f"wan{n}" for n in range(1, uplinks + 1)]
        if not 1 <= uplinks == len(names) <= layout.MOST_UPLINKS:
            raise LabError(f"{uplinks} uplinks with {len(names)} interfaces: they must be as many, and 1 to 100.")
        if (subnets and len(subnets) != uplinks) or any(int(s.partition("/")[2] or 32) > 24 for s in subnets):
            raise LabError(f"{uplinks} uplinks with subnets {subnets}: they must be as many, and of /24 or larger.")
        if lan_subnets and len(lan_subnets) != lans:
            raise LabError(f"{lans} LANs with {len(lan_subnets)} subnets: they must be as many.")
        super().__init__(
            Uplink(n, name, given=given, ra=ra)
            for n, (name, given) in enumerate(zip(names, subnets or [""] * uplinks, strict=True), 1)
        )
        self.lans = lans
        moved = [f"10.10.{k}.0/24" for k in range(1, lans + 1)] if subnets else [""] * lans
        self._lans = [Lan(k, subnet) for k, subnet in enumerate(lan_subnets or moved, 1)]
        self._ra = ra
        self._default_routes, self._prompt_carrier = default_routes, prompt_carrier
        self._lifetime = dict.fromkeys(self._uplinks, 1800 if default_routes else 0)
        self._advertisers: dict[int, Advertiser] = {}
        self._delegated: dict[int, list[str]] = {}
        try:
            self._build(rp_filter)
        except BaseException:
            self.close()
            raise

    def _build(self, rp_filter: int) -> None:
        uplinks = self.uplinks
        lans = [f"lan{k}" for k in range(1, self.lans + 1)]
        self._add(["router", "internet", *lans, *(f"isp{n}" for n in self._uplinks)])
        for where in self.places:
            with self.inside(where):
                set_sysctls(EVERYWHERE)
                if where == "router":
                    set_sysctls(FORWARDS | FIVE_TUPLE)
                    if self._ra:
                        set_sysctls({"ipv6/conf/default/accept_ra": 2})  # routers believe no other router with 1
                    set_sysctls({f"ipv4/conf/{name}/rp_filter": rp_filter for name in ("all", "default")})
                elif where.startswith("isp"):
                    set_sysctls(FORWARDS)
        # After the sysctls: an interface takes the defaults of the moment it is made.
        self._link(layout.links(self._prefix, uplinks, self._lans, prompt_carrier=self._prompt_carrier))
        self._start_providers()
        # The router comes last: a device whose peer is already up has carrier at once, without an event to wait for.
        others = {self.namespace("internet"): layout.internet(uplinks)}
        others |= {self.namespace(f"lan{k}"): layout.client(lan) for k, lan in enumerate(self._lans, 1)}
        others |= {self.namespace(f"isp{u.number}"): provider.namespace(u) for u in uplinks}
        ip_each(others)
        ip_each({self.namespace("router"): layout.router(uplinks, self._lans, default_routes=self._default_routes)})
        ip_each({name: ["link show"] for name in others})  # reading a link's state ends the wait for its carrier event
        for uplink in uplinks:
            self._start_advertising(uplink)
        self._wait_for_ipv6(*uplinks)
        self.serve("internet")

    def _link(self, lines: list[str]) -> None:
        """From where no such name is taken: the kernel looks for it where it is asked, not only where it goes."""
        ip_each({self.namespace("internet"): lines})

    def _wait_for_ipv6(self, *uplinks: Uplink) -> None:
        for uplink in uplinks:
            self._wait_for_addresses(f"isp{uplink.number}", uplink.provider6)
            self._advertise(uplink.number)
        told = [uplink for uplink in uplinks if not uplink.ra or self._advertised(uplink.number)]
        self._wait_for_addresses("router", [uplink.address6 for uplink in told])

    def _wait_for_addresses(self, where: str, addresses: list[str]) -> None:
        with self.inside(where):
            wait_until(partial(has_ipv6, addresses), what=f"that {', '.join(addresses)} receives")

    # What there is

    def lan(self, k: int) -> Lan:
        """Addresses of LAN k, from 1."""
        return self._lans[k - 1]

    def attach(self, name: str, *addresses: str, internet: bool = False) -> list[str]:
        """Make a place behind a new interface of the router, both called `name`, as a container or a far end of a
        tunnel; returns its addresses, one above each of the router's, which are given as `172.17.0.1/16`.

        The router is its default gateway, and it has echo servers. `internet`: it also answers at the addresses of all
        servers, as the far end of a full tunnel does.
        """
        self._add([name])
        with self.inside(name):
            set_sysctls(EVERYWHERE)
        router, peer = layout.attached(name, addresses, internet=internet)
        here, there = self.namespace("router"), self.namespace(name)
        self._link([f"link add {name} netns {here} type veth peer name eth0 netns {there}"])
        ip_each({there: peer})
        ip_each({here: router})
        found = [str(ipaddress.ip_interface(address).ip + 1) for address in addresses]
        self._wait_for_addresses(name, [address for address in found if ":" in address])
        self._wait_for_addresses("router", [a.partition("/")[0] for a in addresses if ":" in a])
        self.serve(name)
        return found

    # Faults; each is in force when the call returns

    def _fail(self, i: int, faults: Faults) -> None:
        super()._fail(i, faults)
        self._advertise(i)

    def plug(self, i: int) -> None:
        """Put it back."""
        # With its addresses: when the device went down the kernel removed the IPv6 ones, and routes with them.
        ip_each({self.namespace(f"isp{i}"): provider.customer(self._uplinks[i])})
        self._wait_for_ipv6(self._uplinks[i])

    def remove(self, i: int) -> None:
        """Delete the uplink's interface, as when a modem is pulled out."""
        ip_each({self.namespace("router"): [f"link del {self._uplinks[i].interface}"]})

    def restore(self, i: int) -> None:
        """Make the uplink's interface again, with its addresses and default routes."""
        uplink = self._uplinks[i] = replace(self._uplinks[i], generation=self._uplinks[i].generation + 1)
        self._link([layout.wan_link(self._prefix, uplink, prompt_carrier=self._prompt_carrier)])
        ip_each({self.namespace(f"isp{i}"): provider.customer(uplink)})
        ip_each({self.namespace("router"): layout.router_wan(uplink, default_routes=self._default_routes)})
        ip_each({self.namespace(f"isp{i}"): ["link show"]})  # as in _build
        self._start_advertising(uplink)
        self._wait_for_ipv6(uplink)

    def move_gateway(self, i: int) -> Uplink:
        """The provider's gateway gets another address in the same network, and the router's default routes follow."""
        old = self._uplinks[i]
        return self._change(old, replace(old, gateway_host=254 if old.gateway_host == 1 else 1))

    def renumber(self, i: int) -> Uplink:
        """The provider moves its customer to another network: new address, new gateway, as after a new DHCP lease.

        Of IPv4 only where IPv6 is advertised. Raises LabError where the networks were given.
        """
        old = self._uplinks[i]
        if old.given:
            raise LabError(f"Uplink {i} has the network {old.given} that it was given: there is no next one.")
        return self._change(old, replace(old, subnet=old.subnet + 1, subnet6=old.subnet6 + (not self._ra)))

    def _change(self, old: Uplink, new: Uplink) -> Uplink:
        i = new.number
        self.sysctls(f"isp{i}", {"ipv4/conf/customer/promote_secondaries": 1})
        if new.gateway6 != old.gateway6:
            self._advertise(i, lifetime=0)  # by the old one, which is no router any more
        self._uplinks[i] = new
        ip_each({self.namespace(f"isp{i}"): provider.change(old, new)})
        ip_each({self.namespace("router"): layout.router_change(old, new, default_routes=self._default_routes)})
        self._wait_for_ipv6(new)
        return new

    # IPv6 as providers advertise and delegate it

    def advertise(self, i: int, *, lifetime: int = 1800) -> None:
        """Advertise the gateway for this time, seconds, at once and three times in it; 0 ends the default route."""
        self._lifetime[i] = lifetime
        self._advertise(i)

    def stop_advertising(self, i: int) -> None:
        """Say nothing any more, also when the router asks; what was said runs out. `advertise` begins again."""
        self._lifetime[i] = -1
        self._advertise(i)

    def renumber6(self, i: int) -> Uplink:
        """The provider advertises its next IPv6 network and deprecates those before, which it still routes.

        Raises LabError where it does not advertise.
        """
        old = self._uplinks[i]
        if not self._ra:
            raise LabError("Without advertisements (`ra`), `renumber` moves on to the next IPv6 network.")
        return self._change(old, replace(old, subnet6=old.subnet6 + 1))

    def delegate(self, i: int, prefix: str = "") -> list[str]:
        """Delegate a prefix as DHCPv6 does, else 2001:db8:N:100::/56; one delegated by this provider before ends.

        The router gets what systemd-networkd leaves there: an unreachable route for all of it, and its /64 number K on
        LAN K. Returns the address that the client of each LAN has in it.
        """
        old = self._uplinks[i]
        new = replace(old, delegation=prefix)
        before = self._delegated.pop(i, [])
        if before:
            self._delegated_in(old, before, "del")
        self._change(old, new)
        after = [str(lan.delegated(new.delegated)[2]) for lan in self._lans]
        self._delegated_in(new, after, "add")
        self._delegated[i] = after
        for k, address in enumerate(after, 1):
            self._wait_for_addresses(f"lan{k}", [address])
        return after

    def _delegated_in(self, uplink: Uplink, clients: list[str], action: str) -> None:
        batches = {"router": [f"route {action} unreachable {uplink.delegated} dev lo proto dhcp metric 1024"]}
        for k, address in enumerate(clients, 1):
            router = self._lans[k - 1].delegated(uplink.delegated)[1]
            batches["router"].append(f"address {action} {router}/64 dev lan{k}")
            batches[f"lan{k}"] = [f"address {action} {address}/64 dev eth0"]
        ip_each({self.namespace(where): lines for where, lines in batches.items()})

    def _start_advertising(self, uplink: Uplink) -> None:
        """On an interface that is new."""
        if not self._ra:
            return
        i = uplink.number
        if i in self._advertisers:
            self._advertisers.pop(i).close()
        else:
            self._stack.callback(self._end_advertising, i)
        with self.inside(f"isp{i}"):
            self._advertisers[i] = Advertiser("customer")

    def _end_advertising(self, i: int) -> None:
        if i in self._advertisers:
            self._advertisers.pop(i).close()

    def _advertised(self, i: int, lifetime: int | None = None) -> Advertisement | None:
        """What is to be said now, with another lifetime than its own."""
        if self._lifetime[i] < 0 or self._faults[i].neighbours:
            return None
        uplink = self._uplinks[i]
        seconds = self._lifetime[i] if lifetime is None else lifetime
        return Advertisement(uplink.gateway6, tuple(uplink.prefixes6), seconds)

    def _advertise(self, i: int, lifetime: int | None = None) -> None:
        if i in self._advertisers:
            self._advertisers[i].say(self._advertised(i, lifetime))


def wait_until(holds: Callable[[], bool], *, timeout: float = 5.0, what: str = "it", every: float = 0.005) -> float:
    """Ask every 5 ms until it holds; returns how long that took. All in seconds. Raises LabError after the timeout."""
    start = time.monotonic()
    while not holds():
        if time.monotonic() - start > timeout:
            raise LabError(f"Waited {timeout:g} s, and {what} did not happen.")
        time.sleep(every)
    return time.monotonic() - start
