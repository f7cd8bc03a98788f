"""All targets, and how a million inputs are spread over them: pure decoders take most, as they take microseconds."""

from __future__ import annotations

import json
from random import Random

from tests.fuzz import control_input, kernel_input, mutation, network_input, people_input
from tests.fuzz.target import SEEDS, Target


def _captured(name: str) -> bytes:
    return (SEEDS / f"{name}.netlink").read_bytes()


_LOOK, _TOLD = _captured("look"), _captured("notifications")
_SOME = tuple(b"".join(mutation.split(_LOOK)[at::6]) for at in range(6))
_FILES = tuple(text.encode() for text in people_input.EXAMPLES)
_TOML = mutation.lines(people_input.WORDS, people_input.VALUES, people_input.LINES)
_REQUESTS = tuple(json.dumps(asked).encode() + b"\n" for asked in control_input.REQUESTS)
_JSON = mutation.documents(control_input.COMMANDS)


def _mannered(data: bytes, random: Random) -> bytes:
    """Of what a client sends, behind the byte that says how."""
    manner = random.randrange(8) if not data or not random.randrange(4) else data[0]
    if not random.randrange(500):
        return bytes([manner]) + data[1:400].replace(b"\n", b" ") * random.randrange(600)
    return bytes([manner]) + _JSON(data[1:400], random)


_EVENTS = mutation.documents(("time", "event", "uplink", "from", "to", "reason", "usable", "took_ms"))
_TEXTS = (b"3 of 3 probes lost", b"a\nMLBD_EVENT=uplink_up\n", b"\0", b"\x1b[2J", "é\u2028".encode(), b"x" * 600)

TARGETS = (
    Target(
        "icmp4", network_input.icmp4, (network_input.ECHO_REPLY4, network_input.UNREACHABLE4), mutation.any_bytes,
        256, 220_000,
    ),
    Target(
        "icmp6", network_input.icmp6, (network_input.ECHO_REPLY6, network_input.UNREACHABLE6), mutation.any_bytes,
        256, 220_000,
    ),
    Target(
        "neighbour", network_input.neighbour, (network_input.ARP_REPLY, network_input.ADVERTISEMENT),
        mutation.any_bytes, 128, 150_000,
    ),
    Target("dns", network_input.resolve, network_input.RESPONSES, mutation.any_bytes, 1024, 60_000),
    Target("http", network_input.http, network_input.HTTP_ANSWERS, mutation.any_bytes, 2048, 60_000),
    Target("look", kernel_input.look, (_LOOK, *_SOME), mutation.netlink, 1 << 15, 15_000),
    Target("table", kernel_input.table, (_captured("table"),), mutation.netlink, 1 << 15, 10_000),
    Target("way", kernel_input.ways, (_captured("way"),), mutation.netlink, 2048, 70_000),
    Target("connections", kernel_input.connections, (_captured("connections"),), mutation.netlink, 1 << 14, 30_000),
    Target("hardware", kernel_input.hardware, (_LOOK,), mutation.netlink, 1 << 15, 10_000),
    Target("notifications", kernel_input.notifications, (_TOLD, _LOOK), mutation.netlink, 1 << 15, 15_000),
    Target("config", people_input.config, _FILES, _TOML, 4096, 15_000, fills=True),
    Target("transaction", people_input.transaction, _FILES, _TOML, 4096, 10_000, fills=True),
    Target("question", people_input.asked, people_input.QUESTIONS, _JSON, 1024, 60_000),
    Target("events", people_input.events, (people_input.EVENTS,), _EVENTS, 4096, 10_000),
    Target("reason", people_input.reason, _TEXTS, mutation.any_bytes, 1024, 30_000, fills=True),
    Target("requests", control_input.requests, _REQUESTS, _JSON, 4096, 40_000, fills=True),
    Target("drained", control_input.drained, control_input.STATE, _JSON, 1024, 5_000, fills=True),
    Target(
        "clients", control_input.clients, tuple(bytes([manner]) + r for manner in range(6) for r in _REQUESTS),
        _mannered, 1 << 17, 21_000, fills=True,
    ),
)  # fmt: skip
"""By what is most dangerous: strangers, the kernel, people."""
