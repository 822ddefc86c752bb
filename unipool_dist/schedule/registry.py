"""The schedules that ``parallel.schedule`` may name."""

from __future__ import annotations

from collections.abc import Callable

from unipool_dist.base.registry import Registry
from unipool_dist.errors import ScheduleError
from unipool_dist.schedule.check import CheckedSchedule, check
from unipool_dist.schedule.lockstep import lockstep_1f1b, lockstep_gpipe
from unipool_dist.schedule.work import LANES, Schedule

MakeSchedule = Callable[[int, int], Schedule]
"""``(num_stages, num_microbatches) -> schedule`` of one training step."""

SCHEDULES: Registry[MakeSchedule] = Registry(
    "parallel.schedule", {"lockstep_1f1b": lockstep_1f1b, "lockstep_gpipe": lockstep_gpipe}
)


def training_schedule(name: str, num_stages: int, num_microbatches: int) -> CheckedSchedule:
    """Make and check the schedule of a training step.

    Raises:
        ConfigError: there is no schedule ``name``.
        ScheduleError: it is unsound, not of these numbers, or not one that this trainer can run.
    """
    schedule = SCHEDULES[name](num_stages, num_microbatches)
    try:
        if not isinstance(schedule, Schedule):
            raise ScheduleError(f"it is a {type(schedule).__name__}; return a unipool_dist.schedule.work.Schedule")
        if (schedule.num_stages, schedule.num_microbatches) != (num_stages, num_microbatches):
            raise ScheduleError(
                f"it is for {schedule.num_stages} stages and {schedule.num_microbatches} micro-batches; make it for "
                f"{num_stages} and {num_microbatches}"
            )
        if schedule.lanes != LANES:
            raise ScheduleError(f"its lanes are {schedule.lanes}; training needs {LANES}")
        if schedule.stage_of_chunk != tuple(range(num_stages)):
            raise ScheduleError("it has several chunks on a stage; a stage of this model is one chunk")
        return check(schedule)
    except ScheduleError as error:
        raise ScheduleError(f"parallel.schedule={name}: {error}") from None
