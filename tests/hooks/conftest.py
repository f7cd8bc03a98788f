from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where hooks are put."""
    made = tmp_path / "hooks.d"
    made.mkdir(mode=0o755)
    return made
