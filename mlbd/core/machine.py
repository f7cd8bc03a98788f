"""The table of verdicts. Whoever changes a verdict goes through here and brings the evidence.

A verdict says what the probes say about an uplink:

UNKNOWN  not enough yet to say anything, since the start
RISING   good rounds after it was DOWN, not yet enough of them; carries no traffic
UP       proven
FALLING  bad rounds, not yet enough of them; still carries traffic, and is probed at `suspect_interval`
DOWN     failed, or lost by facts

The signals: `good` and `bad` are judged rounds, `proven` a good round that completes `rise` of them in a row (and the
hold time), `failed` a bad round that completes `fall`, `lost` a fact (carrier, interface, gateway) without which no
probe is needed. A single bad round never takes traffic away (unless `fall` is 1), and a fact always does, at once;
what a fact took away only probes give back. The diagram in docs/how-it-works.md is drawn from this table by a test.
"""

from __future__ import annotations

from typing import Literal

Verdict = Literal["UNKNOWN", "RISING", "UP", "FALLING", "DOWN"]
Signal = Literal["good", "bad", "proven", "failed", "lost"]

TABLE: dict[Verdict, dict[Signal, Verdict]] = {
    "UNKNOWN": {"good": "UNKNOWN", "bad": "UNKNOWN", "proven": "UP", "failed": "DOWN", "lost": "DOWN"},
    "RISING": {"good": "RISING", "bad": "DOWN", "proven": "UP", "failed": "DOWN", "lost": "DOWN"},
    "UP": {"good": "UP", "bad": "FALLING", "proven": "UP", "failed": "DOWN", "lost": "DOWN"},
    "FALLING": {"good": "UP", "bad": "FALLING", "proven": "UP", "failed": "DOWN", "lost": "DOWN"},
    "DOWN": {"good": "RISING", "bad": "DOWN", "proven": "UP", "failed": "DOWN", "lost": "DOWN"},
}  # fmt: skip

CARRIES: frozenset[Verdict] = frozenset({"UP", "FALLING"})
"""Verdicts with which an uplink carries traffic."""
