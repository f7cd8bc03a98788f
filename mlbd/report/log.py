"""One record per event, for whoever reads stderr: a person, journald, or a program.

On a terminal a record is one readable line, under journald a set of native fields, anywhere else one line of JSON.
What the standard library's logging says (asyncio, other adapters) goes the same way, so there is one format.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping, MutableMapping
from typing import Any, TextIO

import structlog

from mlbd.core.status import Transition
from mlbd.report.journal import Journal, stderr_is_journal
from mlbd.report.messages import MESSAGE_IDS

_Record = MutableMapping[str, Any]

_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
_NOTICE = 5
"""syslog(3) has a level between info and warning for what is normal but significant: an uplink is back."""
_NOTICED = ("uplink_up", "member_up")
PASSING = 3.0
"""Seconds for which what the kernel refuses is only a warning: addresses and interfaces come and go."""

_BAD = ("uplink_down", "uplink_degraded", "member_down")


class Log:
    """`event` is a kind of record that `mlbd.report.messages` knows; keywords are its fields, of plain JSON types."""

    def __init__(self, stream: TextIO | None = None) -> None:
        """Writes to `stream`, stderr without one. Logging of the standard library is directed here as well."""
        out = sys.stderr if stream is None else stream
        renderers: list[Any]
        if stream is None and stderr_is_journal():
            renderers = [_ToJournal(Journal())]
        elif out.isatty():
            renderers = [_line]
        else:
            renderers = [structlog.processors.TimeStamper(fmt="iso", utc=True), _arranged, _JSON]
        self._refused_since: float | None = None
        self._refused: tuple[str, tuple[str, ...]] | None = None
        self._logger = structlog.wrap_logger(
            structlog.PrintLogger(out),
            processors=[structlog.processors.add_log_level, *renderers],
            wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
            cache_logger_on_first_use=True,
        )
        root = logging.getLogger()
        for handler in [h for h in root.handlers if isinstance(h, _FromLogging)]:
            root.removeHandler(handler)
        root.addHandler(_FromLogging(self))

    def info(self, event: str, **fields: object) -> None:
        self._logger.info(event, **fields)

    def warning(self, event: str, **fields: object) -> None:
        self._logger.warning(event, **fields)

    def error(self, event: str, **fields: object) -> None:
        self._logger.error(event, **fields)

    def transition(self, transition: Transition, took: float | None) -> None:
        """`took`: seconds from complete evidence to the kernel changed; None if it was not changed."""
        member = {"bundle": transition.bundle, "interface": transition.uplink}
        fields: dict[str, object] = {
            **(member if transition.bundle else {"uplink": transition.uplink}),
            "from": transition.was,
            "to": transition.now,
            "reason": transition.reason,
            "evidence": transition.evidence,
            "usable": list(transition.usable),
            "took_ms": None if took is None else round(took * 1000, 3),
        }
        write = self.warning if transition.event in _BAD else self.info
        write(transition.event, **fields)

    def refused(self, errors: tuple[str, ...], now: float) -> None:
        """What the kernel did not allow in a cycle that ended at `now`, in seconds; tells what is new of that."""
        if not errors:
            if self._refused:
                self.info("the kernel agrees again")
            self._refused_since = self._refused = None
            return
        if self._refused_since is None:
            self._refused_since = now
        level = "error" if now - self._refused_since >= PASSING else "warning"
        if (level, errors) != self._refused:
            self._refused = level, errors
            if level == "error":
                self.error("the kernel refused changes; trying again", errors=list(errors))
            else:
                self.warning("the kernel refused changes; trying again", errors=list(errors))


class _FromLogging(logging.Handler):
    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        fields: dict[str, object] = {"logger": record.name}
        if record.exc_info:
            fields["exception"] = logging.Formatter().formatException(record.exc_info)
        write = self._log.error if record.levelno >= logging.ERROR else self._log.warning
        write(record.getMessage(), **fields)


def _sentence(record: Mapping[str, Any]) -> str:
    """The record for a person, without its level."""
    event = record["event"]
    about, _, what = event.partition("_")
    if about in ("uplink", "member"):
        who = record["uplink"] if about == "uplink" else f"{record['interface']} of {record['bundle']}"
        left = ", ".join(record["usable"]) or "none"
        evidence = f" [{record['evidence']}]" if record["evidence"] else ""
        took = "" if record["took_ms"] is None else f", took {record['took_ms']:.1f} ms"
        verdicts = f" ({record['from']} -> {record['to']})" if record["from"] != record["to"] else ""
        return f"{who} is {what}{verdicts}: {record['reason']}{evidence}; usable: {left}{took}"
    reason = f": {record['reason']}" if record.get("reason") else ""
    rest = [f"{k}={_text(v)}" for k, v in record.items() if k not in ("event", "level", "reason", "exception")]
    return f"{event}{reason}" + (f" ({' '.join(rest)})" if rest else "")


def _text(value: object) -> str:
    if value is None:
        return ""
    return "\n".join(str(v) for v in value) if isinstance(value, list | tuple) else str(value)


def _line(_logger: object, _method: str, record: _Record) -> str:
    """For a terminal. What cannot be printed becomes a space: file names and answers from the network may hold it."""
    text = "".join(c if c.isprintable() else " " for c in _sentence(record))
    line = f"{time.strftime('%H:%M:%S')} {record['level']:<7} {text}"
    return f"{line}\n{record['exception']}" if "exception" in record else line


def _arranged(_logger: object, _method: str, record: _Record) -> _Record:
    first = ("timestamp", "level", "event")
    return {**{key: record[key] for key in first}, **{k: v for k, v in record.items() if k not in first}}


_JSON = structlog.processors.JSONRenderer(ensure_ascii=False)


class _ToJournal:
    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def __call__(self, _logger: object, _method: str, record: _Record) -> str:
        event, level = record["event"], record["level"]
        fields = {
            "MESSAGE": _sentence(record),
            "PRIORITY": str(_NOTICE if event in _NOTICED else _PRIORITIES[level]),
            "SYSLOG_IDENTIFIER": "mlbd",
            "MLBD_EVENT": event,
        }
        if event in MESSAGE_IDS:
            fields["MESSAGE_ID"] = MESSAGE_IDS[event]
        for key, value in record.items():
            if key not in ("event", "level"):
                # Several values, such as the usable uplinks, are lines of one field.
                fields[f"MLBD_{key.upper()}"] = _text(value)
        self._journal.send(fields)
        raise structlog.DropEvent
