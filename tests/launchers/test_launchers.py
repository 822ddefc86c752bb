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

from unipool_dist.comm.environment import Environment, read_environment

ROOT = Path(__file__).parents[2]
LAUNCHERS = ROOT / "launchers"
CONFIG = "configs/small.yaml"

RECORD = """#!{python}
import json, os, sys
print(json.dumps({{"arguments": sys.argv[1:], "environment": dict(os.environ)}}))
"""
TRAINER = ["-m", "unipool_dist", "train", CONFIG]
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
TASK_ALONE = {"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_JOB_ID": "1", "MASTER_ADDR": "n07"}
TASK = {**JOB, "SLURM_NTASKS": "6", "SLURM_PROCID": "5", "SLURM_LOCALID": "1"}


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A directory of stand-ins, to be the front of PATH."""
    directory = tmp_path / "bin"
    directory.mkdir()
    record = RECORD.format(python=sys.executable)
    for name, text in {"unipool-dist": record, "scontrol": SCONTROL, "srun": SRUN}.items():
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
        timeout=120,
        check=False,
    )


def seen(result: subprocess.CompletedProcess[str]) -> tuple[list[str], dict[str, str]]:
    assert result.returncode == 0, result.stderr
    record = json.loads(result.stdout)
    return record["arguments"], record["environment"]


def test_srun_tells_each_task_its_rank_and_the_first_node(programs: Path) -> None:
    arguments, environment = seen(launch(programs, LAUNCHERS / "srun.sh", CONFIG, "train.steps=3", variables=TASK))
    assert arguments == ["train", CONFIG, "train.steps=3"]
    assert read_environment(environment) == Environment(5, 6, 1, "n07", int(environment["MASTER_PORT"]), 0, "4711")
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
    assert read_environment(environment) == Environment(5, 6, 1, "10.0.0.1", 1234, 0, "4711")


def test_local_starts_one_process_per_gpu_or_as_many_as_told(programs: Path) -> None:
    (programs / "nvidia-smi").write_text("#!/bin/sh\nprintf 'GPU 0: A\\nGPU 1: A\\n'\n")
    (programs / "nvidia-smi").chmod(0o755)
    arguments, _ = seen(launch(programs, LAUNCHERS / "local.sh", CONFIG, "train.steps=3"))
    assert arguments == ["train", CONFIG, "train.steps=3", "--nproc", "2"]
    arguments, _ = seen(launch(programs, LAUNCHERS / "local.sh", "--nproc", "4", CONFIG))
    assert arguments == ["train", CONFIG, "--nproc", "4"]
    (programs / "nvidia-smi").write_text("#!/bin/sh\necho 'no devices were found'\nexit 6\n")
    assert seen(launch(programs, LAUNCHERS / "local.sh", CONFIG))[0][-2:] == ["--nproc", "1"]


def test_a_step_smaller_than_its_job_counts(programs: Path) -> None:
    step = {"SLURM_NTASKS": "64", "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", "SLURM_STEP_NODELIST": "n08,n09"}
    _, environment = seen(launch(programs, LAUNCHERS / "srun.sh", CONFIG, variables={**TASK, **step}))
    assert read_environment(environment) == Environment(1, 2, 1, "n08", int(environment["MASTER_PORT"]), 0, "4711")
    variables = {**JOB, "SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_NODELIST": "n08,n09", "SLURM_NODEID": "1"}
    arguments, _ = seen(launch(programs, LAUNCHERS / "torchrun.sh", "--nproc", "1", CONFIG, variables=variables))
    assert "--nnodes 2 --node-rank 1 --master-addr n08 " in " ".join(arguments)


@pytest.mark.parametrize(
    ("variables", "threads"),
    [
        ({}, "1"),
        ({"SLURM_CPUS_PER_TASK": "96"}, "12"),
        ({"SLURM_CPUS_PER_TASK": "4"}, "1"),
        ({"SLURM_CPUS_PER_TASK": "96", "OMP_NUM_THREADS": "5"}, "5"),
    ],
)
def test_the_processes_of_a_task_share_its_cores(programs: Path, variables: dict[str, str], threads: str) -> None:
    variables = {**TASK_ALONE, **variables}
    for launcher in ("torchrun.sh", "local.sh"):
        _, environment = seen(launch(programs, LAUNCHERS / launcher, "--nproc", "8", CONFIG, variables=variables))
        assert environment["OMP_NUM_THREADS"] == threads


def test_torchrun_alone_takes_a_free_port(programs: Path) -> None:
    arguments, _ = seen(launch(programs, LAUNCHERS / "torchrun.sh", "--nproc", "2", CONFIG, "train.steps=3"))
    assert arguments == ["torchrun", "--nproc-per-node", "2", "--standalone", *TRAINER, "train.steps=3"]


@pytest.mark.parametrize(
    ("master", "address"),
    [
        ("node0", "node0 --master-port 29500"),
        ("node0:1234", "node0 --master-port 1234"),
        ("10.0.0.1:1234", "10.0.0.1 --master-port 1234"),
        ("fd00::1", "fd00::1 --master-port 29500"),
        ("[fd00::1]", "fd00::1 --master-port 29500"),
        ("[fd00::1]:1234", "fd00::1 --master-port 1234"),
    ],
)
def test_torchrun_on_nodes_from_options(programs: Path, master: str, address: str) -> None:
    options = ("--nproc", "8", "--nodes", "2", "--node-rank", "1", "--master", master)
    arguments, _ = seen(launch(programs, LAUNCHERS / "torchrun.sh", *options, CONFIG))
    expected = f"torchrun --nproc-per-node 8 --nnodes 2 --node-rank 1 --master-addr {address} --rdzv-conf timeout=300"
    assert " ".join(arguments) == " ".join((expected, *TRAINER))


def test_torchrun_on_nodes_from_slurm(programs: Path) -> None:
    variables = {**JOB, "SLURM_NODEID": "2", "SLURM_GPUS_ON_NODE": "8"}
    arguments, _ = seen(launch(programs, LAUNCHERS / "torchrun.sh", CONFIG, variables=variables))
    assert "--nproc-per-node 8 --nnodes 3 --node-rank 2 --master-addr n07 --master-port " in " ".join(arguments)
    chosen = {"MASTER_ADDR": "n09", "MASTER_PORT": "1234"}
    arguments, _ = seen(launch(programs, LAUNCHERS / "torchrun.sh", CONFIG, variables={**variables, **chosen}))
    assert "--master-addr n09 --master-port 1234 " in " ".join(arguments)


def test_all_launchers_start_the_doctor_too(programs: Path) -> None:
    arguments, environment = seen(launch(programs, LAUNCHERS / "srun.sh", "doctor", CONFIG, "--brief", variables=TASK))
    assert arguments == ["doctor", CONFIG, "--brief"] and read_environment(environment).rank == 5
    assert seen(launch(programs, LAUNCHERS / "srun.sh", "doctor", variables=TASK))[0] == ["doctor"]
    assert seen(launch(programs, LAUNCHERS / "local.sh", "--nproc", "2", "doctor"))[0] == ["doctor", "--nproc", "2"]
    arguments, _ = seen(launch(programs, LAUNCHERS / "torchrun.sh", "--nproc", "2", "doctor", CONFIG))
    assert arguments[-4:] == ["-m", "unipool_dist", "doctor", CONFIG]
    assert seen(launch(programs, LAUNCHERS / "srun.sh", "train", CONFIG, variables=TASK))[0] == ["train", CONFIG]


def test_resume_reaches_the_trainer(programs: Path) -> None:
    for launcher in ("local.sh", "srun.sh", "torchrun.sh"):
        options = () if launcher == "srun.sh" else ("--nproc", "2")
        arguments, _ = seen(launch(programs, LAUNCHERS / launcher, *options, CONFIG, "--resume", variables=TASK_ALONE))
        assert arguments[arguments.index(CONFIG) :][:2] == [CONFIG, "--resume"]


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
        ("srun.sh", (CONFIG,), {**TASK, "SLURM_JOB_NODELIST": "n[??]"}, "cannot expand the nodes n[??]"),
        ("torchrun.sh", (CONFIG,), {}, "--nproc= must be the number"),
        ("torchrun.sh", ("--nproc", "2", "--nodes", "2", "--node-rank", "2", CONFIG), {}, "must be from 0 to 1"),
        ("torchrun.sh", ("--nproc", "2", "--nodes", "2", "--node-rank", "1", CONFIG), {}, "give the address of node 0"),
        ("torchrun.sh", ("--gpus", "2", CONFIG), {}, "unknown option --gpus"),
        (
            "torchrun.sh",
            ("--nproc", "2", "--nodes", "2", "--node-rank", "1", "--master", "a:b", CONFIG),
            {},
            "a:b is no",
        ),
        ("torchrun.sh", ("--nproc", "2", "--timeout", "soon", CONFIG), {}, "--timeout=soon must be a number"),
        ("srun.sh", ("train",), TASK, "usage: srun "),
    ],
)
def test_wrong_use_is_explained(
    programs: Path, launcher: str, arguments: tuple[str, ...], variables: dict[str, str], message: str
) -> None:
    result = launch(programs, LAUNCHERS / launcher, *arguments, variables=variables)
    assert result.returncode == 2
    assert message in result.stderr
    assert not result.stdout


@pytest.mark.parametrize("launcher", ["local.sh", "torchrun.sh", "srun.sh", "free_port.sh"])
def test_help_is_the_head_of_the_file(programs: Path, launcher: str) -> None:
    result = launch(programs, LAUNCHERS / launcher, "--help")
    assert result.returncode == 0
    assert f"launchers/{launcher}" in result.stdout
    assert "set -euo" not in result.stdout


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_scripts_are_clean() -> None:
    scripts = sorted(LAUNCHERS.glob("*.sh"))
    subprocess.run(["shellcheck", "--external-sources", *scripts], check=True, timeout=60)
