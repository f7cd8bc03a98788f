from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from tests.probe.network import Provider


@pytest.fixture
def isp1() -> Iterator[Provider]:
    assert os.environ.get("MLBD_PRIVATE_NAMESPACE"), "these tests change the network: run them by `make test`"
    provider = Provider(1)
    yield provider
    provider.close()
    subprocess.run(["nft", "flush", "ruleset"], check=True)


@pytest.fixture
def isp2(isp1: Provider) -> Iterator[Provider]:
    provider = Provider(2)
    yield provider
    provider.close()
