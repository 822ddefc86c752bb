"""What a launcher told this process: the only reader of torchrun's and SLURM's environment variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from unipool_dist.errors import TopologyError


@dataclass(frozen=True)
class Environment:
    """This process among all of them, and where they meet."""

    rank: int
    world_size: int
    local_rank: int
    master_addr: str
    master_port: int

    @property
    def device(self) -> torch.device:
        """This process's device: its own GPU where there is one, else the CPU."""
        if not torch.cuda.is_available():
            return torch.device("cpu")
        # A launcher may show each process its own GPU only, which is then number 0 for all of them.
        return torch.device("cuda", self.local_rank % torch.cuda.device_count())

    @property
    def backend(self) -> str:
        return "nccl" if torch.cuda.is_available() else "gloo"


def read_environment(variables: Mapping[str, str] | None = None) -> Environment:
    """Read torchrun's variables, else those of a SLURM step, else describe a single process.

    Raises:
        TopologyError: the variables are there but contradict each other or lack the meeting point.
    """
    env = os.environ if variables is None else variables
    if "RANK" in env and "WORLD_SIZE" in env:
        rank, world_size, local_rank = _int(env, "RANK"), _int(env, "WORLD_SIZE"), _int(env, "LOCAL_RANK", "0")
    elif "SLURM_PROCID" in env and _int(env, "SLURM_NTASKS", "1") > 1:
        rank, world_size = _int(env, "SLURM_PROCID"), _int(env, "SLURM_NTASKS")
        local_rank = _int(env, "SLURM_LOCALID", "0")
    else:
        return Environment(0, 1, 0, "127.0.0.1", 0)
    if not 0 <= rank < world_size:
        raise TopologyError(f"RANK={rank} is not below WORLD_SIZE={world_size}; start the run with torchrun or srun")
    if world_size > 1 and ("MASTER_ADDR" not in env or "MASTER_PORT" not in env):
        raise TopologyError(
            f"WORLD_SIZE={world_size} but MASTER_ADDR and MASTER_PORT do not say where the processes meet; set both to "
            f"the first node's address and a free port, or use torchrun"
        )
    return Environment(rank, world_size, local_rank, env.get("MASTER_ADDR", "127.0.0.1"), _int(env, "MASTER_PORT", "0"))


def _int(env: Mapping[str, str], name: str, default: str | None = None) -> int:
    text = env.get(name, default)
    try:
        return int(text)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise TopologyError(
            f"environment variable {name}={text!r} is not a number; unset it or set it to one"
        ) from None
