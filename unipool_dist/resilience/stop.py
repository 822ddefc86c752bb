"""Stopping together: whatever reason one rank has to stop is every rank's reason, after the same step."""

from __future__ import annotations

import signal

import torch
import torch.distributed as dist

from unipool_dist.resilience.deadline import Deadline
from unipool_dist.resilience.handover import Handover
from unipool_dist.resilience.signals import StopSignals

_GO_ON, _TIME_IS_UP = 0, 1
# Where ranks have different reasons the greatest is given.
_OF_SIGNAL = {signal.SIGHUP: 2, signal.SIGUSR1: 3, signal.SIGINT: 4, signal.SIGTERM: 5}
_HANDED_OVER = 6


class StopRequest:
    """Asks all ranks of ``group`` whether one of them was told to stop or runs out of time.

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

    def poll(self) -> str | None:
        """Why all ranks are to stop now, in the same words on each of them, or ``None``. Called once after every step.

        Collectives: one all-reduce (MAX) of one int64 over ``group``.
        """
        code = torch.tensor(self._code(), dtype=torch.int64, device=self._device)
        dist.all_reduce(code, dist.ReduceOp.MAX, self._group)
        return self._reason(int(code))

    def _code(self) -> int:
        if self._handover is not None and self._handover.is_asked():
            return _HANDED_OVER
        if self._signals.received is not None:
            return _OF_SIGNAL[self._signals.received]
        return _TIME_IS_UP if self._deadline.reached() else _GO_ON

    def _reason(self, code: int) -> str | None:
        if code == _GO_ON:
            return None
        if code == _HANDED_OVER:
            return "SLURM has restarted this job elsewhere, and that start waits for the run"
        if code == _TIME_IS_UP:
            return f"the time limit run.time_limit_s={self._deadline.limit_s:g} is near"
        return next(f"{number.name} on a rank" for number, known in _OF_SIGNAL.items() if known == code)
