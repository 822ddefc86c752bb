"""The files that a run records: marks by which they are recognized, errors of writing them, the run's name in them.

Imports neither numpy nor matplotlib.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unipool_dist.base.forms import head, is_png
from unipool_dist.errors import UnipoolError

EVENTS_SUFFIX = ".unipool-dist"
"""Suffix of TensorBoard's event files, which every program names alike."""
FIGURE_METADATA = {"Creator": "unipool-dist"}
"""Metadata in each figure."""
ELSEWHERE = "make room, or choose another place that can be written"
_SEED = re.compile(r"seed-\d+")


def is_our_figure(path: Path) -> bool:
    """Return whether ``path`` is a PNG with our mark, which is near its beginning."""
    start = head(path, 4096)
    return is_png(path) and b"tEXtCreator\0unipool-dist" in start


@contextmanager
def naming(
    path: Path, advice: str = "make room or repair the file system, then continue with --resume"
) -> Iterator[None]:
    """Run the body, which writes ``path``. ``advice``: what to do if that cannot be written.

    Raises:
        UnipoolError: instead of an ``OSError`` of the body.
    """
    try:
        yield
    except OSError as error:
        raise UnipoolError(f"{path} cannot be written: {error.strerror}; {advice}") from None


def name_of(run_dir: Path) -> str:
    """Return the name of the run's directory; for an experiment's run, ``VARIANT/seed-N``."""
    path = run_dir.resolve()
    return f"{path.parent.name}/{path.name}" if _SEED.fullmatch(path.name) else path.name
