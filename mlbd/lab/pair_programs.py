"""What runs on the routers of a pair: mlbd, and Debian's keepalived and conntrackd, by the files of the example."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from mlbd.lab.daemon import Daemon
from mlbd.lab.namespaces import LabError
from mlbd.lab.network import wait_until
from mlbd.lab.pair import Pair

NEEDED = ("keepalived", "conntrackd")
"""Programs, each of the Debian package of that name."""
_TRACK = "/run/mlbd/keepalived/"


def missing() -> list[str]:
    """Programs that are not installed here."""
    return [name for name in NEEDED if shutil.which(name) is None]


class Programs:
    """The programs of router `number`; those that run are killed with the pair."""

    def __init__(self, pair: Pair, number: int, files: Mapping[str, str]) -> None:
        """`files`: the texts of `mlbd.toml`, `keepalived.conf` and `conntrackd.conf`, with the paths that users have.

        Raises LabError where a program is missing.
        """
        if missing():
            raise LabError(f"{' and '.join(missing())}: not installed. apt-get install {' '.join(missing())}")
        self.number, self.where = number, f"router{number}"
        self._pair = pair
        self.daemon = Daemon(pair, files["mlbd.toml"], where=self.where)
        self.directory = self.daemon.directory
        self.track = self.directory / "keepalived"
        """Where mlbd keeps the files that keepalived tracks."""
        self._log = self.directory / "keepalived.log"
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        for name in ("keepalived.conf", "conntrackd.conf"):
            (self.directory / name).write_text(self._moved(files[name]))

    def _moved(self, text: str) -> str:
        """A program's configuration with all files in the lab's directory."""
        text = text.replace("conntrackd -R", f"conntrackd -C {self.directory}/conntrackd.conf -R")
        text = text.replace(_TRACK, f"{self.track}/").replace("Syslog on", f"LogFile {self.directory}/conntrackd.log")
        return re.sub(r"(?<= )(/run|/var/lock)/(?=conntrackd\.)", f"{self.directory}/", text)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    # Starting and ending

    def start(self) -> Self:
        """All three, as the machine's boot would; mlbd settles before keepalived starts."""
        self.daemon.start()
        self.start_conntrackd()
        self.start_keepalived()
        return self

    def start_keepalived(self) -> None:
        """Start it, and wait until it has read its files."""
        pids = [f"--pid={self.directory}/keepalived.pid", f"--vrrp_pid={self._vrrp_pid}"]
        says = ["--log-console", "--log-detail", "--no-syslog"]
        config = f"--use-file={self.directory}/keepalived.conf"
        before = self.log_text().count("Startup complete")
        self._spawn("keepalived", ["keepalived", "--dont-fork", "--vrrp", *says, config, *pids])
        self._wait_for("keepalived", lambda: self.log_text().count("Startup complete") > before)

    def start_conntrackd(self) -> None:
        """Start it, and wait until it can be asked."""
        self._spawn("conntrackd", ["conntrackd", "-C", f"{self.directory}/conntrackd.conf"])
        self._wait_for("conntrackd", (self.directory / "conntrackd.ctl").exists)

    def _spawn(self, name: str, command: list[str]) -> None:
        with (self.directory / f"{name}.log").open("ab") as log:
            options = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            self._running[name] = self._pair.spawn(self.where, command, **options)

    def _wait_for(self, name: str, started: Callable[[], bool]) -> None:
        """Raises LabError if it does not start in 5 s, with its log if it has ended."""
        process = self._running[name]
        wait_until(lambda: started() or process.poll() is not None, what=f"that {name} starts")
        if process.poll() is not None:
            log = (self.directory / f"{name}.log").read_text(errors="replace")
            raise LabError(f"{name} ended with {process.returncode}. Its log:\n{log}")

    def stop_keepalived(self) -> None:
        """As systemd does: it gives its addresses up and says so."""
        process = self._running.pop("keepalived")
        process.terminate()
        process.wait(timeout=10)

    def kill(self) -> None:
        """All three at once, without a word to anybody; those that run."""
        self._signal(signal.SIGSTOP)  # or keepalived's parent would start its child again, or the child say goodbye
        for pid in reversed(self._pids()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.daemon.kill()
        for process in self._running.values():
            process.wait()
        self._running.clear()
        for name in ("conntrackd.ctl", "conntrackd.lock"):  # which a boot would find empty
            (self.directory / name).unlink(missing_ok=True)

    def power_off(self) -> None:
        """The router is dead: nothing of it is left, and its cables lose their carrier."""
        self._pair.cut(self.number)
        self.kill()
        self._pair.power_off(self.number)

    def power_on(self) -> None:
        """The machine is there again; `start` its programs."""
        self._pair.power_on(self.number)

    def freeze(self) -> None:
        """The programs stop, and the kernel goes on: it forwards and answers for its addresses."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """End `freeze`."""
        self._signal(signal.SIGCONT)

    def hang(self) -> None:
        """Everything stops, the kernel as well; the links stay up."""
        self._pair.mute(self.number)
        self.freeze()

    def resume(self) -> None:
        """End `hang`."""
        self._pair.unmute(self.number)
        self.thaw()

    @property
    def _vrrp_pid(self) -> Path:
        return self.directory / "keepalived_vrrp.pid"

    def _pids(self) -> list[int]:
        """Of all that runs, parents first."""
        found = [process.pid for process in self._running.values() if process.poll() is None]
        if "keepalived" in self._running:
            with contextlib.suppress(FileNotFoundError, ValueError):
                found.append(int(self._vrrp_pid.read_text()))
        if self.daemon.runs():
            found.append(self.daemon.pid)
        return found

    def _signal(self, number: signal.Signals) -> None:
        for pid in self._pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    # What they say

    def log_text(self) -> str:
        """What keepalived wrote, from the first start on."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def transitions(self, k: int) -> list[str]:
        """The states that keepalived entered for segment k, `MASTER`, `BACKUP` or `FAULT`, from the first start on."""
        return re.findall(rf"\(segment{k}\) Entering (\w+) STATE", self.log_text())

    def connections(self, *arguments: str) -> str:
        """As `conntrack -L ARGUMENTS` prints them."""
        return self._pair.run(self.where, ["conntrack", "-L", *arguments])

    def reading(self) -> str:
        """Counters of conntrackd, as `conntrackd -s` prints them."""
        return self._pair.run(self.where, ["conntrackd", "-C", f"{self.directory}/conntrackd.conf", "-s"])
