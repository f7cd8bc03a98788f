"""The difference between two kernel states, as ordered changes; one generic keyed diff for all kinds.

PREPARE adds what is missing, SWITCH replaces in place, RETIRE deletes: a packet always finds either the old way or
the new one. nftables objects are the exception in form, not in effect: their adds, replacements and deletions are
one transaction between PREPARE and the replacement of routes, because the kernel can switch them all at one moment.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import Literal

from msgspec import Struct

from mlbd.core.state import (
    Address,
    Bond,
    Bundling,
    Chain,
    KernelState,
    MarkSet,
    Object,
    Port,
    Route,
    Rule,
    Saved,
    SlotMap,
    Sysctl,
    Teql,
)


class Phase(IntEnum):
    PREPARE = 0
    SWITCH = 1
    RETIRE = 2


Action = Literal["add", "replace", "delete"]


class Change(Struct, frozen=True):
    """One step. `old` is None when adding, `new` when deleting."""

    old: Object | None
    new: Object | None

    @property
    def object(self) -> Object:
        thing = self.new if self.new is not None else self.old
        assert thing is not None
        return thing

    @property
    def action(self) -> Action:
        if self.old is None:
            return "add"
        return "delete" if self.new is None else "replace"

    @property
    def kind(self) -> str:
        return str(self.object.key[0])

    @property
    def phase(self) -> Phase:
        # A sysctl exists with its interface, so it is never added; setting it prepares what comes after. So does what
        # makes a bundle work: nothing else has to be known first.
        joins = isinstance(self.new, Port) and self.new.bundle
        if isinstance(self.object, Sysctl) or self.old is None or isinstance(self.new, Bond | Teql) or joins:
            return Phase.PREPARE
        return Phase.RETIRE if self.new is None else Phase.SWITCH


_REMEMBER, _SET, _BUNDLE, _ADD_ROUTE, _ADD_RULE, _NFT, _REPLACE_ROUTE = range(7)
_DELETE_RULE, _DELETE_ROUTE, _UNBUNDLE, _RESTORE, _FORGET = range(7, 12)
_ORDER: dict[tuple[Action, type[Object]], int] = {
    ("add", Saved): _REMEMBER,  # originals are remembered before they are changed
    ("replace", Saved): _REMEMBER,
    ("replace", Sysctl): _SET,
    ("add", Sysctl): _SET,
    ("add", Route): _ADD_ROUTE,  # a mark may point to a table only when the table leads somewhere
    ("add", Rule): _ADD_RULE,
    ("replace", Route): _REPLACE_ROUTE,
    ("delete", Rule): _DELETE_RULE,
    ("delete", Route): _DELETE_ROUTE,
    # Sysctls become what they were when nothing of ours needs them any more; until then, what they were is remembered.
}


def _step(change: Change, leaving: frozenset[str]) -> tuple[int, int]:
    thing = change.object
    if isinstance(thing, Bundling):
        return _bundle_step(change, thing)
    step = _ORDER.get((change.action, type(thing)), _NFT)
    if isinstance(thing, Sysctl | Saved) and thing.scope in leaving:
        return (_RESTORE if isinstance(thing, Sysctl) else _FORGET), 0
    if not isinstance(thing, Rule):
        return step, 0
    # A rule that keeps packets from others is there before them and after them: what `main` has for the LAN before
    # every default of ours. Where `goto` leads comes first of all: one that leads nowhere is passed over.
    place = -1 if thing.action == "nop" else thing.priority
    return step, place if change.new is not None else -place


def _bundle_step(change: Change, thing: Bundling) -> tuple[int, int]:
    """A bond before its ports, TEQL's members before its device, which can't be up without, and both before what leads
    there. A bond sends by another port before one goes.
    """
    gone = change.new is None
    match thing:
        case Bond():
            place = 4 if gone else 0
        case Port():
            place = 1 if thing.bundle and not gone else 2 if gone else 4
        case Teql():
            place = 3 if gone else 2
        case Address():
            place = 0 if gone else 3
    return (_UNBUNDLE if gone else _BUNDLE), place


def plan(desired: KernelState, observed: KernelState) -> list[Change]:
    """The changes that turn `observed` into `desired`, in the order in which they must be made.

    A sysctl that is observed but not desired is left alone; it is the administrator's.
    """
    changes = [
        Change(old, new) for new, old in desired.differences(observed) if new is not None or not isinstance(old, Sysctl)
    ]
    leaving = _leaving(changes)
    return sorted(changes, key=lambda change: _step(change, leaving))


def _leaving(changes: Iterable[Change]) -> frozenset[str]:
    """Scopes whose sysctls are to be what they were before us."""
    return frozenset(c.old.scope for c in changes if isinstance(c.old, Saved) and c.new is None)


ASIDE = frozenset({"sysctl", "saved", "bond", "teql", "port", "address"})
"""Kinds of changes without which packets are steered as they should be."""


class Stages(Struct, frozen=True):
    """A plan in parts. Each depends on those before it."""

    saving: list[Change]
    """Notes of what sysctls were."""
    setting: list[Change]
    """Sysctls."""
    switching: list[Change]
    retiring: list[Change]
    """Rules, routes and what bundles consist of, that go."""
    restoring: list[Change]
    """Sysctls that become what they were, and the notes of that."""

    @classmethod
    def of(cls, changes: list[Change], *, settled: bool = True) -> Stages:
        """`settled`: not only what prepares."""
        leaving = _leaving(changes)
        saving: list[Change] = []
        setting: list[Change] = []
        switching: list[Change] = []
        retiring: list[Change] = []
        restoring: list[Change] = []
        for change in changes:
            thing = change.object
            if isinstance(thing, Sysctl | Saved) and thing.scope in leaving:
                restoring.append(change)
            elif isinstance(thing, Saved):
                saving.append(change)
            elif isinstance(thing, Sysctl):
                setting.append(change)
            elif change.new is None and isinstance(thing, Rule | Route | Bundling):
                retiring.append(change)
            elif settled or change.phase is Phase.PREPARE:
                switching.append(change)
        return cls(saving, setting, switching, retiring if settled else [], restoring if settled else [])


def begins_to_translate(change: Change) -> bool:
    """Whether connections are translated from now on that were not before."""
    new = change.new
    return change.old is None and isinstance(new, Chain) and new.hook is not None and new.hook.type == "nat"


def urgent(change: Change, state: KernelState) -> Change | None:
    """What of a change leads new connections away from a dead uplink, with nothing that is not there yet."""
    match change.old, change.new:
        case SlotMap(name, old), SlotMap(_, new):
            there = [slot for slot in new if ("chain", slot) in state]
            if not there:
                return None
            if len(there) < len(new) or len(old) != len(new):
                new = tuple(slot if slot in there else there[i % len(there)] for i, slot in enumerate(old))
            return Change(change.old, SlotMap(name, new)) if new != old else None
        case MarkSet(), MarkSet():
            return change
    return None


def apply(changes: Iterable[Change], state: KernelState) -> KernelState:
    """The state after the changes, if the kernel does as told."""
    return state.changed({change.object.key: change.new for change in changes})
