"""The difference between two kernel states, as ordered changes; one generic keyed diff for all kinds.

PREPARE adds what is missing, SWITCH replaces in place, RETIRE deletes: a packet always finds either the old way or
the new one. nftables objects are the exception in form, not in effect: their adds, replacements and deletions are
one transaction between PREPARE and the replacement of routes, because the kernel can switch them all at one moment.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

from mlbd.core.state import KernelState, MarkSet, Object, Route, Rule, Saved, SlotMap, Sysctl


class Phase(IntEnum):
    PREPARE = 0
    SWITCH = 1
    RETIRE = 2


Action = Literal["add", "replace", "delete"]


@dataclass(frozen=True, slots=True)
class Change:
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
        # A sysctl exists with its interface, so it is never added; setting it prepares what comes after.
        if isinstance(self.object, Sysctl) or self.old is None:
            return Phase.PREPARE
        return Phase.RETIRE if self.new is None else Phase.SWITCH


_ORDER: dict[tuple[Action, type[Object]], int] = {
    ("add", Saved): 0,  # originals are remembered before they are changed
    ("replace", Saved): 0,
    ("replace", Sysctl): 1,
    ("add", Sysctl): 1,
    ("add", Route): 2,  # a mark may point to a table only when the table leads somewhere
    ("add", Rule): 3,
    ("replace", Route): 5,
    ("delete", Rule): 6,
    ("delete", Route): 7,
}
_NFT = 4
_RESTORE, _FORGET = 8, 9
"""Sysctls become what they were when nothing of ours needs them any more; until then, what they were is remembered."""


def _step(change: Change, leaving: frozenset[str]) -> tuple[int, int]:
    step, thing = _ORDER.get((change.action, type(change.object)), _NFT), change.object
    if isinstance(thing, Sysctl | Saved) and thing.scope in leaving:
        return (_RESTORE if isinstance(thing, Sysctl) else _FORGET), 0
    if not isinstance(thing, Rule):
        return step, 0
    # A rule that keeps packets from others is there before them and after them: what `main` has for the LAN before
    # every default of ours. Where `goto` leads comes first of all: one that leads nowhere is passed over.
    place = -1 if thing.action == "nop" else thing.priority
    return step, place if change.new is not None else -place


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


@dataclass(frozen=True, slots=True)
class Stages:
    """A plan in parts. Each depends on those before it."""

    saving: list[Change]
    """Notes of what sysctls were."""
    setting: list[Change]
    """Sysctls."""
    switching: list[Change]
    retiring: list[Change]
    """Rules and routes that go."""
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
            elif change.new is None and isinstance(thing, Rule | Route):
                retiring.append(change)
            elif settled or change.phase is Phase.PREPARE:
                switching.append(change)
        return cls(saving, setting, switching, retiring if settled else [], restoring if settled else [])


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
