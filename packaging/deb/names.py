"""Names for mlbd's protocol and routing tables, as iproute2 reads them (ip-route(8)): `names.py DIRECTORY`."""

from __future__ import annotations

import sys
from pathlib import Path

from mlbd.core.layout import FIRST_POLICY_CODE, LAST_CODE, Layout
from mlbd.core.settings import MAX_UPLINK_ID, Daemon

directory = Path(sys.argv[1])
daemon = Daemon()
layout = Layout.of(daemon)
uplinks = range(1, MAX_UPLINK_ID + 1)
tables = {
    **{layout.table(n): f"mlbd-uplink{n}" for n in uplinks},
    **{layout.table(code): f"mlbd-policy{LAST_CODE + 1 - code}" for code in range(FIRST_POLICY_CODE, LAST_CODE + 1)},
    **{layout.probe_table(n): f"mlbd-bound{n}" for n in uplinks},
    **{layout.use_table(n): f"mlbd-use{n}" for n in uplinks},
}
heading = "# As mlbd numbers them with its defaults: `table_base` and `protocol` of [daemon].\n"
(directory / "rt_protos.d/mlbd.conf").write_text(f"{heading}{daemon.protocol}\tmlbd\n")
lines = "".join(f"{number}\t{name}\n" for number, name in sorted(tables.items()))
(directory / "rt_tables.d/mlbd.conf").write_text(heading + lines)
