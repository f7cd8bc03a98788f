"""Run a command in private network, mount and process namespaces: `python -m mlbd.lab.sandbox COMMAND...`.

Three processes, so that nothing survives, whatever ends:

    outer   stays where it was started; waits, passes signals on, exits with the command's status
    init    process 1 of the new process namespace: prepares /run, /proc and lo, reaps, passes signals on
    command gets MLBD_PRIVATE_NAMESPACE=1

When the command ends, init ends, and the kernel kills what is left in its process namespace. When outer is killed, the
kernel kills init (PR_SET_PDEATHSIG), with the same effect. The namespaces, what was mounted and every named network
namespace go with the last process.

Root does this as it is. Anybody else, and a root that may not, is root in a new user namespace (user_namespaces(7)).
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NoReturn

MARKER = "MLBD_PRIVATE_NAMESPACE"
"""Set to 1 in the environment inside a sandbox."""

_CLONE_NEWNS, _CLONE_NEWUSER, _CLONE_NEWPID, _CLONE_NEWNET = 0x00020000, 0x10000000, 0x20000000, 0x40000000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REC, _MS_PRIVATE = 2, 4, 8, 16384, 1 << 18
_PR_SET_PDEATHSIG = 1
_SI_KERNEL = 0x80
_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)

_libc = ctypes.CDLL(None, use_errno=True)


class SandboxError(Exception):
    """Not allowed on this machine; the message says why and what to do."""


def inside() -> bool:
    """Whether this process already runs in a sandbox."""
    return os.environ.get(MARKER) == "1"


def run(command: Sequence[str]) -> int:
    """Run the command in a sandbox, this one if we are in one, and return its exit status (128 + n for signal n).

    To be called by a process with one thread that has nothing else to do: it moves itself into the new namespaces.
    Raises SandboxError.
    """
    environment = {**os.environ, MARKER: "1", "PATH": _path_with_sbin(os.environ.get("PATH", ""))}
    if shutil.which(command[0], path=environment["PATH"]) is None:
        raise SandboxError(f"{command[0]}: there is no such command.")
    if inside():
        return subprocess.run(command, env=environment, check=False).returncode
    if shutil.which("ip", path=environment["PATH"]) is None:
        raise SandboxError("The command `ip` is missing. Install it: apt-get install iproute2")
    _enter()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, (*_PASSED_ON, signal.SIGCHLD))
    alive, keep = os.pipe()
    init = os.fork()
    if init == 0:
        _leave_with(lambda: _init(command, environment, mask, alive, keep))
    os.close(alive)
    return _wait_for(init)


def _path_with_sbin(path: str) -> str:
    """Ordinary users on Debian lack the directories of `ip` and `nft`."""
    parts = [part for part in path.split(":") if part]
    return ":".join([*parts, *(extra for extra in ("/usr/sbin", "/sbin") if extra not in parts)])


def _enter() -> None:
    user, group = os.geteuid(), os.getegid()
    private = _CLONE_NEWNET | _CLONE_NEWNS | _CLONE_NEWPID
    if user == 0 and _libc.unshare(private) == 0:
        return
    if _libc.unshare(private | _CLONE_NEWUSER) != 0:
        raise SandboxError(_why_not(ctypes.get_errno()))
    try:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    except OSError as error:
        raise SandboxError(_why_not(error.errno or 0)) from error


def _why_not(number: int) -> str:
    """One or two sentences with the remedy that fits this machine."""
    said = f"Private namespaces are refused here ({errno.errorcode.get(number, number)}: {os.strerror(number)})."
    for knob, bad, value in (
        ("kernel.unprivileged_userns_clone", "0", "1"),
        ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
        ("user.max_user_namespaces", "0", "10000"),
        ("user.max_net_namespaces", "0", "10000"),
    ):
        path = Path("/proc/sys") / knob.replace(".", "/", 1)
        try:
            found = path.read_text().strip()
        except OSError:
            continue
        if found == bad:
            return f"{said} The cause is {knob} = {bad}: run as root, or allow it: sysctl -w {knob}={value}"
    return f"{said} Run as root; in a container, it must be a privileged one (or have CAP_SYS_ADMIN and CAP_NET_ADMIN)."


def _mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    if _libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode()) != 0:
        raise SandboxError(f"Could not prepare {target}. {_why_not(ctypes.get_errno())}")


def _init(command: Sequence[str], environment: dict[str, str], mask: Iterable[int], alive: int, keep: int) -> int:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.close(keep)
    os.set_blocking(alive, False)
    try:
        if os.read(alive, 1) == b"":
            return 1  # outer died before we asked to die with it
    except BlockingIOError:
        pass
    os.close(alive)
    _mount("none", "/", "none", _MS_REC | _MS_PRIVATE)
    _mount("tmpfs", "/run", "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=755")
    _mount("proc", "/proc", "proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    if subprocess.run(["ip", "link", "set", "lo", "up"], env=environment, check=False).returncode != 0:
        raise SandboxError("The loopback interface of the new network namespace could not be brought up.")
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        try:
            os.execvpe(command[0], list(command), environment)  # noqa: S606 (a list of arguments, no shell)
        except OSError as error:
            print(f"{command[0]}: {error.strerror}", file=sys.stderr)
            os._exit(126)
    return _wait_for(child)


def _wait_for(child: int) -> int:
    """Reap until this child has ended; pass on the signals that it has not got by itself."""
    while True:
        received = signal.sigwaitinfo((*_PASSED_ON, signal.SIGCHLD))
        if received.si_signo == signal.SIGCHLD:
            while True:
                try:
                    pid, status = os.waitpid(-1, os.WNOHANG)
                except ChildProcessError:
                    break
                if pid == 0:
                    break
                if pid == child:
                    code = os.waitstatus_to_exitcode(status)
                    return code if code >= 0 else 128 - code
        elif received.si_code != _SI_KERNEL:  # the terminal's own (Ctrl-C) went to every process in its group
            os.kill(child, received.si_signo)


def _leave_with(work: Callable[[], int]) -> NoReturn:
    """End a forked process with the status of its work, without running what its parent registered for its own end."""
    status = 1
    try:
        status = work()
    except SandboxError as error:
        print(error, file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(status)


def main() -> int:
    if len(sys.argv) < 2:
        print("usage: python -m mlbd.lab.sandbox COMMAND...", file=sys.stderr)
        return 2
    try:
        return run(sys.argv[1:])
    except SandboxError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
