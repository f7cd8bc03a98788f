"""Classic BPF on a socket (Linux: Documentation/networking/filter.rst): let in what carries one of a few numbers."""

from __future__ import annotations

import array
import socket
import struct
from collections.abc import Iterable, Sequence

_SO_ATTACH_FILTER = 26

Instruction = tuple[int, int, int, int]
"""Code, jump if true, jump if false, operand."""
LDX_IP_HEADER_LENGTH, LD_BYTE_AT_X, LD_HALF_AT_X = 0xB1, 0x50, 0x48
LD_BYTE, LD_HALF, LD_WORD = 0x30, 0x28, 0x20
AND, SHIFT_LEFT, ADD, ADD_X, TO_X, JUMP_IF_EQUAL, JUMP, RETURN = 0x54, 0x64, 0x04, 0x0C, 0x07, 0x15, 0x05, 0x06


def let_in(made: socket.socket, load: Sequence[Instruction], wanted: Iterable[int]) -> None:
    """Let in only packets of which `load` loads one of these numbers (at most 200). Replaces the filter before.

    Raises OSError.
    """
    numbers = list(wanted)
    program = [*load]
    program += [(JUMP_IF_EQUAL, len(numbers) - n, 0, number) for n, number in enumerate(numbers)]
    program += [(RETURN, 0, 0, 0), (RETURN, 0, 0, 0xFFFF)]
    code = array.array("B", b"".join(struct.pack("@HBBI", *instruction) for instruction in program))
    address, _ = code.buffer_info()
    made.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(program), address))
