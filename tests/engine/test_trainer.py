"""When the trainer evaluates, also where it is told to stop."""

from __future__ import annotations

import pytest

from tests.support.callbacks import Seen
from tests.support.training import batches_of, sequences, tiny_config
from tests.support.workers import Workers
from unipool_dist.comm.environment import Environment
from unipool_dist.comm.groups import process_groups
from unipool_dist.data.batches import Batch
from unipool_dist.engine.trainer import Trainer
from unipool_dist.model.assembly import build_model


def _stopped_after(environment: Environment, stop_after: int | None) -> tuple[str | None, list[int]]:
    """Four steps, evaluated every second one; the reason for ending and the steps that were evaluated."""
    config = tiny_config("train.steps=4", "train.eval_interval=2", world_size=environment.world_size)
    with process_groups(config, environment) as groups:
        seen, validation = Seen(stop_after), {"five": Batch(*sequences(99, 5))}
        trainer = Trainer(
            config,
            groups,
            build_model(config, groups),
            lambda consumed, i: batches_of(config, groups, consumed)[i],
            lambda _: validation,
            seen,
        )
        reason = trainer.run()
        trainer.step.optimizer.close()
    return None if reason is None else str(reason), seen.evaluated


@pytest.mark.parametrize(
    ("stop_after", "expected"),
    [
        (None, (None, [2, 4])),
        (2, ("enough", [])),  # the run that goes on has its other evaluations; nobody is kept waiting for this one
        (4, (None, [2, 4])),  # but after the last step none goes on, and the final evaluation would be lost
    ],
)
def test_the_last_step_is_evaluated_even_when_told_to_stop(
    workers: Workers, stop_after: int | None, expected: tuple[str | None, list[int]]
) -> None:
    assert workers.run(_stopped_after, 1, stop_after) == [expected]
