"""The table `inet mlbd`: reading it, and changing any number of its objects in one transaction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mlbd.core.plan import Change
from mlbd.core.state import KernelState, Nft
from mlbd.kernel.commits import Commits
from mlbd.kernel.elements import Elements, only_elements
from mlbd.kernel.libnftables import LibNftables, NftError
from mlbd.kernel.nftext import transaction
from mlbd.kernel.nftlook import TableReader


class NfTables:
    """Our table. Raises KernelUnavailableError, or OSError, where nf_tables can't be used at all."""

    def __init__(self) -> None:
        self._nft = LibNftables()
        self._elements = Elements()
        self._reader = TableReader()
        self.others = Commits()
        """To hear of others' changes."""

    def close(self) -> None:
        self._nft.close()
        self._elements.close()
        self._reader.close()
        self.others.close()

    def look(self) -> list[Nft]:
        """Everything in the table. Raises OSError."""
        return self._reader.read() or []

    def counters(self) -> dict[str, int]:
        """Packets by counter name. Raises OSError."""
        return self._reader.counters()

    def change(self, changes: Sequence[Change]) -> None:
        """All changes in one transaction. Raises NftError, and ValueError for what can't be written in nft's language.

        It is made for what the plan saw. If that fails, it is made once more for what is there now.
        """
        with self.others.unheard():
            self._make(changes)

    def _make(self, changes: Sequence[Change]) -> None:
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
        found = self._reader.read()
        if found is None:
            return
        now = KernelState(found)
        doomed = _rebased(changes, now)
        if len(doomed) == len(now):
            self._nft.run("delete table inet mlbd")
        elif doomed:
            self._nft.run(transaction(doomed))


def _rebased(changes: Iterable[Change], now: KernelState) -> list[Change]:
    """The changes that still lead to the same end, starting from what is there now."""
    rebased = [Change(now.get(change.object.key), change.new) for change in changes]
    return [change for change in rebased if change.old != change.new]
