"""Where the watchdog leaves what it found; apart, so that who only looks for it need not import torch."""

from __future__ import annotations

WATCHDOG = "watchdog"
"""Folder in a run directory: for each start that got stuck a folder, named after when it began."""
SUMMARY_FILE = "summary.txt"
"""In such a folder: what was also printed."""
