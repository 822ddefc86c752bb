"""What torchrun and SLURM say, read in one place."""

from __future__ import annotations

from pathlib import Path

import pytest

from unipool_dist.comm.environment import read_environment, signalled_twice
from unipool_dist.errors import TopologyError

MEETING = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29400"}


def test_nothing_said_is_one_process() -> None:
    environment = read_environment({})
    assert (environment.rank, environment.world_size, environment.local_rank) == (0, 1, 0)


def test_torchrun() -> None:
    environment = read_environment({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", **MEETING})
    assert (environment.rank, environment.world_size, environment.local_rank) == (5, 8, 1)
    assert (environment.master_addr, environment.master_port) == ("10.0.0.1", 29400)


def test_slurm_step() -> None:
    environment = read_environment({"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_LOCALID": "1", **MEETING})
    assert (environment.rank, environment.world_size, environment.local_rank) == (3, 4, 1)


@pytest.mark.parametrize(
    "launcher",
    [
        {},
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "2", "SLURM_STEP_ID": "0", **MEETING},
        {"RANK": "0", "WORLD_SIZE": "2", **MEETING},
    ],
)
def test_each_launcher_says_which_start_of_which_job_it_is(launcher: dict[str, str]) -> None:
    environment = read_environment({**launcher, "SLURM_JOB_ID": "17", "SLURM_RESTART_COUNT": "3"})
    assert (environment.job_id, environment.restarts) == ("17", 3)
    environment = read_environment(launcher)
    assert (environment.job_id, environment.restarts) == (None, 0)


def test_a_step_with_fewer_tasks_than_its_job() -> None:
    variables = {"SLURM_PROCID": "1", "SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "2", **MEETING}
    assert read_environment(variables).world_size == 2
    assert read_environment({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "1"}).world_size == 1


def test_an_ipv6_address_may_be_in_brackets() -> None:
    variables = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "[fd00::1]", "MASTER_PORT": "1"}
    assert read_environment(variables).master_addr == "fd00::1"


def test_only_what_slurm_and_an_agent_started_is_signalled_by_both() -> None:
    assert signalled_twice({"SLURM_STEP_ID": "0", "LOCAL_WORLD_SIZE": "2"})
    assert not signalled_twice({"SLURM_STEP_ID": "0"})
    assert not signalled_twice({"LOCAL_WORLD_SIZE": "2"})


def test_torchrun_inside_slurm_counts_as_torchrun() -> None:
    variables = {"SLURM_PROCID": "0", "SLURM_NTASKS": "2", "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", **MEETING}
    assert read_environment(variables).rank == 5


def test_a_batch_script_without_steps_is_one_process() -> None:
    assert read_environment({"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}).world_size == 1


def test_what_this_programs_launcher_says() -> None:
    variables = {"RANK": "1", "WORLD_SIZE": "2", "UNIPOOL_DIST_STORE": "/tmp/x/store-0", **MEETING}
    environment = read_environment({**variables, "TORCHELASTIC_USE_AGENT_STORE": "False"})
    assert (environment.store, environment.launcher_serves) == (Path("/tmp/x/store-0"), False)
    assert read_environment({**variables, "TORCHELASTIC_USE_AGENT_STORE": "True"}).launcher_serves


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {"SLURM_JOB_ID": "17", "SLURM_PROCID": "0", "SLURM_NTASKS": "4", **MEETING},
            "SLURM_NTASKS=4 makes this process wait for others, but srun did not start it",
        ),
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2"}, "SLURM_STEP_NUM_TASKS=2 but MASTER_ADDR"),
        ({"RANK": "8", "WORLD_SIZE": "8", **MEETING}, "RANK=8 is not below WORLD_SIZE=8"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "MASTER_ADDR and MASTER_PORT"),
        ({"RANK": "zero", "WORLD_SIZE": "2", **MEETING}, "RANK='zero' is not a number"),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "many"}, "SLURM_NTASKS='many' is not a number"),
    ],
)
def test_contradictions_are_named(variables: dict[str, str], message: str) -> None:
    with pytest.raises(TopologyError, match=message):
        read_environment(variables)
