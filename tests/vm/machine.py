"""Run tests in an emulated Debian machine: `python -m tests.vm.machine PYTEST-ARGUMENTS...`; see `make test-vm`.

packaging/vm/build.sh has made the machine, and this boots it: its disk, to which nothing is written (`snapshot`), and a
second one, a tar archive that the machine unpacks into its root before it starts /srv/mlbd/run. It answers by ports:

    output   what pytest prints, shown as it comes
    status   pytest's exit status; then the machine is off
    journal  systemd's journal, if tests failed

Without arguments it then boots once more, as a router, for the tests in tests/vm/boot; so it does for `tests/vm/boot`.

Emulated, never accelerated (KVM): that works everywhere, also where /dev/kvm is there and of no use, and it is equally
slow everywhere. To be run in the sandbox, with which the emulator ends, whatever ends us.
"""

from __future__ import annotations

import io
import os
import select
import shlex
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path

from mlbd.lab import sandbox

_ROOT = Path(__file__).parents[2]
_VM = _ROOT / "build/vm"
_TAKEN_ALONG = ("tests", "etc", "packaging", "docs", "pyproject.toml")

BOOT_LIMIT = 180.0
"""Seconds until tests begin; 35 on two quiet cores."""
LIMIT = 1200.0
"""Seconds for everything."""

CABLES = 3
"""Of the machine, each with a network card at both ends: the router's, and that of whoever is connected."""
_BOOT = "tests/vm/boot"

_RUN = """#!/bin/sh
cd /srv/mlbd || exit 1
export MLBD_MACHINE=1 {private}=1

end() {{
    [ $1 = 0 ] || journalctl -b -o short-monotonic >/dev/virtio-ports/journal
    echo $1 >/dev/virtio-ports/status
    systemctl --force --force poweroff >/dev/null 2>&1
    exit
}}

if [ -e /srv/status ]; then
    echo "Testing after a boot as a router, up for $(cut -d . -f 1 /proc/uptime) s"
    python -m pytest {boot}
    end $(($? + $(cat /srv/status)))
elif [ -e /srv/begun ]; then
    echo "The kernel panicked; its console says why"
    end 1
fi
touch /srv/begun
sync
status=0
if [ "{first}" = yes ]; then
    echo "Testing in Linux $(uname -r) with $(systemctl --version | head -n 1), up for $(cut -d . -f 1 /proc/uptime) s"
    # A fixture may wait for its turn for long.
    export PYTEST_ADDOPTS="-o testpaths=tests/vm -o timeout_func_only=true --ignore {boot}"
    python -m pytest -n 3 --dist loadfile --no-loadscope-reorder {arguments}
    status=$?
    if [ $status = 1 ]; then
        echo "Once more what has failed, alone: three at a time have little of an emulated processor"
        python -m pytest --last-failed --last-failed-no-failures none {arguments}
        status=$?
    fi
fi
[ "{second}" = yes ] || end $status
python -m tests.vm.boot.prepare || end 1
[ $status = 0 ] || journalctl -b -o short-monotonic >/dev/virtio-ports/journal
echo $status >/srv/status
sync
systemctl reboot
"""


class MachineError(Exception):
    """The machine did not get to its tests' end; the message has what its console said last."""


def run(arguments: Sequence[str]) -> int:
    """Boot, show what pytest with these arguments prints, and return its exit status. Raises MachineError."""
    results = _VM / "results"
    results.mkdir(exist_ok=True)
    for old in results.iterdir():
        old.unlink()
    _pack(_VM / "second-disk.tar", arguments)
    qemu = subprocess.Popen(_command(results), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    try:
        _show(qemu)
        qemu.wait(10)
        return int((results / "status").read_text())
    except (MachineError, subprocess.TimeoutExpired, OSError, ValueError) as error:
        reason = error if isinstance(error, MachineError) else "The machine ended before its tests did."
        log = results / "console.log"
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()] if log.exists() else []
        tail = "".join(f"  {line}\n" for line in lines[-40:])
        raise MachineError(f"{tail}{reason} Above is the end of its console, {log}.") from error
    finally:
        qemu.kill()
        qemu.wait()


def _show(qemu: subprocess.Popen[bytes]) -> None:
    """Pass on what the machine prints until it is off. Raises MachineError after either limit."""
    assert qemu.stdout is not None
    start = time.monotonic()
    limit, what = BOOT_LIMIT, "get to its tests"
    while True:
        left = start + limit - time.monotonic()
        if left <= 0 or not select.select([qemu.stdout], [], [], left)[0]:
            raise MachineError(f"The machine did not {what} in {limit:g} s.")
        data = os.read(qemu.stdout.fileno(), 65536)
        if not data:
            return
        limit, what = LIMIT, "end its tests"
        sys.stdout.buffer.write(data)
        sys.stdout.flush()


def _pack(archive: Path, arguments: Sequence[str]) -> None:
    """Write the second disk."""
    boot_only = [*arguments[:1]] == [_BOOT]
    script = _RUN.format(
        arguments=shlex.join(arguments),
        private=sandbox.MARKER,
        boot=_BOOT,
        first="no" if boot_only else "yes",
        second="yes" if boot_only or not arguments else "no",
    ).encode()
    with tarfile.open(archive, "w") as tar:
        tar.add(_VM / "venv", "opt/mlbd", filter=_as_root)
        for package in _VM.parent.glob("mlbd_*.deb"):
            tar.add(package, "srv/mlbd/mlbd.deb", filter=_as_root)
        for name in _TAKEN_ALONG:
            tar.add(_ROOT / name, f"srv/mlbd/{name}", filter=_as_root)
        entry = tarfile.TarInfo("srv/mlbd/run")
        entry.size, entry.mode = len(script), 0o755
        tar.addfile(entry, io.BytesIO(script))


def _as_root(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    if "/srv/mlbd/" in f"/{entry.name}" and entry.name.endswith("__pycache__"):
        return None  # of another Python, perhaps
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


def _command(results: Path) -> list[str]:
    base = _VM / "base"
    command = ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "Nehalem", "-smp", "2", "-m", "1024"]
    command += ["-nodefaults", "-display", "none", "-serial", f"file:{results / 'console.log'}"]
    # Without colours. After a panic it boots at once (-1), to tell. What protects against real processors only costs
    # time here, half of that of a boot.
    options = "console=ttyS0 root=/dev/vda rw panic=-1 mitigations=off SYSTEMD_COLORS=0 TERM=dumb"
    command += ["-kernel", str(base / "kernel"), "-initrd", str(base / "initrd"), "-append", options]
    command += ["-drive", f"if=virtio,format=raw,snapshot=on,file={base / 'disk'}"]
    command += ["-drive", f"if=virtio,format=raw,readonly=on,file={_VM / 'second-disk.tar'}"]
    for cable in range(1, CABLES + 1):
        for end in (1, 2):
            command += ["-netdev", f"hubport,id=n{cable}{end},hubid={cable}"]
            command += ["-device", f"virtio-net-pci,netdev=n{cable}{end},mac={mac(cable, end)},romfile="]
    command += ["-device", "virtio-serial"]
    # Not `stdio`: the end of our input would close it.
    for port, path in (("output", "/dev/stdout"), *((name, str(results / name)) for name in ("status", "journal"))):
        command += ["-chardev", f"file,id={port},path={path}", "-device", f"virtserialport,chardev={port},name={port}"]
    return command


def mac(cable: int, end: int) -> str:
    """Of the card at the end, 1 or 2, of a cable, from 1."""
    return f"52:54:00:00:{cable:02x}:{end:02x}"


def main() -> int:
    if not (sandbox.inside() and (_VM / "base/disk").exists()):
        print("The machine has to be built, and it runs in the sandbox: use `make test-vm`.", file=sys.stderr)
        return 2
    print("Booting the machine", flush=True)
    try:
        status = run(sys.argv[1:])
    except MachineError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if status != 0:
        print(f"The machine's journal is in {_VM / 'results/journal'}, its console in console.log beside it.")
    return status


if __name__ == "__main__":
    sys.exit(main())
