from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from mlbd.core.probing import Failure, Order
from mlbd.core.settings import Target
from mlbd.probe import attempts, names
from tests.probe.asking import Asking, asking, said, sockets, to
from tests.probe.network import Provider, sh
from tests.probe.servers import NameServer, answering

NAMED = Target("tcp://www.example.org:443", kind="tcp", name="www.example.org", port=443)
A, AAAA = ("A", "www.example.org"), ("AAAA", "www.example.org")


@pytest.fixture
def resolv_conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What stands for /etc/resolv.conf; it names 203.0.113.53."""
    file = tmp_path / "resolv.conf"
    file.write_text("nameserver 203.0.113.53\n")
    monkeypatch.setattr(names, "RESOLV_CONF", (file, tmp_path / "systemd"))
    return file


def named(provider: Provider, round_: int = 1, uplink: str = "fiber") -> Order:
    return to(provider, "", round_, uplink, ask=NAMED)


def with_server(provider: Provider) -> None:
    provider.sh("ip addr add 203.0.113.53 dev lo")


def test_by_its_own_uplink(isp1: Provider, isp2: Provider, resolv_conf: Path) -> None:
    """Each uplink asks the name server behind it, at the same address, and connects to what that says."""
    sh("ip route add default via 10.1.0.1 dev wan1")

    async def story(asked: Asking) -> None:
        servers = []
        async with AsyncExitStack() as stack:
            for isp in (isp1, isp2):
                with_server(isp)
                servers.append(NameServer({A: [isp.gateway]}))
                await stack.enter_async_context(answering(isp, "203.0.113.53", servers[-1]))
            with isp2.opened(isp2.gateway, 443):
                asked.prober.send(named(isp2, 1, "cable"))
                assert said(await asked.until(1)) == ["reply"]
                assert (servers[0].asked, sorted(servers[1].asked)) == (
                    [], ["A www.example.org", "AAAA www.example.org"],
                )  # fmt: skip
                asked.prober.send(named(isp1, 1, "fiber"))
                assert said(await asked.until(2))[1:] == ["refused: ECONNREFUSED: 10.1.0.1 refuses port 443"]

    asking(story)


def test_kept(isp1: Provider, resolv_conf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One lookup serves all probes for at least half a minute, and after that as long as there is no newer answer."""
    with_server(isp1)

    async def story(asked: Asking) -> None:
        server = NameServer({A: ["10.1.0.1"]}, ttl=0)
        with isp1.opened("10.1.0.1", 443):
            async with answering(isp1, "203.0.113.53", server):
                for round_ in (1, 2, 3):
                    asked.prober.send(named(isp1, round_))
                await asked.until(3)
                asked.prober.send(named(isp1, 4))
                assert said(await asked.until(4)) == ["reply"] * 4
                assert len(server.asked) == 2
                monkeypatch.setattr(names, "_FLOOR", 0.0)
                asked.prober.forget("fiber")
                asked.prober.send(named(isp1, 5))
                await asked.until(5)
                server.silent = True
                asked.prober.send(named(isp1, 6))
                assert said(await asked.until(6)) == ["reply"] * 6
                await asked.silence(0.02)
                assert len(server.asked) == 6

    asking(story)


def test_another_address(isp1: Provider, resolv_conf: Path) -> None:
    """Of several addresses one that fails gives way to the next, which is kept."""
    with_server(isp1)

    async def story(asked: Asking) -> None:
        async with answering(isp1, "203.0.113.53", NameServer({A: ["10.1.0.1", "10.1.0.9"]})):
            with isp1.opened("10.1.0.9", 443):
                for round_ in (1, 2, 3):
                    asked.prober.send(named(isp1, round_))
                    await asked.until(round_)
                refused = "refused: ECONNREFUSED: 10.1.0.1 refuses port 443"
                assert said(asked.heard) in ([refused, "reply", "reply"], ["reply"] * 3)

    asking(story)


def test_families(isp1: Provider, resolv_conf: Path) -> None:
    """Only addresses are asked for, and servers asked, of families that the interface has an address of."""
    with_server(isp1)
    resolv_conf.write_text("nameserver 2001:db8:1::1\nnameserver 203.0.113.53\n")
    sh("ip addr del 10.1.0.2/24 dev wan1")

    async def story(asked: Asking) -> None:
        server = NameServer({A: ["10.1.0.1"], AAAA: ["2001:db8:1::1"]})
        async with answering(isp1, "2001:db8:1::1", server):
            with isp1.opened("2001:db8:1::1", 443):
                asked.prober.send(named(isp1))
                assert said(await asked.until(1)) == ["reply"]
        assert server.asked == ["AAAA www.example.org"]

    asking(story)


@pytest.mark.parametrize(
    ("records", "rcode", "text"),
    [
        ({}, "", "there is no www.example.org, says name server 203.0.113.53"),
        ({("MX", "www.example.org"): []}, "", "no address of www.example.org for this uplink"),
        ({A: ["127.0.0.1"], AAAA: ["::"]}, "", "no address of www.example.org for this uplink"),
        ({A: ["10.1.0.1"]}, "REFUSED", "name server 203.0.113.53: REFUSED for www.example.org"),
    ],
)
def test_no_address(
    isp1: Provider, resolv_conf: Path, records: dict[tuple[str, str], list[str]], rcode: str, text: str
) -> None:
    """A name without an address that leads anywhere fails with what the name server said."""
    with_server(isp1)

    async def story(asked: Asking) -> None:
        async with answering(isp1, "203.0.113.53", NameServer(records, rcode)):
            asked.prober.send(named(isp1))
            assert await asked.until(1) == [Failure("fiber", 0, 1, "no-address", text)]

    asking(story)


def test_silent_name_servers(isp1: Provider, resolv_conf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Name servers that are silent are named after their time, the next is asked, and no socket stays."""
    with_server(isp1)
    monkeypatch.setattr(names, "_PATIENCE", 0.2)
    resolv_conf.write_text("nameserver 203.0.113.53\nnameserver 10.1.0.1\n")

    async def story(asked: Asking) -> None:
        before = sockets()
        silent = NameServer({})
        silent.silent = True
        async with answering(isp1, "203.0.113.53", silent):
            async with answering(isp1, "10.1.0.1", NameServer({A: ["10.1.0.1"]})):
                with isp1.opened("10.1.0.1", 443):
                    asked.prober.send(named(isp1))
                    assert said(await asked.until(1)) == ["reply"]
            asked.prober.forget("fiber")
            isp1.sh("nft 'table inet t { chain i { type filter hook input priority 0; udp dport 53 drop; }; }'")
            asked.prober.send(named(isp1, 2))
            text = "203.0.113.53 and 10.1.0.1 did not answer for www.example.org by wan1"
            assert (await asked.until(2))[1:] == [Failure("fiber", 0, 2, "no-address", text)]
        await asked.silence(0.02)
        assert sockets() == before

    asking(story)


def test_forget(isp1: Provider, resolv_conf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After `forget` a lookup that is under way ends, too, and the next one begins anew."""
    with_server(isp1)
    monkeypatch.setattr(attempts, "LIFETIME", 0.3)

    async def story(asked: Asking) -> None:
        before = sockets()
        server = NameServer({A: ["10.1.0.1"]})
        server.silent = True
        async with answering(isp1, "203.0.113.53", server):
            asked.prober.send(named(isp1))
            await asked.silence(0.05)
            asked.prober.forget("fiber")
            await asked.silence(0.02)
            assert sockets() == before + 1
            server.silent = False
            with isp1.opened("10.1.0.1", 443):
                asked.prober.send(named(isp1, 2))
                assert said(await asked.until(1)) == ["reply"]

    asking(story)


SERVERS = {
    "nameserver 192.0.2.53\noptions edns0\n#nameserver 192.0.2.54\nnameserver 2001:db8::53\n": [
        "192.0.2.53", "2001:db8::53",
    ],
    "nameserver 127.0.0.53\n": ["198.51.100.53"],
    "nameserver fe80::1%wan1\nnameserver fe80::1%wan2\n": ["fe80::1"],
    "nameserver\nnameserver nobody\nnameserver 0.0.0.0\n": ["198.51.100.53"],
    "".join(f"nameserver 192.0.2.{n}\n" for n in range(1, 6)): ["192.0.2.1", "192.0.2.2", "192.0.2.3"],
}  # fmt: skip


@pytest.mark.parametrize("text", SERVERS)
def test_name_servers(resolv_conf: Path, text: str) -> None:
    """Name servers of this router itself are passed over, and then those count that systemd-resolved asks."""
    resolv_conf.write_text(text)
    names.RESOLV_CONF[1].write_text("nameserver 198.51.100.53\n")
    assert names.name_servers("wan1") == SERVERS[text]


def test_no_name_server(isp1: Provider, resolv_conf: Path) -> None:
    """Without a name server to ask the failure says so, and what to do."""
    resolv_conf.unlink()

    async def story(asked: Asking) -> None:
        asked.prober.send(named(isp1))
        text = "no name server to ask; use an address"
        assert await asked.until(1) == [Failure("fiber", 0, 1, "no-address", text)]

    asking(story)
