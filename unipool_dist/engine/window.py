"""The measurements of the steps since the last logged line."""

from __future__ import annotations

import math

from torch import Tensor

from unipool_dist.engine.step import StepResult

AVERAGED = ("loss", "aux_loss", "grad_norm")
"""Numbers of a step that are logged as ``NAME``, their mean over the window, and ``NAME_max``, the highest."""


class Window:
    """The steps covered by one logged line.

    Numbers are on the host already; the assignments are summed where they are, so a step waits for nothing here.
    """

    def __init__(self) -> None:
        self.steps = 0
        self._sums = dict.fromkeys(AVERAGED, 0.0)
        self._maxima = dict.fromkeys(AVERAGED, -math.inf)
        self._assignments: Tensor | None = None

    def add(self, result: StepResult) -> None:
        """Add the result of one more step."""
        self.steps += 1
        for name in AVERAGED:
            value: float = getattr(result, name)
            self._sums[name] += value
            self._maxima[name] = max(self._maxima[name], value)
        seen = result.assignments
        self._assignments = seen if self._assignments is None else self._assignments + seen

    @property
    def assignments(self) -> Tensor:
        """Sum over the steps, int64 [L, M]."""
        assert self._assignments is not None, "no step was added"
        return self._assignments

    def numbers(self) -> dict[str, float | int]:
        """Return ``window_steps``, and mean and maximum of each of ``AVERAGED``; for one step they are equal."""
        numbers: dict[str, float | int] = {"window_steps": self.steps}
        for name in AVERAGED:
            numbers |= {name: self._sums[name] / self.steps, f"{name}_max": self._maxima[name]}
        return numbers
