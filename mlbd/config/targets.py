"""The reader of one target of a probe: from its text to what is asked of whom.

    gateway   192.0.2.1   2001:db8::1                    ICMP echo
    arp:gateway   arp:192.0.2.1   arp:2001:db8::1        ARP; for IPv6, neighbour discovery
    tcp://HOST:PORT                                      a connection
    dns://HOST[:PORT]/NAME                               a query for a name
    http[s]://HOST[:PORT][/PATH][?QUERY][#STATUS]        a GET

HOST is `gateway`, an address (of IPv6 in brackets), or, but for dns, a name with a dot in it.
"""

from __future__ import annotations

import ipaddress
import re

from msgspec import Struct

from mlbd.config.problems import Unfit, nearest
from mlbd.config.values import unsuitable, without_zone
from mlbd.core.settings import Family, Target

TARGET = '"gateway" or an IP address, "arp:" and one of these, or a tcp://, dns://, http:// or https:// URL'

_TCP = 'a target such as "tcp://192.0.2.1:443"'
_DNS = 'a target such as "dns://192.0.2.53/example.org"'
_HTTP = 'a target such as "http://192.0.2.9/path" or "https://example.org/generate_204#204"'
_EXPECTED = {"tcp": _TCP, "dns": _DNS, "http": _HTTP, "https": _HTTP}
_PORTS = {"dns": 53, "http": 80, "https": 443}
_LONGEST = 500

_PARTS = re.compile(r"([^/?#]*)([^#]*)(#.*)?", re.DOTALL)
_AUTHORITY = re.compile(r"(?:\[([^]]*)]|([^:]*))(?::([^:]*))?", re.DOTALL)
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*", re.IGNORECASE)
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]*")
"""What no name ends in, so that a mistyped IPv4 address is not taken for one (https://url.spec.whatwg.org)."""


class _Host(Struct, frozen=True):
    text: str
    address: str | None = None
    family: Family | None = None
    name: str = ""


def target(text: str) -> Target:
    """What a probe asks. Raises Unfit."""
    scheme, slashes, rest = text.partition("://")
    if slashes:
        return _url(scheme.lower(), rest)
    if text.lower().startswith("arp:"):
        return _neighbour(text[4:])
    if text == "gateway":
        return Target(text)
    try:
        host = _address(text)
    except ValueError:
        raise Unfit(_meant(text)) from None
    return Target(host.text, host.address, host.family)


def _meant(text: str) -> str:
    """What somebody may have meant who wrote neither a URL nor an address."""
    address, _, port = text.rpartition(":")
    try:
        ipaddress.IPv4Address(address)
    except ValueError:
        pass
    else:
        return f'a port has a protocol: "tcp://{address}:{port}"?' if port.isdecimal() and len(port) < 6 else ""
    if "." in text and _NAME.fullmatch(text) and not _NUMBER.fullmatch(text.rpartition(".")[2]):
        return "names of hosts are looked up for tcp://, http:// and https:// only"
    return nearest(text, ("gateway", "arp:gateway"))


def _neighbour(text: str) -> Target:
    expected = '"arp:gateway", or "arp:" and an IP address'
    if text == "gateway":
        return Target("arp:gateway", kind="neighbour")
    try:
        host = _address(text, neighbour=True)
    except ValueError:
        raise Unfit(nearest(text, ("gateway",)), expected=expected) from None
    return Target(f"arp:{host.text}", host.address, host.family, kind="neighbour")


def _url(scheme: str, rest: str) -> Target:
    expected = _EXPECTED.get(scheme)
    if expected is None:
        raise Unfit(_other_scheme(scheme))
    if len(rest) > _LONGEST:
        raise Unfit(expected=f"a URL of at most {_LONGEST} characters")
    if not re.fullmatch("[!-~]*", rest):
        raise Unfit(
            "in a URL, spaces and letters outside ASCII are written as %XX, and names of hosts as xn--..",
            expected=expected,
        )
    parts = _PARTS.fullmatch(rest)
    assert parts is not None, "everything matches"
    authority, path, fragment = parts.groups(default="")
    host, port = _authority(scheme, authority, expected)
    default = _PORTS.get(scheme)
    shown = host.text if port == default else f"{host.text}:{port}"
    if scheme in ("http", "https"):
        path = path if path.startswith("/") else f"/{path}"
        status = _status(fragment, expected)
        return Target(
            f"{scheme}://{shown}{path}" + (f"#{status}" if status else ""),
            host.address, host.family, "http", host.name, port, path, scheme == "https", status,
        )  # fmt: skip
    if fragment:
        raise Unfit("only http:// and https:// have a # with a status behind", expected=expected)
    if scheme == "tcp":
        if path:
            raise Unfit("a TCP connection has no path", expected=expected)
        return Target(f"tcp://{shown}", host.address, host.family, "tcp", host.name, port)
    query = _name(path.removeprefix("/"), expected, "name to ask for")
    return Target(f"dns://{shown}/{query}", host.address, host.family, "dns", "", port, query)


def _other_scheme(scheme: str) -> str:
    if scheme in ("icmp", "ping"):
        return "an address alone is asked by ICMP echo"
    if scheme in ("arp", "ndp", "nd"):
        return 'it is "arp:" without slashes'
    close = nearest(scheme, tuple(_EXPECTED))
    return close.replace('"?', '://"?') if close else ""


def _authority(scheme: str, text: str, expected: str) -> tuple[_Host, int]:
    if "@" in text:
        raise Unfit("there is no user in front of the host", expected=expected)
    found = _AUTHORITY.fullmatch(text)
    if found is None:
        raise Unfit('an IPv6 address in a URL stands in brackets, "[2001:db8::1]"', expected=expected)
    bracketed, plain, port = found.groups()
    if port is None and scheme not in _PORTS:
        raise Unfit("which port?", expected=expected)
    if port is not None and (not re.fullmatch("[0-9]{1,5}", port) or not 1 <= int(port) <= 65535):
        raise Unfit("ports are whole numbers from 1 to 65535", expected=expected)
    host = _host(scheme, bracketed, plain, expected)
    return host, _PORTS[scheme] if port is None else int(port)


def _host(scheme: str, bracketed: str | None, plain: str | None, expected: str) -> _Host:
    if plain == "gateway":
        return _Host("gateway")
    try:
        host = _address(bracketed or plain or "")
    except ValueError:
        pass
    else:
        if (bracketed is not None) != (host.family == 6):
            raise Unfit("an IPv6 address in a URL stands in brackets, an IPv4 address does not", expected=expected)
        return _Host(f"[{host.text}]", host.address, host.family) if bracketed else host
    if bracketed is not None:
        raise Unfit("in brackets stands an IPv6 address", expected=expected)
    if scheme == "dns":
        raise Unfit(nearest(plain or "", ("gateway",)) or "a name server is given by its address", expected=expected)
    name = _name(plain or "", expected, "host")
    if name == "localhost" or name.endswith(".localhost"):
        raise Unfit("this is the router itself", expected=expected)
    if "." not in name:
        raise Unfit(nearest(name, ("gateway",)) or "a name needs its domain, as in www.example.org", expected=expected)
    return _Host(name, name=name)


def _name(text: str, expected: str, what: str) -> str:
    """A domain name in lower case, without a dot at the end (RFC 1035 section 2.3, with underscores)."""
    name = text.removesuffix(".").lower()
    if not name:
        raise Unfit(f"there is no {what}", expected=expected)
    if len(name) > 253 or not _NAME.fullmatch(name) or _NUMBER.fullmatch(name.rpartition(".")[2]):
        raise Unfit(f"the {what} is neither a domain name nor an address", expected=expected)
    return name


def _address(text: str, *, neighbour: bool = False) -> _Host:
    """Raises ValueError for what is none, Unfit for one that cannot be asked."""
    address = ipaddress.ip_address(text)
    reason = unsuitable(address)
    if reason and not (neighbour and address.is_link_local):
        raise Unfit(reason)
    canonical = without_zone(address)
    return _Host(canonical, canonical, 4 if address.version == 4 else 6)


def _status(fragment: str, expected: str) -> int | None:
    if not fragment:
        return None
    if not re.fullmatch("#[2-5][0-9][0-9]", fragment):
        raise Unfit("behind # stands the status that is wanted, 200 to 599", expected=expected)
    return int(fragment[1:])
