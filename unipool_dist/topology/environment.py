"""What a launcher told this process: the only reader of torchrun's and SLURM's environment variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unipool_dist.errors import TopologyError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Environment:
    """This process among all of them, and where they meet."""

    rank: int
    world_size: int
    local_rank: int
    master_addr: str
    master_port: int
    restarts: int = 0
    """How often SLURM has started this job anew."""
    job_id: str | None = None
    """SLURM's number of the job; ``None``: none is known."""

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
        TopologyError: the variables are there but contradict each other or lack the meeting point.
    """
    env = os.environ if variables is None else variables
    if "RANK" in env and "WORLD_SIZE" in env:
        rank, world_size, local_rank = _int(env, "RANK"), _int(env, "WORLD_SIZE"), _int(env, "LOCAL_RANK", "0")
    elif "SLURM_PROCID" in env and _slurm_tasks(env) > 1:
        rank, world_size = _int(env, "SLURM_PROCID"), _slurm_tasks(env)
        local_rank = _int(env, "SLURM_LOCALID", "0")
    else:
        return Environment(0, 1, 0, "127.0.0.1", 0, _int(env, "SLURM_RESTART_COUNT", "0"), env.get("SLURM_JOB_ID"))
    if not 0 <= rank < world_size:
        raise TopologyError(f"RANK={rank} is not below WORLD_SIZE={world_size}; start the run with torchrun or srun")
    if world_size > 1 and ("MASTER_ADDR" not in env or "MASTER_PORT" not in env):
        raise TopologyError(
            f"WORLD_SIZE={world_size} but MASTER_ADDR and MASTER_PORT do not say where the processes meet; set both to "
            f"the first node's address and a free port, or use torchrun"
        )
    master_addr = env.get("MASTER_ADDR", "127.0.0.1")
    if master_addr.startswith("[") and master_addr.endswith("]"):  # an IPv6 address as it is written before a port
        master_addr = master_addr[1:-1]
    port, restarts = _int(env, "MASTER_PORT", "0"), _int(env, "SLURM_RESTART_COUNT", "0")
    return Environment(rank, world_size, local_rank, master_addr, port, restarts, env.get("SLURM_JOB_ID"))


def signalled_twice(variables: Mapping[str, str] | None = None) -> bool:
    """Whether one signal may come to this process twice: from SLURM, and passed on by its launcher, which got it too.

    SLURM signals every process of a step; in a step with one torchrun per node some of those are launchers.
    """
    env = os.environ if variables is None else variables
    return "SLURM_STEP_ID" in env and "LOCAL_WORLD_SIZE" in env


def _slurm_tasks(env: Mapping[str, str]) -> int:
    """The tasks of this step, which may be fewer than those of the allocation."""
    return _int(env, "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in env else "SLURM_NTASKS", "1")


def _int(env: Mapping[str, str], name: str, default: str | None = None) -> int:
    text = env.get(name, default)
    try:
        return int(text)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise TopologyError(
            f"environment variable {name}={text!r} is not a number; unset it or set it to one"
        ) from None
