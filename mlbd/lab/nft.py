"""libnftables in this process, bound to one namespace: a fault is in force when the call returns, after 0.1 ms."""

from __future__ import annotations

import ctypes
import functools
import json
from types import TracebackType
from typing import Any, Self

from mlbd.lab.namespaces import LabError, entered

_JSON = 1 << 4
"""NFT_CTX_OUTPUT_JSON of nftables/libnftables.h."""


@functools.cache
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libnftables.so.1")
    except OSError as error:
        raise LabError("libnftables.so.1 is missing. Install it: apt-get install nftables") from error
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_new.argtypes = [ctypes.c_uint32]
    for name in ("buffer_output", "buffer_error", "get_output_buffer", "get_error_buffer", "free"):
        getattr(library, f"nft_ctx_{name}").argtypes = [ctypes.c_void_p]
    library.nft_ctx_get_output_buffer.restype = ctypes.c_char_p
    library.nft_ctx_get_error_buffer.restype = ctypes.c_char_p
    library.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
    library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    return library


class Nft:
    """One namespace's nftables. The library opens its socket when it is made, so it stays in that namespace."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._library = _library()
        with entered(namespace):
            self._context = self._library.nft_ctx_new(0)
        if not self._context:
            raise LabError(f"libnftables could not be opened in {namespace}.")
        self._library.nft_ctx_buffer_output(self._context)
        self._library.nft_ctx_buffer_error(self._context)
        self._library.nft_ctx_output_set_flags(self._context, _JSON)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._context:
            self._library.nft_ctx_free(self._context)
            self._context = None

    def run(self, text: str) -> str:
        """Commands as nft(8) reads them, one transaction; what they print. Raises LabError with nft's words."""
        with entered(self._namespace):
            status = self._library.nft_run_cmd_from_buffer(self._context, text.encode())
        output: bytes = self._library.nft_ctx_get_output_buffer(self._context) or b""
        if status != 0:
            errors: bytes = self._library.nft_ctx_get_error_buffer(self._context) or b""
            raise LabError(f"nft in {self._namespace}: {errors.decode(errors='replace').strip()}")
        return output.decode()

    def counters(self, table: str) -> dict[str, int]:
        """Packets that each named counter of an `inet` table has seen."""
        listing: dict[str, list[dict[str, Any]]] = json.loads(self.run(f"list counters table inet {table}"))
        found = (entry["counter"] for entry in listing["nftables"] if "counter" in entry)
        return {counter["name"]: counter["packets"] for counter in found}
