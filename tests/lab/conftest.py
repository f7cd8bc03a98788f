"""Running daemons for the lab's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mlbd.lab.daemon import Daemon
from mlbd.lab.network import Network
from tests.lab.scene import tables

Start = Callable[..., tuple[Network, Daemon]]


@pytest.fixture
def start(network: Callable[..., Network]) -> Iterator[Start]:
    """Builds a network, options as of `Network`, and starts a daemon with a configuration of its uplinks and `config`.

    `extra`: further lines for each uplink, in order. When the test is over, the log must have no traceback.
    """
    daemons: list[Daemon] = []

    def build(
        uplinks: int = 2,
        *args: Any,
        config: str = "",
        extra: tuple[str, ...] = (),
        metrics: str = "off",
        **options: Any,
    ) -> tuple[Network, Daemon]:
        net = network(uplinks, *args, **options)
        daemon = Daemon(net, tables(net, *extra) + config, metrics=metrics)
        daemons.append(daemon)
        return net, daemon.start()

    yield build
    for daemon in daemons:
        daemon.kill()
        log = daemon.log_text()
        assert "Traceback" not in log, log
