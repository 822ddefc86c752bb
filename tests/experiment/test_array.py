"""An experiment as a job array, with SLURM's commands replaced by scripts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.experiment.support import complete, write_experiment
from tests.jobs.test_submit import fake_slurm
from tests.support.running import one_thread
from unipool_dist.jobs.folder import JobFolder, run_config
from unipool_dist.jobs.status import status_of
from unipool_dist.run.heartbeat import HeartbeatWriter
from unipool_dist.run.state import RunState

__all__ = ["fake_slurm"]

COMMON = ("--slurm", "--tasks-per-node", "2", "--time", "1:00:00")


@pytest.fixture
def variables(fake_slurm: Path) -> dict[str, str]:
    return {**one_thread(), "PATH": f"{fake_slurm}:{os.environ['PATH']}"}


def finish(run_dir: Path, steps: int) -> None:
    run_dir.mkdir(parents=True, exist_ok=True)
    beat = HeartbeatWriter(run_dir, steps=steps, resumed_from=0)
    beat.write(steps, RunState.FINISHED)
    beat.close()


def test_one_task_for_each_run_that_is_not_done(
    tmp_path: Path, tiny_corpus: Path, fake_slurm: Path, variables: dict[str, str]
) -> None:
    out = tmp_path / "out"
    path = write_experiment(tmp_path, tiny_corpus)
    script, listed = complete(path, *COMMON, "--jobs", "3", "--dry-run", env=variables)
    assert "#SBATCH --array=0-3%3\n" in script and "#SBATCH --nodes=1\n" in script
    assert "task 1: vanilla/seed-1, not started" in listed and not out.exists()

    finish(out / "plain/seed-1", 6)
    said, _ = complete(path, *COMMON, env=variables)
    assert "job 4711 is submitted" in said and f"unipool-dist status {out}" in said
    folder = JobFolder(out)
    assert folder.read().runs == ["vanilla/seed-1", "plain/seed-2", "vanilla/seed-2"]
    assert "#SBATCH --array=0-2\n" in folder.files.job_script.read_text()
    configs = {run: run_config(out / run) for run in folder.read().runs}
    assert {run: (c.pool.router, c.train.seed) for run, c in configs.items()} == {
        "vanilla/seed-1": ("softmax", 1),
        "plain/seed-2": ("norm", 2),
        "vanilla/seed-2": ("softmax", 2),
    }
    assert all(config.run.dir == str(out / run) for run, config in configs.items())
    assert (out / "experiment.yaml").exists() and folder.submissions() == ["4711"]
    assert [state.run for state in status_of(out)] == [str(out / run) for run in folder.read().runs]

    # As long as that array is there its job folder must stay as it is.
    answer = (
        "echo 'JobId=4711 ArrayTaskId=0-2 JobName=exp JobState=PENDING Reason=Resources Restarts=0 EndTime=Unknown'"
    )
    (fake_slurm / "scontrol").write_text(f"#!/bin/sh\n{answer}\n")
    _, refused = complete(path, *COMMON, env=variables, status=1)
    assert "job 4711" in refused and "is pending" in refused and "scancel 4711" in refused

    # Once it has ended, what it has left is submitted again.
    (fake_slurm / "scontrol").write_text("#!/bin/sh\necho 'Invalid job id specified' >&2\nexit 1\n")
    (out / "vanilla/seed-1/job/attempts.jsonl").write_text("")
    finish(out / "plain/seed-2", 6)
    complete(path, *COMMON, env=variables)
    assert folder.read().runs == ["vanilla/seed-1", "vanilla/seed-2"] and folder.submissions() == ["4711", "4711"]
    for seed in (1, 2):
        finish(out / f"vanilla/seed-{seed}", 6)
    said, _ = complete(path, *COMMON, env=variables)
    assert "there is nothing to submit" in said


def test_what_slurm_refuses_leaves_the_runs_as_they_are(
    tmp_path: Path, tiny_corpus: Path, fake_slurm: Path, variables: dict[str, str]
) -> None:
    path = write_experiment(tmp_path, tiny_corpus, seeds=[1])
    history = tmp_path / "out/plain/seed-1/job/attempts.jsonl"
    history.parent.mkdir(parents=True)
    history.write_text("")
    (fake_slurm / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: invalid partition' >&2\nexit 1\n")
    _, refused = complete(path, *COMMON, env=variables, status=1)
    assert "invalid partition" in refused and history.exists()
    (fake_slurm / "sbatch").write_text("#!/bin/sh\necho 12\n")
    assert "job 12 is submitted" in complete(path, *COMMON, env=variables)[0]


def test_a_variant_that_fits_no_node_is_named(tmp_path: Path, tiny_corpus: Path, variables: dict[str, str]) -> None:
    variants = {"plain": None, "deep": {"set": {"parallel.pp": 3, "model.num_layers": 3}}}
    path = write_experiment(tmp_path, tiny_corpus, variants=variants)
    _, refused = complete(path, *COMMON, env=variables, status=1)
    assert "variant deep: " in refused and not (tmp_path / "out").exists()
