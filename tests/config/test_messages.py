"""What is wrong with a configuration, as a person reads it."""

from __future__ import annotations

import pytest

from mlbd.config import ConfigError, Problem, parse

A = '[[uplink]]\nname = "a"\ninterface = "eth1"\n'
"""Lines 1 to 3."""
B = '[[uplink]]\nname = "b"\ninterface = "eth2"\n'
"""Lines 4 to 6 after A."""

NUMBER = "expected a whole number from 1 to 256"
DURATION = 'expected a duration with its unit (ms, s, m, h, d), such as "200ms", "1s" or "1m30s"'
GATEWAY = 'expected "auto", "none" or an IPv4 address'
INTERFACE = 'expected the name of a network interface, such as "eth1"'
NAME = "expected a name of up to 15 lower-case letters, digits, _ and -, beginning with a letter"
PREFIX6 = 'expected "auto" or an IPv6 prefix of length 32 to 64, such as "2001:db8:1::/48"'
METHOD = 'expected "random", "round-robin", "hash-source", "multipath" or "failover"'
PER_PACKET = (
    "balancing packet by packet breaks connections, as each uplink translates to another address (1+1<1), so it is not "
    'offered; "round-robin" gives connections in turn'
)
KNOWN_TABLES = "known here: uplink, probe, policy, rule, bond, teql, conntrack, daemon"
TARGET = 'expected "gateway" or an IP address, "arp:" and one of these, or a tcp://, dns://, http:// or https:// URL'
MASK = "expected a mask of eight bits in a row, such as 0xff000000"
METRICS = 'expected "off" or "address:port", such as "127.0.0.1:9617" or "[::1]:9617"'
PROTOCOL = "expected a whole number from 5 to 255 that no other program uses"
UPLINK_KEYS = (
    "known here: name, interface, gateway, gateway6, weight, masquerade, nat6, prefix6, peer, id, carrier_delay, probe"
)
FREE = "expected a name that no other uplink or policy has"
APART = "uplinks with one interface are told apart by their gateways"


def messages(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, "f")
    return [str(problem) for problem in caught.value.problems]


UPLINK_LINES = {
    "weight = 300": f"weight: found 300, {NUMBER}",
    "weight = 0": f"weight: found 0, {NUMBER}",
    "weight = true": f"weight: found true, {NUMBER}",
    "weight = 2.0": f"weight: found 2.0, {NUMBER}",
    'weight = "2"': f'weight: found "2", {NUMBER}',
    "weight = 1979-05-27": f"weight: found 1979-05-27, {NUMBER}",
    "weight = [1]": f"weight: found an array, {NUMBER}",
    "weight = 0x" + "f" * 900: f"weight: found a number of more than 30 digits, {NUMBER}",
    "masquerade = 1": "masquerade: found 1, expected true or false",
    "id = 101": "id: found 101, expected a whole number from 1 to 100",
    'nat6 = "mask"': 'nat6: found "mask", expected "none", "masquerade" or "prefix"',
    'prefix6 = "atuo"': f'prefix6: found "atuo", {PREFIX6}; did you mean "auto"?',
    'prefix6 = "10.0.0.0/8"': f'prefix6: found "10.0.0.0/8", {PREFIX6}; this is an IPv4 prefix',
    'prefix6 = "2001:db8::/31"': f'prefix6: found "2001:db8::/31", {PREFIX6}; its length is 31',
    'prefix6 = "2001:db8::/65"': f'prefix6: found "2001:db8::/65", {PREFIX6}; its length is 65',
    'prefix6 = "2001:db8::1"': f'prefix6: found "2001:db8::1", {PREFIX6}; its length is 128',
    'prefix6 = "2001:db8::1/64"': f'prefix6: found "2001:db8::1/64", {PREFIX6}; bits behind the prefix are set: '
    'write "2001:db8::/64"',
    'prefix6 = "fe80::/64"': f'prefix6: found "fe80::/64", {PREFIX6}; '
    "a link-local address means something else on every link",
    'prefix6 = "ff0e::/32"': f'prefix6: found "ff0e::/32", {PREFIX6}; '
    "a multicast or broadcast address names nobody in particular",
    'prefix6 = "2001:db8::%eth1/64"': f'prefix6: found "2001:db8::%eth1/64", {PREFIX6}; a prefix has no interface',
    'gateway = "nonne"': f'gateway: found "nonne", {GATEWAY}; did you mean "none"?',
    'gateway = "10.0.0.256"': f'gateway: found "10.0.0.256", {GATEWAY}',
    'gateway = "2001:db8::1"': f'gateway: found "2001:db8::1", {GATEWAY}; an IPv6 address belongs to gateway6',
    'gateway = "169.254.0.1"': f'gateway: found "169.254.0.1", {GATEWAY}; '
    "a link-local address means something else on every link",
    'gateway6 = "10.0.0.1"': 'gateway6: found "10.0.0.1", expected "auto", "none" or an IPv6 address; '
    "an IPv4 address belongs to gateway",
    'gateway6 = "fe80::1%eth1"': 'gateway6: found "fe80::1%eth1", expected "auto", "none" or an IPv6 address; '
    'the interface is known already: leave out "%eth1"',
    "carrier_delay = 3": f'carrier_delay: found 3, {DURATION}; write "3s" for seconds',
    'carrier_delay = "3"': f'carrier_delay: found "3", {DURATION}; 3 of which unit? write "3s" for seconds',
    'carrier_delay = "-1s"': f'carrier_delay: found "-1s", {DURATION}',
    'carrier_delay = "1s1m"': f'carrier_delay: found "1s1m", {DURATION}',
    'carrier_delay = ""': f'carrier_delay: found "", {DURATION}',
    'carrier_delay = "366d"': 'carrier_delay: found "366d", expected a duration of at most 365d',
    "wieght = 3": 'wieght: unknown key; did you mean "weight"?',
    "interval = 3": "interval: unknown key; it belongs in [uplink.probe]",
    "metrics = 3": "metrics: unknown key; it belongs in [daemon]",
    '"a b\\u001b" = 3': '"a b\\u001b": unknown key; ' + UPLINK_KEYS,
    "probe = 1": "probe: found 1, expected one table",
}


@pytest.mark.parametrize("line", UPLINK_LINES)
def test_key_of_an_uplink(line: str) -> None:
    """A wrong value is told with its line, its key, what was found, what would be right, and why."""
    assert messages(A + line) == [f"f:4: uplink[0].{UPLINK_LINES[line]}"]


NOBODY = f"{TARGET}; a multicast or broadcast address names nobody in particular"
ELSEWHERE = "a link-local address means something else on every link"

INTERFACES = {
    "": "Linux takes names of 1 to 15 bytes, this has 0",
    "éééééééé": "Linux takes names of 1 to 15 bytes, this has 16",
    "..": "Linux has no interface of this name",
    "all": "Linux has no interface of this name",
    "lo": "nothing leaves the router by the loopback interface",
    "a/b": "Linux takes no `/` in the name of an interface",
    "eth0:1": "Linux takes no `:` in the name of an interface",
    "a b": "Linux takes no white space in the name of an interface",
    "eth*": "nftables cannot express `*` in the name of an interface",
    'a\\"b': 'nftables cannot express `"` in the name of an interface',
    "a\\\\b": "nftables cannot express `\\` in the name of an interface",
    "a\\u0007": "nftables cannot express control characters in the name of an interface",
}


@pytest.mark.parametrize("name", INTERFACES)
def test_interface_names(name: str) -> None:
    """An interface name that Linux or nftables does not take is refused with the reason."""
    assert messages(f'[[uplink]]\nname = "a"\ninterface = "{name}"') == [
        f'f:3: uplink[0].interface: found "{name}", {INTERFACE}; {INTERFACES[name]}'
    ]


REST = {
    "names": (
        '[[uplink]]\nname = "Fiber"\ninterface = "eth1"\n[[uplink]]\nname = "x234567890123456"\ninterface = "eth2"\n'
        '[[uplink]]\nname = "x\\n"\ninterface = "eth3"',
        [
            f'f:2: uplink[0].name: found "Fiber", {NAME}',
            f'f:5: uplink[1].name: found "x234567890123456", {NAME}',
            f'f:8: uplink[2].name: found "x\\n", {NAME}',
        ],
    ),
    "missing keys": (
        "[[uplink]]\n\n[[policy]]\nmembers = []",
        [
            f"f:1: uplink[0].name: found nothing, {NAME}",
            f"f:1: uplink[0].interface: found nothing, {INTERFACE}",
            f"f:3: policy[0].name: found nothing, {NAME}",
            "f:4: policy[0].members: found an empty array, expected at least one uplink",
        ],
    ),
    "nothing": ("", ["f: uplink: found nothing, expected at least one [[uplink]], [[bond]] or [[teql]] table"]),
    "tables of the wrong shape": (
        'probe = "x"\n[uplink]\nname = "a"\n[[daemon]]\nmetrics = "off"',
        [
            'f:1: probe: found "x", expected one table',
            "f:2: uplink: found a table, expected [[uplink]] tables; write [[uplink]], in double brackets",
            "f:4: daemon: found several tables, expected one table; write [daemon], in single brackets",
        ],
    ),
    "what is no table": ("uplink = [1]", ["f:1: uplink[0]: found 1, expected one table"]),
    "what later versions know": (
        A + "quota = 1\n[[vrf]]\n[wifi]",
        [
            "f:4: uplink[0].quota: unknown key; " + UPLINK_KEYS,
            f"f:5: vrf: unknown key; {KNOWN_TABLES}",
            f"f:6: wifi: unknown key; {KNOWN_TABLES}",
        ],
    ),
    "what must be each uplink's own": (
        A + "id = 1\n" + A + "id = 1",
        [
            f'f:6: uplink[1].name: found "a", {FREE}; the uplink on line 2 has it',
            'f:7: uplink[1].interface: found "eth1", expected another interface, or an address as gateway of each; '
            f"line 3 has this interface, too; {APART}; where DHCP gives them out, make a macvlan for each",
            "f:8: uplink[1].id: found 1, expected another number; line 4 has it; ids tell the uplinks' marks and "
            "tables apart",
        ],
    ),
    "names of policies": (
        A + '[[policy]]\nname = "a"\nmembers = ["a"]\n[[policy]]\nname = "main"\nmembers = ["a"]',
        [
            f'f:5: policy[0].name: found "a", {FREE}; the uplink on line 2 has it',
            f'f:8: policy[1].name: found "main", {FREE}; it stands for "not ours to route"',
        ],
    ),
    "the name of the implicit policy": (
        '[[uplink]]\nname = "balanced"\ninterface = "eth1"',
        [
            f'f:2: uplink[0].name: found "balanced", {FREE}; without a [[policy]] table this is the name of the policy '
            "there is"
        ],
    ),
    "members": (
        A + B + '[[policy]]\nname = "p"\nmembers = [\n["a"],\n[],\n["b", "a", 1, "c"],\n"a"]\n'
        "weights = { a = 0, b = true, d = 1 }",
        [
            "f:12: policy[0].members[2][2]: found 1, expected the name of an uplink or an array of such names (a tier)",
            'f:12: policy[0].members[2][1]: found "a", expected each uplink only once in a policy',
            'f:12: policy[0].members[2][3]: found "c", expected the name of an uplink; there are a, b',
            'f:13: policy[0].members[3]: found "a", expected each uplink only once in a policy',
            f"f:14: policy[0].weights.a: found 0, {NUMBER}",
            f"f:14: policy[0].weights.b: found true, {NUMBER}",
            'f:14: policy[0].weights.d: found "d", expected the name of a member; there are a, b',
        ],
    ),
    "tiers": (
        A + B + '[[policy]]\nname = "p"\nmembers = [["a"], [], "b"]',
        [
            "f:9: policy[0].members: found names beside tiers, expected either names or tiers, not both; "
            'a name alone makes a tier like this: ["name"]',
            "f:9: policy[0].members[1]: found an empty tier, expected at least one uplink in each tier",
        ],
    ),
    "a name for an array": (
        A + '[[policy]]\nname = "p"\nmembers = "a"\nweights = 1',
        [
            "f:6: policy[0].members: found \"a\", expected an array, each element the name of an uplink or an array of "
            'such names (a tier); write ["a"]',
            "f:7: policy[0].weights: found 1, expected a table, each value a whole number from 1 to 256",
        ],
    ),
    "a member that resembles one": (
        '[[uplink]]\nname = "fiber"\ninterface = "eth1"\n'
        + B
        + '[[policy]]\nname = "p"\nmembers = ["fibre"]\nweights = { b = 1 }',
        [
            'f:9: policy[0].members[0]: found "fibre", expected the name of an uplink; did you mean "fiber"?',
            'f:10: policy[0].weights.b: found "b", expected the name of a member; it is not a member of this policy',
        ],
    ),
    "choices": (
        A + '[[policy]]\nname = "p"\nmembers = ["a"]\nmethod = "multipaht"\nlast_resort = "best!"',
        [
            f'f:7: policy[0].method: found "multipaht", {METHOD}; did you mean "multipath"?',
            'f:8: policy[0].last_resort: found "best!", expected "best", "unreachable", "blackhole" or "main"; '
            'did you mean "best"?',
        ],
    ),
    "per-packet methods": (
        A + "".join(f'[[policy]]\nname = "p{n}"\nmembers = ["a"]\nmethod = {w}\n' for n, w in enumerate(
            ['"per-packet"', '"rr"', '"Equalize"', '"nth"', '"teql"', '"roundrobin"', "1"])),
        [
            f'f:7: policy[0].method: found "per-packet", {METHOD}; {PER_PACKET}',
            f'f:11: policy[1].method: found "rr", {METHOD}; {PER_PACKET}',
            f'f:15: policy[2].method: found "Equalize", {METHOD}; {PER_PACKET}',
            f'f:19: policy[3].method: found "nth", {METHOD}; {PER_PACKET}',
            f'f:23: policy[4].method: found "teql", {METHOD}; {PER_PACKET}',
            f'f:27: policy[5].method: found "roundrobin", {METHOD}; did you mean "round-robin"?',
            f"f:31: policy[6].method: found 1, {METHOD}",
        ],
    ),
    "prefixes that overlap": (
        A + 'prefix6 = "2001:db8::/32"\n' + B + 'prefix6 = "2001:db8:1::/48"',
        [
            'f:8: uplink[1].prefix6: found "2001:db8:1::/48", expected a prefix apart from other uplinks\' prefixes; '
            "line 4 has 2001:db8::/32; a prefix tells by which uplink its addresses leave"
        ],
    ),
    "marks without masquerade": (
        A + "masquerade = false\n" + B + '[daemon]\nown_connections = "mark"',
        [
            'f:4: uplink[0].masquerade: found masquerade = false with own_connections = "mark", expected masquerade = '
            'true, or own_connections = "route"; marks choose after the source address was chosen, so that a packet of '
            "the router would leave here with another uplink's address"
        ],
    ),
    "targets": (
        A + '[probe]\ntargets = ["gatway", "tcp://192.0.2.1",\n"127.0.0.1", "ff02::1", "0.0.0.0", "fe80::1", '
        '"255.255.255.255", "::ffff:192.0.2.1",\n"2001:db8::1", "2001:DB8:0::1", 1]',
        [
            f'f:5: probe.targets[0]: found "gatway", {TARGET}; did you mean "gateway"?',
            'f:5: probe.targets[1]: found "tcp://192.0.2.1", expected a target such as "tcp://192.0.2.1:443"; which '
            "port?",
            f'f:6: probe.targets[2]: found "127.0.0.1", {TARGET}; a loopback address is this router itself',
            f'f:6: probe.targets[3]: found "ff02::1", {NOBODY}',
            f'f:6: probe.targets[4]: found "0.0.0.0", {TARGET}; the unspecified address names nobody',
            f'f:6: probe.targets[5]: found "fe80::1", {TARGET}; {ELSEWHERE}',
            f'f:6: probe.targets[6]: found "255.255.255.255", {NOBODY}',
            f'f:6: probe.targets[7]: found "::ffff:192.0.2.1", {TARGET}; an IPv4 address in disguise: '
            'write "192.0.2.1"',
            f"f:7: probe.targets[10]: found 1, {TARGET}",
            'f:7: probe.targets[9]: found "2001:DB8:0::1", expected each only once',
        ],
    ),
    "no targets": (
        A + "[probe]\ntargets = []",
        ["f:5: probe.targets: found an empty array, expected at least one target"],
    ),
    "times of probes": (
        A + '[probe]\ninterval = "9ms"\nsuspect_interval = "0s"\ntimeout = "0s"\nfall = 0\nrise = 1001',
        [
            'f:5: probe.interval: found "9ms", expected a duration of at least 10ms',
            'f:6: probe.suspect_interval: found "0s", expected a duration of at least 10ms',
            'f:7: probe.timeout: found "0s", expected a duration of at least 1ms',
            "f:8: probe.fall: found 0, expected a whole number from 1 to 1000",
            "f:9: probe.rise: found 1001, expected a whole number from 1 to 1000",
        ],
    ),
    "what belongs together in a probe, once for all uplinks": (
        A + B + '[probe]\ninterval = "50ms"\nquorum = 2\nhold = "1h"\nwindow = "99ms"',
        [
            "f:8: probe.interval: found suspect_interval 100ms and interval 50ms, expected interval to be at least "
            "suspect_interval; a suspected uplink is probed more often, not less",
            "f:8: probe.interval: found interval 50ms and window 99ms, expected window to be at least twice interval; "
            "the window must hold at least two rounds",
            "f:9: probe.quorum: found a quorum of 2 of 1 target, expected at least as many targets as must answer",
            "f:10: probe.hold: found hold 1h and hold_max 5m, expected hold_max to be at least hold; "
            "hold_max bounds what hold grows to",
        ],
    ),
    "what an uplink's own probe breaks": (
        A + '[uplink.probe]\ntargets = ["192.0.2.1"]\n[probe]\nquorum = 2\ntargets = ["192.0.2.1", "192.0.2.2"]',
        [
            "f:5: uplink[0].probe.targets: found a quorum of 2 of 1 target, expected at least as many targets as must "
            "answer"
        ],
    ),
    "what an uplink's own probe has in place of something wrong": (
        A + "[uplink.probe]\nquorum = 2\n[probe]\nquorum = 0",
        [
            "f:5: uplink[0].probe.quorum: found a quorum of 2 of 1 target, expected at least as many targets as must "
            "answer",
            "f:7: probe.quorum: found 0, expected a whole number from 1 to 1000",
        ],
    ),
    "conntrack": (
        A + '[conntrack]\nhelpers = ["ftpp", "h323", "ftp", "ftp"]\ntcp = "resett"',
        [
            'f:5: conntrack.helpers[0]: found "ftpp", expected a conntrack helper of the kernel (ftp, tftp, sip, irc, '
            'pptp, RAS, Q.931, amanda, sane, snmp, netbios-ns); did you mean "ftp"?',
            'f:5: conntrack.helpers[1]: found "h323", expected a conntrack helper of the kernel (ftp, tftp, sip, irc, '
            'pptp, RAS, Q.931, amanda, sane, snmp, netbios-ns); H.323 takes two helpers, "RAS" and "Q.931"',
            'f:5: conntrack.helpers[3]: found "ftp", expected each only once',
            'f:6: conntrack.tcp: found "resett", expected "reset" or "keep"; did you mean "reset"?',
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REST)
def test_whole_files(case: str) -> None:
    """All problems of a file are told at once, in the order of its lines, each once."""
    text, expected = REST[case]
    assert messages(text) == expected


PRIORITY = (
    "expected a whole number from 1001 to 22000, as rules with a mark are at 1000, the 9990 above it are used and "
    "main's rule is at 32766"
)

DAEMON_LINES = {
    "fwmark_mask = 0xff0f": f"fwmark_mask: found 65295, {MASK}; this mask has 12 bits, not 8",
    "fwmark_mask = 0x1fe00000001": f"fwmark_mask: found 2190433320961, {MASK}",
    "fwmark_mask = 0xf0f0": f"fwmark_mask: found 61680, {MASK}; this mask has holes",
    'fwmark_mask = "ff"': f'fwmark_mask: found "ff", {MASK}',
    "fwmark_mask = -1": f"fwmark_mask: found -1, {MASK}",
    "fwmark_mask = true": f"fwmark_mask: found true, {MASK}",
    "table_base = 255": "table_base: found 255, expected a whole number from 256 to 2147483136, to stay clear of the "
    "kernel's tables 0 and 253 to 255",
    "table_base = 2147483137": "table_base: found 2147483137, expected a whole number from 256 to 2147483136, to stay "
    "clear of the kernel's tables 0 and 253 to 255",
    "rule_priority = 1000": f"rule_priority: found 1000, {PRIORITY}",
    "rule_priority = 22001": f"rule_priority: found 22001, {PRIORITY}",
    'own_connections = "marks"': 'own_connections: found "marks", expected "route" or "mark"; did you mean "mark"?',
    "protocol = 4": f'protocol: found 4, {PROTOCOL}; it belongs to "static", whose routes would be taken for ours',
    "protocol = 16": f'protocol: found 16, {PROTOCOL}; it belongs to "dhcp", whose routes would be taken for ours',
    "protocol = 256": f"protocol: found 256, {PROTOCOL}",
    'metrics = "localhost:80"': f'metrics: found "localhost:80", {METRICS}; names of hosts are not looked up',
    'metrics = "of"': f'metrics: found "of", {METRICS}; did you mean "off"?',
    'metrics = "::1:9617"': f'metrics: found "::1:9617", {METRICS}; an IPv6 address stands in brackets, an IPv4 '
    "address does not",
    'metrics = "127.0.0.1:0"': f'metrics: found "127.0.0.1:0", {METRICS}; ports are whole numbers from 1 to 65535',
    'control = "run.sock"': 'control: found "run.sock", expected the absolute path of a socket; '
    "it must not depend on the directory the daemon was started in",
    f'control = "/{"x" * 107}"': f'control: found "/{"x" * 59}...", expected the absolute path of a socket; '
    "Linux takes at most 107 bytes for the path of a socket",
    'miimon = "9ms"': 'miimon: found "9ms", expected a duration of at least 10ms, or "0s"',
    'on_exit = "realease"': 'on_exit: found "realease", expected "keep" or "release"; did you mean "release"?',
}


@pytest.mark.parametrize("line", DAEMON_LINES)
def test_key_of_the_daemon(line: str) -> None:
    """A number that would collide with somebody else's, or an address nobody could use, is refused with the reason."""
    assert messages(f"{A}[daemon]\n{line}") == [f"f:5: daemon.{DAEMON_LINES[line]}"]


def test_too_many() -> None:
    """Marks have codes for 100 uplinks and 25 policies."""
    uplinks = "".join(f'[[uplink]]\nname = "u{n}"\ninterface = "eth{n}"\n' for n in range(101))
    policies = "".join(f'[[policy]]\nname = "p{n}"\nmembers = ["u1"]\n' for n in range(26))
    assert messages(uplinks + policies) == [
        "f:301: uplink[100]: found 101 uplinks, expected at most 100",
        "f:379: policy[25]: found 26 policies, expected at most 25; marks have no more codes for them",
    ]


def test_parts_of_a_problem() -> None:
    """A program can take a problem apart; the error's text is all problems, a line each."""
    with pytest.raises(ConfigError) as caught:
        parse(A + "weight = 300\nwieght = 3", "f")
    assert caught.value.problems == (
        Problem("f", 4, "uplink[0].weight", "300", "a whole number from 1 to 256", ""),
        Problem("f", 5, "uplink[0].wieght", "unknown key", "", 'did you mean "weight"?'),
    )
    assert str(caught.value) == "\n".join(map(str, caught.value.problems))
