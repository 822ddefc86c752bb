"""TensorBoard files in RUN/tensorboard.

TensorBoard's own writer is a thread that ends, with a traceback, when a write fails, and its file with it. So events
are made by its functions, and written like the other records of a run.
"""

from __future__ import annotations

import itertools
import os
import socket
import time
from pathlib import Path
from typing import Self

import matplotlib
import numpy as np
from numpy.typing import NDArray
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import image, scalar

from unipool_dist.base.belongings import any_file, remove
from unipool_dist.base.printable import printable
from unipool_dist.base.run_directory import RunDirectory
from unipool_dist.observe.files import EVENTS_SUFFIX, naming
from unipool_dist.observe.lasting_file import LastingFile
from unipool_dist.observe.sink import Numbers, ScalarSink, SinkStart
from unipool_dist.observe.usage import Counts

CELL_PIXELS = 12  # side of the square that shows one layer and expert
_VERSION = "brain.Event:2"
_NUMBER = itertools.count()  # of the files of this process, which may begin several in a second


class TensorBoardSink(ScalarSink):
    """A writer of event files in ``folder``; on resume, TensorBoard hides what the earlier part wrote after that step.

    ``resume_from_step=None`` begins a run: event files of this program that an earlier one left are removed, since
    TensorBoard would draw both as one curve.

    Raises:
        UnipoolError: the file cannot be written to begin with.
    """

    def __init__(self, folder: Path, *, resume_from_step: int | None) -> None:
        if resume_from_step is None:
            for stale in folder.glob(f"*{EVENTS_SUFFIX}"):
                remove(stale, any_file)
        with naming(folder):
            folder.mkdir(exist_ok=True)
            self._file = LastingFile(folder / _file_name())
        self._records = RecordWriter(self._file)
        self._add(Event(file_version=_VERSION))
        if resume_from_step is not None:
            self._add(Event(file_version=_VERSION, step=resume_from_step + 1))
            self._add(Event(session_log=SessionLog(status=SessionLog.START), step=resume_from_step + 1))

    @classmethod
    def open(cls, start: SinkStart) -> Self:
        return cls(RunDirectory(start.run_dir).tensorboard, resume_from_step=start.resume_from_step)

    def scalars(self, step: int, values: Numbers) -> None:
        for name, value in values.items():
            self._show(step, scalar(printable(name), value))

    def usage(self, step: int, counts_LE: Counts, num_pools: int) -> None:
        """Write the heat map of a window, and the numbers that summarise it."""
        super().usage(step, counts_LE, num_pools)
        self._show(step, image("experts/assignments", heat_map(counts_LE), dataformats="HWC"))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _show(self, step: int, summary: Summary) -> None:
        self._add(Event(summary=summary, step=step))

    def _add(self, event: Event) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())


def _file_name() -> str:
    """Return a file name as TensorBoard makes it; it reads the files of a folder in the order of their names."""
    host = printable(socket.gethostname()).replace("/", "_")
    return f"events.out.tfevents.{int(time.time()):010d}.{host}.{os.getpid()}.{next(_NUMBER)}{EVENTS_SUFFIX}"


def heat_map(counts_LE: Counts) -> NDArray[np.uint8]:
    """Draw a square per layer (down) and expert (right), brighter with the log of its use.

    Returns uint8 [L * 12, E * 12, 3].
    """
    brightness_LE = np.log1p(counts_LE) / max(float(np.log1p(counts_LE.max())), 1e-9)
    colours_LE3 = matplotlib.colormaps["viridis"](brightness_LE, bytes=True)[..., :3]
    return np.repeat(np.repeat(colours_LE3, CELL_PIXELS, axis=0), CELL_PIXELS, axis=1)
