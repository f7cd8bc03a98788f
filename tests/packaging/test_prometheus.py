"""Debian's Prometheus scrapes mlbd: the metrics, the alert rules and the dashboard that come with it fit each other."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pytest

from mlbd.lab.daemon import Daemon
from mlbd.lab.network import Network, wait_until
from tests.lab.scene import QUICK, stream_by, tables, wait_usable
from tests.packaging.scraping import (
    METRICS,
    ROOT,
    RULES,
    SCRAPE,
    Prometheus,
    Question,
    dashboard,
    program,
    questions,
    selectors,
)

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(program("promtool") is None, reason="set-up got no prometheus: Debian's apt-get is needed"),
]

REFUSE = "table ip refuse { chain out { type filter hook output priority 0; oifname wan1 ip protocol icmp drop; }; }"
CORE_PANELS = {"row", "stat", "timeseries", "state-timeline", "bargauge"}


@pytest.fixture(scope="module")
def world() -> Iterator[tuple[Network, Daemon, Prometheus]]:
    """A router of which Prometheus has seen a failover, hooks, probes that can't be sent, a repair and a reload."""
    with Network(2) as net, Daemon(net, tables(net) + QUICK, metrics=METRICS) as daemon:
        prometheus = Prometheus(net, "router")
        hooks = daemon.directory / "hooks.d"
        hooks.mkdir(mode=0o755)
        for name, text in (("good", "exit 0"), ("bad", "exit 1")):
            (hooks / name).write_text(f"#!/bin/sh\n{text}\n")
            (hooks / name).chmod(0o755)
        stream_by(net, 1, rate=50)
        net.silence(1, gateway=True)
        wait_usable(daemon, "wan2")
        net.speak(1)
        wait_usable(daemon, "wan1", "wan2")
        net.run("router", ["nft", REFUSE])
        wait_until(lambda: "mlbd_probe_errors_total{" in exposition(net), what="an error of a probe")
        net.run("router", ["nft", "delete table ip refuse"])
        net.run("router", ["ip", "rule", "del", "pref", "12001"])
        wait_until(lambda: "mlbd_drift_repairs_total{" in exposition(net), what="a repair")
        daemon.reload()
        yield net, daemon, prometheus
        assert "Traceback" not in daemon.log_text()


World = tuple[Network, Daemon, Prometheus]


def exposition(net: Network) -> str:
    with net.inside("router"), urllib.request.urlopen(f"http://{METRICS}/metrics", timeout=5) as answer:
        text: str = answer.read().decode()
    return text


def promtool(*arguments: str, text: str | None = None) -> str:
    """What it prints. It must find nothing wrong."""
    command = [str(program("promtool")), *arguments]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_metrics_are_clean(world: World) -> None:
    """`promtool check metrics` has nothing to say of what a live daemon exposes."""
    assert promtool("check", "metrics", text=exposition(world[0])) == ""


def test_configuration_and_rules_are_good() -> None:
    """The example configuration and the rules are accepted, and each alert fires and keeps quiet as its tests say."""
    promtool("check", "config", str(SCRAPE))
    promtool("check", "rules", str(RULES))
    tests = RULES.with_name("mlbd.rules.test.yml")
    promtool("test", "rules", str(tests))
    alerts = set(re.findall(r"- alert: (\w+)", RULES.read_text()))
    assert alerts == set(re.findall(r'ALERTS\{alertname="(\w+)"', tests.read_text()))


def test_every_alert_says_what_to_do(world: World) -> None:
    """Each alert waits two minutes or more, has a severity, a summary, a description, and a place in the documents."""
    alerts = world[2].alerts()
    wrong = []
    for name, rule in alerts.items():
        notes = rule["annotations"]
        document, _, anchor = notes.get("runbook", "").partition("#")
        if not (
            rule["duration"] >= 120
            and rule["labels"].keys() == {"severity"}
            and rule["labels"]["severity"] in ("critical", "warning", "info")
            and notes.keys() == {"summary", "description", "runbook"}
            and anchor in anchors(ROOT / document)
        ):
            wrong.append(name)
    assert wrong == []
    described = (ROOT / "docs/monitoring.md").read_text()
    assert [name for name in alerts if f"`{name}`" not in described] == []


def anchors(document: Path) -> set[str]:
    """Of the headings of a document in Markdown."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_alerts_ask_for_what_is_there(world: World) -> None:
    """Every metric, with its labels, that an alert asks for is in this Prometheus, but for members of bundles, which
    this router has not; every alert can be computed, and a failover and a repair fire none.
    """
    prometheus = world[2]
    rules = prometheus.alerts().items()
    wanted = {Question(name, s, instant=False) for name, rule in rules for s in selectors(rule["query"])}
    assert prometheus.missing(q for q in wanted if "mlbd_member_" not in q.expression) == set()
    prometheus.wait(lambda: {rule["health"] for rule in prometheus.alerts().values()} == {"ok"}, "rules to be computed")
    assert [name for name, rule in prometheus.alerts().items() if rule["state"] == "firing"] == []


def test_every_panel_has_data(world: World) -> None:
    """Every expression of the dashboard returns numbers from this Prometheus, but those of bundles."""
    prometheus = world[2]
    variables = {v["name"]: v for v in dashboard()["templating"]["list"]}
    asked = {
        name: v["query"]["query"].replace("$instance", METRICS) for name, v in variables.items() if name != "datasource"
    }
    assert {name: prometheus.label_values(query) for name, query in asked.items()} == {
        "instance": [METRICS],
        "uplink": ["wan1", "wan2"],
    }
    assert prometheus.missing(q for q in questions() if "mlbd_member_" not in q.expression) == set()


def test_the_dashboard_is_plain() -> None:
    """It needs no plug-in and no data source of a certain name; panels have titles and ids of their own and do not lie
    on each other; every metric in it is asked of one router only.
    """
    found = dashboard()
    panels = found["panels"]
    assert {panel["type"] for panel in panels} == CORE_PANELS
    assert set(re.findall(r'"type": "prometheus", "uid": "([^"]*)"', json.dumps(found))) == {"${datasource}"}
    for key in ("id", "title"):
        values = [panel[key] for panel in panels]
        assert sorted(values) == sorted({*values})
    places = [panel["gridPos"] for panel in panels]
    assert [(a, b) for a, b in combinations(places, 2) if overlap(a, b)] == []
    everywhere = [
        q.panel
        for q in questions()
        if re.search(r"mlbd_(?!build_info)\w+(?!\w|\{instance=\"\$instance\")", q.expression)
    ]
    assert everywhere == []


def overlap(a: dict[str, int], b: dict[str, int]) -> bool:
    return (
        a["x"] < b["x"] + b["w"] and b["x"] < a["x"] + a["w"] and a["y"] < b["y"] + b["h"] and b["y"] < a["y"] + a["h"]
    )
