"""Which runs are found, which of them count, and what is refused."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.report.made import DENSE, STEPS, describe, make_experiment, make_run
from tests.support.using import refused
from unipool_dist.errors import UnipoolError
from unipool_dist.report.runs import left_out, read_run, read_runs
from unipool_dist.report.summary import summarize, summarize_run
from unipool_dist.run.attempts import LOCAL, Attempt, AttemptLog
from unipool_dist.run.heartbeat import HeartbeatWriter


def test_runs_are_those_that_the_experiment_names_in_its_order(tmp_path: Path) -> None:
    make_experiment(tmp_path, {"zebra": {1: 3.0, 2: 3.1, 3: 3.2}, "ant": {1: 2.0}}, baseline="ant")
    make_run(tmp_path / "ant" / "seed-7")
    experiment, runs = read_runs(tmp_path)
    assert [(run.variant, run.seed, run.state) for run in runs] == [
        *(("zebra", seed, "finished") for seed in (1, 2, 3)),
        ("ant", 1, "finished"),
        ("ant", 2, "missing"),
        ("ant", 3, "missing"),
    ]
    assert experiment.baseline == "ant" and experiment.title_of("zebra") == "The zebra one"
    assert left_out(tmp_path, experiment, runs) == [tmp_path / "ant" / "seed-7"]


def test_without_experiment_yaml_every_run_is_taken_and_a_variant_is_its_path(tmp_path: Path) -> None:
    make_run(tmp_path / "deep" / "a" / "seed-3", seed=3)
    make_run(tmp_path / "b", seed=11)
    checkpoint = tmp_path / "b" / "checkpoints" / "step-00000080"
    checkpoint.mkdir(parents=True)
    shutil.copy(tmp_path / "b" / "config.yaml", checkpoint)
    experiment, runs = read_runs(tmp_path)
    assert [(run.variant, run.seed) for run in runs] == [("b", 11), ("deep/a", 3)]
    assert experiment.baseline == "b" and experiment.title == tmp_path.name


def test_a_single_run_is_an_experiment_of_one(tmp_path: Path) -> None:
    make_run(tmp_path / "only")
    experiment, runs = read_runs(tmp_path / "only")
    assert [(run.variant, run.is_finished) for run in runs] == [("only", True)]
    assert experiment.baseline is None


def test_an_unfinished_run_is_named_and_in_no_mean(tmp_path: Path) -> None:
    make_run(tmp_path / "a" / "seed-1", loss=3.0)
    make_run(tmp_path / "a" / "seed-2", loss=9.0, steps=50)
    describe(tmp_path, {"a": {"seeds": [1, 2, 3]}})
    summary = summarize(*read_runs(tmp_path))
    (variant,) = summary.variants
    assert variant.seeds == [1] and variant.validation_loss is not None and variant.validation_loss.mean == 3.5
    assert summary.problems == [
        f"a, seed 2: stopped at step 50 of {STEPS}: SIGTERM",
        f"a, seed 3: there is no run in {tmp_path / 'a' / 'seed-3'}",
    ]


def test_a_run_that_a_second_signal_ended_is_not_said_to_have_failed(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run", steps=50)
    (run_dir / "job").mkdir()
    log = AttemptLog(run_dir / "job")
    log.start(Attempt(LOCAL, 0, ["here"], 1, 0, time.time() - 9))
    HeartbeatWriter(run_dir, steps=STEPS, resumed_from=0).write(50)
    log.end(ended=time.time() + 1, outcome="interrupted", status=130, step=50, detail=None)
    run = read_run(run_dir, "run", 1)
    assert (run.state, run.detail) == ("unfinished", f"interrupted at step 50 of {STEPS}")


def test_a_run_that_lacks_its_last_evaluation_is_not_finished(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run")
    lines = (run_dir / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run_dir / "metrics.jsonl").write_text("".join(lines[:-1]))
    run = read_run(run_dir, "run", 1)
    assert run.state == "unfinished" and "not the evaluation after the last" in run.detail


def test_a_job_that_failed_is_said_to_have_failed(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run", steps=50)
    (run_dir / "job").mkdir()
    start = {"event": "start", "job_id": "7", "restart": 0, "nodes": ["n1"], "num_tasks": 2, "step_before": 0}
    end = {"event": "end", "outcome": "failed", "detail": "loss is not finite"}
    lines = [json.dumps(start | {"started": 1.0}), json.dumps(end)]
    (run_dir / "job" / "attempts.jsonl").write_text("\n".join(lines) + "\n")
    run = read_run(run_dir, "run", 1)
    assert (run.state, run.detail) == ("failed", f"failed at step 50 of {STEPS}: loss is not finite")


def test_of_steps_recorded_twice_the_last_record_counts(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run")
    path = run_dir / "metrics.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    again = [record | {"loss": 1.25} for record in records if "loss" in record and record["step"] > 60]
    path.write_text("".join(json.dumps(record) + "\n" for record in [*records, *again]) + '{"step": 81, "lo')
    run = read_run(run_dir, "run", 1)
    assert run.steps == list(range(1, STEPS + 1)) and set(run.losses[60:]) == {1.25}
    assert summarize_run(run).training_loss == 1.25


def test_numbers_of_the_end_of_a_run(tmp_path: Path) -> None:
    run = summarize_run(read_run(make_run(tmp_path / "run", speeds=tuple(range(1, 74))), "run", 1))
    assert run.domains == {"prose": 3.0, "sums": 4.0} and run.validation_loss == 3.5
    assert run.tokens_per_s == 37.5  # of 80 records 8 are left out: the median of 2 to 73
    assert run.training_loss == pytest.approx(3.0 + np.mean([5 / step for step in range(73, 81)]))
    # 4 layers and 8 experts: each of 4 experts is chosen 40 + 3 * 10 times, the others 40 times; 4 * 70 + 4 * 40 = 440
    assert run.busiest_over_mean == pytest.approx(70 / 55)
    assert run.ownership == pytest.approx((4 * 40 + 4 * 10) / 440)
    p = np.array([40] + [10] * 7) / 110
    assert run.effective_experts == pytest.approx(np.exp(-(p * np.log(p)).sum()))


def test_every_step_counts_the_same_in_the_training_loss(tmp_path: Path) -> None:
    """Lines of windows of many steps and of few, and such of a version that recorded single steps."""
    run_dir = make_run(tmp_path / "run")
    path = run_dir / "metrics.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        if "loss" in record:
            record |= {"loss": 1.0} if record["step"] < 79 else {"loss": 3.0, "window_steps": 10}
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    run = read_run(run_dir, "run", 1)
    assert run.windows == [1] * 78 + [10] * 2
    assert summarize_run(run).training_loss == pytest.approx((6 * 1.0 + 20 * 3.0) / 26)


def test_only_the_end_of_training_counts_for_the_use_of_experts(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run")
    path = run_dir / "expert_usage.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    lines[71] = json.dumps({"step": 72, "num_pools": 1, "counts": [[1, 0]]}) + "\n"  # of another form, but not needed
    path.write_text("".join(lines) + '{"step": 80, "num')
    usage = read_run(run_dir, "run", 1).usage
    assert usage is not None and usage.num_windows == 8 and usage.counts_LE.sum() == 8 * 440


def test_a_dense_run_has_no_use_of_experts(tmp_path: Path) -> None:
    run = summarize_run(read_run(make_run(tmp_path / "run", overrides=DENSE), "run", 1))
    assert (run.busiest_over_mean, run.effective_experts, run.ownership) == (None, None, None)
    assert run.validation_loss == 3.5


def test_how_runs_were_made_is_no_difference(tmp_path: Path) -> None:
    """Each run of an experiment has a copy of its DeepSpeed file in its own directory."""
    for seed in (1, 2):
        file = tmp_path / f"zero-{seed}.json"
        file.write_text('{"zero_optimization": {"stage": 1}}')
        own = (f"optimizer.deepspeed={file}", f"model.vocab_divisor={64 * seed}")
        make_run(tmp_path / "a" / f"seed-{seed}", seed=seed, overrides=own)
    assert summarize(*read_runs(tmp_path)).warnings == []


def test_runs_of_a_variant_that_were_set_otherwise_are_told(tmp_path: Path) -> None:
    make_run(tmp_path / "a" / "seed-1")
    make_run(tmp_path / "a" / "seed-2", overrides=("pool.num_experts=8", "optimizer.lr=0.5"))
    make_run(tmp_path / "b" / "seed-1", overrides=("pool.num_experts=16", "data.path=elsewhere"))
    first, second = summarize(*read_runs(tmp_path)).warnings
    assert first.startswith("a, seed 2, was trained with another optimizer.lr than")
    assert second.startswith("validation losses are not of the same text, as data.path differs")


def test_the_same_corpus_under_another_path_is_no_difference(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        make_run(tmp_path / "a" / f"seed-{seed}", overrides=(f"data.path=corpus{seed}", "pool.num_experts=8"))
    experiment, (first, moved, other) = read_runs(tmp_path)
    runs = [replace(first, corpus="one"), replace(moved, corpus="one"), replace(other, corpus="other")]
    assert summarize(experiment, runs[:2]).warnings == []
    (warning,) = summarize(experiment, runs).warnings
    assert warning.startswith("a, seed 3, was trained with another data.path than")


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run")
    for name, line, damage in (
        ("metrics.jsonl", 3, "nonsense"),
        ("metrics.jsonl", 4, '{"step": 4, "loss": 3.0}'),
        ("metrics.jsonl", 5, '{"step": 5, "loss": NaN, "tokens": 1, "tokens_per_s": 1}'),
        ("metrics.jsonl", 6, '{"step": 6, "loss": 1, "tokens": 1, "tokens_per_s": 1, "window_steps": 0}'),
        ("expert_usage.jsonl", 79, '{"step": 79, "num_pools": 1, "counts": [[1, -1]]}'),
        ("expert_usage.jsonl", 2, "nonsense"),
    ):
        path = run_dir / name
        good = path.read_text()
        lines = good.splitlines()
        lines[line - 1] = damage
        path.write_text("\n".join(lines) + "\n")
        with pytest.raises(UnipoolError, match=rf"{name}, line {line}, is"):
            read_run(run_dir, "run", 1)
        path.write_text(good)


def test_a_run_of_another_version_is_named(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run")
    with (run_dir / "config.yaml").open("a") as file:
        file.write("wings: {span: 3}\n")
    error = refused("report", tmp_path)
    assert f"{run_dir / 'config.yaml'} is not a valid configuration" in error and "another version" in error


def test_where_there_is_nothing_to_report_it_is_said(tmp_path: Path) -> None:
    assert "there is no directory" in refused("report", tmp_path / "gone")
    assert f"no run was found in {tmp_path}" in refused("report", tmp_path)
    describe(tmp_path, {"a": {}})
    assert f"no run was found in {tmp_path}" in refused("report", tmp_path)
    describe(tmp_path, {})
    assert "variants: there is none" in refused("report", tmp_path)
    describe(tmp_path, {"a": {}}, baseline="b")
    assert "baseline: b is none of the variants (a)" in refused("report", tmp_path)
