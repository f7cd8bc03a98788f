"""What a process costs: its memory and its CPU time."""

from __future__ import annotations

import re
import time
from pathlib import Path

_SCHEDULER = 2
"""CPUCLOCK_SCHED of the kernel's include/linux/posix-timers_types.h: nanoseconds, not the ticks of /proc/PID/stat."""


def cpu(pid: int) -> float:
    """Seconds of CPU time of all its threads, ended ones too. See clock_getcpuclockid(3)."""
    return time.clock_gettime((~pid << 3) | _SCHEDULER)


def memory(pid: int, key: str = "VmRSS") -> float:
    """Megabytes (10^6 bytes) resident; `VmHWM`: the most there ever were. See proc_pid_status(5)."""
    found = re.search(rf"^{key}:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024 / 1e6
