"""A profile: the facts about a cluster that a job needs, in a small YAML file. Nothing of a run is in it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from unipool_dist.base.printable import listed, printable
from unipool_dist.base.project import user_path
from unipool_dist.base.yaml_text import read_yaml
from unipool_dist.config.fields import Flag
from unipool_dist.errors import ConfigError

PROFILE_VARIABLE = "UNIPOOL_DIST_PROFILE"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Container(_Part):
    """The image that the tasks run in. It must have bash and Python with this project's dependencies."""

    runtime: Literal["pyxis", "apptainer"] = Field(
        description="pyxis: srun starts it (--container-image); apptainer: the task is started through `apptainer exec`"
    )
    image: str = Field(description="image, as the runtime names it")
    mounts: list[str] = Field(
        [], description="further host folders, HOST:CONTAINER; those of the run and its data are there"
    )
    python: str = Field("python3", description="interpreter inside the image")


class Profile(_Part):
    """The facts about a cluster; every field has a default, and an empty profile asks only for nodes and GPUs."""

    partition: str | None = Field(None, description="--partition; several, separated by commas, are allowed")
    account: str | None = Field(None, description="--account, who pays")
    qos: str | None = Field(None, description="--qos")
    constraint: str | None = Field(None, description="--constraint, features that the nodes must have")
    reservation: str | None = Field(None, description="--reservation")
    exclusive: Flag = Field(False, description="--exclusive, whole nodes")
    gpu_type: str | None = Field(None, description="type of GPU, as in --gpus-per-node=TYPE:8")
    gpu_option: Literal["gpus-per-node", "gres"] = Field(
        "gpus-per-node", description="how GPUs are asked for; gres: --gres=gpu:8, for old clusters"
    )
    cpus_per_task: Annotated[int, Field(ge=1)] | None = Field(
        None, description="--cpus-per-task, for each process; null: the option is left out, and a process takes 1"
    )
    memory_per_node: str | None = Field(None, description='--mem, e.g. 200G; "0": all; null: the cluster\'s default')
    modules: list[str] = Field([], description="environment modules to load, in this order")
    setup: list[str] = Field([], description="shell lines run on the first node before anything else")
    environment: dict[str, str] = Field({}, description="variables for all tasks, e.g. NCCL_IB_HCA: mlx5")
    network_interface: str | None = Field(
        None,
        description="interface for gloo and NCCL of a job of several nodes (of one: loopback); null: the one on the "
        "route to the first node",
    )
    container: Container | None = Field(None, description="image that the tasks run in; null: none")
    launcher: Literal["srun", "torchrun"] = Field(
        "srun", description="srun: one task per GPU; torchrun: one task per node, which starts the processes"
    )
    warning_s: Annotated[int, Field(ge=0)] = Field(
        180,
        description="seconds before the time limit at which the run saves and is requeued; the limit has to be over a "
        "minute more; 0: no warning",
    )
    sbatch: list[str] = Field([], description="further options of sbatch, one in each item, e.g. --mail-type=END")
    srun: list[str] = Field([], description="further options of srun, e.g. --cpu-bind=cores")


def load_profile(path: Path | None) -> Profile:
    """Read the profile in ``path``, else in the file that UNIPOOL_DIST_PROFILE names, else return an empty one.

    Raises:
        ConfigError: the file is missing, or has unknown or ill-typed fields.
    """
    if path is None and os.environ.get(PROFILE_VARIABLE):
        path = Path(os.environ[PROFILE_VARIABLE])
    if path is None:
        return Profile()
    try:
        values = read_yaml(user_path(path))
    except (OSError, ValueError) as error:
        raise ConfigError(f"profile {printable(path)} cannot be read: {error}; slurm/profiles/ has examples") from None
    return parse_profile(values if values is not None else {}, str(path))


def parse_profile(values: Any, source: str) -> Profile:
    """Check ``values``, which came from ``source``.

    Raises:
        ConfigError: naming every faulty field.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"profile {source} must be a mapping of fields: {', '.join(Profile.model_fields)}")
    try:
        profile = Profile.model_validate(values)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
        raise ConfigError(
            f"profile {printable(source)} is not valid:\n{listed(lines)}\nthe fields: {', '.join(Profile.model_fields)}"
        ) from None
    for option in (*profile.sbatch, *profile.srun):
        if not option.startswith("-"):
            raise ConfigError(f"profile {source}: option {option!r} must begin with --, as on the command line")
    if profile.container is not None and profile.container.image.startswith("-"):
        raise ConfigError(f"profile {source}: container.image={profile.container.image!r} is an option, and no image")
    for name in profile.environment:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ConfigError(f"profile {source}: environment: {name!r} is not a name of a variable")
    return profile
