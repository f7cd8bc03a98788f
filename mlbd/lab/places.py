"""Places: network namespaces that belong together, and the programs that run in them until they go."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mlbd.lab import echo, sandbox
from mlbd.lab.namespaces import LabError, entered, ip_here, path_of, set_sysctls

_numbers = itertools.count(1)


class Places:
    """They have names of their own in the sandbox, and go when this is closed."""

    def __init__(self) -> None:
        """None yet. Raises LabError outside a sandbox."""
        if not sandbox.inside():
            raise LabError("A lab network is only built inside `python -m mlbd.lab.sandbox COMMAND...`.")
        self.places: list[str] = []
        self._prefix = f"lab{os.getpid()}x{next(_numbers)}"
        self._stack = contextlib.ExitStack()
        self._answering: list[str] = []
        self._every_port: set[str] = set()
        self.directory = Path(tempfile.mkdtemp(prefix=f"{self._prefix}-", dir="/run"))
        """For what belongs to this network, sockets and configurations; goes with it."""
        self._stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
        self._stack.callback(self._remove_namespaces)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End what was spawned, and remove everything."""
        self._stack.close()

    def _remove_namespaces(self) -> None:
        ip_here(
            [f"netns del {self._prefix}-{where}" for where in self.places if path_of(self.namespace(where)).exists()]
        )

    def _add(self, names: Iterable[str]) -> None:
        added = [*names]
        self.places += added
        ip_here([f"netns add {self.namespace(where)}" for where in added])

    def namespace(self, where: str) -> str:
        """The name under which ip(8) knows the place."""
        return f"{self._prefix}-{where}"

    def inside(self, where: str) -> AbstractContextManager[None]:
        """What this thread opens or starts in the block belongs to the place; see `namespaces.entered`."""
        return entered(self.namespace(where))

    def run(self, where: str, command: Sequence[str], *, text: str | None = None) -> str:
        """Run a program to its end; `text` is its input. Returns what it printed. Raises LabError if it fails."""
        with self.inside(where):
            done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise LabError(
                f"{' '.join(command)} in {where}: {done.returncode}: {done.stderr.strip() or done.stdout.strip()}"
            )
        return done.stdout

    def spawn(self, where: str, command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        """Start a program, options as of `subprocess.Popen`. It is killed with the network if it still runs."""
        with self.inside(where):
            process = subprocess.Popen(command, **options)
        self._stack.callback(_end, process)
        return process

    def sysctls(self, where: str, values: Mapping[str, object]) -> None:
        """Set, by names below /proc/sys/net: `{"ipv4/conf/wan1/rp_filter": 1}`."""
        with self.inside(where):
            set_sysctls(values)

    def ping(self, where: str, address: str, *, timeout: float = 1.0) -> bool:
        """Whether one echo request is answered in time, seconds."""
        with self.inside(where):
            command = ["ping", "-n", "-q", "-c", "1", "-W", str(timeout), address]
            return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def serve(self, where: str) -> None:
        """Start echo servers, for all addresses of the place."""
        with self.inside(where):
            server = echo.start()
        self._stack.callback(_end, server)
        self._answering.append(where)

    def answer_on_every_port(self) -> None:
        """Echo servers but the router's answer on every port of TCP and UDP where nobody else listens."""
        for where in {*self._answering} - self._every_port - {"router"}:  # it would answer for everybody behind it
            self.run(where, ["nft", "-f", "-"], text=echo.EVERY_PORT)
            self._every_port.add(where)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            stream.close()
