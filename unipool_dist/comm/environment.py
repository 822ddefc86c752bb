"""The launcher's environment: the only reader of torchrun's and SLURM's environment variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from unipool_dist.errors import TopologyError

if TYPE_CHECKING:
    import torch

STORE = "UNIPOOL_DIST_STORE"
"""Variable by which this program's launcher passes the file in which processes of one machine meet."""


@dataclass(frozen=True)
class Environment:
    """The place of this process among all of them, and where they meet."""

    rank: int
    world_size: int
    local_rank: int
    master_addr: str
    master_port: int
    restarts: int = 0
    """How often SLURM has restarted this job."""
    job_id: str | None = None
    """SLURM's number of the job; ``None``: none is known."""
    store: Path | None = None
    """The file that all processes meet in, where all are on this machine; ``None``: they meet at ``master_addr``."""
    launcher_serves: bool = False
    """Whether a launcher serves the store at ``master_addr``; else rank 0 does."""
    counted_by: str = field(default="WORLD_SIZE", compare=False)
    """The variable that says how many processes there are."""

    @property
    def device(self) -> torch.device:
        """This process's device: its own GPU where there is one, else the CPU."""
        import torch

        if not torch.cuda.is_available():
            return torch.device("cpu")
        # A launcher may show each process its own GPU only, which is then number 0 for all of them.
        return torch.device("cuda", self.local_rank % torch.cuda.device_count())

    @property
    def backend(self) -> str:
        import torch

        return "nccl" if torch.cuda.is_available() else "gloo"


def read_environment(variables: Mapping[str, str] | None = None) -> Environment:
    """Read torchrun's variables, else those of a SLURM step, else describe a single process.

    Raises:
        TopologyError: the variables contradict each other, lack the meeting point, or describe tasks though this
            process
            was not started by srun.
    """
    env = os.environ if variables is None else variables
    counted_by = "WORLD_SIZE"
    if "RANK" in env and "WORLD_SIZE" in env:
        rank, world_size, local_rank = _int(env, "RANK"), _int(env, "WORLD_SIZE"), _int(env, "LOCAL_RANK", "0")
    elif "SLURM_PROCID" in env and _slurm_tasks(env) > 1:
        _check_started_by_srun(env)
        counted_by = _tasks_variable(env)
        rank, world_size = _int(env, "SLURM_PROCID"), _slurm_tasks(env)
        local_rank = _int(env, "SLURM_LOCALID", "0")
    else:
        return Environment(0, 1, 0, "127.0.0.1", 0, _int(env, "SLURM_RESTART_COUNT", "0"), env.get("SLURM_JOB_ID"))
    if not 0 <= rank < world_size:
        raise TopologyError(f"RANK={rank} is not below WORLD_SIZE={world_size}; start the run with torchrun or srun")
    if world_size > 1 and ("MASTER_ADDR" not in env or "MASTER_PORT" not in env):
        raise TopologyError(
            f"{counted_by}={world_size} but MASTER_ADDR and MASTER_PORT do not say where the processes meet; set both "
            f"to the first node's address and a free port, or use torchrun"
        )
    master_addr = env.get("MASTER_ADDR", "127.0.0.1")
    if master_addr.startswith("[") and master_addr.endswith("]"):  # an IPv6 address as it is written before a port
        master_addr = master_addr[1:-1]
    port, restarts = _int(env, "MASTER_PORT", "0"), _int(env, "SLURM_RESTART_COUNT", "0")
    return Environment(
        rank,
        world_size,
        local_rank,
        master_addr,
        port,
        restarts,
        env.get("SLURM_JOB_ID"),
        store=Path(env[STORE]) if env.get(STORE) else None,
        launcher_serves=env.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
        counted_by=counted_by,
    )


def signalled_twice(variables: Mapping[str, str] | None = None) -> bool:
    """Return whether one signal may reach this process twice: from SLURM and from its launcher, which got it too.

    SLURM signals every process of a step; in a step with one torchrun per node some of those are launchers.
    """
    env = os.environ if variables is None else variables
    return "SLURM_STEP_ID" in env and "LOCAL_WORLD_SIZE" in env


def _slurm_tasks(env: Mapping[str, str]) -> int:
    """Return the number of tasks of this step, which may be fewer than those of the allocation."""
    return _int(env, _tasks_variable(env), "1")


def _tasks_variable(env: Mapping[str, str]) -> str:
    return "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in env else "SLURM_NTASKS"


def _check_started_by_srun(env: Mapping[str, str]) -> None:
    """Refuse a batch script: it has SLURM_NTASKS of its job but is one process; the others would never come."""
    if "SLURM_JOB_ID" in env and "SLURM_STEP_ID" not in env and "SLURM_STEP_NUM_TASKS" not in env:
        raise TopologyError(
            f"SLURM_NTASKS={env['SLURM_NTASKS']} makes this process wait for others, but srun did not start it "
            f"(SLURM_STEP_ID is not set), so they would never come; start it with srun, or with --nproc N on this "
            f"machine, or unset SLURM_NTASKS for a run of one process"
        )


def _int(env: Mapping[str, str], name: str, default: str | None = None) -> int:
    text = env.get(name, default)
    try:
        return int(text)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise TopologyError(
            f"environment variable {name}={text!r} is not a number; unset it or set it to one"
        ) from None
