"""Every key of the configuration, in one table.

Checking and defaults (`mlbd.config.check`) and the tables of the documentation (`mlbd.config.reference`) are derived
from it. What a key means to the core is in `mlbd.core.settings`, whose fields have the same names.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from mlbd.config import conditions, targets, values
from mlbd.config.bundle_schema import BOND, TEQL
from mlbd.config.keys import COUNT, NAME, WEIGHT, Absent, Count, Key, Name, Table, Weight
from mlbd.core.settings import MAX_UPLINK_ID, LastResort, Nat6

DEGRADE = Table(
    name="degrade",
    many=False,
    explanation="When a working uplink is so poor that it is used only where nothing better is usable: over the first "
    "number it is, under the second it is not any more. `[]`: not asked.",
    keys=(
        Key(
            name="loss", type=str, holds="array", default=["20%", "5%"], read=values.ratio, expected=values.RATIO,
            explanation="Share of probes lost in the window.",
        ),
        Key(
            name="rtt", type=str, holds="array", default=[], read=values.duration(), expected=values.DURATION,
            explanation="Mean round trip in the window, such as `[\"500ms\", \"300ms\"]`.",
        ),
        Key(
            name="jitter", type=str, holds="array", default=[], read=values.duration(), expected=values.DURATION,
            explanation="Mean difference of one round trip to the next, such as `[\"100ms\", \"50ms\"]`.",
        ),
    ),
)  # fmt: skip

PROBE = Table(
    name="probe",
    many=False,
    explanation="How uplinks are probed. `[uplink.probe]` sets the same keys for one uplink, key by key.",
    keys=(
        Key(
            name="targets", type=str, holds="array", each_once=True, default=["gateway"], read=targets.target,
            expected=targets.TARGET,
            explanation="What is asked, all of it in each round; see [Targets](#targets).",
        ),
        Key(
            name="quorum", type=Count, default=1, expected=COUNT,
            explanation="How many targets must answer for a round of probes to count as good.",
        ),
        Key(
            name="interval", type=str, default="1s", read=values.duration(least=0.01, zero=False),
            expected=values.DURATION, explanation="From one round to the next.",
        ),
        Key(
            name="timeout", type=str, default="auto", read=values.timeout, expected=f'"auto" or {values.DURATION}',
            explanation="How long a reply may take. `auto` follows the round trips measured, within 100ms to 1s. A "
            "reply that comes later still turns its round good.",
        ),
        Key(
            name="suspect_interval", type=str, default="100ms", read=values.duration(least=0.01, zero=False),
            expected=values.DURATION,
            explanation="From one round to the next after a bad one, so that a failure is found soon without probing "
            "hard all the time.",
        ),
        Key(
            name="fall", type=Count, default=5, expected=COUNT,
            explanation="Bad rounds in a row after which the uplink is down.",
        ),
        Key(
            name="rise", type=Count, default=3, expected=COUNT,
            explanation="Good rounds in a row after which the uplink is up.",
        ),
        Key(
            name="hold", type=str, default="0s", read=values.duration(), expected=values.DURATION,
            explanation="How long the uplink must have been good before it carries traffic again; doubles with each "
            "failure, from 1s where it is shorter, and is forgotten by and by while the uplink stays up.",
        ),
        Key(
            name="hold_max", type=str, default="5m", read=values.duration(), expected=values.DURATION,
            explanation="Up to where `hold` doubles.",
        ),
        Key(
            name="window", type=str, default="60s", read=values.duration(), expected=values.DURATION,
            explanation="The time over which loss, latency and jitter are told.",
        ),
    ),
    inner=(DEGRADE,),
)  # fmt: skip

UPLINK = Table(
    name="uplink",
    many=True,
    explanation="One way out. Two make a working configuration.",
    keys=(
        Key(
            name="name", type=Name, default=Absent.REQUIRED, expected=NAME,
            explanation="What the uplink is called, everywhere.",
        ),
        Key(
            name="interface", type=str, default=Absent.REQUIRED, read=values.interface,
            expected='the name of a network interface, such as "eth1"',
            explanation="By which interface it leaves. The interface need not exist yet. Uplinks may share one if each "
            "has a `gateway` of its own.",
        ),
        Key(
            name="gateway", type=str, default="auto", read=values.gateway(4),
            expected='"auto", "none" or an IPv4 address',
            explanation="The IPv4 next hop. `auto`: from the default routes that others (DHCP, ifupdown, ...) have put "
            "on the interface, followed as they change; `none`: point-to-point, the interface is enough.",
        ),
        Key(
            name="gateway6", type=str, default="auto", read=values.gateway(6),
            expected='"auto", "none" or an IPv6 address',
            explanation="The same for IPv6, where router advertisements count, too. It may be link-local.",
        ),
        Key(
            name="weight", type=Weight, default=1, expected=WEIGHT,
            explanation="Its share of new connections, relative to others, where a policy says nothing else.",
        ),
        Key(
            name="masquerade", type=bool, default=True, expected="true or false",
            explanation="Whether IPv4 packets that leave here get the interface's address as their source.",
        ),
        Key(
            name="nat6", type=Nat6, default="none", expected='"none", "masquerade" or "prefix"',
            explanation="The same for IPv6: `none`, the packets leave as they are; `masquerade`; or `prefix`, LAN "
            "prefixes become this uplink's and the host's part stays (NPTv6, as in RFC 6296).",
        ),
        Key(
            name="prefix6", type=str, default="auto", read=values.prefix6,
            expected='"auto" or an IPv6 prefix of length 32 to 64, such as "2001:db8:1::/48"',
            explanation="The IPv6 prefix that is this uplink's: sources in it leave by no other uplink that does not "
            "translate; with `nat6 = \"prefix\"`, LAN prefixes are translated to it. `auto`: what DHCPv6 delegated "
            "(found by the unreachable route that its client leaves), else the prefix of the interface's own address.",
        ),
        Key(
            name="peer", type=bool, default=False, expected="true or false",
            explanation="The gateway is not a provider's but the other router of a pair, reached over a LAN. Clients "
            "come in there, too, so nothing counts as having arrived from outside; nothing is translated, and nothing "
            "that came from the peer is sent back to it. See [two routers](schemes/pair.md).",
        ),
        Key(
            name="id", type=Annotated[int, Meta(ge=1, le=MAX_UPLINK_ID)], default=Absent.NONE,
            expected=f"a whole number from 1 to {MAX_UPLINK_ID}",
            explanation="The number in its marks and tables; without it, one is given once and kept by name.",
        ),
        Key(
            name="carrier_delay", type=str, default="0s", read=values.duration(), expected=values.DURATION,
            explanation="How long the carrier must be gone before that counts, like a bond's `downdelay`.",
        ),
    ),
    inner=(PROBE,),
)  # fmt: skip

POLICY = Table(
    name="policy",
    many=True,
    explanation="How connections are spread over uplinks. The first is what traffic takes that no rule "
    "matches. Without one there is `balanced`: method `random`, all uplinks in one tier.",
    keys=(
        Key(
            name="name", type=Name, default=Absent.REQUIRED, expected=NAME,
            explanation="What the policy is called; no other policy or uplink may be called so.",
        ),
        Key(
            name="method", type=str, default="random", read=values.method, expected=values.METHOD,
            explanation="How a new connection gets its uplink among the usable members of a tier: by chance, in turn, "
            "by its source address, by the kernel's own hash over one weighted multipath route (`multipath`), or "
            "(`failover`) in a flat list always the first. With all of them a connection keeps its uplink.",
        ),
        Key(
            name="members", type=str | list[str], holds="array", default=Absent.REQUIRED,
            expected="the name of an uplink or an array of such names (a tier)",
            explanation="Which uplinks, as a flat list or in tiers; the first tier with a usable member carries the "
            "traffic.",
        ),
        Key(
            name="weights", type=Weight, holds="table", default={}, expected=WEIGHT,
            explanation="Shares of members in this policy, by uplink name; the others have their uplink's `weight`.",
        ),
        Key(
            name="last_resort", type=LastResort, default="best",
            expected='"best", "unreachable", "blackhole" or "main"',
            explanation="When no member is usable. `best`: the member that failed last but has carrier; `unreachable`: "
            "refuse with an ICMP error; `blackhole`: drop silently; `main`: leave it to the other routing.",
        ),
    ),
)  # fmt: skip

RULE = Table(
    name="rule",
    many=True,
    explanation="Which new connections use what. The first rule that matches decides; without one, the first policy.",
    keys=(
        Key(
            name="name", type=Name, default=Absent.REQUIRED, expected=NAME,
            explanation="What the rule is called; no other rule may be called so.",
        ),
        Key(
            name="from", type=str, holds="array", bare=True, each_once=True, default=Absent.NONE,
            read=conditions.prefix, expected=conditions.PREFIX,
            explanation="Source addresses, IPv4 and IPv6. Prefixes of one family only leave the other family to later "
            "rules.",
        ),
        Key(
            name="to", type=str, holds="array", bare=True, each_once=True, default=Absent.NONE,
            read=conditions.prefix, expected=conditions.PREFIX, explanation="Destination addresses, likewise.",
        ),
        Key(
            name="interface", type=str, holds="array", bare=True, each_once=True, default=Absent.NONE,
            read=conditions.interface, expected='the name of a network interface, such as "eth0"',
            explanation="By which interface the connection comes in; `lo`: the router's own connections. Without it, "
            "both.",
        ),
        Key(
            name="protocol", type=int | str, holds="array", bare=True, each_once=True, default=Absent.NONE,
            read=conditions.protocol, expected=conditions.PROTOCOL,
            explanation="The IP protocol. Where there are ports and no protocol, TCP and UDP.",
        ),
        Key(
            name="ports", type=int | str, holds="array", bare=True, each_once=True, default=Absent.NONE,
            read=conditions.ports, expected=conditions.PORTS, explanation="Destination ports.",
        ),
        Key(
            name="source_ports", type=int | str, holds="array", bare=True, each_once=True, default=Absent.NONE,
            read=conditions.ports, expected=conditions.PORTS, explanation="Source ports.",
        ),
        Key(
            name="mark", type=int | str, holds="array", bare=True, each_once=True, default=Absent.NONE,
            read=conditions.mark, expected=conditions.MARK,
            explanation="The packet's mark, as another program has set it. Without a mask, all bits count but those of "
            "`daemon.fwmark_mask`, which are ours.",
        ),
        Key(
            name="use", type=str, default=Absent.REQUIRED, expected='the name of a policy or an uplink, or "main"',
            explanation="A policy; an uplink, and while that is not usable the next rule that matches decides; or "
            "`main`: not ours to route.",
        ),
        Key(
            name="sticky", type=str, default=Absent.NONE, read=values.duration(least=1.0, zero=False),
            expected=values.DURATION,
            explanation="The same source keeps its uplink this long after its last connection, unless the uplink is no "
            "longer usable. Without it, every connection is given one anew.",
        ),
    ),
)  # fmt: skip

CONNTRACK = Table(
    name="conntrack",
    many=False,
    explanation="What happens to the connections of an uplink that died, if there is somewhere else to go. UDP, ICMP "
    "and half-open TCP move with their next packet.",
    keys=(
        Key(
            name="tcp", type=Literal["reset", "keep"], default="reset", expected='"reset" or "keep"',
            explanation="Established TCP cannot move. `reset`: a client is told when it next sends, and an idle "
            "connection survives; `keep`: nothing is done.",
        ),
        Key(
            name="tcp_reset_after", type=str, default="1s", read=values.duration(), expected=values.DURATION,
            explanation="No reset before the uplink has been down this long.",
        ),
        Key(
            name="on_recover", type=Literal["keep", "flush"], default="keep", expected='"keep" or "flush"',
            explanation="When a better tier is back: whether connections stay on the lower one they moved to, or are "
            "cut loose.",
        ),
        Key(
            name="helpers", type=str, holds="array", each_once=True, default=[], read=values.helper,
            expected=f"a conntrack helper of the kernel ({', '.join(values.HELPERS)})",
            explanation="Conntrack helpers to assign, so that data connections follow their control connection.",
        ),
    ),
)  # fmt: skip

DAEMON = Table(
    name="daemon",
    many=False,
    explanation="The daemon itself, and the numbers it uses in the kernel.",
    keys=(
        Key(
            name="metrics", type=str, default="127.0.0.1:9617", read=values.metrics,
            expected='"off" or "address:port", such as "127.0.0.1:9617" or "[::1]:9617"',
            explanation="Where Prometheus finds the metrics, under `/metrics`.",
        ),
        Key(
            name="control", type=str, default="/run/mlbd/control.sock", read=values.socket_path,
            expected="the absolute path of a socket",
            explanation="The socket by which `mlbd status` and the other commands reach the daemon.",
        ),
        Key(
            name="hooks", type=Annotated[str, Meta(pattern=r"^/[^\x00-\x1f\x7f]*\Z", max_length=4000)],
            default="/etc/mlbd/hooks.d", expected="the absolute path of a directory",
            explanation="Executables that are run when an uplink's state changes; see [Hooks](operations.md#hooks). It "
            "need not exist.",
        ),
        Key(
            name="on_exit", type=Literal["keep", "release"], default="keep", expected='"keep" or "release"',
            explanation="Whether routes, rules and marks stay in the kernel when the daemon stops, or are removed.",
        ),
        Key(
            name="miimon", type=str, default="100ms", read=values.duration(least=0.01), expected=values.DURATION,
            explanation="How often carrier is read besides listening for events, which can be a second late; `0s`: "
            "events only.",
        ),
        Key(
            name="grace", type=str, default="5s", read=values.duration(), expected=values.DURATION,
            explanation="How long start-up waits for first verdicts before it changes anything.",
        ),
        Key(
            name="own_connections", type=Literal["route", "mark"], default="route", expected='"route" or "mark"',
            explanation="How the router's own connections get their uplink. `route`: by routing, which follows rules "
            "and weights and chooses the right source address; `mark`: by the policy's exact method, as forwarded "
            "ones, which needs uplinks that translate (in IPv6 `nat6 = \"masquerade\"`, else routing chooses there) "
            "and overrides bound source addresses.",
        ),
        Key(
            name="fwmark_mask", type=int | str, default=0xFF000000, read=values.mask,
            expected="a mask of eight bits in a row, such as 0xff000000",
            explanation="The bits of packet and connection marks that are ours; the others are never changed.",
        ),
        # The tables are base+1 .. base+511; 253 to 255 are the kernel's own, and 2^31 is where its numbers end.
        Key(
            name="table_base", type=Annotated[int, Meta(ge=256, le=2**31 - 1 - 511)], default=20000,
            expected="a whole number from 256 to 2147483136, to stay clear of the kernel's tables 0 and 253 to 255",
            explanation="Uplink number n uses routing table `table_base` + n; the 511 tables above it are ours.",
        ),
        # Rules with a mark are at 1000, the others at base .. base+9990; `main` is looked up at 32766.
        Key(
            name="rule_priority", type=Annotated[int, Meta(ge=1001, le=22000)], default=10000,
            expected="a whole number from 1001 to 22000, as rules with a mark are at 1000, the 9990 above it are used "
            "and main's rule is at 32766",
            explanation="The first of the routing rule priorities used, but for 1000, where rules with a mark begin.",
        ),
        Key(
            name="protocol", type=Annotated[int, Meta(ge=0, le=255)], default=109, read=values.protocol,
            expected="a whole number from 5 to 255 that no other program uses",
            explanation="The rtnetlink protocol number of everything we install, by which it is recognised.",
        ),
    ),
)  # fmt: skip

TABLES = (UPLINK, PROBE, POLICY, RULE, BOND, TEQL, CONNTRACK, DAEMON)
