"""Faults of the kernel's interface: in front of any `Kernel`, and below the real one, at every message it sends."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal, get_args
from unittest import mock

from mlbd.core.plan import Change
from mlbd.core.ports import NO_BUNDLES, ApplyError, Kernel, Observation
from mlbd.core.state import Nft
from mlbd.kernel.libnftables import LibNftables, NftError
from mlbd.kernel.netlink import RefusedError, Requests

ERRORS = (errno.ENOBUFS, errno.EBUSY, errno.ENODEV, errno.ENOMEM, errno.EPERM)


class Ended(Exception):  # noqa: N818  (it is no error)
    """The daemon is gone, in the middle of what it did."""


@dataclass(frozen=True, slots=True)
class Operation:
    """A look, what is done to connections, or a change: one transaction of nftables, or one route, rule or sysctl."""

    kind: Literal["look", "change", "cut", "begin anew", "abandon"]
    changes: tuple[Change, ...] = ()


def nothing(_: Operation) -> None:
    """No fault."""


class FaultyKernel:
    """Implements `Kernel` by another one. `before` is called before each operation: if it raises OSError, a change is
    refused, and a look or a cut fails; `Ended` ends the daemon.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.before: Callable[[Operation], None] = nothing

    async def observe(
        self,
        interfaces: Collection[str],
        neighbours: Collection[str] = (),
        bundles: Mapping[str, Collection[str]] = NO_BUNDLES,
    ) -> Observation:
        self.before(Operation("look"))
        return await self._kernel.observe(interfaces, neighbours, bundles)

    async def apply(self, changes: Sequence[Change]) -> Sequence[ApplyError]:
        errors: list[ApplyError] = []
        for batch in operations(changes):
            try:
                self.before(Operation("change", tuple(batch)))
            except OSError as error:
                errors += [ApplyError(change, error.strerror or str(error)) for change in batch]
            else:
                errors += await self._kernel.apply(batch)
        return errors

    async def cut(self, mark: int, mask: int) -> None:
        self.before(Operation("cut"))
        await self._kernel.cut(mark, mask)

    async def begin_anew(self) -> None:
        self.before(Operation("begin anew"))
        await self._kernel.begin_anew()

    async def abandon(self, stranded: Collection[str], departed: Collection[str] = ()) -> None:
        self.before(Operation("abandon"))
        await self._kernel.abandon(stranded, departed)


def operations(changes: Sequence[Change]) -> Iterator[list[Change]]:
    """Changes that are made together."""
    for is_nft, group in groupby(changes, key=lambda change: isinstance(change.object, get_args(Nft))):
        together = list(group)
        yield from [together] if is_nft else [[change] for change in together]


@dataclass
class Some:
    """The operations with these numbers fail, counted from 0."""

    first: int
    last: int
    count: int = 0
    hit: list[Operation] = field(default_factory=list)

    def __call__(self, operation: Operation) -> None:
        self.count += 1
        if self.first < self.count <= self.last + 1:
            self.hit.append(operation)
            number = ERRORS[self.count % len(ERRORS)]
            raise OSError(number, os.strerror(number))


@dataclass
class Messages:
    """Faults of the real kernel's messages with these numbers, counted from 0."""

    first: int
    last: int
    lost: bool = False
    """What is asked for is done, only the answer does not come."""
    kinds: list[str] = field(default_factory=list)
    """What was sent: request, get, dump, batch or run."""

    @contextmanager
    def below(self) -> Iterator[None]:
        """They happen in the block, to whoever sends messages of netlink or commands of nft."""
        methods = ("request", "get", "dump", "batch")
        patches = [mock.patch.object(Requests, name, self._failing(name, getattr(Requests, name))) for name in methods]
        patches.append(mock.patch.object(LibNftables, "run", self._failing_run(LibNftables.run)))
        for patch in patches:
            patch.start()
        try:
            yield
        finally:
            for patch in patches:
                patch.stop()

    def _due(self, kind: str) -> int:
        """The error of this message; 0: none."""
        self.kinds.append(kind)
        count = len(self.kinds)
        return ERRORS[count % len(ERRORS)] if self.first < count <= self.last + 1 else 0

    def _failing(self, kind: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(requests: Requests, *args: Any) -> Any:
            number = self._due(kind)
            if number and not self.lost:
                raise RefusedError(number, os.strerror(number))
            answer = method(requests, *args)
            if number:
                requests.close()
                raise TimeoutError("timed out")
            return answer

        return call

    def _failing_run(self, method: Callable[[LibNftables, str], None]) -> Callable[[LibNftables, str], None]:
        def call(library: LibNftables, commands: str) -> None:
            number = self._due("run")
            if number and not self.lost:
                raise NftError(f"Could not process rule: {os.strerror(number)}")
            method(library, commands)
            if number:
                raise NftError("Could not receive the answer")

        return call
