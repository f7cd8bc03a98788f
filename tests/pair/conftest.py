from __future__ import annotations

from collections.abc import Iterator

import pytest

from mlbd.lab.pair_programs import missing
from tests.pair.scene import Scene, scene


@pytest.fixture(scope="module")
def world() -> Iterator[Scene]:
    if missing():
        pytest.skip(f"{', '.join(missing())}: not installed")
    with scene() as found:
        yield found
