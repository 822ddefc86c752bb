"""The named moments of a run, at which callbacks are called.

| moment | called on | may communicate |
|---|---|---|
| ``run_begins`` | every rank, once the state is loaded | no; an error on one rank ends the run on all |
| ``doing`` | every rank, several times in each micro-batch | no; costs nothing to speak of |
| ``step_begins`` | every rank | yes, on all ranks alike |
| ``step_done`` | every rank, after the weights have changed | yes, on all ranks alike |
| ``should_stop`` | every rank, once after each step | yes; all ranks return the same |
| ``extend_record``, ``record`` | rank 0, every ``log.interval`` steps, after the last, and on a stop | no |
| ``sequences`` | every rank, before its stage runs a micro-batch of an evaluation | no |
| ``validation`` | rank 0, after each evaluation | no |
| ``step_ends`` | every rank, when nothing more is done with the step | yes, on all ranks alike |
| ``save_begins``, ``save_done`` | every rank; ``save_done`` as late as the next save | no |
| ``run_ends`` | every rank, if the run is finished or was stopped and its state is saved | no |
| ``run_fails`` | every rank on which an error ends the run; others may be in a collective | no |

Callbacks are called in the order in which they were added. Where they communicate, it is over ``run.groups``, and the
order of collectives is that of the moments and, within one, that of the callbacks: the same on every rank. An exception
in a callback ends the run as any other does. None of these moments waits for the device; a callback that calls
``.item()`` or ``.cpu()`` on a tensor of the device does, once per call.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from unipool_dist.base.printable import short
from unipool_dist.base.stopping import Stop, StopReason
from unipool_dist.comm.groups import ParallelGroups
from unipool_dist.config.plan import Plan

if TYPE_CHECKING:  # they call callbacks
    from unipool_dist.engine.step import StepResult
    from unipool_dist.model.assembly import PooledModel

Record = Mapping[str, float | int]


@dataclass(frozen=True)
class RunInfo:
    """The run that begins."""

    plan: Plan
    """The run, with nothing left open; ``plan.config`` is its configuration."""
    groups: ParallelGroups
    model: PooledModel
    """This rank's part."""
    run_dir: Path
    resumed_from: int
    """Step of the checkpoint that was loaded; 0: none."""


@dataclass
class SaveReport:
    """One save, when it has ended."""

    step: int
    stall_s: float
    """How long training waited for it: to begin it, and for the copy if the next update had to wait for that."""
    write_s: float = 0.0
    """From the copy to the commit, during training unless the save was synchronous."""
    num_bytes: int = 0
    """On disk, all ranks."""
    error: Exception | None = None
    """Why there is no checkpoint; if it is a :class:`UnipoolError`, there is none on any rank."""
    warning: str | None = None
    """What went wrong without harm to it."""


def stop(detail: str) -> Stop:
    """Return what ``should_stop`` of a callback answers to stop the run, for the reason ``detail``."""
    return Stop(StopReason.CALLBACK, short(detail, 200))


class Callback:
    """Does something at moments of a run; by default, nothing. See the table at the top of this file."""

    def run_begins(self, run: RunInfo) -> None:
        """Prepare; the first step follows."""

    def doing(self, what: str, *, step: int | None = None, slow: bool = False) -> None:
        """Take note that the training thread is now doing ``what``.

        Args:
            step: the step that begins with it.
            slow: it may take much longer than a micro-batch.
        """

    def step_begins(self, step: int) -> None:
        """Act before the micro-batches of ``step`` are read."""

    def step_done(self, step: int, result: StepResult) -> None:
        """Take note of a step; ``result`` is the same on every rank, its numbers on the host, its tensors not."""

    def should_stop(self) -> Stop | None:
        """Return a reason to save and stop after this step, the same on every rank, or ``None``; see :func:`stop`."""
        return None

    def extend_record(self, record: dict[str, float | int], assignments: Tensor) -> None:
        """Add numbers to the record of the steps since the last one, before it is written."""

    def record(self, record: Record, assignments: Tensor) -> None:
        """Write or show a record.

        Args:
            assignments: of tokens to experts, summed over the steps of the record, int64 [L, M], on the host.
        """

    def sequences(self, domain: str, numbers: list[int]) -> None:
        """Take note that validation sequences of ``domain`` are run next; numbers past its last do not count."""

    def validation(self, step: int, losses: Mapping[str, float]) -> None:
        """Write or show the mean token loss of every domain, in nats."""

    def step_ends(self, step: int, *, closing: bool) -> None:
        """Finish with ``step``; if the run is ``closing``, this is its last one."""

    def save_begins(self, step: int) -> None:
        """Take note that the state of ``step`` is about to be saved."""

    def save_done(self, report: SaveReport) -> None:
        """Take note that a save has ended."""

    def run_ends(self, step: int, stop: Stop | None) -> None:
        """Close; ``step`` was the last, and ``stop`` says why the run was stopped, ``None`` that it is finished."""

    def run_fails(self, error: BaseException) -> None:
        """Close; ``error`` ends the run."""


SILENT = Callback()
"""Does nothing."""


class Callbacks(Callback):
    """Several callbacks as one."""

    def __init__(self, callbacks: Iterable[Callback] = ()) -> None:
        self._all = list(callbacks)

    def add(self, callback: Callback) -> None:
        """Add one that is called after those that are there."""
        self._all.append(callback)

    def run_begins(self, run: RunInfo) -> None:
        for each in self._all:
            each.run_begins(run)

    def doing(self, what: str, *, step: int | None = None, slow: bool = False) -> None:
        for each in self._all:
            each.doing(what, step=step, slow=slow)

    def step_begins(self, step: int) -> None:
        for each in self._all:
            each.step_begins(step)

    def step_done(self, step: int, result: StepResult) -> None:
        for each in self._all:
            each.step_done(step, result)

    def should_stop(self) -> Stop | None:
        """Ask every callback, as each may communicate; return the first answer."""
        answers = [each.should_stop() for each in self._all]
        return next((answer for answer in answers if answer is not None), None)

    def extend_record(self, record: dict[str, float | int], assignments: Tensor) -> None:
        for each in self._all:
            each.extend_record(record, assignments)

    def record(self, record: Record, assignments: Tensor) -> None:
        for each in self._all:
            each.record(record, assignments)

    def sequences(self, domain: str, numbers: list[int]) -> None:
        for each in self._all:
            each.sequences(domain, numbers)

    def validation(self, step: int, losses: Mapping[str, float]) -> None:
        for each in self._all:
            each.validation(step, losses)

    def step_ends(self, step: int, *, closing: bool) -> None:
        for each in self._all:
            each.step_ends(step, closing=closing)

    def save_begins(self, step: int) -> None:
        for each in self._all:
            each.save_begins(step)

    def save_done(self, report: SaveReport) -> None:
        for each in self._all:
            each.save_done(report)

    def run_ends(self, step: int, stop: Stop | None) -> None:
        for each in self._all:
            each.run_ends(step, stop)

    def run_fails(self, error: BaseException) -> None:
        for each in self._all:
            each.run_fails(error)
