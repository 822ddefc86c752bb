"""transformers, where it is installed, is not loaded by what trains: it would take seconds of each process."""

from __future__ import annotations

import sys

from tests.checkpoint.huggingface.asking import needs_transformers
from tests.support.training import batches_of, built, tiny_config
from tests.support.workers import Workers
from unipool_dist.comm.environment import Environment


def _loaded_by_a_step(environment: Environment) -> set[str]:
    import unipool_dist.data
    import unipool_dist.inference.opened
    import unipool_dist.run.session  # noqa: F401

    plan = tiny_config()
    with built(plan, environment) as (groups, _, train_step):
        train_step.run(0, batches_of(plan, groups, 0))
    return {name.split(".")[0] for name in sys.modules}


@needs_transformers
def test_training_loads_neither_transformers_nor_what_comes_with_it(workers: Workers) -> None:
    (loaded,) = workers.run(_loaded_by_a_step, 1)
    assert {"torch", "megatron", "deepspeed"} <= loaded
    assert not loaded & {"transformers", "accelerate", "peft"}
