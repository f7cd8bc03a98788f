"""What leaves the daemon for people and programs: the log, the metrics, the service manager, the status screen.

Each takes values of `mlbd.core.status` and asks nobody anything. `log` and `journal` write records, `history` keeps
the newest transitions, `metrics` counts and `exposition` serves the counts, `service` talks to systemd, `keepalived`
writes files for it, `screen` draws `mlbd status`.
"""

from mlbd.report.history import History
from mlbd.report.keepalived import TrackFiles
from mlbd.report.log import Log
from mlbd.report.metrics import Metrics, received_bytes
from mlbd.report.service import Service

__all__ = ["History", "Log", "Metrics", "Service", "TrackFiles", "received_bytes"]
