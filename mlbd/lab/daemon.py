"""mlbd itself, running in a lab's router: `python -m mlbd run`, watched through its control socket and its log."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mlbd.lab.namespaces import LabError
from mlbd.lab.network import Network
from mlbd.lab.places import Places


def uplink_tables(net: Network) -> str:
    """The `[[uplink]]` tables of a network's uplinks, each named as its interface."""
    return "".join(f'[[uplink]]\nname = "{u.interface}"\ninterface = "{u.interface}"\n\n' for u in net.uplinks)


class Daemon:
    """One configuration, and at most one daemon that runs it. It can be stopped or killed, and started again."""

    def __init__(
        self, net: Places, config: str, *, where: str = "router", metrics: str = "off", slow: bool = False
    ) -> None:
        """A control socket, the metrics' address and an empty directory for hooks are added where `config` has none.

        `slow`: in an emulated machine, where asking often would take what time there is.
        """
        self._net, self._where = net, where
        self._ask_every, self._patience = (0.2, 60.0) if slow else (0.02, 10.0)
        self.directory = Path(tempfile.mkdtemp(prefix="mlbd-", dir=net.directory))
        self.file = self.directory / "mlbd.toml"
        self.control = self.directory / "control.sock"
        self._log = self.directory / "log"
        self._metrics = metrics
        self._process: subprocess.Popen[bytes] | None = None
        self.configure(config)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def configure(self, config: str) -> None:
        """Write the file anew; `reload` makes a running daemon read it."""
        keys = {"control": self.control, "metrics": self._metrics, "hooks": self.directory / "hooks.d"}
        self.file.write_text(_with_daemon_keys(config, {key: str(value) for key, value in keys.items()}))

    @property
    def pid(self) -> int:
        return self._running().pid

    def runs(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self, *, timeout: float = 15.0, wait: bool = True) -> Self:
        """Start it and `wait` until every uplink has a verdict. Raises LabError, with its log, if it does not."""
        if self.runs():
            raise LabError("The daemon is already running.")
        command = [sys.executable, "-m", "mlbd", "run", "-c", str(self.file)]
        with self._log.open("ab") as log:
            self._process = self._net.spawn(self._where, command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        if wait:
            self.wait_for(lambda status: bool(status["settled"]), timeout=timeout, what="that the daemon settles")
        return self

    def command(self, name: str, **arguments: object) -> Any:
        """One request through the control socket. Raises LabError if it is refused, OSError without a daemon."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
            s.settimeout(self._patience)
            s.connect(str(self.control))
            s.sendall(json.dumps({"command": name, **arguments}).encode() + b"\n")
            answer = json.loads(s.makefile("rb").readline() or b"{}")
        if not answer.get("ok"):
            raise LabError(f"The daemon refused {name}: {answer}")
        return answer["result"]

    def status(self) -> dict[str, Any]:
        """As `mlbd status --json`."""
        result: dict[str, Any] = self.command("status")
        return result

    def uplink(self, name: str) -> dict[str, Any]:
        """One of the status' uplinks."""
        found: dict[str, Any] = next(uplink for uplink in self.status()["uplinks"] if uplink["name"] == name)
        return found

    def wait_for(
        self, holds: Callable[[dict[str, Any]], bool], *, timeout: float = 10.0, what: str = "that its status changes"
    ) -> dict[str, Any]:
        """Ask for the status, every 20 ms, until it holds, and return that status.

        Raises LabError, with status and log, after the timeout, seconds, or when the daemon has ended.
        """
        deadline = time.monotonic() + timeout
        status: dict[str, Any] | None = None
        while True:
            if self._running().poll() is not None:
                raise LabError(f"The daemon ended with {self._running().returncode}. Its log:\n{self.log_text()}")
            try:
                status = self.status()
                if holds(status):
                    return status
            except (FileNotFoundError, ConnectionRefusedError):
                pass
            if time.monotonic() > deadline:
                last = json.dumps(status, indent=1)
                raise LabError(f"Waited {timeout:g} s for {what}. Last status:\n{last}\nLog:\n{self.log_text()}")
            time.sleep(self._ask_every)

    def reload(self) -> None:
        """Send SIGHUP."""
        self._running().send_signal(signal.SIGHUP)

    def stop(self, timeout: float = 10.0) -> int:
        """Send SIGTERM and wait. Returns its exit status. Raises LabError if it does not end in time."""
        process = self._running()
        process.terminate()
        try:
            return process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise LabError(f"The daemon did not stop within {timeout:g} s. Its log:\n{self.log_text()}") from None

    def kill(self) -> None:
        """Send SIGKILL, if it runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def log_text(self) -> str:
        """Everything it wrote, from the first start on."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def log(self) -> list[dict[str, Any]]:
        """Its log records. What is no record, as a traceback, appears as `{"text": line}`."""
        return [_record(line) for line in self.log_text().splitlines()]

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise LabError("The daemon was not started.")
        return self._process


def _record(line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError:
        return {"text": line}
    return record if isinstance(record, dict) else {"text": line}


def _with_daemon_keys(config: str, keys: Mapping[str, str]) -> str:
    """Add the keys that are missing to the table `[daemon]`, which is made if there is none."""
    header = re.search(r"^\[daemon\][^\n]*\n", config, re.MULTILINE)
    if header is None:
        return config + "\n[daemon]\n" + "".join(f'{key} = "{value}"\n' for key, value in keys.items())
    following = re.search(r"^\[", config[header.end() :], re.MULTILINE)
    table = config[header.end() :][: following.start() if following else None]
    missing = {key: value for key, value in keys.items() if not re.search(rf"^{key}\s*=", table, re.MULTILINE)}
    lines = "".join(f'{key} = "{value}"\n' for key, value in missing.items())
    return config[: header.end()] + lines + config[header.end() :]
