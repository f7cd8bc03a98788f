"""What all tests share: which of them need the sandbox, and networks that are gone when the test is."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from mlbd.lab import namespaces, sandbox
from mlbd.lab.daemon import Daemon
from mlbd.lab.network import Network
from tests.lab.scene import Start, tables

_HERE = Path(__file__).parent
_IN_NAMESPACES = ("lab", "daemon", "schemes", "health", "kernel", "probe", "chaos", "pair")
_NEED_NAMESPACES = tuple(_HERE / name for name in _IN_NAMESPACES)


def pytest_configure() -> None:
    in_machine = "MLBD_MACHINE" in os.environ  # where some devices are in the first namespace only
    if sandbox.inside() and "PYTEST_XDIST_WORKER" in os.environ and not in_machine:
        namespaces.move_to_new()  # workers share the sandbox; tests that set up interfaces must not meet


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if any(item.path.is_relative_to(directory) for directory in _NEED_NAMESPACES):
            item.add_marker(pytest.mark.lab)
    if not sandbox.inside() and any(item.get_closest_marker("lab") for item in items):
        raise pytest.UsageError(
            "Tests of the lab and the kernel only run in private namespaces: use `make test`, or "
            "`.venv/bin/python -m mlbd.lab.sandbox .venv/bin/python -m pytest ...`."
        )


@pytest.fixture
def network() -> Iterator[Callable[..., Network]]:
    """Builds networks, arguments as of `Network`; they go with the test."""
    with ExitStack() as stack:
        yield lambda *args, **kwargs: stack.enter_context(Network(*args, **kwargs))


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
