"""The srun command, and where the tasks meet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from unipool_dist.base.credentials import KEY
from unipool_dist.config import load_config
from unipool_dist.jobs.folder import Job, JobFolder
from unipool_dist.jobs.profile import Profile
from unipool_dist.jobs.task_layout import choose_layout
from unipool_dist.jobs.tasks import doctor_command, task_environment, train_command


def folder_with(tmp_path: Path, **profile: Any) -> JobFolder:
    folder = JobFolder(tmp_path / "run")
    folder.path.mkdir(parents=True)
    values = Profile(**profile).model_dump(mode="json")
    folder.write(Job("tiny", 2, 2, "python", False, True, values, "submit", "/", {}, None))
    return folder


LAYOUT = choose_layout(
    load_config(None, ("train.global_batch_size=12", "train.micro_batch_size=1", "data.path=/corpus")), ["a", "b"], 2
)


def test_one_task_per_process(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, cpus_per_task=3, srun=["--cpu-bind=cores"])
    command = train_command(folder, folder.run_dir, LAYOUT)
    assert command[0] == "srun" and "--kill-on-bad-exit=1" in command
    assert {"--nodes=2", "--nodelist=a,b", "--ntasks=4", "--ntasks-per-node=2", "--cpus-per-task=3"} <= set(command)
    launcher = str(folder.files.launchers / "srun.sh")
    assert command[-4:] == ["--cpu-bind=cores", launcher, str(folder.run_dir / "job/config.yaml"), "--resume"]
    command = doctor_command(folder, folder.run_dir, LAYOUT)
    assert command[-6:] == [
        launcher, "doctor", str(folder.run_dir / "job/config.yaml"),
        "--timeout=600", "--time-limit=720", f"--status-file={folder.run_dir}/job/doctor.status",
    ], "it is as patient with a slow start of the tasks as the run is"  # fmt: skip


def test_one_torchrun_per_node(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, launcher="torchrun", cpus_per_task=3)
    command = train_command(folder, folder.run_dir, LAYOUT)
    assert {"--ntasks=2", "--ntasks-per-node=1", "--cpus-per-task=6"} <= set(command)
    assert command[-5:-2] == [str(folder.files.launchers / "torchrun.sh"), "--nproc", "2"]


def test_every_torchrun_starts_as_many_as_the_layout_has_where_nodes_are_not_full(tmp_path: Path) -> None:
    config = load_config(None, ("parallel.pp=3", "model.num_layers=6", "pool.num_experts=12", "data.path=/corpus"))
    layout = choose_layout(config, ["a", "b"], 4, whole_nodes=True)
    assert (layout.num_tasks, layout.nodes) == (6, ("a", "b"))
    folder = folder_with(tmp_path, launcher="torchrun", cpus_per_task=3)
    command = train_command(folder, folder.run_dir, layout)
    assert {"--nodes=2", "--ntasks=2", "--cpus-per-task=9"} <= set(command)
    assert command[command.index("--nproc") + 1] == "3"


@pytest.mark.parametrize("runtime", ["pyxis", "apptainer"])
def test_a_container_sees_the_run_and_its_data_and_runs_the_frozen_code(tmp_path: Path, runtime: str) -> None:
    folder = folder_with(tmp_path, container={"runtime": runtime, "image": "torch.sif", "mounts": ["/x:/y"]})
    command = " ".join(train_command(folder, folder.run_dir, LAYOUT))
    run_dir = folder.run_dir
    if runtime == "pyxis":
        assert (
            f"--container-image=torch.sif --container-mounts={run_dir}:{run_dir},/corpus:/corpus,/x:/y bash" in command
        )
    else:
        binds = f"--bind={run_dir}:{run_dir} --bind=/corpus:/corpus --bind=/x:/y"
        assert f"apptainer exec --nv {binds} torch.sif bash" in command
    assert f"PATH={run_dir}/job/bin:$PATH exec {run_dir}/job/launchers/srun.sh" in command


def test_tasks_meet_on_the_first_node_and_inherit_the_environment() -> None:
    profile = Profile(network_interface="ib0")
    variables = task_environment({"HOME": "/h", "SLURM_EXPORT_ENV": "NONE"}, profile, LAYOUT, "12345")
    assert variables["MASTER_ADDR"] == "a" and variables["MASTER_PORT"] == "12345" and variables["HOME"] == "/h"
    assert variables["SLURM_EXPORT_ENV"] == "ALL", "or nothing of this would reach the tasks"
    assert (variables["GLOO_SOCKET_IFNAME"], variables["NCCL_SOCKET_IFNAME"]) == ("ib0", "=ib0")
    assert "GLOO_SOCKET_IFNAME" not in task_environment({}, Profile(), LAYOUT, "12345")


def test_every_start_has_a_key_of_its_own() -> None:
    one, other = (task_environment({KEY: "old"}, Profile(), LAYOUT, "12345")[KEY] for _ in range(2))
    assert len({"old", one, other}) == 3


def test_tasks_of_one_node_stay_on_loopback() -> None:
    config = load_config(None, ("train.global_batch_size=12", "train.micro_batch_size=1", "data.path=/corpus"))
    variables = task_environment({}, Profile(network_interface="ib0"), choose_layout(config, ["a"], 2), "12345")
    assert variables["MASTER_ADDR"] == "127.0.0.1" and "GLOO_SOCKET_IFNAME" not in variables
