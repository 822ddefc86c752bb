"""The learning rate of every step."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

from unipool_dist.comm.megatron import OptimizerParamScheduler
from unipool_dist.config.plan import Outline

_MEGATRON_NAMES = {"wsd": "WSD"}


@dataclass
class _NoParameters:
    """The part of an optimizer that Megatron's schedule needs: parameter groups; here it is asked for their rates."""

    param_groups: list[dict[str, Any]] = field(default_factory=list)


class LearningRates:
    """Megatron's schedule: linear warm-up to ``optimizer.lr``, then ``optimizer.decay`` to ``min_lr`` at the last step.

    It counts the steps of the whole run. A stage with another ``lr`` or ``min_lr`` goes through the same schedule
    between other bounds.
    """

    def __init__(self, plan: Outline) -> None:
        self._stages, settings = plan.stages, plan.optimizer
        logging.getLogger("megatron.core.optimizer_param_scheduler").setLevel(logging.WARNING)
        self._schedule = OptimizerParamScheduler(
            _NoParameters(),
            init_lr=0.0,
            max_lr=settings.lr,
            min_lr=settings.min_lr,
            lr_warmup_steps=settings.warmup_steps,
            lr_decay_steps=max(plan.train.steps, settings.warmup_steps + 1),
            lr_decay_style=_MEGATRON_NAMES.get(settings.decay, settings.decay),
            wsd_decay_steps=settings.wsd_decay_steps,
            lr_wsd_decay_style=settings.wsd_decay,
            start_wd=settings.weight_decay,
            end_wd=settings.weight_decay,
            wd_incr_steps=0,
            wd_incr_style="constant",
        )

    @property
    def num_steps(self) -> int:
        """Steps taken."""
        return int(self._schedule.num_steps)

    def advance(self) -> None:
        """Go to the next step."""
        self._schedule.step(increment=1)

    def go_to(self, step: int) -> None:
        """Set the number of steps taken."""
        self._schedule.num_steps = step

    def rate(self, lr_scale: float = 1.0) -> float:
        """Return the rate of this step for parameters whose rates are ``lr_scale`` times the ordinary ones."""
        settings = self._stages.at(self.num_steps).optimizer
        bounds = {"max_lr": lr_scale * settings.lr, "min_lr": lr_scale * settings.min_lr}
        return float(self._schedule.get_lr(bounds))
