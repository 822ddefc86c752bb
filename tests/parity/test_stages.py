"""A run whose batch grows, and whose blend, learning rate, sequence length and corpus change on the way.

It is killed in every stage, after a step that is recorded and not saved. Resumed it equals the undisturbed run: on one
layout bit for bit, on another layout in every stage within the bounds of the other parity tests.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.checkpoint.cli_runs import COLUMNS
from tests.support.running import train_records
from tests.support.runs import TINY_RUN
from tests.support.workers import Workers
from unipool_dist.base.exit_statuses import RESUME
from unipool_dist.base.stopping import Stop
from unipool_dist.checkpoint.directory import CheckpointDirectory
from unipool_dist.checkpoint.progress import read_progress
from unipool_dist.comm.environment import Environment
from unipool_dist.config import load_config
from unipool_dist.engine.callback import Callback, stop
from unipool_dist.observe.jsonlines import read_json_lines
from unipool_dist.resilience.signals import StopSignals
from unipool_dist.run.session import train_session
from unipool_dist.run.start import Start

STEPS = 12
STAGES = (
    "stages=[{from_step: 4, train.global_batch_size: 16, optimizer.lr: 0.002},"
    " {from_step: 6, train.global_batch_size: 24},"
    " {from_step: 8, data.weights: {sums: 3, prose: 1}},"
    " {from_step: 10, model.sequence_length: 64, train.micro_batch_size: 1},"
    " {from_step: 11, data.path: OTHER, data.weights: null}]"
)
COMMON = (
    *TINY_RUN,
    "model.num_layers=2",
    f"train.steps={STEPS}",
    "train.eval_interval=5",
    "optimizer.epsilon=1e-5",
    "log.tensorboard=false",
    "checkpoint.interval=1",
    "checkpoint.asynchronous=false",
    "checkpoint.keep_last=0",
)


class _EndsAfter(Callback):
    def __init__(self, step: int | None) -> None:
        self._step, self._done = step, 0

    def step_done(self, step: int, result: object) -> None:
        self._done = step

    def should_stop(self) -> Stop | None:
        return stop("enough") if self._done == self._step else None


def _train(environment: Environment, overrides: Sequence[str], start: Start, last_step: int | None) -> int:
    with StopSignals(environment.rank) as signals:
        config = load_config(None, overrides)
        return train_session(config, environment, start, signals, [_EndsAfter(last_step)])


def train(
    workers: Workers, run_dir: Path, world_size: int, overrides: Sequence[str], last_step: int | None, **start: Any
) -> None:
    """Train to the end; or up to ``last_step``, whose checkpoint is lost, as if the run had been killed just then."""
    arguments = ((*overrides, f"run.dir={run_dir}"), Start(**start), last_step)
    assert set(workers.run(_train, world_size, *arguments)) == {0 if last_step is None else RESUME}
    if last_step is not None:
        shutil.rmtree(CheckpointDirectory(run_dir).folder(last_step))


@dataclass(frozen=True)
class Part:
    """A start of the run on a layout; it is killed after ``last_step``, before the step's checkpoint is whole."""

    world_size: int
    layout: tuple[str, ...]
    last_step: int | None


@pytest.fixture(scope="module")
def corpora(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Fields of the run: a corpus, and the stages, of which the last has another text with the same tokenizer."""
    folder = tmp_path_factory.mktemp("other")
    (folder / "numbers.txt").write_text("\n\n".join(f"{n} is not {n + 1}, " * 20 for n in range(300)))
    prepare = [sys.executable, "-m", "unipool_dist", "data", "prepare", str(folder / "corpus")]
    options = [f"--source=numbers={folder / 'numbers.txt'}", f"--tokenizer={tiny_corpus}"]
    subprocess.run([*prepare, *options], check=True, timeout=600, capture_output=True)
    return f"data.path={tiny_corpus}", STAGES.replace("OTHER", str(folder / "corpus"))


def run(workers: Workers, corpora: Sequence[str], run_dir: Path, parts: Sequence[Part]) -> dict[str, list[float]]:
    """Train part after part; return what the run has recorded."""
    for number, part in enumerate(parts):
        overrides = (*COMMON, *corpora, *part.layout)
        train(workers, run_dir, part.world_size, overrides, part.last_step, resume=number > 0)
    records = train_records(run_dir)
    assert [record["step"] for record in records] == list(range(1, STEPS + 1))
    found = {column: [record[column] for record in records] for column in (*COLUMNS, "tokens", "stage_from_step")}
    lines = read_json_lines(run_dir / "metrics.jsonl")
    losses = [loss for record in lines for loss in record.get("validation", {}).items()]
    assert [name for name, _ in losses] == ["prose", "sums", "prose", "sums", "numbers"]
    return found | {"validation": [loss for _, loss in losses]}


@pytest.fixture(scope="module")
def undisturbed(
    workers: Workers, corpora: tuple[str, str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[float]]:
    """What the run records in one process that nothing disturbs."""
    return run(workers, corpora, tmp_path_factory.mktemp("whole") / "run", [Part(1, (), None)])


def test_the_undisturbed_run_has_its_stages(undisturbed: dict[str, list[float]]) -> None:
    per_step = np.diff([0, *undisturbed["tokens"]])
    assert per_step.tolist() == [8 * 32] * 3 + [16 * 32] * 2 + [24 * 32] * 4 + [24 * 64] * 3
    assert undisturbed["stage_from_step"] == [1] * 3 + [4] * 2 + [6] * 2 + [8] * 2 + [10] + [11] * 2
    assert undisturbed["lr"][3] < undisturbed["lr"][2] * 0.7


def test_killed_in_every_stage_it_is_bit_for_bit_the_same(
    workers: Workers, corpora: tuple[str, str], tmp_path: Path, undisturbed: dict[str, list[float]]
) -> None:
    last_steps = [2, 4, 7, 8, 10, 11]  # four of them the first of a stage
    parts = [Part(1, (), step) for step in (*last_steps, None)]
    assert run(workers, corpora, tmp_path / "run", parts) == undisturbed
    last = CheckpointDirectory(tmp_path / "run").folder(STEPS)
    progress = read_progress(last)
    assert progress.data.segments == (3 * 8 + 2 * 16 + 2 * 24, 2 * 24, 24, 2 * 24)
    assert progress.consumed_samples == sum(progress.data.segments)


def test_killed_and_resumed_on_another_layout_in_every_stage_it_is_the_same(
    workers: Workers, corpora: tuple[str, str], tmp_path: Path, undisturbed: dict[str, list[float]]
) -> None:
    parts = [
        Part(2, ("parallel.pp=2",), 3),
        Part(2, (), 5),
        Part(2, ("parallel.tp=2",), 7),
        Part(4, ("parallel.pp=2", "pool.parallel_size=4"), 9),
        Part(3, ("train.micro_batch_size=1",), 10),  # which its first stage of 8 sequences would not fit
        Part(4, ("parallel.pp=2", "parallel.tp=2", "pool.stages_per_group=1"), 11),
        Part(2, ("parallel.pp=2", "parallel.schedule=lockstep_gpipe"), None),
    ]
    found = run(workers, corpora, tmp_path / "run", parts)
    assert (found["tokens"], found["stage_from_step"]) == (undisturbed["tokens"], undisturbed["stage_from_step"])
    for column, values in undisturbed.items():
        np.testing.assert_allclose(found[column], values, rtol=1e-5, err_msg=column)


def test_in_computed_order_it_is_the_same_too(
    workers: Workers, corpora: tuple[str, str], tmp_path: Path, undisturbed: dict[str, list[float]]
) -> None:
    fields = (*corpora, "data.order=computed")
    whole = run(workers, fields, tmp_path / "whole", [Part(1, (), None)])
    parts = [Part(1, (), 4), Part(2, ("parallel.pp=2",), 8), Part(2, (), 10), Part(1, (), None)]
    found = run(workers, fields, tmp_path / "killed", parts)
    for column, values in whole.items():
        np.testing.assert_allclose(found[column], values, rtol=1e-5, err_msg=column)
    assert whole["loss"] != undisturbed["loss"]


def test_what_a_resume_is_allowed_to_change_is_a_stage_from_there_on(
    workers: Workers, tiny_corpus: Path, tmp_path: Path, undisturbed: dict[str, list[float]]
) -> None:
    """Batch size, weights and length of a run that was begun without stages."""
    run_dir, copy = tmp_path / "run", tmp_path / "copy"
    plain = (*COMMON, "stages=[]", f"data.path={tiny_corpus}")
    train(workers, run_dir, 1, plain, 4)
    changed = (*plain, "train.global_batch_size=24", "data.weights={sums: 1.0}", "model.sequence_length=64")
    allowed = ("train.global_batch_size", "data.weights", "model.sequence_length")
    shutil.copytree(run_dir, copy)
    train(workers, run_dir, 1, changed, 7, resume=True, allow=allowed)
    train(workers, run_dir, 1, changed, None, resume=True)  # the change stays
    config = load_config(run_dir / "config.yaml")
    change = {"model.sequence_length": 64, "data.weights": {"sums": 1.0}, "train.global_batch_size": 24}
    assert [each.model_dump() for each in config.stages] == [{"from_step": 4, **change}]
    records = train_records(run_dir)
    assert config.train.global_batch_size == 8 and [record.get("stage_from_step") for record in records] == [
        *[None] * 3,
        *[4] * 9,
    ]
    assert np.diff([record["tokens"] for record in records]).tolist() == [8 * 32] * 2 + [24 * 64] * 9
    assert [record["loss"] for record in records[:3]] == undisturbed["loss"][:3]
    # A stage that is added to the configuration before its step comes needs no leave, and is the same.
    train(workers, copy, 1, (*plain, f"stages=[{json.dumps({'from_step': 4, **change})}]"), 5, resume=True)
