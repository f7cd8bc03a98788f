"""Changes of inputs that know their shape, so that what comes out gets past the first check."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from random import Random
from typing import Any

from tests.fuzz.target import Mutate

_EDGES = (0, 1, 2, 3, 4, 7, 8, 15, 16, 127, 128, 255, 256, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def any_bytes(data: bytes, random: Random) -> bytes:
    """One to four changes of whatever it is."""
    found = bytearray(data)
    for _ in range(random.randint(1, 4)):
        at, end = sorted((random.randint(0, len(found)), random.randint(0, len(found))))
        match random.randrange(6):
            case 0:
                found[at:at] = random.randbytes(random.choice((1, 1, 2, 4, 16)))
            case 1:
                del found[at : min(end, at + random.choice((1, 2, 4, 8, 1000)))]
            case 2:
                found[at:at] = found[at : min(end, at + 64)]
            case 3:
                number = random.choice(_EDGES).to_bytes(4, random.choice(("big", "little")))
                number = number[: random.choice((1, 2, 4))]
                found[at : at + len(number)] = number
            case _ if at < len(found):
                found[at] = random.choice((random.randrange(256), found[at] ^ 1 << random.randrange(8)))
    return bytes(found)


# Netlink.

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_NAMES = (b"wan1\0", b"lan1\0", b"{a}\0", b"\xff\xfe\0", b"a\nb\0", b"%s\0", b"wan1", b"\0", b"", b'a"b\0', b"a\\b\0")
_BEHIND = {16: 16, 17: 16, 20: 8, 21: 8, 24: 12, 25: 12, 28: 12, 32: 12, 33: 12, 64: 4}
"""Bytes of the fixed header by type of a message of rtnetlink; in nfnetlink it has 4."""


def split(data: bytes) -> list[bytes]:
    """The messages in a row; what is left over is the last."""
    found = []
    while len(data) >= _HEADER.size:
        length = _HEADER.unpack_from(data)[0]
        if not _HEADER.size <= length <= len(data):
            break
        length = (length + 3) & ~3
        found.append(data[:length])
        data = data[length:]
    return [*found, data] if data else found


def netlink(data: bytes, random: Random) -> bytes:
    """Messages in a row: whole ones come, go and change places, or one changes inside and keeps its lengths right."""
    messages = split(data)
    if not messages or not random.randrange(8):
        return any_bytes(data, random)
    for _ in range(random.randint(1, 3)):
        at = random.randrange(len(messages))
        match random.randrange(8):
            case 0 if len(messages) > 1:
                del messages[at]
            case 1:
                messages.insert(random.randrange(len(messages) + 1), messages[at])
            case 2:
                other = random.randrange(len(messages))
                messages[at], messages[other] = messages[other], messages[at]
            case _:
                messages[at] = _message(messages[at], random)
    return b"".join(messages)


def _message(message: bytes, random: Random) -> bytes:
    if len(message) < _HEADER.size:
        return any_bytes(message, random)
    _, kind, flags, sequence, port = _HEADER.unpack_from(message)
    start = _HEADER.size + _BEHIND.get(kind, 4)
    fixed, attributes = bytearray(message[_HEADER.size : start]), message[start:]
    match random.randrange(8):
        case 0 if fixed:
            fixed[random.randrange(len(fixed))] = random.choice(_EDGES) & 0xFF
        case 1:
            kind, flags = random.choice(((kind ^ 1, flags), (kind, random.choice(_EDGES) & 0xFFFF), (2, flags)))
        case 2:
            attributes = b""
            fixed = fixed[: random.randrange(len(fixed) + 1)]
        case _:
            attributes = _attributes(attributes, random)
    length = _HEADER.size + len(fixed) + len(attributes)
    return _HEADER.pack(length, kind, flags, sequence, port) + fixed + attributes


def _attributes(data: bytes, random: Random) -> bytes:
    found = _parsed(data)
    if not found:
        return any_bytes(data, random)[:4096]
    at = random.randrange(len(found))
    kind, value = found[at]
    match random.randrange(9):
        case 0:
            del found[at]
        case 1:
            found.insert(at, (random.choice((kind, kind + 1, random.randrange(32))), value))
        case 2:
            found[at] = (random.choice((kind ^ 0x8000, random.randrange(40))), value)
        case 3:
            found[at] = (kind, value[: random.randrange(len(value) + 1)])
        case 4:
            found[at] = (kind, value + random.randbytes(random.choice((1, 2, 4, 16))))
        case 5:
            found[at] = (kind, random.choice(found)[1])
        case 6 if value.endswith(b"\0") or not random.randrange(4):
            found[at] = (kind, random.choice(_NAMES))
        case 6:
            found[at] = (kind, (random.choice(_EDGES).to_bytes(4, random.choice(("big", "little"))) * 4)[: len(value)])
        case _:
            changed = _attributes(value, random) if _parsed(value) else any_bytes(value, random)
            found[at] = (kind, changed)
    return b"".join(
        _ATTRIBUTE.pack(min(len(value) + 4, 0xFFFF), kind & 0xFFFF) + value + bytes(-len(value) % 4)
        for kind, value in found
    )


def _parsed(data: bytes) -> list[tuple[int, bytes]]:
    """The attributes, if the bytes are nothing else."""
    found = []
    while data:
        if len(data) < 4:
            return []
        length, kind = _ATTRIBUTE.unpack_from(data)
        if not 4 <= length <= len(data):
            return []
        found.append((kind, data[4:length]))
        data = data[(length + 3) & ~3 :]
    return found


# Text.


def lines(words: Sequence[str], values: Sequence[str], pool: Sequence[str]) -> Mutate:
    """Of a text of `key = value` lines: with other `words` as keys, other `values`, and lines out of the `pool`."""

    def mutate(data: bytes, random: Random) -> bytes:
        if not random.randrange(8):
            return any_bytes(data, random)
        found = data.decode(errors="replace").split("\n")
        for _ in range(random.randint(1, 4)):
            at = random.randrange(len(found))
            key, equals, value = found[at].partition(" = ")
            match random.randrange(8):
                case 0 if len(found) > 1:
                    del found[at]
                case 1:
                    found.insert(random.randrange(len(found) + 1), found[at])
                case 2:
                    found.insert(at, random.choice(pool))
                case 3 if equals:
                    found[at] = random.choice(words) + equals + value
                case 4 | 5 if equals:
                    found[at] = key + equals + random.choice(values)
                case 6:
                    found[at] = any_bytes(found[at].encode(), random).decode(errors="replace")
                case _:
                    found.insert(at, f"{random.choice(words)} = {random.choice(values)}")
        return "\n".join(found).encode()

    return mutate


_ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 3, 1.5, -0.0, 1e308, 10**30, 10**400, "", "\0", "a", "%", "{}", "{0}", "$(id)", '"', "\\",
    "\n", "\ud800", "é", "x" * 300, [], {}, [[]], {"": None}, "127.0.0.1", "::", "fe80::1%x", "9" * 5000, "1s", "eth0",
)  # fmt: skip


def documents(words: Sequence[str]) -> Mutate:
    """Of lines of JSON: values become others, keys become one of `words`."""

    def mutate(data: bytes, random: Random) -> bytes:
        if not random.randrange(6):
            return any_bytes(data, random)
        found = data.split(b"\n")
        at = random.randrange(len(found))
        if not random.randrange(6):
            found.insert(at, random.choice(found))
        try:
            value = json.loads(found[at])
        except (ValueError, RecursionError):
            return any_bytes(data, random)
        changed = json.dumps(_value(value, words, random), ensure_ascii=bool(random.randrange(2)))
        found[at] = changed.encode(errors="surrogatepass")
        return b"\n".join(found)

    return mutate


def _value(value: Any, words: Sequence[str], random: Random) -> Any:
    if isinstance(value, dict) and value and random.randrange(8):
        key = random.choice(list(value))
        match random.randrange(5):
            case 0:
                return {k: v for k, v in value.items() if k != key}
            case 1:
                return {**value, random.choice(words): random.choice(_ODD)}
        return {**value, key: _value(value[key], words, random)}
    if isinstance(value, list) and value and random.randrange(8):
        at = random.randrange(len(value))
        return [*value[:at], _value(value[at], words, random), *value[at + random.randrange(2) :]]
    return random.choice((*_ODD, *words))
