"""Addresses of host names, asked of the system's name servers by the very uplink that is probed.

Nothing of the system's resolver is used: it would ask by whatever way routing chooses, and wait. An answer is kept for
its time to live, and at least `_FLOOR`; after that it serves until there is a newer one (RFC 8767), so that a silent
name server does not fail a target that answers. Of several addresses one is used as long as it answers.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from pathlib import Path

import dns.exception
import dns.message
import dns.rcode
import dns.rdatatype
from msgspec import Struct
from msgspec.structs import replace

from mlbd.core.probing import Order
from mlbd.probe import interface, queries
from mlbd.probe.errors import ProbeError

RESOLV_CONF = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))
"""resolv.conf(5). Where the first names but a stub on this router, as systemd-resolved's does, the second counts."""
_PORT = 53
_MOST_SERVERS = 3  # MAXNS of resolv.h
_PATIENCE = 1.0
"""Seconds for each server."""
_FLOOR, _CEILING = 30.0, 86_400.0
"""Seconds."""
_STALE = 86_400.0
"""Seconds after its time for which an answer still serves."""
_FAILURE = 1.0
"""Seconds for which a failure is not looked into again."""


class _Entry(Struct):
    addresses: list[str]
    """Not empty; the first is used."""
    until: float
    """Monotonic seconds."""


class Names:
    """What is known of names, by uplink."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], _Entry] = {}
        self._failed: dict[tuple[str, str], tuple[float, ProbeError]] = {}
        """Until when, monotonic seconds, and what."""
        self._looking: dict[tuple[str, str], asyncio.Task[None]] = {}

    async def resolve(self, order: Order) -> Order:
        """The order with an address for the name of its target. Raises ProbeError."""
        key = (order.uplink, order.ask.name)
        now = time.monotonic()
        known = self._known.get(key)
        failed = self._failed.get(key)
        if (known is None or now >= known.until) and (failed is None or now >= failed[0]) and key not in self._looking:
            self._looking[key] = asyncio.create_task(self._look_up(key, order))
        if known is None or now >= known.until + _STALE:
            looking = self._looking.get(key)
            if looking is not None:
                await asyncio.shield(looking)  # others wait for it, too
            known = self._known.get(key)
            if known is None:
                failure = self._failed[key][1]
                raise ProbeError(failure.kind, failure.text)
        return replace(order, address=known.addresses[0])

    def disappointed(self, order: Order) -> None:
        """Nothing good came from the order's address: the next probe takes another one, if there is."""
        known = self._known.get((order.uplink, order.ask.name))
        if known is not None and known.addresses[0] == order.address:
            known.addresses.append(known.addresses.pop(0))

    def forget(self, uplink: str) -> None:
        for key in [key for key in self._looking if key[0] == uplink]:
            self._looking.pop(key).cancel()
        for kept in (self._known, self._failed):
            for key in [key for key in kept if key[0] == uplink]:
                del kept[key]

    async def _look_up(self, key: tuple[str, str], order: Order) -> None:
        try:
            addresses, seconds = await _ask(order)
        except ProbeError as failed:
            self._failed[key] = (time.monotonic() + _FAILURE, failed)
            return
        finally:
            if self._looking.get(key) is asyncio.current_task():
                del self._looking[key]
        before = self._known.get(key)
        if before is not None and before.addresses[0] in addresses:
            at = addresses.index(before.addresses[0])
            addresses = addresses[at:] + addresses[:at]
        self._known[key] = _Entry(addresses, time.monotonic() + min(max(seconds, _FLOOR), _CEILING))


async def _ask(order: Order) -> tuple[list[str], float]:
    """Addresses that the uplink can send to, at least one, and how long they hold, seconds. Raises ProbeError."""
    kinds = []
    if interface.has_ipv4(order.interface):
        kinds.append(dns.rdatatype.A)
    if interface.has_ipv6(order.interface_index):
        kinds.append(dns.rdatatype.AAAA)
    families = (dns.rdatatype.A, dns.rdatatype.AAAA)
    servers = [server for server in name_servers(order.interface) if families[":" in server] in kinds]
    if not servers:
        raise ProbeError("no-address", "no name server to ask; use an address")
    found = await asyncio.gather(*(_ask_for(kind, servers, order) for kind in kinds), return_exceptions=True)
    addresses: list[str] = []
    seconds = _CEILING
    problems = []
    for answer in found:
        if isinstance(answer, ProbeError):
            problems.append(answer)
        elif isinstance(answer, BaseException):
            raise answer
        else:
            addresses += answer[0]
            seconds = min(seconds, answer[1])
    if not addresses:
        raise problems[0] if problems else ProbeError("no-address", f"no address of {order.ask.name} for this uplink")
    return addresses, seconds


async def _ask_for(kind: dns.rdatatype.RdataType, servers: list[str], order: Order) -> tuple[list[str], float]:
    name = order.ask.name
    problem = ProbeError("no-address", f"{' and '.join(servers)} did not answer for {name} by {order.interface}")
    for server in servers:
        try:
            async with asyncio.timeout(_PATIENCE):
                answer, _ = await queries.exchange(replace(order, address=server), _PORT, name, kind)
        except TimeoutError:
            continue
        except (ProbeError, OSError) as error:
            said = error.text if isinstance(error, ProbeError) else str(error)
            kept = error.kind if isinstance(error, ProbeError) and error.kind == "firewall" else "no-address"
            problem = ProbeError(kept, f"name server {server}: {said}")
            continue
        if answer.rcode() == dns.rcode.NXDOMAIN:
            raise ProbeError("no-address", f"there is no {name}, says name server {server}")
        if answer.rcode() == dns.rcode.NOERROR:
            return _addresses(answer)
        problem = ProbeError("no-address", f"name server {server}: {dns.rcode.to_text(answer.rcode())} for {name}")
    raise problem


def _addresses(answer: dns.message.QueryMessage) -> tuple[list[str], float]:
    """Of the last name in the chain of aliases, without those that lead nowhere, and how long they hold, seconds."""
    try:
        chain = answer.resolve_chaining()
    except dns.exception.DNSException:
        return [], 0.0
    texts = [record.to_text() for record in chain.answer] if chain.answer is not None else []
    found = [ipaddress.ip_address(text) for text in texts]
    useful = [a for a in found if not (a.is_loopback or a.is_unspecified or a.is_multicast or a.is_link_local)]
    return [str(a) for a in useful], float(chain.minimum_ttl)


def name_servers(device: str) -> list[str]:
    """At most three, none of this router itself, and no link-local ones of other interfaces; without zones."""
    for path in RESOLV_CONF:
        try:
            text = path.read_text(errors="replace")
        except OSError:
            continue
        found = [server for line in text.splitlines() if (server := _name_server(line.split(), device))]
        if found:
            return found[:_MOST_SERVERS]
    return []


def _name_server(words: list[str], device: str) -> str:
    if len(words) < 2 or words[0] != "nameserver":
        return ""
    text, _, zone = words[1].partition("%")
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return ""
    return "" if address.is_loopback or address.is_unspecified or zone not in ("", device) else str(address)
