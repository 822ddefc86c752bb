"""The launchers: what reaches the trainer, and what they say when used wrongly. Programs they start are stand-ins."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from unipool_dist.topology.environment import Environment, read_environment

ROOT = Path(__file__).parents[2]
LAUNCHERS = ROOT / "launchers"
CONFIG = "configs/small.yaml"

RECORD = """#!{python}
import json, os, sys
print(json.dumps({{"arguments": sys.argv[1:], "environment": dict(os.environ)}}))
"""
SCONTROL = """#!/bin/sh
test "$*" = "show hostnames n[07-09]" || exit 1
printf 'n07\\nn08\\nn09\\n'
"""
SRUN = """#!/bin/sh
while case $1 in --*) true ;; *) false ;; esac; do shift; done
SLURM_NTASKS=4 SLURM_PROCID=3 SLURM_LOCALID=1 SLURM_STEP_ID=0 SLURM_STEP_NODELIST='n[07-09]' exec "$@"
"""
JOB = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "n[07-09]", "SLURM_JOB_NUM_NODES": "3"}
NO_VARIABLES: Mapping[str, str] = {}
TASK = {**JOB, "SLURM_NTASKS": "6", "SLURM_PROCID": "5", "SLURM_LOCALID": "1"}


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A directory of stand-ins, to be the front of PATH."""
    directory = tmp_path / "bin"
    directory.mkdir()
    record = RECORD.format(python=sys.executable)
    for name, text in {"unipool-dist": record, "torchrun": record, "scontrol": SCONTROL, "srun": SRUN}.items():
        (directory / name).write_text(text)
        (directory / name).chmod(0o755)
    return directory


def launch(
    programs: Path, program: Path, *arguments: str, variables: Mapping[str, str] = NO_VARIABLES, cwd: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    clean = {"PATH": f"{programs}:/usr/bin:/bin", "HOME": os.environ.get("HOME", "/")}
    return subprocess.run(
        [program, *arguments],
        cwd=cwd,
        env={**clean, **variables},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def seen(result: subprocess.CompletedProcess[str]) -> tuple[list[str], dict[str, str]]:
    assert result.returncode == 0, result.stderr
    record = json.loads(result.stdout)
    return record["arguments"], record["environment"]


def test_srun_tells_each_task_its_rank_and_the_first_node(programs: Path) -> None:
    arguments, environment = seen(launch(programs, LAUNCHERS / "srun.sh", CONFIG, "train.steps=3", variables=TASK))
    assert arguments == ["train", CONFIG, "train.steps=3"]
    assert read_environment(environment) == Environment(5, 6, 1, "n07", int(environment["MASTER_PORT"]))
    assert environment["OMP_NUM_THREADS"] == "1"


def test_srun_port_depends_on_job_and_step_alone(programs: Path) -> None:
    def port(**variables: str) -> int:
        return int(
            seen(launch(programs, LAUNCHERS / "srun.sh", CONFIG, variables={**TASK, **variables}))[1]["MASTER_PORT"]
        )

    assert port() == port(SLURM_PROCID="0", SLURM_LOCALID="0")
    assert len({port(), port(SLURM_JOB_ID="4712"), port(SLURM_STEP_ID="1")}) == 3
    assert 1024 < port(SLURM_JOB_ID="4294967295", SLURM_STEP_ID="4294967290") < 32768


def test_srun_keeps_a_chosen_meeting_point(programs: Path) -> None:
    chosen = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "1234"}
    _, environment = seen(launch(programs, LAUNCHERS / "srun.sh", CONFIG, variables={**TASK, **chosen}))
    assert read_environment(environment) == Environment(5, 6, 1, "10.0.0.1", 1234)


def test_local_starts_one_process_per_gpu_or_as_many_as_told(programs: Path) -> None:
    (programs / "nvidia-smi").write_text("#!/bin/sh\nprintf 'GPU 0: A\\nGPU 1: A\\n'\n")
    (programs / "nvidia-smi").chmod(0o755)
    arguments, _ = seen(launch(programs, LAUNCHERS / "local.sh", CONFIG, "train.steps=3"))
    assert arguments == ["train", CONFIG, "train.steps=3", "--nproc", "2"]
    arguments, _ = seen(launch(programs, LAUNCHERS / "local.sh", "--nproc", "4", CONFIG))
    assert arguments == ["train", CONFIG, "--nproc", "4"]
    (programs / "nvidia-smi").write_text("#!/bin/sh\necho 'no devices were found'\nexit 6\n")
    assert seen(launch(programs, LAUNCHERS / "local.sh", CONFIG))[0][-2:] == ["--nproc", "1"]


def test_torchrun_alone_takes_a_free_port(programs: Path) -> None:
    arguments, _ = seen(launch(programs, LAUNCHERS / "torchrun.sh", "--nproc", "2", CONFIG, "train.steps=3"))
    trainer = ["--no-python", "unipool-dist", "train", CONFIG, "train.steps=3"]
    assert arguments == ["--standalone", "--nproc-per-node", "2", *trainer]


def test_torchrun_on_nodes_from_options(programs: Path) -> None:
    options = ("--nproc", "8", "--nodes", "2", "--node-rank", "1", "--master", "node0")
    arguments, _ = seen(launch(programs, LAUNCHERS / "torchrun.sh", *options, CONFIG))
    assert " ".join(arguments).startswith("--nnodes 2 --node-rank 1 --master-addr node0 --master-port 29500 ")
    arguments, _ = seen(launch(programs, LAUNCHERS / "torchrun.sh", *options[:-1], "node0:1234", CONFIG))
    assert " ".join(arguments).startswith("--nnodes 2 --node-rank 1 --master-addr node0 --master-port 1234 ")


def test_torchrun_on_nodes_from_slurm(programs: Path) -> None:
    variables = {**JOB, "SLURM_NODEID": "2", "SLURM_GPUS_ON_NODE": "8"}
    arguments, _ = seen(launch(programs, LAUNCHERS / "torchrun.sh", CONFIG, variables=variables))
    assert " ".join(arguments).startswith("--nnodes 3 --node-rank 2 --master-addr n07 --master-port ")
    assert "--nproc-per-node 8" in " ".join(arguments)


def test_sbatch_script_gives_each_job_a_run_directory(programs: Path) -> None:
    script = ROOT / "slurm" / "train.sbatch"
    variables = {**JOB, "SLURM_SUBMIT_DIR": str(ROOT), "SLURM_JOB_NAME": "unipool", "SLURM_CPUS_PER_TASK": "8"}
    arguments, environment = seen(
        launch(programs, Path("/bin/bash"), str(script), CONFIG, "train.steps=3", variables=variables, cwd=Path("/"))
    )
    assert arguments == ["train", CONFIG, "run.dir=runs/unipool-4711", "train.steps=3"]
    assert read_environment(environment).rank == 3
    assert environment["OMP_NUM_THREADS"] == "8"


@pytest.mark.parametrize(
    ("launcher", "arguments", "variables", "message"),
    [
        ("local.sh", (), {}, "usage: launchers/local.sh"),
        ("torchrun.sh", (), {}, "usage: launchers/torchrun.sh"),
        ("srun.sh", (), TASK, "usage: srun "),
        ("local.sh", ("--nproc", "many", CONFIG), {}, "--nproc=many must be the number"),
        ("local.sh", ("configs/none.yaml",), {}, "no configuration at configs/none.yaml"),
        ("local.sh", (CONFIG, "--nproc", "2"), {}, "--nproc must come before CONFIG"),
        ("srun.sh", (CONFIG,), {}, "SLURM_PROCID is not set"),
        ("srun.sh", (CONFIG,), {**TASK, "SLURM_JOB_NODELIST": "???"}, "cannot expand the nodes ???"),
        ("torchrun.sh", (CONFIG,), {}, "--nproc= must be the number"),
        ("torchrun.sh", ("--nproc", "2", "--nodes", "2", "--node-rank", "2", CONFIG), {}, "must be from 0 to 1"),
        ("torchrun.sh", ("--nproc", "2", "--nodes", "2", "--node-rank", "1", CONFIG), {}, "give the address of node 0"),
        ("torchrun.sh", ("--gpus", "2", CONFIG), {}, "unknown option --gpus"),
    ],
)
def test_wrong_use_is_explained(
    programs: Path, launcher: str, arguments: tuple[str, ...], variables: dict[str, str], message: str
) -> None:
    result = launch(programs, LAUNCHERS / launcher, *arguments, variables=variables)
    assert result.returncode == 2
    assert message in result.stderr
    assert not result.stdout


@pytest.mark.parametrize("launcher", ["local.sh", "torchrun.sh", "srun.sh"])
def test_help_is_the_head_of_the_file(programs: Path, launcher: str) -> None:
    result = launch(programs, LAUNCHERS / launcher, "--help")
    assert result.returncode == 0
    assert f"launchers/{launcher}" in result.stdout
    assert "set -euo" not in result.stdout


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_scripts_are_clean() -> None:
    scripts = [*sorted(LAUNCHERS.glob("*.sh")), ROOT / "slurm" / "train.sbatch"]
    subprocess.run(["shellcheck", "--external-sources", *scripts], check=True, timeout=60)
