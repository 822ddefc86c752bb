"""Stopping together: a reason of one rank to stop becomes every rank's reason, after the same step."""

from __future__ import annotations

import torch
import torch.distributed as dist

from unipool_dist.base.stopping import OF_SIGNAL, Stop, StopReason
from unipool_dist.resilience.deadline import Deadline
from unipool_dist.resilience.handover import Handover
from unipool_dist.resilience.signals import StopSignals

_CODES = [None, *StopReason]
"""Codes that ranks send for their reasons: the greatest one counts."""


class StopRequest:
    """An agreement between all ranks of ``group`` on whether one of them was asked to stop or runs out of time.

    ``device`` is one that the backend of ``group`` communicates from. ``deadline.limit_s`` is the same on all ranks.
    ``handover`` is that of rank 0; the others have none.
    """

    def __init__(
        self,
        signals: StopSignals,
        deadline: Deadline,
        group: dist.ProcessGroup,
        device: torch.device,
        handover: Handover | None = None,
    ) -> None:
        self._signals, self._deadline, self._group, self._device = signals, deadline, group, device
        self._handover = handover

    def poll(self) -> Stop | None:
        """Return why all ranks are to stop now, the same on each of them, or ``None``. Called once after every step.

        Collectives: one all-reduce (MAX) of one int64 over ``group``.
        """
        code = torch.tensor(_CODES.index(self._own_reason()), dtype=torch.int64, device=self._device)
        dist.all_reduce(code, dist.ReduceOp.MAX, self._group)
        reason = _CODES[int(code)]
        return None if reason is None else Stop(reason, self._detail(reason))

    def _own_reason(self) -> StopReason | None:
        if self._handover is not None and self._handover.is_asked():
            return StopReason.HANDED_OVER
        if self._signals.received is not None:
            return OF_SIGNAL[self._signals.received]
        return StopReason.TIME_LIMIT if self._deadline.reached() else None

    def _detail(self, reason: StopReason) -> str:
        if reason is StopReason.HANDED_OVER:
            return "SLURM has restarted this job elsewhere, and that start waits for the run"
        if reason is StopReason.TIME_LIMIT:
            return f"the time limit run.time_limit_s={self._deadline.limit_s:g} is near"
        return next(f"{number.name} on a rank" for number, known in OF_SIGNAL.items() if known is reason)
