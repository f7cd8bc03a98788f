"""Routes, rules, links, addresses and bundles: looking at all of them, and changing one at a time."""

from __future__ import annotations

import errno
from collections.abc import Collection, Mapping

from msgspec.structs import replace

from mlbd.core.facts import InterfaceFacts
from mlbd.core.plan import Change
from mlbd.core.ports import NO_BUNDLES, Observation
from mlbd.core.settings import FAMILIES, Family
from mlbd.core.state import KernelState, Route, Rule
from mlbd.kernel import links, neighbours, routes, rules
from mlbd.kernel.bundles import Bundles
from mlbd.kernel.devices import Devices
from mlbd.kernel.netlink import CREATE, EXCL, REPLACE, RefusedError, Requests
from mlbd.kernel.rules import ListedRule, Listing
from mlbd.kernel.teql import Module

_GONE = {routes.DELETE: errno.ESRCH, rules.DELETE: errno.ENOENT}
"""What the kernel answers to the deletion of what is not there (net/ipv4/fib_trie.c, net/ipv6/route.c, fib_table_delete
and ip6_route_del; net/core/fib_rules.c, fib_nl_delrule)."""
_TABLES = 512


class RtNetlink:
    """The routing objects of one protocol number and the 512 tables from `table_base`."""

    def __init__(self, protocol: int, table_base: int) -> None:
        tables = range(table_base, table_base + _TABLES)
        if routes.MAIN in tables or routes.LOCAL in tables or 0 in tables:
            raise ValueError(f"tables {tables.start}..{tables.stop - 1} include the system's own")
        self._protocol, self._tables = protocol, tables
        self._requests = Requests()
        self._listings: dict[Family, Listing] = {}
        self._devices = Devices(self._requests, protocol)

    @property
    def port(self) -> int:
        """The port id by which notifications of our own changes are recognised."""
        return self._requests.port

    def close(self) -> None:
        self._requests.close()

    @property
    def teql_module(self) -> Module:
        return self._devices.module

    def look(
        self,
        interfaces: Collection[str],
        asked_neighbours: Collection[str] = (),
        asked_bundles: Mapping[str, Collection[str]] = NO_BUNDLES,
    ) -> Observation:
        """Every owned route and rule, bundles, the facts of the interfaces that exist, and what others have.

        Raises OSError.
        """
        dump = self._requests.dump
        found = [link for link in map(links.read_link, dump(links.GET, links.DUMP_REQUEST)) if link is not None]
        reader = routes.RouteReader(self._protocol, self._tables, {link.index: link.name for link in found})
        read = [reader.read(dump(routes.GET, routes.dump_request(family))) for family in FAMILIES]
        listed = [self._rules(family) for family in FAMILIES]
        addresses = dump(links.GET_ADDRESS, links.ADDRESS_DUMP_REQUEST)
        defaults = [hop for each in read for hop in each.defaults]
        delegated = {prefix for each in read for prefix in each.delegated}
        bundles = Bundles(asked_bundles, {link.index: link for link in found}, self._protocol)
        members = bundles.members
        facts, lan_prefixes = links.read_facts(found, addresses, defaults, delegated, {*interfaces, *members})
        if asked_neighbours:
            facts = {
                name: self._with_neighbours(each, asked_neighbours) if name in interfaces else each
                for name, each in facts.items()
            }
        if members:
            facts = bundles.with_ports(facts)
        owned = [route for each in read for route in each.owned]
        return Observation(
            KernelState([*owned, *(each.rule for ours, _ in listed for each in ours), *bundles.objects(addresses)]),
            facts,
            lan_prefixes,
            tuple(rule for _, others in listed for rule in others),
            tuple(route for each in read for route in each.wide),
            min(each.expires for each in read),
        )

    def _with_neighbours(self, facts: InterfaceFacts, addresses: Collection[str]) -> InterfaceFacts:
        listed = self._requests.dump(neighbours.GET, neighbours.dump_request(facts.index))
        found = [n for n in neighbours.read(listed) if n.device == facts.index and n.address in addresses]
        return replace(facts, neighbours=tuple(sorted((n.address, n.hardware) for n in found)))

    def configurations(self, indexes: Collection[int]) -> list[bytes]:
        """See `links.configurations`. Raises OSError."""
        return links.configurations(self._requests.dump(links.GET, links.DUMP_REQUEST), indexes)

    def neighbour_overflows(self) -> int:
        """How often a table of neighbours was full, since the system started; of all network namespaces."""
        return sum(map(neighbours.overflows, self._requests.dump(neighbours.GET_TABLE, neighbours.TABLE_DUMP_REQUEST)))

    def change(self, change: Change) -> None:
        """Make one change of a route, a rule or a bundle. Raises OSError, LookupError or ValueError: why not."""
        old, new = change.old, change.new
        if isinstance(new, Route):
            self._requests.request(routes.NEW, CREATE | REPLACE, routes.encode(new, self._protocol))
            if isinstance(old, Route) and old.foreign:
                self._delete_foreign(new)  # of several routes under one key, the kernel replaced one
        elif isinstance(new, Rule):
            self._add_rule(new)
        elif isinstance(old, Route):
            self._delete_route(old)
        elif isinstance(old, Rule):
            self._delete_rule(old)
        else:
            self._devices.change(change)

    def forget(self) -> None:
        """The changes that belong together are made: rules are listed, and devices found, anew."""
        self._listings.clear()
        routes.known_index.cache_clear()

    def _listing(self, family: Family) -> Listing:
        """All of our rules. Listing them for each deletion would take seconds for some hundred rules."""
        if family not in self._listings:
            ours, _ = self._rules(family)
            self._listings[family] = Listing(ours)
        return self._listings[family]

    def _rules(self, family: Family) -> tuple[list[ListedRule], list[Rule]]:
        return rules.read(self._requests.dump(rules.GET, rules.dump_request(family)), self._protocol)

    def _add_rule(self, rule: Rule) -> None:
        payload = rules.encode(rule, self._protocol)
        try:
            self._requests.request(rules.NEW, CREATE | EXCL, payload)
        except RefusedError as error:
            if error.errno != errno.EEXIST:
                raise
            # The comparison (net/core/fib_rules.c, rule_exists) overlooks where a goto leads, and addresses of which
            # the new rule does not speak. So "exists" is looked up, and one that does not is added without asking.
            if rule in self._listing(rule.family):
                return
            self._requests.request(rules.NEW, CREATE, payload)
        self._listings.pop(rule.family, None)

    def _delete_rule(self, rule: Rule) -> None:
        listing = self._listing(rule.family)
        listed = listing.deletable(rule)
        if listed is not None:
            self._delete(rules.DELETE, listed.payload)
            listing.remove(listed)

    def _delete_route(self, route: Route) -> None:
        if route.foreign:
            self._delete_foreign(route)
            return
        try:
            payload = routes.encode_deletion(route, self._protocol)
        except OSError:
            return  # a device of it does not exist any more, so neither does the route as it was
        self._delete(routes.DELETE, payload)

    def _delete_foreign(self, route: Route) -> None:
        """Delete all foreign routes of this one's key, each by what the kernel shows of it."""
        reader = routes.RouteReader(self._protocol, self._tables, {})
        dump = self._requests.dump(routes.GET, routes.dump_request(route.family))
        for payload in reader.foreign(dump, route.key):
            self._delete(routes.DELETE, payload)

    def _delete(self, kind: int, payload: bytes) -> bool:
        """Send a deletion; False if there was nothing left to delete."""
        try:
            self._requests.request(kind, 0, payload)
        except RefusedError as error:
            if error.errno == _GONE[kind]:
                return False
            raise
        return True
