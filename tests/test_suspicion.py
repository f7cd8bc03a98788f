"""What `mlbd.suspicion` makes of counters while probes fail."""

from __future__ import annotations

from mlbd.suspicion import FULL, Suspicion


class Counters:
    def __init__(self) -> None:
        self.overflows, self.received, self.now, self.broken = 7, {"a0": 0, "b0": 0, "lan": 0}, 100.0, False
        self.suspicion = Suspicion(self.read, lambda: self.received)

    def read(self) -> int:
        if self.broken:
            raise OSError("no")
        return self.overflows

    def after(self, seconds: float, *suspects: str) -> str:
        """Its doubt in the end, looking every 100 ms."""
        for _ in range(round(seconds * 10)):
            self.now += 0.1
            self.suspicion.look(suspects, 2, self.now)
        return self.suspicion.doubt


def test_a_full_table_of_neighbours_explains_losses() -> None:
    """As long as it overflows, and two seconds more; what was counted before says nothing."""
    it = Counters()
    assert (it.after(3), it.after(3, "a0")) == ("", "")
    it.overflows += 1
    assert (it.after(0.1, "a0"), it.after(1.8, "a0"), it.after(0.3, "a0")) == (FULL, FULL, "")


def test_traffic_while_all_probes_fail_is_said() -> None:
    """All uplinks at once, and 20 kB in ten seconds by their interfaces; not if one works, or others receive."""
    it = Counters()
    it.received["lan"] += 1_000_000
    it.after(2, "a0", "b0")
    assert it.suspicion.warning == ""
    it.received["a0"] += 15_000
    it.received["b0"] += 15_000
    it.after(2, "a0", "b0")
    assert it.suspicion.warning.startswith("the probes of all uplinks fail at once, yet 30 kB were received")
    it.after(12, "a0", "b0")
    assert it.suspicion.warning == ""
    it.received["a0"] += 50_000
    it.after(1, "a0")
    assert it.suspicion.warning == ""


def test_what_cannot_be_read_explains_nothing() -> None:
    """A kernel that refuses is asked again later."""
    it = Counters()
    it.broken = True
    assert it.after(3, "a0") == ""
    it.broken = False
    it.after(1, "a0")
    it.overflows += 1
    assert it.after(0.1, "a0") == FULL
