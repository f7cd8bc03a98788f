"""TEQL as the kernel adapter has it: what is applied is what is observed."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlbd.core.facts import PortFacts
from mlbd.core.state import Address, KernelState, Object, Port, Saved, Sysctl, Teql
from mlbd.kernel import LinuxKernel, Watch
from tests.vm import system
from tests.vm.subject import PROTOCOL, Subject, ip, links

OTHERS = ("/ipv4", "/netfilter")
"""Scopes of settings that have nothing to do with bundles."""


@pytest.fixture(scope="module", autouse=True)
def turn() -> Iterator[None]:
    """The service of other tests would take these devices for its own. Before `teql`, as everywhere: or both wait."""
    with system.first_namespace():
        yield


@pytest.fixture
def first_namespace() -> Iterator[Subject]:
    """Where TEQL devices are made, with dummies t1 and t2."""
    with asyncio.Runner() as runner:
        kernel = LinuxKernel(PROTOCOL, 20000)
        ip(*(f"link add t{n} type dummy" for n in (1, 2)))
        yield Subject(kernel, runner)
        ip(*(f"link del t{n}" for n in (1, 2)))
        kernel.close()
        for name in links():
            if name.startswith("teql"):
                ip(f"link set {name} down", f"addr flush dev {name}")
                Path(f"/sys/class/net/{name}/ifalias").write_text("\n")


TEQL = {"teql0": ("t1", "t2")}


def test_the_module_is_loaded_when_it_is_needed(
    first_namespace: Subject, teql: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As often as that can help; if it can't be, the message says what to do."""
    subject = first_namespace
    subprocess.run(["modprobe", "-r", "sch_teql"], check=False, capture_output=True)
    assert not Path("/sys/module/sch_teql").exists()
    count = tmp_path / "count"
    program = tmp_path / "modprobe"
    program.write_text(f"#!/bin/sh\necho $* >>{count}\necho 'modprobe: FATAL: not today' >&2\nexit 1\n")
    program.chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path), prepend=":")
        for _ in range(3):
            assert subject.change(None, Teql(name="teql1", owned=True, up=False)) == (
                "there is no teql1: load the module by `modprobe sch_teql max_equalizers=2`, "
                "and at boot by /etc/modules-load.d (modprobe: FATAL: not today)"
            )
    assert count.read_text() == "sch_teql max_equalizers=2\n"
    with asyncio.Runner() as runner:
        kernel = LinuxKernel(PROTOCOL, 20000)
        Subject(kernel, runner).add(Port("t1", "teql1"))
        kernel.close()
    assert {"teql0", "teql1"} <= set(links())
    assert subject.change(None, Port("t1", "teql7")) == (
        "there is no teql7: the module sch_teql makes its devices when it is loaded, and this one is not among them: "
        "`modprobe sch_teql max_equalizers=8` after `modprobe -r sch_teql` makes it"
    )


def test_teql(first_namespace: Subject, teql: None) -> None:
    """The device, its members and their reverse path filters, in, out, and in again; it is left as it was."""
    subject = first_namespace
    assert subject.look(TEQL) == KernelState([Teql(name="teql0", up=False), Port("t1", up=False), Port("t2", up=False)])
    assert subject.change(None, Teql(name="teql0", owned=True)) == "teql0 can't be set up: it has no members yet"
    ip("link set t2 mtu 1400")
    ours = Teql(name="teql0", owned=True)
    whole: list[Object] = [Port("t1", "teql0"), ours, Port("t2", "teql0"), Address("teql0", "10.0.0.4/31")]
    for _ in range(2):
        subject.add(*whole)
        assert subject.look(TEQL) == KernelState(whole)
    assert subject.look({}) == KernelState(whole)
    seen = subject.observe(TEQL)
    assert {n: f.port for n, f in seen.facts.items()} == {
        n: PortFacts(bundle="teql0", hardware=links()[n]["address"], active=True) for n in ("t1", "t2")
    }
    assert {(o.scope, o.name) for o in seen.state.values() if isinstance(o, Sysctl) and o.scope not in OTHERS} == {
        ("/all", "rp_filter"), ("t1", "rp_filter"), ("t2", "rp_filter"),
        *(("/ipv6", f"fib_multipath_hash_{name}") for name in ("policy", "fields")),
    }  # fmt: skip
    for old, new in ((Port("t1", "teql0"), Port("t1")), (Port("t1"), Port("t1", "teql0"))):
        for _ in range(2):
            assert subject.change(old, new) == ""
            assert subject.look(TEQL)["port", "t1"] == new
    assert subject.change(None, Port("t1", "teql0", False)) == (
        "t1 is not taken down while it is a member of a TEQL device"
    )
    for _ in range(2):
        assert subject.change(Port("t2", "teql0"), None) == ""
    subject.add(Port("t1", "teql1"))
    assert subject.look(TEQL)["port", "t1"] == Port("t1", "teql1")
    assert [subject.change(each, None) for each in (whole[3], Port("t1", "teql1"), ours, ours)] == [""] * 4
    assert subject.look(TEQL) == KernelState([Teql(name="teql0", up=False), Port("t1"), Port("t2")])
    assert subject.look({}) == KernelState()


def test_the_reverse_path_filter_of_a_member(first_namespace: Subject, teql: None) -> None:
    """It is set like any setting, and seen without the bundle as long as there is a note of it; `all` is not ours."""
    subject = first_namespace
    subject.add(Sysctl("t1", "rp_filter", "2"))
    shown = [o for o in subject.observe(TEQL).state.values() if isinstance(o, Sysctl) and o.name == "rp_filter"]
    assert {o.scope: o.value for o in shown} == {"/all": "0", "t1": "2", "t2": "0"}
    assert [o for o in subject.observe({}, ["t1"]).state.values() if o.key == shown[0].key] == []
    subject.add(Saved("t1", (("rp_filter", "0"),)))
    assert subject.observe({}, ["t1"]).state["sysctl", "t1", "rp_filter"] == Sysctl("t1", "rp_filter", "2")
    assert subject.change(Saved("t1", (("rp_filter", "0"),)), None) == ""
    index, before = socket.if_nametoindex("t1"), subject.kernel.sysctls([])
    assert before[-1] == b"0\n"
    with_t1 = subject.kernel.sysctls([index])
    subject.add(Sysctl("t1", "rp_filter", "1"))
    assert (subject.kernel.sysctls([]), subject.kernel.sysctls([index]) == with_t1) == (before, False)
    assert subject.change(None, Sysctl("/all", "rp_filter", "0")) == (
        "net.ipv4.conf.all.rp_filter is not a setting that mlbd changes"
    )


def test_a_member_that_others_take_is_heard(first_namespace: Subject, teql: None) -> None:
    """A queueing discipline that somebody else attaches or detaches means: look again, if it is TEQL's."""
    heard: list[str] = []
    watch = Watch(lambda *_: None, heard.append, lambda: None, lambda: first_namespace.kernel.port)

    async def story() -> list[bool]:
        running = asyncio.create_task(watch.run())
        found = []
        for command in ("add dev t1 root teql0", "del dev t1 root", "add dev t1 root pfifo", "del dev t1 root"):
            heard.clear()
            await asyncio.to_thread(subprocess.run, ["tc", "qdisc", *command.split()], check=True)
            await asyncio.sleep(0.5)
            found.append(bool(heard))
        running.cancel()
        return found

    assert first_namespace.runner.run(story()) == [True, True, False, False]
