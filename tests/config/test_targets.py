"""Texts of targets: what they mean, and what is said about those that mean nothing."""

from __future__ import annotations

import pytest

from mlbd.config.problems import Unfit
from mlbd.config.targets import target
from mlbd.core.settings import Target

MEANT = {
    "gateway": Target("gateway"),
    "2001:DB8:0::1": Target("2001:db8::1", "2001:db8::1", 6),
    "arp:gateway": Target("arp:gateway", kind="neighbour"),
    "ARP:192.0.2.1": Target("arp:192.0.2.1", "192.0.2.1", 4, "neighbour"),
    "arp:fe80::1": Target("arp:fe80::1", "fe80::1", 6, "neighbour"),
    "tcp://192.0.2.1:443": Target("tcp://192.0.2.1:443", "192.0.2.1", 4, "tcp", port=443),
    "TCP://[2001:DB8::1]:443": Target("tcp://[2001:db8::1]:443", "2001:db8::1", 6, "tcp", port=443),
    "tcp://gateway:53": Target("tcp://gateway:53", kind="tcp", port=53),
    "tcp://WWW.Example.org.:80": Target("tcp://www.example.org:80", kind="tcp", name="www.example.org", port=80),
    "dns://192.0.2.53/Example.ORG.": Target(
        "dns://192.0.2.53/example.org", "192.0.2.53", 4, "dns", port=53, query="example.org"
    ),
    "dns://gateway:5353/_x.example.org": Target(
        "dns://gateway:5353/_x.example.org", kind="dns", port=5353, query="_x.example.org"
    ),
    "http://192.0.2.9:80": Target("http://192.0.2.9/", "192.0.2.9", 4, "http", port=80, query="/"),
    "http://192.0.2.9?x=%20": Target("http://192.0.2.9/?x=%20", "192.0.2.9", 4, "http", port=80, query="/?x=%20"),
    "https://example.org/a#204": Target(
        "https://example.org/a#204", kind="http", name="example.org", port=443, query="/a", tls=True, status=204
    ),
    "https://[2001:db8::9]:8443/": Target(
        "https://[2001:db8::9]:8443/", "2001:db8::9", 6, "http", port=8443, query="/", tls=True
    ),
}


@pytest.mark.parametrize("text", MEANT)
def test_meaning(text: str) -> None:
    """A target's text means what it is asked and where, and its canonical text means the same."""
    meant = target(text)
    assert (meant, target(meant.text)) == (MEANT[text], MEANT[text])


TCP = 'a target such as "tcp://192.0.2.1:443"'
DNS = 'a target such as "dns://192.0.2.53/example.org"'
HTTP = 'a target such as "http://192.0.2.9/path" or "https://example.org/generate_204#204"'
ARP = '"arp:gateway", or "arp:" and an IP address'
BRACKETS = "an IPv6 address in a URL stands in brackets"
PORTS = "ports are whole numbers from 1 to 65535"
LINK = "a link-local address means something else on every link"
STATUS = "behind # stands the status that is wanted, 200 to 599"
NEITHER = "is neither a domain name nor an address"

REFUSED = {
    "": ("", ""),
    "gatway": ("", 'did you mean "gateway"?'),
    "192.0.2.300": ("", ""),
    "192.0.2.1:443": ("", 'a port has a protocol: "tcp://192.0.2.1:443"?'),
    "www.example.org": ("", "names of hosts are looked up for tcp://, http:// and https:// only"),
    "icmp://192.0.2.1": ("", "an address alone is asked by ICMP echo"),
    "htp://192.0.2.1/": ("", 'did you mean "http://"?'),
    "gopher://192.0.2.1/": ("", ""),
    "arp:": (ARP, ""),
    "arp:gatway": (ARP, 'did you mean "gateway"?'),
    "arp:127.0.0.1": ("", "a loopback address is this router itself"),
    "arp:fe80::1%eth0": ("", 'the interface is known already: leave out "%eth0"'),
    "arp://192.0.2.1": ("", 'it is "arp:" without slashes'),
    "tcp://192.0.2.1": (TCP, "which port?"),
    "tcp://:443": (TCP, "there is no host"),
    "tcp://192.0.2.1:0": (TCP, PORTS),
    "tcp://192.0.2.1:65536": (TCP, PORTS),
    "tcp://192.0.2.1:https": (TCP, PORTS),
    "tcp://192.0.2.1:443/": (TCP, "a TCP connection has no path"),
    "tcp://192.0.2.1:443#204": (TCP, "only http:// and https:// have a # with a status behind"),
    "tcp://2001:db8::1:443": (TCP, f'{BRACKETS}, "[2001:db8::1]"'),
    "tcp://[192.0.2.1]:443": (TCP, f"{BRACKETS}, an IPv4 address does not"),
    "tcp://[example.org]:443": (TCP, "in brackets stands an IPv6 address"),
    "tcp://a@example.org:1": (TCP, "there is no user in front of the host"),
    "tcp://localhost:1": (TCP, "this is the router itself"),
    "tcp://gatway:53": (TCP, 'did you mean "gateway"?'),
    "tcp://printer:53": (TCP, "a name needs its domain, as in www.example.org"),
    "tcp://192.0.2.300:1": (TCP, f"the host {NEITHER}"),
    "tcp://-a.example:1": (TCP, f"the host {NEITHER}"),
    "dns://192.0.2.53": (DNS, "there is no name to ask for"),
    "dns://ns.example.org/example.org": (DNS, "a name server is given by its address"),
    "dns://192.0.2.53/example..org": (DNS, f"the name to ask for {NEITHER}"),
    "dns://192.0.2.53/" + "a." * 127 + "a": (DNS, f"the name to ask for {NEITHER}"),
    "http://": (HTTP, "there is no host"),
    "http://[fe80::1]/": ("", LINK),
    "http://example.org/#": (HTTP, STATUS),
    "http://example.org/#20": (HTTP, STATUS),
    "http://example.org/#101": (HTTP, STATUS),
    "http://example.org/ä": (
        HTTP, "in a URL, spaces and letters outside ASCII are written as %XX, and names of hosts as xn--..",
    ),
    "http://example.org/" + "a" * 500: ("a URL of at most 500 characters", ""),
}  # fmt: skip


@pytest.mark.parametrize("text", REFUSED)
def test_refused(text: str) -> None:
    """What cannot be asked is refused with what would be right, where that depends on the kind, and why."""
    with pytest.raises(Unfit) as caught:
        target(text)
    assert (caught.value.expected, caught.value.hint) == REFUSED[text]
