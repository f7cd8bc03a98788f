from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from mlbd.core.settings import Target
from mlbd.probe import attempts
from tests.probe.asking import Asking, asking, said, sockets, to
from tests.probe.network import Provider, sh
from tests.probe.servers import Authority, Pages, serving

PLAIN = Target("http://x/", kind="http", port=80, query="/a?b")
TLS = Target("https://x/", kind="http", port=443, query="/", tls=True)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
MORE = "no HTTP: 32768 bytes, and the headers do not end"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Authority]:
    """What this machine trusts, for the time being."""
    found = Authority(tmp_path_factory.mktemp("certificates"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(found.file))
        yield found


def answered(provider: Provider, answer: bytes, target: Target = PLAIN) -> str:
    """What becomes of a probe whose server answers so."""
    found: list[str] = []

    async def story(asked: Asking) -> None:
        before = sockets()
        async with serving(provider.opened("10.1.0.1", 80), Pages(answer)):
            asked.prober.send(to(provider, "10.1.0.1", ask=target))
            found.extend(said(await asked.until(1)))
        await asked.silence(0.02)
        assert sockets() == before

    asking(story)
    return found[0]


@pytest.mark.parametrize(
    ("answer", "wanted", "result"),
    [
        (OK, None, "reply"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", None, "reply"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, "reply"),
        (b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * 100_000, None, "reply"),
        (b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK, None, "reply"),
        (OK, 204, "wrong-answer: 200, and 204 is wanted: a captive portal?"),
        (
            b"HTTP/1.1 302 Found\r\nLocation: http://portal.example/\r\n\r\n", None,
            "wrong-answer: 302 to http://portal.example/: a captive portal?",
        ),
        (b"HTTP/1.1 302 Found\r\nLocation: http://portal.example/\r\n\r\n", 302, "reply"),
        (b"HTTP/1.1 307 Moved\r\n\r\n", 204, "wrong-answer: 307: a captive portal?"),
        (b"HTTP/1.1 302 F\r\nLocation: \xe4\x9b\r\n\r\n", 204, "wrong-answer: 302 to ä?: a captive portal?"),
        (b"HTTP/1.1 511 Login\r\n\r\n", 204, "wrong-answer: 511: the network wants a login"),
        (b"HTTP/1.1 503 Busy\r\n\r\n", None, "wrong-answer: 503, and 2xx is wanted"),
        (b"HTTP/1.1 404 None\r\n\r\n", 204, "wrong-answer: 404, and 204 is wanted"),
        (b"SSH-2\r\n\r\n", None, "wrong-answer: no HTTP: illegal status line: bytearray(b'SSH-2')"),
        (b"HTTP/1.1 103 Early Hints\r\n\r\n" * 5000, None, f"wrong-answer: {MORE}"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000, None, "wrong-answer: no HTTP: Receive buffer too long"),
    ],
)  # fmt: skip
def test_answers(isp1: Provider, answer: bytes, wanted: int | None, result: str) -> None:
    """The status decides: any 2xx, or exactly the one wanted; a captive portal is no internet; no answer is endless."""
    assert answered(isp1, answer, replace(PLAIN, status=wanted)) == result


def test_request(isp1: Provider) -> None:
    """The request names host, port where it is not the usual one, path and query, and ends the connection."""

    async def story(asked: Asking) -> None:
        pages = Pages(OK)
        async with serving(isp1.opened("2001:db8:1::1", 8080), pages):
            asked.prober.send(to(isp1, "2001:db8:1::1", ask=replace(PLAIN, port=8080)))
            assert said(await asked.until(1)) == ["reply"]
        lines = pages.asked[0].split("\r\n")
        assert (lines[:2], "Connection: close" in lines) == (["GET /a?b HTTP/1.1", "Host: [2001:db8:1::1]:8080"], True)

    asking(story)


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("says", [b"", b"HTTP/1.1 200 OK\r\nX: "])
def test_half_open(isp1: Provider, monkeypatch: pytest.MonkeyPatch, tls: bool, says: bytes) -> None:
    """A server that accepts and falls silent, before or in the middle of its answer, costs a lost probe, no more."""
    monkeypatch.setattr(attempts, "LIFETIME", 0.3)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"" if tls else says)
        await asyncio.sleep(60)

    async def story(asked: Asking) -> None:
        before = sockets()
        async with serving(isp1.opened("10.1.0.1", 443 if tls else 80), talk):
            asked.prober.send(to(isp1, "10.1.0.1", ask=TLS if tls else PLAIN))
            assert await asked.silence(0.5) == []
        assert sockets() == before

    asking(story)


@pytest.mark.parametrize("tls", [False, True])
def test_broken_off(isp1: Provider, tls: bool) -> None:
    """A server that closes the connection without an answer refuses."""

    async def story(asked: Asking) -> None:
        async with serving(isp1.opened("10.1.0.1", 443 if tls else 80), lambda r, w: w.close()):
            asked.prober.send(to(isp1, "10.1.0.1", ask=TLS if tls else PLAIN))
            assert [text.partition(":")[0] for text in said(await asked.until(1))] == ["refused"]

    asking(story)


@pytest.mark.parametrize(
    ("name", "days", "own", "result"),
    [
        ("IP:10.1.0.1", 2, False, "reply"),
        ("IP:10.1.0.1", -1, False, "refused: its certificate is not accepted: certificate has expired"),
        ("IP:10.1.0.1", 2, True, "refused: its certificate is not accepted: self-signed certificate"),
        (
            "IP:10.1.0.2", 2, False,
            "refused: its certificate is not accepted: IP address mismatch, certificate is not valid for '10.1.0.1'.",
        ),
    ],
)  # fmt: skip
def test_certificates(isp1: Provider, authority: Authority, name: str, days: int, own: bool, result: str) -> None:
    """A certificate must be signed by whom the system trusts, last, and be of the very address in the URL."""

    async def story(asked: Asking) -> None:
        tls = authority.context(name, days=days, own=own)
        async with serving(isp1.opened("10.1.0.1", 443), Pages(OK), tls):
            asked.prober.send(to(isp1, "10.1.0.1", ask=TLS))
            assert said(await asked.until(1)) == [result]

    asking(story)


def test_no_tls(isp1: Provider) -> None:
    """A server that does not speak TLS refuses, with what was wrong."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await asyncio.sleep(60)

    async def story(asked: Asking) -> None:
        async with serving(isp1.opened("10.1.0.1", 443), talk):
            asked.prober.send(to(isp1, "10.1.0.1", ask=TLS))
            assert said(await asked.until(1)) == ["refused: no TLS with 10.1.0.1: wrong version number"]

    asking(story)


def test_by_its_own_uplink(isp1: Provider, isp2: Provider, authority: Authority, tmp_path: Path) -> None:
    """One provider's portal answers for everybody: only that uplink is told so, whatever `main` says."""
    for isp in (isp1, isp2):
        isp.sh("ip addr add 203.0.113.1 dev lo")
    sh("ip route add default via 10.1.0.1 dev wan1")

    async def story(asked: Asking) -> None:
        portal = Pages(b"HTTP/1.1 302 Found\r\nLocation: http://10.1.0.1/login\r\n\r\n")
        async with (
            serving(isp1.opened("203.0.113.1", 80), portal),
            serving(isp2.opened("203.0.113.1", 80), Pages(OK)),
        ):
            asked.prober.send(to(isp1, "203.0.113.1", uplink="fiber", ask=PLAIN))
            await asked.until(1)
            asked.prober.send(to(isp2, "203.0.113.1", uplink="cable", ask=PLAIN))
            portals = "wrong-answer: 302 to http://10.1.0.1/login: a captive portal?"
            assert said(await asked.until(2)) == [portals, "reply"]

    asking(story)
