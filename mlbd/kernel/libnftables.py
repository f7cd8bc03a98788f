"""libnftables in this process, by ctypes: commands in nft's own language.

A command costs a tenth of a millisecond this way, as a process 16 ms. Text, not JSON, goes in: a map keyed by `numgen`
cannot be made in JSON. Nothing is read by it, see `nftlook`. The library is part of nftables, so it is there wherever
`nft` is. libnftables(3).
"""

from __future__ import annotations

import ctypes
import socket

from mlbd.core.ports import KernelUnavailableError
from mlbd.kernel.netlink import NETLINK_NETFILTER

_MUCH = 16384
"""Characters of commands after which the memory that was freed is given back (malloc_trim(3), where the C library has
it): a whole ruleset leaves megabytes.
"""


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
        self._give_back = getattr(ctypes.CDLL(None), "malloc_trim", None)
        self._context: int | None = self._library.nft_ctx_new(0)
        if self._context is None:
            raise KernelUnavailableError("libnftables does not start: there is not enough memory")
        self._library.nft_ctx_buffer_output(self._context)
        self._library.nft_ctx_buffer_error(self._context)

    def run(self, commands: str) -> None:
        """All of the commands in one transaction, or, raising NftError, none."""
        library, context = self._library, self._context
        status = library.nft_run_cmd_from_buffer(context, commands.encode())
        library.nft_ctx_get_output_buffer(context)  # which empties it
        error = library.nft_ctx_get_error_buffer(context)
        if len(commands) > _MUCH and self._give_back is not None:
            self._give_back(0)
        if status:
            raise NftError(_complaint(error.decode(errors="replace")))

    def close(self) -> None:
        if self._context is not None:
            self._library.nft_ctx_free(self._context)
            self._context = None


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
    library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    return library
