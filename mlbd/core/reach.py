"""Do facts suffice to send through an uplink? No hysteresis, but for two delays that the facts themselves need."""

from __future__ import annotations

import ipaddress
from math import inf

from mlbd.core import prefixes
from mlbd.core.facts import Gateway, InterfaceFacts
from mlbd.core.settings import FAMILIES, Family, Uplink

GATEWAY_LINGER = 3.0
"""Seconds that a gateway learned from others' routes stays in force after its route went, while an address of its
family remains: DHCP clients and networkd delete a route and add it again within one renewal."""

Gateways = tuple[Gateway | None, Gateway | None]
"""Of IPv4 and IPv6."""


class Reach:
    """The last facts about one uplink's interface, and what follows from them at a given time."""

    def __init__(self) -> None:
        self.facts: InterfaceFacts | None = None
        self.missing = "not looked yet"
        """The fact without which nothing can be sent; "" if the uplink is reachable."""
        self.families: set[Family] = set()
        """In which it has had a gateway."""
        self.prefixes: tuple[str, ...] = ()
        """As of `mlbd.core.prefixes.owned`, also while there is no interface."""
        self.addresses: tuple[str, ...] = ()
        """The last IPv4 addresses there were."""
        self._gateways: dict[Family, Gateway | None] = {4: None, 6: None}
        self._lingering: dict[Family, float] = {}
        self._carrier_lost: float | None = None
        self._carrier_end = inf

    @property
    def gateways(self) -> Gateways:
        """Known next hops, whether or not there is carrier."""
        return self._gateways[4], self._gateways[6]

    @property
    def routes(self) -> Gateways:
        """Next hops that the kernel would accept routes to."""
        return self.gateways if self.facts is not None and self.facts.up else (None, None)

    @property
    def paths(self) -> Gateways:
        """Next hops that can be sent to."""
        return (None, None) if self.missing else self.gateways

    def deadline(self) -> float:
        """When `refresh` will find something else although the facts stay."""
        return min([self._carrier_end, *self._lingering.values()])

    def refresh(self, uplink: Uplink, now: float) -> None:
        for family in FAMILIES:
            self._follow_gateway(uplink, family, now)
        self.missing = self._missing(uplink, now)
        self.prefixes = prefixes.owned(uplink, self.facts, self.prefixes)
        self.addresses = (() if self.facts is None else self.facts.addresses_of(4)) or self.addresses

    def address_of(self, target: str | None, family: Family | None) -> tuple[str | None, str]:
        """Where a target is (None: the gateway), and if that is not known or nothing can be sent there, why."""
        facts = self.facts
        if facts is None:
            return None, "the interface does not exist"
        if target is None:
            for family in FAMILIES:
                gateway = self._gateways[family]
                if gateway is not None and gateway.address is not None:
                    target = gateway.address
                    break
            else:
                target, family = facts.peer, 4
        if target is None or family is None:
            return None, "the uplink has no gateway address to probe; name other targets"
        if not facts.addresses_of(family) and not (family == 6 and ipaddress.ip_address(target).is_link_local):
            return None, f"no IPv{family} address on {facts.name} to probe from"
        return target, ""

    def _follow_gateway(self, uplink: Uplink, family: Family, now: float) -> None:
        facts = self.facts
        known = None if facts is None else _gateway(uplink, facts, family)
        if known is None and self._gateways[family] is not None and facts is not None and facts.addresses_of(family):
            self._lingering.setdefault(family, now + GATEWAY_LINGER)
            if self._lingering[family] > now:
                return
        self._lingering.pop(family, None)
        self._gateways[family] = known
        if known is not None:
            self.families.add(family)

    def _missing(self, uplink: Uplink, now: float) -> str:
        facts = self.facts
        self._carrier_end = inf
        if facts is None or not facts.up or facts.carrier:
            self._carrier_lost = None
        if facts is None:
            return f"interface {uplink.interface} does not exist"
        if not facts.up:
            return f"interface {facts.name} is down"
        if not facts.carrier:
            if self._carrier_lost is None:
                self._carrier_lost = now
            if now >= self._carrier_lost + uplink.carrier_delay:
                return "carrier lost"
            self._carrier_end = self._carrier_lost + uplink.carrier_delay
        if facts.port is not None and facts.port.fault:
            return facts.port.fault
        if uplink.port:
            return ""
        if not facts.addresses_of(4) and not facts.addresses_of(6):
            return f"no address on {facts.name}"
        if self.gateways == (None, None):
            return f"no gateway known: {facts.name} has no default route of another program, and none is configured"
        return ""


def _gateway(uplink: Uplink, facts: InterfaceFacts, family: Family) -> Gateway | None:
    """The next hop that settings and facts give; None without an address to use it from."""
    setting = uplink.gateway_setting(family)
    if setting.source == "auto":
        addressless = family == 6 and not facts.addresses_of(6)
        return None if addressless and uplink.nat6 == "masquerade" else facts.gateway(family)
    addresses = facts.addresses_of(family)
    if not addresses:
        return None
    if setting.address is None:
        return Gateway(None)
    address = ipaddress.ip_address(setting.address)
    covered = address.is_link_local or any(address in ipaddress.ip_interface(a).network for a in addresses)
    return Gateway(setting.address, onlink=not covered)
