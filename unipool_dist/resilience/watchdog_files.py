"""Where the watchdog leaves what it found; apart, so that who only looks for it need not import torch."""

from __future__ import annotations

from unipool_dist.base.belongings import Folder, any_file

WATCHDOG = "watchdog"
"""Folder in a run directory: for each start that got stuck a folder, named after when it began."""
SUMMARY_FILE = "summary.txt"
"""In such a folder: what was also printed."""
_FILES = {r"summary\.txt": any_file, r"rank-\d+\.txt": any_file, "board": any_file}
WATCHDOG_FOLDER = Folder({r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d|alone": Folder(_FILES), "board": any_file})
