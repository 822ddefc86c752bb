"""The runs of an experiment, read from their directories."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from unipool_dist.base.run_directory import RunDirectory
from unipool_dist.checkpoint.directory import CheckpointDirectory
from unipool_dist.checkpoint.progress import Progress, read_progress
from unipool_dist.config import Config, load_config
from unipool_dist.errors import CheckpointError, ConfigError, UnipoolError
from unipool_dist.experiment.specification import FROZEN_FILE
from unipool_dist.observe.jsonlines import read_json_lines
from unipool_dist.probe.record import Probe, read_probe
from unipool_dist.report.expert_use import Usage, read_usage
from unipool_dist.report.variants import Experiment, Variant, named_experiment, read_experiment
from unipool_dist.run.condition import read_condition
from unipool_dist.run.state import RunState

_TRAINING = ("loss", "tokens", "tokens_per_s", "window_steps")
_OF_A_RUN = (RunDirectory.metrics.name, RunDirectory.data_summary.name)

State = Literal["finished", "unfinished", "failed", "missing"]
_SEED = re.compile(r"seed-(\d+)")


@dataclass(frozen=True)
class Run:
    """The records of one run. The lists of training records are equally long, in order of steps."""

    directory: Path
    variant: str
    seed: int
    state: State
    detail: str
    """For an unfinished run, the reason."""
    config: Config | None = None
    steps: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    """Nats per token: means over the steps of a record."""
    windows: list[int] = field(default_factory=list)
    """Steps of a record; 1 in files of a version that recorded only the last step."""
    tokens: list[int] = field(default_factory=list)
    speeds: list[float] = field(default_factory=list)
    """Tokens per second since the previous record."""
    evaluations: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    """Step, and nats per token of every domain."""
    usage: Usage | None = None
    probe: Probe | None = None
    """Probe of the model after the last step."""
    stale_probe_step: int | None = None
    """Step of a probe of an earlier checkpoint, which is not used."""
    versions: dict[str, str] = field(default_factory=dict)
    """Software that wrote its newest checkpoint."""
    corpus: str | None = None
    """Hash of the content of the corpus that it was trained on, by its newest checkpoint."""

    @property
    def is_finished(self) -> bool:
        return self.state == "finished"


def read_runs(directory: Path) -> tuple[Experiment, list[Run]]:
    """Read the experiment in ``directory`` and its runs, variant by variant and seed by seed.

    With an ``experiment.yaml``, runs are in ``VARIANT/seed-N`` as it says, and one that is not there is returned as
    ``missing``. Without, every run below ``directory`` is taken.

    Raises:
        UnipoolError: the directory does not exist or holds no run; or a file is damaged or of another version.
    """
    if not directory.is_dir():
        raise UnipoolError(f"there is no directory {directory}; give that of an experiment, or one that holds runs")
    path = directory / FROZEN_FILE
    found: dict[tuple[str, int], Path] = {}
    for run_dir in _run_directories(directory):
        found[_variant_and_seed(directory, run_dir)] = run_dir
    if path.exists():
        experiment = read_experiment(path)
    else:
        names = sorted({name for name, _ in found})
        if names:
            experiment = named_experiment(
                directory.resolve().name, tuple(Variant(name=name, title=name) for name in names)
            )
    if not found:
        raise UnipoolError(
            f"no run was found in {directory}: no folder in it holds {RunDirectory.config.name} and "
            f"{RunDirectory.metrics.name}; give the directory of an experiment whose runs have begun"
        )
    runs = []
    for variant in experiment.variants:
        seeds = variant.seeds
        if seeds is None:
            seeds = tuple(sorted(seed for name, seed in found if name == variant.name))
        for seed in seeds:
            run_dir = found.get((variant.name, seed), directory / variant.name / f"seed-{seed}")
            runs.append(read_run(run_dir, variant.name, seed))
    return experiment, runs


def left_out(directory: Path, experiment: Experiment, runs: list[Run]) -> list[Path]:
    """Return the runs below ``directory`` that are not part of the experiment."""
    shown = {run.directory for run in runs}
    return [run_dir for run_dir in _run_directories(directory) if run_dir not in shown]


def read_run(run_dir: Path, variant: str, seed: int) -> Run:
    """Read what one run has recorded.

    Raises:
        UnipoolError: a file of it is damaged or of another version; the message names it.
    """
    files = RunDirectory(run_dir)
    if not files.config.exists():
        return Run(run_dir, variant, seed, "missing", f"there is no run in {run_dir}")
    try:
        config = load_config(files.config)
    except ConfigError as error:
        raise UnipoolError(
            f"{error}\n{run_dir} may be a run of another version of unipool-dist; use that, or move it out of the way"
        ) from None
    training, evaluations = _read_metrics(files.metrics)
    steps = sorted(training)
    state, detail = _state(run_dir, config, steps[-1] if steps else 0, evaluations)
    saved = _newest_checkpoint(run_dir)
    probe = read_probe(run_dir) if files.probe_record.exists() else None
    is_last = probe is not None and bool(steps) and probe.step == steps[-1]
    return Run(
        run_dir,
        variant,
        seed,
        state,
        detail,
        config,
        steps=steps,
        losses=[training[step][0] for step in steps],
        windows=[int(training[step][3]) for step in steps],
        tokens=[int(training[step][1]) for step in steps],
        speeds=[training[step][2] for step in steps],
        evaluations=sorted(evaluations.items()),
        usage=read_usage(files.usage, steps[-1]) if steps and files.usage.exists() else None,
        probe=probe if is_last else None,
        stale_probe_step=None if probe is None or is_last else probe.step,
        versions=saved.versions if saved is not None else {},
        corpus=saved.data.content_hash if saved is not None else None,
    )


def _run_directories(directory: Path) -> Iterator[Path]:
    for folder, below, files in os.walk(directory):
        below.sort()
        if RunDirectory.config.name in files and any(name in files for name in _OF_A_RUN):
            below.clear()  # what else a run holds, its checkpoints and job, is not a run
            yield Path(folder)


def _variant_and_seed(directory: Path, run_dir: Path) -> tuple[str, int]:
    """Return variant and seed from the path below ``directory``; without a ``seed-N``, the configuration's seed."""
    relative = run_dir.relative_to(directory)
    if match := _SEED.fullmatch(run_dir.name):
        return (relative.parent.as_posix() if relative.parent.parts else directory.resolve().name), int(match[1])
    try:
        seed = load_config(RunDirectory(run_dir).config).train.seed
    except ConfigError:
        seed = 0  # reading the run will say what is wrong
    return (relative.as_posix() if relative.parts else directory.resolve().name), seed


def _read_metrics(path: Path) -> tuple[dict[int, tuple[float, ...]], dict[int, dict[str, float]]]:
    """Return by step loss, tokens, tokens per second and steps of the record; and by step the validation losses.

    A resumed run drops the records of steps that it repeats, so no step should be there twice; if one is, the last
    record counts.
    """
    training: dict[int, tuple[float, ...]] = {}
    evaluations: dict[int, dict[str, float]] = {}
    for number, record in enumerate(read_json_lines(path) if path.exists() else [], start=1):
        try:
            step = int(record["step"])
            if "validation" in record:
                evaluations[step] = {str(name): float(loss) for name, loss in record["validation"].items()}
            elif "loss" in record:
                training[step] = _numbers({"window_steps": 1, **record})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UnipoolError(
                f"{path}, line {number}, is not a record of this version ({type(error).__name__}: {error}); remove "
                f"that line, or make the report with the version that wrote it"
            ) from None
    return training, evaluations


def _numbers(record: dict[str, Any]) -> tuple[float, ...]:
    numbers = tuple(float(record[name]) for name in _TRAINING)
    if not np.isfinite(numbers).all():
        raise ValueError(f"{', '.join(_TRAINING)} must be finite")
    if record["window_steps"] < 1:
        raise ValueError("window_steps must be at least 1")
    return numbers


def _state(
    run_dir: Path, config: Config, last_step: int, evaluations: dict[int, dict[str, float]]
) -> tuple[State, str]:
    steps = config.train.steps
    if last_step >= steps:
        if config.train.eval_sequences and last_step not in evaluations:
            return "unfinished", f"all {steps} steps are done, but not the evaluation after the last"
        return "finished", ""
    condition = read_condition(run_dir)
    beat, because = condition.beat, f": {condition.detail}" if condition.detail else ""
    where = f"at step {max(last_step, beat.step if beat else 0)} of {steps}"
    details = {
        RunState.WAITING: f"no end was recorded; {where}",
        RunState.TRAINING: f"still training, {where}",
        RunState.SILENT: f"broke off {where}, without saying why",
        RunState.STOPPED: f"stopped {where}{because}",
        RunState.INTERRUPTED: f"interrupted {where}",
        RunState.FAILED: f"failed {where}{because}",
        RunState.FINISHED: f"finished, but its records end at step {last_step} of {steps}",
    }
    has_failed = condition.state in (RunState.FAILED, RunState.SILENT)
    return "failed" if has_failed else "unfinished", details[condition.state]


def _newest_checkpoint(run_dir: Path) -> Progress | None:
    checkpoints = CheckpointDirectory(run_dir)
    for step in reversed(checkpoints.steps()):
        try:
            return read_progress(checkpoints.folder(step))
        except CheckpointError:  # the numbers of the report do not come from there
            continue
    return None
