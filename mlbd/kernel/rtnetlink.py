"""Routes, rules, links and addresses: looking at all of them, and changing one at a time."""

from __future__ import annotations

import errno
from collections.abc import Collection

from mlbd.core.facts import InterfaceFacts
from mlbd.core.plan import Change
from mlbd.core.settings import FAMILIES, Family
from mlbd.core.state import Route, Rule
from mlbd.kernel import links, routes, rules
from mlbd.kernel.netlink import CREATE, EXCL, REPLACE, RefusedError, Requests
from mlbd.kernel.rules import ListedRule

_GONE = (errno.ESRCH, errno.ENOENT, errno.ENODEV)
_TABLES = 256


class RtNetlink:
    """The routing objects of one protocol number and the 256 tables from `table_base`."""

    def __init__(self, protocol: int, table_base: int) -> None:
        tables = range(table_base, table_base + _TABLES)
        if routes.MAIN in tables or routes.LOCAL in tables or 0 in tables:
            raise ValueError(f"tables {tables.start}..{tables.stop - 1} include the system's own")
        self._protocol, self._tables = protocol, tables
        self._requests = Requests()

    @property
    def port(self) -> int:
        """The port id by which notifications of our own changes are recognised."""
        return self._requests.port

    def close(self) -> None:
        self._requests.close()

    def look(self, interfaces: Collection[str]) -> tuple[list[Route | Rule], dict[str, InterfaceFacts]]:
        """Every owned route and rule, and the facts of the interfaces that exist. Raises OSError."""
        dump = self._requests.dump
        found = [link for link in map(links.read_link, dump(links.GET, links.DUMP_REQUEST)) if link is not None]
        reader = routes.RouteReader(self._protocol, self._tables, {link.index: link.name for link in found})
        objects: list[Route | Rule] = []
        defaults: list[routes.DefaultHop] = []
        for family in FAMILIES:
            owned, others = reader.read(dump(routes.GET, routes.dump_request(family)))
            objects += owned
            defaults += others
            objects += [listed.rule for listed in self._rules(family)]
        addresses = dump(links.GET_ADDRESS, links.ADDRESS_DUMP_REQUEST)
        return objects, links.read_facts(found, addresses, defaults, interfaces)

    def change(self, change: Change) -> None:
        """Make one change of a route or a rule. Raises OSError, LookupError or ValueError, which say why not."""
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

    def _rules(self, family: Family) -> list[ListedRule]:
        return rules.read(self._requests.dump(rules.GET, rules.dump_request(family)), self._protocol)

    def _add_rule(self, rule: Rule) -> None:
        try:
            self._requests.request(rules.NEW, CREATE | EXCL, rules.encode(rule, self._protocol))
        except RefusedError as error:
            # The kernel's comparison overlooks a goto's target, so "exists" is looked up.
            if error.errno != errno.EEXIST or rule not in [listed.rule for listed in self._rules(rule.family)]:
                raise

    def _delete_rule(self, rule: Rule) -> None:
        listed = rules.deletable(rule, self._rules(rule.family))
        if listed is not None:
            self._delete(rules.DELETE, listed.payload)

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
            if error.errno in _GONE:
                return False
            raise
        return True
