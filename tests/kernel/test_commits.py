"""Hearing who else changes our table."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
from collections.abc import Awaitable, Callable

from mlbd.core.plan import Change
from mlbd.core.state import Counter
from mlbd.kernel import LinuxKernel
from mlbd.kernel.commits import Commits
from tests.kernel.namespace import private_namespace
from tests.kernel.objects import PROTOCOL, TABLE_BASE


def nft(commands: str) -> None:
    subprocess.run(["nft", "-f", "-"], input=commands, text=True, check=True)


def heard(
    listener: Callable[[Callable[[str], None]], Awaitable[None]], story: Callable[[], Awaitable[None]]
) -> list[str]:
    """The names that were told during the story."""
    names: list[str] = []

    async def main() -> None:
        listening = asyncio.ensure_future(listener(names.append))
        await asyncio.sleep(0)
        await story()
        await asyncio.sleep(0.05)
        listening.cancel()
        await asyncio.wait([listening])

    asyncio.run(main())
    return names


def test_who_changes_our_table_is_named() -> None:
    """Each transaction of another program on our table is told with its name; not ours, nor those on other tables."""
    with private_namespace(), contextlib.closing(LinuxKernel(PROTOCOL, TABLE_BASE)) as linux:

        async def story() -> None:
            await linux.apply([Change(None, Counter("ours"))])
            nft("add table ip theirs; add set ip theirs many { type mark ; }")
            nft("add counter inet mlbd more")
            await linux.apply([Change(Counter("ours"), None)])
            nft("flush ruleset")

        assert heard(linux.hear_nftables, story) == ["nft", "nft"]
        nft("add table inet mlbd")  # nobody listens any more


def test_more_than_can_be_heard() -> None:
    """Where messages were lost, it is told that something changed, by nobody knows whom, and what follows is heard."""
    many = ", ".join(map(str, range(2000)))
    with private_namespace(), contextlib.closing(Commits()) as commits:

        async def story() -> None:
            commits._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 5000)
            nft(f"add table ip theirs; add set ip theirs many {{ type mark ; elements = {{ {many} }}; }}")
            await asyncio.sleep(0.05)
            nft("add table inet mlbd")

        assert heard(commits.run, story) == ["", "nft"]
