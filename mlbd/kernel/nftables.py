"""The table `inet mlbd`: reading it, and changing any number of its objects in one transaction.

How objects that nft does not have look in it:

- A `SlotMap` is a verdict map keyed by `numgen`; slot i is the element `i : goto CHAIN`. A slot that leads nowhere is
  `i : continue`, so the number of slots can be read back; the kernel's type does not depend on it.
- `Saved` objects are elements of the set `saved`, keyed by interface name, their values in the element's comment.
- A rule of ours carries its digest as its comment.
- What lies in our table but is of a kind or shape that we never make is shown as a `Chain` named by nft's words for
  it, `set blocked` or `ct timeout slow`. No chain can have such a name, so it is never desired and will be retired.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from mlbd.core.plan import Change
from mlbd.core.state import Chain, Counter, Helper, Hook, KernelState, MarkSet, Nft, Saved, SlotMap, Statement
from mlbd.kernel.elements import Elements, only_elements
from mlbd.kernel.libnftables import LibNftables, NftError
from mlbd.kernel.nftext import transaction

_DIGEST = re.compile(r"[0-9a-f]{12}")
_TYPES = ("filter", "route", "nat")
_HOOKS = ("prerouting", "input", "forward", "output", "postrouting")
_ODD = "?"
"""A slot whose element is not one we make, or missing. No chain can have this name."""


class NfTables:
    """Our table. Raises KernelUnavailableError, or OSError, where nf_tables can't be used at all.

    Only the listing of our own table is ever asked for: for any other, libnftables 1.0.6 reads all sets there are.
    """

    def __init__(self) -> None:
        self._nft = LibNftables()
        self._elements = Elements()

    def close(self) -> None:
        self._nft.close()
        self._elements.close()

    def look(self) -> list[Nft]:
        """Everything in the table. Raises NftError, ValueError."""
        return list(_objects(self._list() or []))

    def counters(self) -> dict[str, int]:
        """Packets by counter name. Raises NftError, ValueError."""
        listing = self._list() or []
        return {c["name"]: int(c["packets"]) for item in listing if (c := item.get("counter")) is not None}

    def generation(self) -> int:
        """See `Elements.generation`."""
        return self._elements.generation()

    def change(self, changes: Sequence[Change]) -> None:
        """All changes in one transaction. Raises NftError, and ValueError for what can't be written in nft's language.

        It is made for what the plan saw. If that fails, it is made once more for what is there now.
        """
        if all(change.new is None for change in changes):
            self._delete(changes)
            return
        try:
            if only_elements(changes):
                self._elements.change(changes)
            else:
                self._nft.run(transaction(changes))
        except (NftError, OSError):
            now = KernelState(self.look())
            self._nft.run(transaction(_rebased(changes, now)))

    def _delete(self, changes: Sequence[Change]) -> None:
        listing = self._list()
        if listing is None:
            return
        now = KernelState(_objects(listing))
        doomed = _rebased(changes, now)
        if len(doomed) == len(now):
            self._nft.run("delete table inet mlbd")
        elif doomed:
            self._nft.run(transaction(doomed))

    def _list(self) -> list[dict[str, Any]] | None:
        """What nft lists of the table; None if there is no table."""
        try:
            return self._nft.list("table inet mlbd")
        except NftError as error:
            if os.strerror(errno.ENOENT) in str(error):
                return None
            raise


def _rebased(changes: Iterable[Change], now: KernelState) -> list[Change]:
    """The changes that still lead to the same end, starting from what is there now."""
    rebased = [Change(now.get(change.object.key), change.new) for change in changes]
    return [change for change in rebased if change.old != change.new]


def _objects(listing: Iterable[dict[str, Any]]) -> Iterator[Nft]:
    chains: dict[str, tuple[Hook | None, list[Statement]]] = {}
    for item in listing:
        for kind, thing in item.items():
            if kind == "rule":
                comment = thing.get("comment", "")
                digest = comment if _DIGEST.fullmatch(comment) else ""
                chains[thing["chain"]][1].append(Statement(digest))
            elif kind == "chain":
                chains[thing["name"]] = (_hook(thing), [])
            elif kind not in ("metainfo", "table"):
                yield from _thing(kind, thing)
    for name, (hook, statements) in chains.items():
        yield Chain(name, hook, tuple(statements))


def _hook(chain: dict[str, Any]) -> Hook | None:
    """None for a regular chain, and for a base chain that we would not make, so that it differs from one we would."""
    if chain.get("policy") != "accept" or chain["type"] not in _TYPES or chain["hook"] not in _HOOKS:
        return None
    return Hook(chain["type"], chain["hook"], chain["prio"])


def _thing(kind: str, thing: dict[str, Any]) -> Iterator[Nft]:
    name, elements = thing["name"], thing.get("elem", [])
    plain = not {"flags", "timeout", "size", "policy", "stmt"} & thing.keys()
    match kind, thing.get("type"), thing.get("map"):
        case "counter", _, _:
            yield Counter(name)
        case "ct helper", str(helper), _ if helper == name and thing.get("l3proto") in ("inet", None):
            yield Helper(name, thing["protocol"])
        case "map", "integer", "verdict" if plain:
            yield SlotMap(name, _slots(elements))
        case "set", "mark", None if plain and all(isinstance(mark, int) for mark in elements):
            yield MarkSet(name, frozenset(elements))
        case "set", "ifname", None if plain and name == "saved":
            yield from map(_saved, elements)
        case _:
            yield Chain(f"{kind} {name}")


def _slots(elements: list[Any]) -> tuple[str, ...]:
    found = {}
    for key, verdict in elements:
        if not isinstance(key, int):
            return (_ODD,)
        found[key] = "" if "continue" in verdict else verdict.get("goto", {}).get("target", _ODD)
    return tuple(found.get(i, _ODD) for i in range(max(found, default=-1) + 1))


def _saved(element: Any) -> Saved:
    if isinstance(element, str):
        return Saved(element, ())
    inner = element["elem"]
    pairs = (part.partition("=") for part in inner.get("comment", "").split())
    return Saved(inner["val"], tuple(sorted((name, value) for name, _, value in pairs)))
