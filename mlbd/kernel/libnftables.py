"""libnftables in this process, by ctypes: commands in nft's own language, listings in JSON.

A command costs a tenth of a millisecond this way, as a process 16 ms. Text, not JSON, goes in: a map keyed by `numgen`
cannot be made in JSON. The library is part of nftables, so it is there wherever `nft` is. libnftables(3).
"""

from __future__ import annotations

import ctypes
import json
import socket
from typing import Any

from mlbd.core.ports import KernelUnavailableError
from mlbd.kernel.netlink import NETLINK_NETFILTER

_JSON, _NUMERIC_PRIORITY, _NUMERIC_SYMBOLS = 1 << 4, 1 << 8, 1 << 9


class NftError(Exception):
    """nft refused; the message is its first line, and the command it complains of."""


class LibNftables:
    """One context of the library. Raises KernelUnavailableError if there is no library or no nf_tables to talk to."""

    def __init__(self) -> None:
        try:
            self._library = _load()
        except OSError:
            raise KernelUnavailableError(
                "libnftables.so.1 is not installed: run `apt-get install nftables` (or your system's libnftables1)"
            ) from None
        try:  # the library ends the process if this fails
            socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER).close()
        except OSError as error:
            raise KernelUnavailableError(
                f"the kernel has no netfilter ({error.strerror}): mlbd needs Linux with CONFIG_NF_TABLES"
            ) from None
        self._context: int | None = self._library.nft_ctx_new(0)
        if self._context is None:
            raise KernelUnavailableError("libnftables does not start: there is not enough memory")
        self._library.nft_ctx_buffer_output(self._context)
        self._library.nft_ctx_buffer_error(self._context)

    def run(self, commands: str) -> None:
        """All of the commands in one transaction, or, raising NftError, none."""
        self._run(commands, 0)

    def list(self, what: str) -> list[dict[str, Any]]:
        """The objects that `list WHAT` shows, each a dict of one key, its kind. NftError; ValueError if not JSON."""
        output = self._run(f"list {what}", _JSON | _NUMERIC_PRIORITY | _NUMERIC_SYMBOLS)
        objects: list[dict[str, Any]] = json.loads(output)["nftables"] if output else []
        return objects

    def close(self) -> None:
        if self._context is not None:
            self._library.nft_ctx_free(self._context)
            self._context = None

    def _run(self, commands: str, flags: int) -> str:
        library, context = self._library, self._context
        library.nft_ctx_output_set_flags(context, flags)
        status = library.nft_run_cmd_from_buffer(context, commands.encode())
        output, error = library.nft_ctx_get_output_buffer(context), library.nft_ctx_get_error_buffer(context)
        if status:
            raise NftError(_complaint(error.decode(errors="replace")))
        return str(output.decode())


def _complaint(text: str) -> str:
    lines = text.splitlines() or ["nft gave no reason"]
    reason = lines[0].partition("Error: ")[2] or lines[0]
    command = lines[1] if len(lines) > 1 else ""
    return f"{reason} (in: {command[:100]}{'...' if len(command) > 100 else ''})" if command else reason


def _load() -> ctypes.CDLL:
    library = ctypes.CDLL("libnftables.so.1")
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_new.argtypes = [ctypes.c_uint32]
    for name in ("nft_ctx_free", "nft_ctx_buffer_output", "nft_ctx_buffer_error"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
    for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
        getattr(library, name).restype = ctypes.c_char_p
    library.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
    library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    return library
