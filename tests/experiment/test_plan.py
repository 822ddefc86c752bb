"""Which runs an experiment has, with which configurations, and how far they are."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.experiment.support import write_experiment
from unipool_dist.base.machine import gpus_here, share_of_machine
from unipool_dist.checkpoint.compatibility import run_differences
from unipool_dist.config import dump_config
from unipool_dist.errors import ConfigError, UnipoolError
from unipool_dist.experiment.planned import Run, check_distinct, check_unchanged, planned_runs, resolved_configs
from unipool_dist.experiment.progress import progress_of
from unipool_dist.experiment.specification import read_experiment
from unipool_dist.run.attempts import Attempt, AttemptLog
from unipool_dist.run.heartbeat import HeartbeatWriter
from unipool_dist.run.lock import RunLock
from unipool_dist.run.state import RunState


def runs_of(folder: Path, only: tuple[str, ...] = (), of_seeds: tuple[int, ...] = (), **fields: Any) -> list[Run]:
    path = write_experiment(folder, Path("corpus"), **fields)
    return planned_runs(read_experiment(path), folder, only=only, seeds=of_seeds)


def test_all_variants_of_the_first_seed_come_first(tmp_path: Path) -> None:
    variants = {"b": {}, "a": {"seeds": [2, 9]}, "c": None}
    assert [run.name for run in runs_of(tmp_path, variants=variants)] == [
        "b/seed-1", "c/seed-1", "b/seed-2", "a/seed-2", "c/seed-2", "a/seed-9"
    ]  # fmt: skip
    few = runs_of(tmp_path, variants=variants, only=("a", "b"), of_seeds=(2,))
    assert [run.name for run in few] == ["b/seed-2", "a/seed-2"]


def test_a_configuration_is_base_then_common_then_own_fields(tmp_path: Path) -> None:
    (tmp_path / "common.yaml").write_text("optimizer: {lr: 0.5, beta1: 0.5}\ntrain: {steps: 9}\n")
    (tmp_path / "other.yaml").write_text("optimizer: {lr: 0.25}\n")
    variants = {"a": {}, "b": {"base": "other.yaml", "set": {"train.steps": 7, "optimizer.epsilon": "1e-6"}}}
    common = {"train.steps": 8, "data.weights": {"prose": 2.0}}
    a, b = runs_of(tmp_path, base="common.yaml", set=common, seeds=[5], variants=variants)
    assert (a.config.optimizer.lr, a.config.optimizer.beta1, a.config.train.steps) == (0.5, 0.5, 8)
    assert (b.config.optimizer.lr, b.config.optimizer.beta1, b.config.train.steps) == (0.25, 0.9, 7)
    assert b.config.optimizer.epsilon == 1e-6 and b.config.data.weights == {"prose": 2.0}
    assert a.config.train.seed == 5 and a.config.run.dir == str(tmp_path / "out" / "a" / "seed-5") == str(a.directory)


def test_values_are_those_of_the_file(tmp_path: Path) -> None:
    fields = {"data.path": "a #2", "optimizer.lr": "1e-3", "log.tensorboard": False, "pool.parallel_size": None}
    config = runs_of(tmp_path, set=fields)[0].config
    assert (config.data.path, config.optimizer.lr, config.log.tensorboard) == ("a #2", 1e-3, False)
    with pytest.raises(ConfigError, match=r"train\.steps='8' must be a whole number"):
        runs_of(tmp_path, set={"train.steps": "8"})  # text stays text, which is no number


@pytest.mark.parametrize(
    ("fields", "arguments", "said"),
    [
        ({"variants": {"a": {"set": {"train.stesp": 1}}}}, {}, "variant a: "),
        ({"variants": {"a": {"base": "missing.yaml"}}}, {}, "variant a: no configuration at"),
        ({"variants": {"a": {"set": {"parallel.dp": 3}}}}, {}, "variant a: .*needs 3 processes"),
        ({"variants": {"a": {"set": {"optimizer.deepspeed": "none.json"}}}}, {}, "variant a: .*no such file"),
        ({}, {"only": ("vanila",)}, "--only vanila: the experiment has plain, vanilla"),
        ({}, {"of_seeds": (3,)}, "--seeds 3: the experiment has 1, 2"),
        ({"variants": {"a": {}, "b": {"seeds": [7]}}}, {"only": ("b",), "of_seeds": (1,)}, "no run is left"),
    ],
)
def test_mistakes_are_told_with_the_variant(
    tmp_path: Path, fields: dict[str, Any], arguments: dict[str, Any], said: str
) -> None:
    with pytest.raises(UnipoolError, match=said):
        resolved_configs(runs_of(tmp_path, **arguments, **fields), 1)


def test_the_same_is_not_trained_twice(tmp_path: Path) -> None:
    variants = {"a": {"set": {"optimizer.lr": "1e-3"}}, "b": {"set": {"optimizer.lr": 0.001}, "seeds": [2, 3]}}
    with pytest.raises(ConfigError, match="variants a and b are the same configuration, with seed 2"):
        check_distinct(runs_of(tmp_path, variants=variants))
    check_distinct(runs_of(tmp_path, variants={**variants, "b": {"seeds": [3], "set": {"optimizer.lr": 0.001}}}))
    check_distinct(runs_of(tmp_path))


def test_more_runs_than_anybody_wants_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="more than 2,000 runs"):
        runs_of(tmp_path, seeds=list(range(1001)))


def test_a_run_begun_with_another_configuration_is_refused(tmp_path: Path) -> None:
    runs = runs_of(tmp_path)
    resolved = resolved_configs(runs, 1)
    for run in runs:
        run.directory.mkdir(parents=True)
        dump_config(resolved[run.name], run.directory / "config.yaml")
    check_unchanged(runs, resolved_configs(runs, 2))  # another layout is no other run
    changed = runs_of(tmp_path, variants={"plain": {"set": {"model.init_std": 0.25, "pool.top_k": 2}}, "vanilla": None})
    with pytest.raises(ConfigError) as refused:
        check_unchanged(changed, resolved_configs(changed, 1))
    said = str(refused.value)
    assert f"{tmp_path}/out/plain/seed-2: model.init_std: 0.05 in the run, 0.25 now" in said
    assert "pool.top_k: 1 in the run, 2 now" in said and "give the changed variant another name" in said
    check_unchanged(changed[:0], {})


def test_a_run_begun_by_another_version_is_named(tmp_path: Path) -> None:
    run, *others = runs_of(tmp_path)
    run.directory.mkdir(parents=True)
    (run.directory / "config.yaml").write_text("wings: {span: 3}\n")
    with pytest.raises(ConfigError, match=r"wings: no such(.|\n)*/plain/seed-1 may be a run of another version"):
        check_unchanged([run, *others], resolved_configs([run, *others], 1))


def test_paths_layout_and_logging_make_no_other_run(tmp_path: Path) -> None:
    (run, *_) = runs_of(tmp_path)
    (moved, *_) = runs_of(tmp_path, output="elsewhere")
    now = resolved_configs([moved], 2)[moved.name]
    update = {
        "log": now.log.model_copy(update={"interval": 3}),
        "train": now.train.model_copy(update={"micro_batch_size": 1}),
    }
    begun = resolved_configs([run], 1)[run.name]
    begun = begun.model_copy(update={"model": begun.model.model_copy(update={"vocab_size": 512})})
    assert run_differences(begun, now.model_copy(update=update)) == []


def test_how_far_a_run_is(tmp_path: Path) -> None:
    run = runs_of(tmp_path)[0]
    assert progress_of(run).describe() == "not started"
    log, now = AttemptLog(run.directory / "job"), time.time()
    log.folder.mkdir(parents=True)
    log.start(Attempt("local", 0, ["here"], 1, 0, now + 100))
    assert progress_of(run).describe() == "not started"
    log.end(ended=now + 160, outcome="failed", status=1, step=None, detail="error (rank 0): no")
    failed = progress_of(run)
    assert (failed.describe(), failed.detail, round(failed.time_s or 0)) == (
        "failed before its first step",
        "error (rank 0): no",
        60,
    )

    log.start(Attempt("local", 0, ["here"], 1, 0, now + 200))
    beat = HeartbeatWriter(run.directory, steps=6, resumed_from=0)
    beat.write(3)
    assert progress_of(run).describe() == "step 3 of 6, no checkpoint"  # it was cut off
    (run.directory / "checkpoints/step-00000002").mkdir(parents=True)
    assert progress_of(run).describe() == "step 3 of 6" and progress_of(run).checkpoint == 2
    with RunLock(run.directory):
        running = progress_of(run)
        assert running.describe() == "running, step 3 of 6" and "process" in (running.detail or "")
    log.end(ended=now + 230, outcome="failed", status=1, step=3, detail="x")
    assert progress_of(run).describe() == "failed after step 3 of 6" and round(progress_of(run).time_s or 0) == 90

    records = [{"step": 3, "validation": {"a": 9.0, "b": 9.0}}, {"step": 6, "validation": {"a": 1.0, "b": 2.0}}]
    metrics = run.directory / "metrics.jsonl"
    metrics.write_text(json.dumps(records[0]) + "\n")
    assert progress_of(run).loss is None
    beat.write(6, RunState.FINISHED)
    beat.close()
    assert (progress_of(run).state, progress_of(run).loss) == (RunState.FINISHED, None), (
        "an earlier evaluation is not the final"
    )
    metrics.write_text("".join(json.dumps(record) + "\n" for record in records))
    done = progress_of(run)
    assert (done.describe(), done.loss) == ("done", 1.5)


def test_trainings_share_a_machine() -> None:
    def share(place: int, **sizes: Any) -> tuple[str, str | None]:
        given: dict[str, Any] = {
            "num_at_once": 2,
            "num_processes": 2,
            "gpus": [],
            "cores": 16,
            "variables": {"RANK": "3"},
        } | sizes
        found = share_of_machine(place=place, **given)
        assert "RANK" not in found
        return found["OMP_NUM_THREADS"], found.get("CUDA_VISIBLE_DEVICES")

    assert share(1) == ("4", None) and share(1, cores=2) == ("1", None)
    assert share(1, variables={"OMP_NUM_THREADS": "7"}) == ("7", None)
    assert [share(place, gpus=["0", "1", "2", "3"])[1] for place in range(2)] == ["0,1", "2,3"]
    assert [share(place, gpus=["4", "5", "6"])[1] for place in range(2)] == ["4,5", "6,4"]
    assert [share(place, gpus=["0"])[1] for place in range(2)] == ["0", "0"]
    assert gpus_here({"CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b"}) == ["GPU-a", "GPU-b"]
    assert gpus_here({"CUDA_VISIBLE_DEVICES": ""}) == []
