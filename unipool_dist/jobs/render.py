"""Make a batch script from a profile and the resources asked for: ``#SBATCH`` options, and the template filled in."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from unipool_dist.base.printable import printable
from unipool_dist.base.programs import shown
from unipool_dist.base.project import project_path
from unipool_dist.errors import ConfigError
from unipool_dist.jobs.folder import JobFolder
from unipool_dist.jobs.limits import time_limit_s
from unipool_dist.jobs.profile import Profile
from unipool_dist.jobs.script_text import Verbatim, as_word, one_option, sbatch_option

_AFTER = "--dependency=afterok:"
_ROOM = ("#SBATCH --nodes=", "#SBATCH --ntasks-per-node=", "#SBATCH --cpus-per-task=")
_NODES = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?")
MAX_NODES = 10_000
TEMPLATE = Path("slurm", "job.sbatch.j2")
"""Of the project."""


@dataclass(frozen=True)
class Resources:
    """The resources asked for, the same for every task of an array."""

    name: str
    nodes: str
    """``4``, or ``2-4``: as many of these as there are."""
    tasks_per_node: int
    gpus_per_node: int
    time: str
    array: str | None = None
    after: str | None = None
    requeue: bool = True

    @property
    def node_range(self) -> tuple[int, int]:
        """The fewest and the most nodes.

        Raises:
            ConfigError: it is neither a number nor a range.
        """
        return node_range(self.nodes)


def node_range(nodes: str) -> tuple[int, int]:
    """Parse ``4`` as (4, 4), ``2-4`` as (2, 4).

    Raises:
        ConfigError: it is neither a number nor a range.
    """
    match = _NODES.fullmatch(nodes)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= first <= last <= MAX_NODES:
        raise ConfigError(
            f"--nodes={printable(nodes)} must be a number of nodes or a range such as 2-4, of {MAX_NODES:,} at most"
        )
    return first, last


def options(folder: JobFolder, resources: Resources, profile: Profile) -> list[Verbatim]:
    """Return the options of sbatch, in the order of the script, and as sbatch reads them there.

    Raises:
        ConfigError: one cannot be written there.
    """
    chosen = [
        f"--job-name={resources.name}",
        f"--nodes={resources.nodes}",
        *_tasks(resources.nodes, resources.tasks_per_node, profile),
        f"--time={resources.time}",
    ]
    if resources.gpus_per_node:
        gpus = f"{profile.gpu_type}:{resources.gpus_per_node}" if profile.gpu_type else f"{resources.gpus_per_node}"
        # Not --gpus-per-task: the GPUs of a node belong to all of its tasks together.
        chosen.append(f"--gpus-per-node={gpus}" if profile.gpu_option == "gpus-per-node" else f"--gres=gpu:{gpus}")
    if profile.memory_per_node is not None:
        chosen.append(f"--mem={profile.memory_per_node}")
    for field in ("partition", "account", "qos", "constraint", "reservation"):
        value = getattr(profile, field)
        if value is not None:
            chosen.append(f"--{field}={value}")
    if profile.exclusive:
        chosen.append("--exclusive")
    if resources.array is not None:
        chosen.append(f"--array={resources.array}")
    if resources.after is not None:
        chosen.append(f"{_AFTER}{resources.after}")
    chosen += warning_option(resources.time, profile.warning_s)
    log = "%A_%a.log" if resources.array is not None else "%j.log"
    chosen += [
        f"--output={folder.files.logs / log}",
        "--open-mode=append",  # a restart appends to the same file
        "--requeue" if resources.requeue else "--no-requeue",
    ]
    further = [Verbatim(" ".join(map(sbatch_option, one_option(text)))) for text in profile.sbatch]
    return [*map(sbatch_option, chosen), *further]


def _tasks(nodes: str, tasks_per_node: int, profile: Profile) -> list[str]:
    """Reserve room for the tasks of a node.

    Given --ntasks-per-node, SLURM makes that a number of tasks for the fewest nodes of a range, and then gives no more
    nodes than there are tasks; so with a range a node is asked for as one task with the processors of all of them.
    """
    fewest, most = node_range(nodes)
    cpus = profile.cpus_per_task
    if fewest == most:
        return [f"--ntasks-per-node={tasks_per_node}", *([f"--cpus-per-task={cpus}"] if cpus else [])]
    return [f"--cpus-per-task={tasks_per_node * (cpus or 1)}"]


def warning_option(limit: str, warning_s: int) -> list[str]:
    """Return the option by which SLURM warns the tasks, not the batch script, before the time limit, if any."""
    return [f"--signal=USR1@{warning_s}"] if warning_s and time_limit_s(limit) is not None else []


def on_nodes(script: str, nodes: str, tasks_per_node: int, profile: Profile) -> str:
    """Return ``script`` for another number of nodes, or range of it."""
    room = [line for line in _lines(script) if not line.startswith(_ROOM)]
    return _with_options(room, [f"--nodes={nodes}", *_tasks(nodes, tasks_per_node, profile)])


def overridden(script: str, options: Sequence[str]) -> str:
    """Replace options of sbatch in ``script`` by those of the same name in ``options``; remove its dependencies.

    A dependency that has failed meanwhile would have it wait for ever.
    """
    names = tuple(f"#SBATCH {option.partition('=')[0]}=" for option in options)
    return _with_options(
        [line for line in _lines(script) if not line.startswith((*names, f"#SBATCH {_AFTER}"))], options
    )


def _lines(script: str) -> list[str]:
    """Split at newlines only: ``splitlines`` also splits at characters that may be in a value."""
    return script.removesuffix("\n").split("\n")


def _with_options(lines: list[str], options: Sequence[str]) -> str:
    end = max((i for i, line in enumerate(lines) if line.startswith("#SBATCH ")), default=0) + 1
    return "\n".join([*lines[:end], *(f"#SBATCH {sbatch_option(option)}" for option in options), *lines[end:]]) + "\n"


def render_script(
    folder: JobFolder,
    resources: Resources,
    profile: Profile,
    *,
    python: str,
    command: Sequence[str],
    template: Path | None = None,
) -> str:
    """Return the text of the batch script. Each value becomes one word of the shell, whatever it contains.

    Args:
        command: what the user typed.

    Raises:
        ConfigError: the template is missing or has an unknown name, or a value cannot be written into a script.
    """
    path = template or project_path(TEMPLATE)
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, finalize=as_word)
    environment.filters["quote"] = lambda value: Verbatim(as_word(value))
    try:
        return environment.from_string(path.read_text(encoding="utf-8")).render(
            run_dir=str(folder.run_dir),
            options=options(folder, resources, profile),
            modules=profile.modules,
            setup=[Verbatim(line) for line in profile.setup],
            environment=profile.environment,
            python=python,
            command=Verbatim(shown(command)),
        )
    except FileNotFoundError:
        raise ConfigError(f"no template at {path}; give another with --template") from None
    except jinja2.TemplateError as error:
        raise ConfigError(f"template {path} cannot be used: {error}") from None
