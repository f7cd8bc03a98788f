from __future__ import annotations

import json
import re

import msgspec
import pytest
from msgspec.structs import replace

from mlbd.core.status import CycleStatus
from mlbd.report.screen import ago, render
from tests.report.values import BALANCED, FIBER, STATUS

EXPECTED = """\
mlbd 1.2, running for 15m 0s: 1 of 2 uplinks usable

UPLINK  INTERFACE       VERDICT  USABLE  LOSS    RTT     JITTER  GATEWAY            SINCE   REASON
fiber   lo              UP       yes     0.0%    12.0ms  1.0ms   10.1.0.1, fe80::1  1m 40s
lte     wan3 (missing)  DOWN     no      100.0%  -       -       -                  1m 0s   3 of 3 probes lost

target fiber  gateway    ...  0.0%  12.0ms
target fiber  192.0.2.1  ...  0.0%  12.0ms

policy balanced (random)
  tier 1  fiber   100.0%  ####################
  tier 2  lte       0.0%
warning: rp_filter is strict"""


def test_as_text() -> None:
    """The screen shows uplinks, policies and warnings as an aligned table; the same for a Status and for its JSON."""
    assert render(STATUS, now=1000.0) == EXPECTED
    assert render(json.loads(msgspec.json.encode(STATUS)), now=1000.0) == EXPECTED


def test_colours_change_nothing_else() -> None:
    """With colours the text is the same once they are taken out, and without them there is no escape sequence."""
    coloured = render(STATUS, colour=True, now=1000.0)
    plain = re.sub(r"\033\[\d+m", "", coloured)
    assert [line.rstrip() for line in plain.splitlines()] == EXPECTED.splitlines()
    assert coloured != plain


def test_what_is_wrong() -> None:
    """Last resort, refused changes and unfinished start-up are said, and control characters are not obeyed."""
    status = replace(
        STATUS,
        settled=False,
        uplinks=(replace(FIBER, reason="odd\033[2J", carrier=False, degraded=True),),
        policies=(replace(BALANCED, last_resort="best: fiber", members=BALANCED.members[:1]),),
        warnings=(),
        last_cycle=CycleStatus(at=1.0, result="failed", duration=0.1, changes=0, errors=("EPERM: no",)),
    )
    assert render(status, now=1000.0) == (
        "mlbd 1.2, running for 15m 0s: 1 of 1 uplinks usable; still waiting for first verdicts\n\n"
        "UPLINK  INTERFACE        VERDICT  USABLE    LOSS  RTT     JITTER  GATEWAY            SINCE   REASON\n"
        "fiber   lo (no carrier)  UP       degraded  0.0%  12.0ms  1.0ms   10.1.0.1, fe80::1  1m 40s  odd [2J\n\n"
        "target fiber  gateway    ...  0.0%  12.0ms\n"
        "target fiber  192.0.2.1  ...  0.0%  12.0ms\n\n"
        "policy balanced (random)  last resort: best: fiber\n"
        "  fiber   100.0%  ####################\n"
        "error: EPERM: no"
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0s"), (41.9, "41s"), (303, "5m 3s"), (7200, "2h 0m"), (277200, "3d 5h")],
)
def test_ago(seconds: float, text: str) -> None:
    """Durations are shown in two units at most, and a clock that was set back gives 0."""
    assert ago(seconds) == text
