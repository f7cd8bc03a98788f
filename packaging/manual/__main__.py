"""The manual pages and the completion scripts: `python packaging/manual DIRECTORY` writes them, for a package.

The pages are dated by SOURCE_DATE_EPOCH (https://reproducible-builds.org/specs/source-date-epoch/), else today.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import completion
import pages

from mlbd.cli import parser


def main(directory: Path) -> None:
    date = time.strftime("%Y-%m-%d", time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH") or time.time())))
    texts = {
        "mlbd.8": pages.commands(parser(), date),
        "mlbd.toml.5": pages.configuration(date),
        **completion.scripts(parser()),
    }
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (directory / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python packaging/manual DIRECTORY")
    main(Path(sys.argv[1]))
