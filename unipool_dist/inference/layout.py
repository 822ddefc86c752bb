"""The configuration for using a run's model: the run's own, on a layout for the current number of processes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from unipool_dist.base.run_directory import RunDirectory
from unipool_dist.checkpoint.directory import CheckpointDirectory
from unipool_dist.config import Config, load_config, load_written, resolve
from unipool_dist.config.plan import Plan
from unipool_dist.config.roles import flat, is_for_inference, settings_of
from unipool_dist.config.staging import config_at
from unipool_dist.errors import CheckpointError, ConfigError

_DEFAULT_LAYOUT = (
    "parallel.pp=1",
    "parallel.tp=1",
    "parallel.dp=auto",
    "pool.parallel_size=null",
    "pool.stages_per_group=null",
    "optimizer.deepspeed=null",
    "pool.placement=contiguous",
)


def inference_plan(run_dir: Path, overrides: Sequence[str], world_size: int, step: int | None = None) -> Plan:
    """Return the resolved configuration for using the run in ``run_dir`` with ``world_size`` processes.

    It is that of the stage in which ``step`` was trained; ``None``: the step of the newest checkpoint.

    Without overrides all processes are data-parallel replicas of the dense part that own the pool together, whatever
    the layout was in training.

    Raises:
        CheckpointError: there is no run, or it has no checkpoint.
        ConfigError: the run's configuration is not of this version, or an override would change the model.
        TopologyError: the layout is impossible.
    """
    path = RunDirectory(run_dir).config
    if not path.is_file():
        found = f"has no {path.name}" if run_dir.is_dir() else "is not a directory"
        raise CheckpointError(f"{run_dir} is not a run: it {found}; give the run.dir of a run")
    try:
        config = load_written(path)
    except ConfigError as error:
        raise ConfigError(
            f"{error}\nThe run may be of another version of unipool_dist: use the one that wrote it"
        ) from None
    steps = CheckpointDirectory(run_dir).steps()
    if not steps:
        raise CheckpointError(
            f"{run_dir} has no checkpoint yet, so there is no model to use; one is saved every checkpoint.interval="
            f"{config.checkpoint.interval} steps (0: none) and at the end of the run"
        )
    free = [name for name, field in settings_of(Config).items() if is_for_inference(field)]
    fixed = [override for override in overrides if override.partition("=")[0] not in free]
    if fixed:
        raise ConfigError(
            f"{', '.join(fixed)}: cannot be set for a model that is trained; what can be: {', '.join(free)}"
        )
    of_stage = flat(config_at(config, steps[-1] if step is None else step))
    config = load_config(None, [*_DEFAULT_LAYOUT, *overrides], fields=of_stage)
    # Any number of processes will do: there are no training steps whose batch they would have to share evenly.
    batch = config.train.micro_batch_size * world_size
    config = config.model_copy(update={"train": config.train.model_copy(update={"global_batch_size": batch})})
    return resolve(config, world_size)
