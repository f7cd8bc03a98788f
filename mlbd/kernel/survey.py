"""What there is on a machine, for `mlbd init`. It only reads, and needs no privileges.

It sees default routes by the same reader as a look does, so what is found here is what `gateway = "auto"` will find.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from mlbd.core.settings import FAMILIES
from mlbd.core.survey import DefaultRoute, Interface, Survey
from mlbd.kernel import bonds, links, routes, teql
from mlbd.kernel.links import Link
from mlbd.kernel.netlink import HEADER, Requests

_FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
_LENGTH, _PROTOCOL = HEADER.size + 1, HEADER.size + 5
"""Where struct rtmsg has them, rtm_dst_len and rtm_protocol; each is a byte."""


def survey(protocol: int, table_base: int) -> Survey:
    """Of the network namespace that the process is in; what mlbd owns is left out. Raises OSError."""
    requests = Requests()
    try:
        found = [link for link in map(links.read_link, requests.dump(links.GET, links.DUMP_REQUEST)) if link]
        addresses = requests.dump(links.GET_ADDRESS, links.ADDRESS_DUMP_REQUEST)
        reader = routes.RouteReader(
            protocol, range(table_base, table_base + 512), {link.index: link.name for link in found}
        )
        defaults = tuple(_defaults(requests, reader))
    finally:
        requests.close()
    return Survey(interfaces=tuple(interfaces(found, addresses)), defaults=defaults, forwarding=_forwards())


def interfaces(found: Sequence[Link], addresses: Iterable[bytes]) -> Iterator[Interface]:
    """All of these links but the loopback one, with what the address messages say. Raises OSError."""
    names = {link.index: link.name for link in found}
    facts, _ = links.read_facts(found, addresses, (), (), {*names.values()})
    for link in found:
        if link.loopback:
            continue
        yield Interface(
            facts=facts[link.name],
            kind="teql" if teql.is_device(link) else bonds.kind(link).decode(errors="replace"),
            master=names.get(bonds.master(link)) or teql.attached(link),
            bond=bonds.read(link, names) if bonds.kind(link) == bonds.NAME else None,
        )


def _defaults(requests: Requests, reader: routes.RouteReader) -> Iterator[DefaultRoute]:
    for family in FAMILIES:
        for message in requests.dump(routes.GET, routes.dump_request(family)):
            if message[_LENGTH]:  # of a million routes, few are default ones
                continue
            hops = reader.read((message,)).defaults
            if hops:
                yield DefaultRoute(family, hops[0].metric, message[_PROTOCOL], tuple(each.hop for each in hops))


def _forwards() -> bool:
    try:
        return _FORWARDING.read_text().strip() != "0"
    except OSError:
        return True  # nobody can tell, so nothing is said about it
