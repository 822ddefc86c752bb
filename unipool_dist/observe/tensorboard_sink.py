"""The TensorBoard side of :class:`~unipool_dist.observe.metrics.MetricsWriter`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter

from unipool_dist.base.belongings import any_file, remove
from unipool_dist.observe.files import EVENTS_SUFFIX
from unipool_dist.observe.naming import naming
from unipool_dist.observe.usage import Counts, summarize

CELL_PIXELS = 12  # side of the square that shows one layer and expert


class TensorBoardSink:
    """Writes event files into ``folder``; on resume, TensorBoard hides what the earlier part wrote after that step.

    ``resume_from_step=None`` begins a run: event files of this program that an earlier one left are removed, since
    TensorBoard would draw both as one curve. Each method raises a :class:`~unipool_dist.errors.UnipoolError` once files
    cannot be written.
    """

    def __init__(self, folder: Path, *, resume_from_step: int | None) -> None:
        if resume_from_step is None:
            for stale in folder.glob(f"*{EVENTS_SUFFIX}"):
                remove(stale, any_file)
        purge_step = None if resume_from_step is None else resume_from_step + 1
        self._folder = folder
        with naming(folder):
            self._writer = SummaryWriter(
                str(folder), purge_step=purge_step, flush_secs=10, filename_suffix=EVENTS_SUFFIX
            )

    def scalars(self, step: int, prefix: str, values: Mapping[str, float | int]) -> None:
        """One curve ``prefix/name`` per value."""
        with naming(self._folder):  # a thread writes; what it could not write is known by the next call
            for name, value in values.items():
                self._writer.add_scalar(f"{prefix}/{name}", value, step)

    def usage(self, step: int, counts_LE: Counts, num_pools: int) -> None:
        """The heat map of a window, and the numbers that summarise it."""
        summary = summarize(counts_LE, num_pools)
        numbers = {
            "dead_share": summary.dead_share,
            "effective_experts_mean": float(summary.effective_experts_L.mean()),
            "busiest_over_mean": summary.busiest_over_mean,
            "ownership": summary.ownership,
        }
        self.scalars(step, "experts", numbers)
        with naming(self._folder):
            self._writer.add_image("experts/assignments", heat_map(counts_LE), step, dataformats="HWC")

    def close(self) -> None:
        """Flush and close."""
        with naming(self._folder):
            self._writer.close()


def heat_map(counts_LE: Counts) -> NDArray[np.uint8]:
    """uint8 [L * 12, E * 12, 3]: a square per layer (down) and expert (right), brighter with the log of its use."""
    brightness_LE = np.log1p(counts_LE) / max(float(np.log1p(counts_LE.max())), 1e-9)
    colours_LE3 = matplotlib.colormaps["viridis"](brightness_LE, bytes=True)[..., :3]
    return np.repeat(np.repeat(colours_LE3, CELL_PIXELS, axis=0), CELL_PIXELS, axis=1)
