"""The Prometheus of Debian in one of the lab's places, and what a Grafana would ask it for the dashboard."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlbd.lab.namespaces import LabError
from mlbd.lab.network import wait_until
from mlbd.lab.places import Places

ROOT = Path(__file__).parents[2]
RULES = ROOT / "packaging/prometheus/mlbd.rules.yml"
SCRAPE = ROOT / "packaging/prometheus/scrape.yml"
DASHBOARD = ROOT / "packaging/grafana/mlbd.json"
METRICS = "127.0.0.1:9617"
"""As in scrape.yml."""
_LISTENS = "127.0.0.1:9090"
_SELECTOR = re.compile(r"\b((?:mlbd|process)_\w+|up)\b(\{[^}]*\})?")
_MATCHER = re.compile(r'(\w+)\s*(?:=~|!=|!~|=)\s*"[^"]*"')


def program(name: str) -> Path | None:
    """prometheus or promtool: unpacked by set-up, or installed as in the emulated machine; None without."""
    unpacked = ROOT / "build/debian/usr/bin" / name
    found = str(unpacked) if unpacked.exists() else shutil.which(name)
    return Path(found) if found else None


@dataclass(frozen=True, slots=True)
class Question:
    """What a panel asks."""

    panel: str
    expression: str
    instant: bool


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return found


def questions() -> list[Question]:
    """Of all panels, with the variables in them."""
    return [
        Question(panel["title"], target["expr"], target["instant"])
        for panel in dashboard()["panels"]
        for target in panel.get("targets", ())
    ]


def selectors(expression: str) -> Iterator[str]:
    """The metrics in it, with the labels that it asks for, whatever their values are."""
    for name, matchers in _SELECTOR.findall(expression):
        labels = [label + '!=""' for label in _MATCHER.findall(matchers)]
        yield f"{name}{{{','.join(labels)}}}"


class Prometheus:
    """It scrapes mlbd every second as scrape.yml says, with the alert rules, from its start to the network's end."""

    def __init__(self, net: Places, where: str, *, patience: float = 10.0, every: float = 0.1) -> None:
        """Raises LabError if it is not ready in time; both numbers, seconds, are for all it waits for."""
        self._net, self._where, self._patience, self._every = net, where, patience, every
        directory = net.directory / "prometheus"
        directory.mkdir()
        config = directory / "prometheus.yml"
        config.write_text(SCRAPE.read_text().replace("15s", "1s"))
        shutil.copy(RULES, directory)
        self._log = directory / "log"
        found = program("prometheus")
        if found is None:
            raise LabError("Debian's prometheus is missing.")
        command = [str(found), f"--config.file={config}", f"--storage.tsdb.path={directory / 'data'}"]
        command += [f"--web.listen-address={_LISTENS}", "--log.level=warn"]
        with self._log.open("wb") as log:
            net.spawn(where, command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=directory)
        self.began = time.time()
        try:
            self.wait(lambda: self.values('up{job="mlbd"} == 1', instant=True) != [])
        except LabError as error:
            raise LabError(f"{error} Prometheus says:\n{self._log.read_text()}") from None

    def wait(self, holds: Callable[[], bool], what: str = "that Prometheus scrapes mlbd") -> None:
        """Raises LabError."""
        wait_until(holds, timeout=self._patience, what=what, every=self._every)

    def missing(self, asked: Iterable[Question]) -> set[str]:
        """The panels whose expressions get no numbers, however long one waits."""
        left = set(asked)

        def found() -> bool:
            left.difference_update([q for q in left if self.values(_filled(q.expression), instant=q.instant)])
            return not left

        with suppress(LabError):
            self.wait(found)
        return {f"{q.panel}: {q.expression}" for q in left}

    def ask(self, path: str, **parameters: object) -> Any:
        """The `data` of an answer of its HTTP API; None while it does not listen. Raises LabError if it refuses."""
        url = f"http://{_LISTENS}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with self._net.inside(self._where), urllib.request.urlopen(url, timeout=self._patience) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            if error.code == 503:  # it starts
                return None
            raise LabError(f"Prometheus refuses {parameters}: {error.read().decode()}") from None
        except OSError:
            return None

    def values(self, expression: str, *, instant: bool) -> list[float]:
        """All numbers that it answers with, for now or for each second since it began."""
        if instant:
            data = self.ask("query", query=expression)
            pairs = [series["value"] for series in data["result"]] if data else []
        else:
            data = self.ask("query_range", query=expression, start=self.began, end=time.time(), step=1)
            pairs = [pair for series in data["result"] for pair in series["values"]] if data else []
        return [number for number in (float(text) for _, text in pairs) if math.isfinite(number)]

    def label_values(self, query: str) -> list[str]:
        """A variable's query, as Grafana writes it: `label_values(METRIC, LABEL)`."""
        found = re.fullmatch(r"label_values\((.+), (\w+)\)", query)
        assert found is not None, query
        return sorted(self.ask(f"label/{found[2]}/values", **{"match[]": found[1]}) or [])

    def alerts(self) -> dict[str, dict[str, Any]]:
        """The alert rules by name, with what became of them."""
        return {rule["name"]: rule for group in self.ask("rules")["groups"] for rule in group["rules"]}


def _filled(expression: str) -> str:
    """As Grafana sends it, for this router and all its uplinks."""
    for name, value in {"instance": METRICS, "uplink": ".*", "__rate_interval": "4s", "__range": "60s"}.items():
        expression = expression.replace(f"${name}", value)
    assert "$" not in expression
    return expression
