"""The real kernel where no thread can be waited for, as in virtual time, or in another network namespace than this."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

from mlbd.core.plan import Change
from mlbd.core.ports import NO_BUNDLES, ApplyError, Observation
from mlbd.kernel import LinuxKernel


class InsideKernel:
    """Implements `Kernel`. Everything is done in the block that `inside` gives."""

    def __init__(
        self, protocol: int, table_base: int, inside: Callable[[], AbstractContextManager[None]] = nullcontext
    ) -> None:
        self._inside = inside
        with inside():
            self._kernel = LinuxKernel(protocol, table_base)

    def close(self) -> None:
        self._kernel.close()

    async def observe(
        self,
        interfaces: Collection[str],
        neighbours: Collection[str] = (),
        bundles: Mapping[str, Collection[str]] = NO_BUNDLES,
    ) -> Observation:
        with self._inside():
            return await self._kernel.observe(interfaces, neighbours, bundles)

    async def apply(self, changes: Sequence[Change]) -> Sequence[ApplyError]:
        with self._inside():
            return await self._kernel.apply(changes)

    async def cut(self, mark: int, mask: int) -> None:
        self._wait(lambda: self._kernel.cut(mark, mask))

    async def begin_anew(self) -> None:
        self._wait(self._kernel.begin_anew)

    async def abandon(self, stranded: Collection[str], departed: Collection[str] = ()) -> None:
        self._wait(lambda: self._kernel.abandon(stranded, departed))

    def _wait(self, work: Callable[[], Coroutine[None, None, None]]) -> None:
        errors: list[OSError] = []

        def run() -> None:
            try:
                asyncio.run(work())
            except OSError as error:
                errors.append(error)

        with self._inside():
            thread = threading.Thread(target=run)
            thread.start()
            thread.join()
        if errors:
            raise errors[0]
