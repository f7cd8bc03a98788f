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

from mlbd.core.state import KernelState, Object, Route, Rule, Saved, Sysctl


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


def _step(change: Change) -> int:
    return _ORDER.get((change.action, type(change.object)), _NFT)


def plan(desired: KernelState, observed: KernelState) -> list[Change]:
    """The changes that turn `observed` into `desired`, in the order in which they must be made.

    A sysctl that is observed but not desired is left alone; it is the administrator's.
    """
    changes = [
        Change(old, new) for new, old in desired.differences(observed) if new is not None or not isinstance(old, Sysctl)
    ]
    return sorted(changes, key=_step)


def apply(changes: Iterable[Change], state: KernelState) -> KernelState:
    """The state after the changes, if the kernel does as told."""
    return state.changed({change.object.key: change.new for change in changes})
