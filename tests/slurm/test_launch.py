"""The launchers in jobs on several nodes train what one process trains: the same losses, step by step."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.slurm.cluster import USER, Cluster
from tests.support.running import one_thread, train_records
from tests.support.runs import TINY_RUN, train_command

LAUNCHERS = Path(__file__).parents[2] / "launchers"
STEPS = 5
# A larger epsilon: Adam's first steps would otherwise turn differences of rounding into differences of the loss.
SETTINGS = (f"train.steps={STEPS}", "optimizer.epsilon=1e-5", "log.interval=1", "log.tensorboard=false")
COLUMNS = ("loss", "grad_norm", "aux_loss")


@pytest.fixture(scope="module")
def one_process(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[float]]:
    """What each column of the metrics is, step by step, without SLURM."""
    run_dir = tmp_path_factory.mktemp("one-process") / "run"
    command = train_command(tiny_corpus, run_dir, 1, *SETTINGS)
    subprocess.run(command, env=one_thread(), check=True, timeout=600)
    return columns(run_dir)


def columns(run_dir: Path) -> dict[str, list[float]]:
    records = train_records(run_dir)
    assert [record["step"] for record in records] == list(range(1, STEPS + 1))
    return {name: [record[name] for record in records] for name in COLUMNS}


@pytest.mark.parametrize(
    ("launcher", "num_nodes", "user"),
    [
        ("srun.sh", 2, USER),
        ("srun.sh", 4, "root"),
        ("torchrun.sh --nproc 1", 2, "root"),
        ("torchrun.sh --nproc 1", 4, USER),
    ],
)
def test_nodes_train_as_one_process(
    cluster: Cluster,
    corpus: Path,
    shared: Path,
    one_process: dict[str, list[float]],
    launcher: str,
    num_nodes: int,
    user: str,
) -> None:
    (shared / "empty.yaml").write_text("{}\n")
    layout = ("parallel.pp=2", f"parallel.dp={num_nodes // 2}", f"pool.parallel_size={num_nodes}")
    overrides = (*TINY_RUN, *SETTINGS, *layout, f"data.path={corpus}", f"run.dir={shared}/run")
    script = f"srun --kill-on-bad-exit=1 {LAUNCHERS}/{launcher} {shared}/empty.yaml {' '.join(overrides)}"
    job_id = cluster.submit(script, f"--nodes={num_nodes}", "--ntasks-per-node=1", user=user, cwd=shared)
    cluster.wait(job_id, "COMPLETED", timeout_s=150)
    found = columns(shared / "run")
    for name in COLUMNS:
        np.testing.assert_allclose(found[name], one_process[name], rtol=1e-4, err_msg=name)
