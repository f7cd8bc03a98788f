"""Messages that we write ourselves, as pyroute2 reads them: not only the kernel and our own reader understand them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from pyroute2.netlink.rtnl.fibmsg import fibmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from mlbd.core.state import Hop, KernelState, Route, Rule
from mlbd.kernel import routes, rules
from mlbd.kernel.netlink import HEADER
from tests.kernel.namespace import veth_pairs
from tests.kernel.objects import PROTOCOL, states

KINDS = {1: "unicast", 6: "blackhole", 7: "unreachable"}
ACTIONS = {1: "lookup", 2: "goto", 3: "nop"}


@pytest.fixture(scope="module", autouse=True)
def _devices() -> Iterator[None]:
    with veth_pairs():
        yield
    routes.known_index.cache_clear()


def understood(message: Any, kind: int, payload: bytes) -> Any:
    found = message(HEADER.pack(HEADER.size + len(payload), kind, 0, 1, 0) + payload)
    found.decode()
    return found


def prefix(message: Any, attribute: str, length: str) -> str | None:
    address = message.get_attr(attribute)
    return None if address is None else f"{address}/{message[length]}"


def ports(text: str | None) -> tuple[int, ...] | None:
    return None if text is None else tuple(int(number) for number in text.split(":"))


def hop(message: Any, index: int, weight: int) -> Hop:
    return Hop(socket.if_indextoname(index), message.get_attr("RTA_GATEWAY"), weight, bool(message["flags"] & 4))


def read_route(payload: bytes) -> Route:
    message = understood(rtmsg, routes.NEW, payload)
    several, metric = message.get_attr("RTA_MULTIPATH"), message.get_attr("RTA_PRIORITY")
    hops = [hop(each, each["oif"], each["hops"] + 1) for each in several or ()]
    if message.get_attr("RTA_OIF") is not None:
        hops = [hop(message, message.get_attr("RTA_OIF"), 1)]
    assert message["proto"] == PROTOCOL
    family = 4 if message["family"] == socket.AF_INET else 6
    return Route(
        family,  # type: ignore[arg-type]
        message.get_attr("RTA_TABLE"),
        0 if family == 6 and metric == 1024 else metric,
        KINDS[message["type"]],  # type: ignore[arg-type]
        tuple(hops),
        prefix(message, "RTA_DST", "dst_len") or "default",
    )


def read_rule(payload: bytes) -> Rule:
    message = understood(fibmsg, rules.NEW, payload)
    assert message.get_attr("FRA_PROTOCOL") == PROTOCOL
    return Rule(
        family=4 if message["family"] == socket.AF_INET else 6,
        priority=message.get_attr("FRA_PRIORITY"),
        action=ACTIONS[message["action"]],  # type: ignore[arg-type]
        table=message.get_attr("FRA_TABLE"),
        target=message.get_attr("FRA_GOTO"),
        mark=message.get_attr("FRA_FWMARK"),
        mask=message.get_attr("FRA_FWMASK"),
        source=prefix(message, "FRA_SRC", "src_len"),
        oif=message.get_attr("FRA_OIFNAME"),
        iif=message.get_attr("FRA_IIFNAME"),
        suppress_prefixlen=message.get_attr("FRA_SUPPRESS_PREFIXLEN"),
        destination=prefix(message, "FRA_DST", "dst_len"),
        protocol=message.get_attr("FRA_IP_PROTO"),
        source_ports=ports(message.get_attr("FRA_SPORT_RANGE")),  # type: ignore[arg-type]
        ports=ports(message.get_attr("FRA_DPORT_RANGE")),  # type: ignore[arg-type]
    )


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(states)
def test_pyroute2_reads_what_we_write(wanted: KernelState) -> None:
    """Every route and rule that there may be says to pyroute2 what it is."""
    for item in wanted.values():
        if isinstance(item, Route):
            assert read_route(routes.encode(item, PROTOCOL)) == item
        elif isinstance(item, Rule):
            assert read_rule(rules.encode(item, PROTOCOL)) == item
