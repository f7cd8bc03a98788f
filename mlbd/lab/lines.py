"""Places with lines to the internet: each line has a provider, `isp1`.., that counts what it gets and can fail."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from mlbd.lab import provider
from mlbd.lab.layout import Uplink
from mlbd.lab.namespaces import set_down
from mlbd.lab.nft import Nft
from mlbd.lab.places import Places
from mlbd.lab.provider import Faults

EVERYWHERE = {
    "ipv6/conf/all/accept_dad": 0,
    "ipv6/conf/default/accept_dad": 0,
    "ipv4/icmp_ratelimit": 0,  # ICMP errors have a budget for the whole host, and tests would run out of it
    "ipv4/icmp_ratemask": 0,
    "ipv6/icmp/ratelimit": 0,
    "ipv6/icmp/ratemask": "",
    "ipv4/ping_group_range": "0 0",
    "ipv6/ip_nonlocal_bind": 1,  # the many addresses of servers and clients are routes, not addresses
}
FORWARDS = {"ipv4/ip_forward": 1, "ipv6/conf/all/forwarding": 1}
FIVE_TUPLE = {  # policy 1 takes the hash of the sender's socket, which a veth hands over: not what a cable does
    f"{family}/fib_multipath_hash_{key}": value
    for family in ("ipv4", "ipv6")
    for key, value in (("policy", 3), ("fields", 0x37))
}


class Lines(Places):
    """Lines are given by number, from 1."""

    def __init__(self, uplinks: Iterable[Uplink]) -> None:
        super().__init__()
        self._uplinks = {uplink.number: uplink for uplink in uplinks}
        self._faults = dict.fromkeys(self._uplinks, Faults())
        self._nft: dict[int, Nft] = {}

    def _start_providers(self) -> None:
        """In their places, which are there."""
        for uplink in self._uplinks.values():
            nft = self._stack.enter_context(Nft(self.namespace(f"isp{uplink.number}")))
            nft.run(provider.rules(uplink))
            self._nft[uplink.number] = nft

    @property
    def uplinks(self) -> list[Uplink]:
        return list(self._uplinks.values())

    def uplink(self, i: int) -> Uplink:
        """Names and addresses as they are now."""
        return self._uplinks[i]

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
