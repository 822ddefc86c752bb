"""Marks by which this program's figures and event files are recognized; imports neither numpy nor matplotlib."""

from __future__ import annotations

from pathlib import Path

from unipool_dist.base.forms import head, is_png

EVENTS_SUFFIX = ".unipool-dist"
"""Suffix of TensorBoard's event files, which every program names alike."""
FIGURE_METADATA = {"Creator": "unipool-dist"}
"""Metadata in each figure."""


def is_our_figure(path: Path) -> bool:
    """Return whether ``path`` is a PNG with our mark, which is near its beginning."""
    start = head(path, 4096)
    return is_png(path) and b"tEXtCreator\0unipool-dist" in start
