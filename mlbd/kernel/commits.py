"""Hearing who else changes the table `inet mlbd`: nf_tables tells after each transaction, with the program's name.

A transaction is told as messages for every object in it, each with its table's name, and one for the new generation
with the name of who made it (net/netfilter/nf_tables_api.c, nf_tables_fill_gen_info). While nobody listens the kernel
spares itself all that, so nobody listens while we change something ourselves: a failover moves hundreds of elements.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mlbd.kernel.netlink import HEADER, NETLINK_NETFILTER, SOL_NETLINK, attributes, split, text

_GROUP = 7
"""NFNLGRP_NFTABLES."""
_ADD_MEMBERSHIP, _DROP_MEMBERSHIP = 1, 2
_NEW_GENERATION = 10 << 8 | 15
"""NFNL_SUBSYS_NFTABLES, NFT_MSG_NEWGEN."""
_PROCESS_NAME = 3
"""NFTA_GEN_PROC_NAME."""
_OF_OUR_TABLE = struct.pack("=HH", 9, 1) + b"mlbd\0"
"""NFTA_*_TABLE, the first attribute of everything that lies in a table."""
_BUFFER = 4 << 20
_SO_RCVBUFFORCE = 33
_AT_ONCE = 100
"""Datagrams read before the event loop may do something else."""


class Commits:
    """Listens while `run` runs. Raises OSError when made."""

    def __init__(self) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_NETLINK, kind, NETLINK_NETFILTER)
        self._on_change: Callable[[str], None] | None = None
        self._touched = False
        """A message about our table has come, of a transaction of which the end has not."""

    async def run(self, on_change: Callable[[str], None]) -> None:
        """Call back until cancelled, after each transaction of others on our table, with its program's name, "" if that
        is not known. Raises OSError.
        """
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        except PermissionError:  # root of a user namespace
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        self._socket.bind((0, 0))
        loop = asyncio.get_running_loop()
        self._on_change = on_change
        self._listen(_ADD_MEMBERSHIP)
        loop.add_reader(self._socket, self._read)
        try:
            await loop.create_future()
        finally:
            loop.remove_reader(self._socket)
            self._listen(_DROP_MEMBERSHIP)
            self._on_change = None

    @contextmanager
    def unheard(self) -> Iterator[None]:
        """Transactions meanwhile are not told, neither ours nor, in that moment, anybody's."""
        listening = self._on_change is not None
        if listening:
            self._listen(_DROP_MEMBERSHIP)
        try:
            yield
        finally:
            if listening:
                self._listen(_ADD_MEMBERSHIP)

    def close(self) -> None:
        self._socket.close()

    def _listen(self, how: int) -> None:
        self._socket.setsockopt(SOL_NETLINK, how, _GROUP)

    def _read(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                datagram = self._socket.recv(1 << 16)
            except BlockingIOError:
                return
            except OSError:  # too many at once: some are lost, perhaps some about our table
                self._tell("")
                return
            self._touched = self._touched or _OF_OUR_TABLE in datagram
            if self._touched:
                for kind, _, _, _, message in split(datagram):
                    if kind == _NEW_GENERATION:
                        self._tell(text(attributes(message, HEADER.size + 4).get(_PROCESS_NAME, b"")))

    def _tell(self, program: str) -> None:
        self._touched = False
        if self._on_change is not None:
            self._on_change(program)
