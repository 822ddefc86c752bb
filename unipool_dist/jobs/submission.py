"""Make a run's folder and hand its script to SLURM."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from unipool_dist.base.belongings import ForeignError, foreign, refuse, remove, remove_if_empty
from unipool_dist.base.credentials import without_credentials
from unipool_dist.base.machine import current_versions
from unipool_dist.base.printable import printable
from unipool_dist.base.programs import shown
from unipool_dist.base.run_directory import RunDirectory
from unipool_dist.base.system_errors import at
from unipool_dist.checkpoint.directory import CheckpointDirectory
from unipool_dist.config import Config, load_config
from unipool_dist.config.staging import corpus_paths
from unipool_dist.errors import ConfigError, UnipoolError
from unipool_dist.jobs import slurm
from unipool_dist.jobs.folder import Job, JobFolder
from unipool_dist.jobs.freeze import freeze_code, freeze_config, freeze_environment, freeze_user_code
from unipool_dist.jobs.limits import check_time_limit
from unipool_dist.jobs.profile import Profile
from unipool_dist.jobs.render import Resources, render_script
from unipool_dist.jobs.sweep import check_distinct, combinations, folder_name
from unipool_dist.jobs.task_layout import choose_layout
from unipool_dist.run.own_files import JOB_FOLDER


@dataclass(frozen=True)
class Request:
    """The options of a submission, the same for all of its runs."""

    resources: Resources
    profile: Profile
    doctor: bool = False
    template: Path | None = None


@dataclass(frozen=True)
class Prepared:
    """Runs that could be submitted; nothing is written yet."""

    folder: JobFolder
    configs: dict[str, Config]
    """By run directory, relative to the folder's; freezing sets ``run.dir``."""
    resources: Resources
    notes: list[str]


def prepare(
    request: Request,
    config_path: Path,
    overrides: Sequence[str] = (),
    sweeps: Sequence[str] = (),
    *,
    max_parallel: int | None = None,
) -> Prepared:
    """Check everything that can be checked before a node is allocated, for one run or a sweep.

    Raises:
        UnipoolError: the configuration is wrong, no number of nodes asked for fits it, the time limit leaves no time to
            train, or the run directory is taken.
    """
    runs = combinations(sweeps)
    names = ["."] if not sweeps else [folder_name(i, combination) for i, combination in enumerate(runs)]
    configs = {
        name: load_config(config_path, (*overrides, *combination))
        for name, combination in zip(names, runs, strict=True)
    }
    check_distinct(configs)
    root = _root(next(iter(configs.values())), overrides)
    folder = JobFolder(root)
    if folder.exists() or folder.files.config.exists():
        raise ConfigError(f"{root} already holds a run; continue it: {_resume(root)}, or choose another run.dir")
    for path in (folder.path, folder.files.logs):
        if path.exists():  # of something else, which a submission that SLURM refuses would delete
            raise ConfigError(f"{path} is there, and not of a run; choose another run.dir, or remove it")
    if sweeps:
        return prepare_array(request, folder, configs, max_parallel=max_parallel)
    check_path(root)
    check_job_folders(folder, configs)
    return Prepared(folder, configs, request.resources, _check(configs, request))


def prepare_array(
    request: Request, folder: JobFolder, configs: dict[str, Config], *, max_parallel: int | None = None
) -> Prepared:
    """Prepare a job array with one task for each of ``configs``, which may be of any models and layouts.

    Args:
        configs: by run directory, relative to that of ``folder``.

    Raises:
        UnipoolError: no number of nodes asked for fits one of them, or the time limit leaves no time to train.
    """
    check_path(folder.run_dir)
    check_job_folders(folder, configs)
    limit = f"%{max_parallel}" if max_parallel else ""
    resources = replace(request.resources, array=f"0-{len(configs) - 1}{limit}")
    return Prepared(folder, configs, resources, _check(configs, request))


def check_job_folders(folder: JobFolder, configs: Mapping[str, Config]) -> None:
    """Refuse to write into a folder ``job`` that no earlier submission has made, or that contains anything else.

    Raises:
        ForeignError: naming what is in the way.
    """
    folders = dict.fromkeys([folder.path, *(RunDirectory(folder.run_dir / name).job for name in configs)])
    refuse([path for job in folders for path in foreign(job, JOB_FOLDER)], f"writing {folder.path}")


def script_of(request: Request, prepared: Prepared) -> str:
    """Return the batch script."""
    return render_script(
        prepared.folder,
        prepared.resources,
        request.profile,
        python=interpreter(),
        command=command_line(),
        template=request.template,
    )


def write(request: Request, prepared: Prepared) -> None:
    """Freeze everything into the run's folder. A failure half way leaves no folder behind."""
    try:
        write_over(request, prepared)
    except BaseException:
        discard(prepared)
        raise


def write_over(request: Request, prepared: Prepared) -> None:
    """Freeze everything like :func:`write`, into folders of an earlier submission, which are kept on a failure."""
    with at(prepared.folder.path):
        _write(request, prepared)


def _write(request: Request, prepared: Prepared) -> None:
    folder = prepared.folder
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.files.logs.mkdir(mode=0o700, exist_ok=True)  # SLURM makes the logs in it
    for name, config in prepared.configs.items():
        freeze_config((folder.run_dir / name).resolve(), config)
    container = request.profile.container
    git = freeze_code(folder, interpreter() if container is None else container.python)
    freeze_user_code(folder, prepared.configs.values())
    freeze_environment(folder)
    folder.write_script(script_of(request, prepared))
    folder.write(
        Job(
            name=request.resources.name,
            tasks_per_node=request.resources.tasks_per_node,
            gpus_per_node=request.resources.gpus_per_node,
            python=interpreter(),
            doctor=request.doctor,
            requeue=request.resources.requeue,
            profile=request.profile.model_dump(mode="json"),
            command=shown(command_line()),
            submitted_from=os.getcwd(),
            versions=current_versions(),
            git=git,
            runs=list(prepared.configs),
        )
    )


def discard(prepared: Prepared) -> None:
    """Remove what :func:`write` has written, so that the same submission can be made again, corrected."""
    root = prepared.folder.run_dir
    jobs = (RunDirectory(root / name).job for name in prepared.configs)
    for folder in (*jobs, prepared.folder.path, prepared.folder.files.logs):
        with suppress(OSError, ForeignError):
            remove(folder, JOB_FOLDER)
        remove_if_empty(folder)  # `logs`, to which nothing has been written
    for folder in (*(root / name for name in prepared.configs), root):
        remove_if_empty(folder)


def submit(folder: JobFolder, options: Sequence[str] = ()) -> str:
    """Hand the script to SLURM; return the job's id.

    Raises:
        NoAnswerError: SLURM may have taken it, and may not.
        SlurmError: SLURM refuses it.
    """
    try:
        job_id = slurm.submit_script(folder.files.job_script, options)
    except slurm.NoAnswerError as error:
        name = folder.read().name
        raise slurm.NoAnswerError(
            f"{error}. The job may have been submitted all the same: if `{shown(['squeue', f'--name={name}'])}` does "
            f"not show it, "
            f"submit the run again: {_resume(folder.run_dir)}"
        ) from None
    folder.add_submission(job_id)
    return job_id


def interpreter() -> str:
    """Return the Python that runs this, by its path in its virtual environment."""
    return sys.executable


def command_line() -> list[str]:
    """Return what the user typed, without possible secrets in URLs."""
    return ["unipool-dist", *map(without_credentials, sys.argv[1:])]


def check_idle(folder: JobFolder) -> None:
    """Refuse to submit again while SLURM still has the last job.

    Raises:
        ConfigError: the job that was submitted last waits or runs.
    """
    for job_id in folder.submissions()[-1:]:
        alive = [fields for fields in slurm.show_array(job_id) if fields.get("JobState") in slurm.ALIVE]
        if alive:
            raise ConfigError(
                f"job {job_id} of {folder.run_dir} is {alive[0]['JobState'].lower()}; wait for it, or end it first: "
                f"scancel {job_id}"
            )


def _resume(run_dir: Path) -> str:
    return shown(["unipool-dist", "submit", "--resume", run_dir])


def _root(config: Config, overrides: Sequence[str]) -> Path:
    """Return ``run.dir`` if it is among the overrides; else that of CONFIG with the time appended.

    So every submission has a directory of its own.
    """
    given = any(override.startswith("run.dir=") for override in overrides)
    check_path(config.run.dir)
    return Path(config.run.dir if given else f"{config.run.dir}-{time.strftime('%Y%m%d-%H%M%S')}").resolve()


def check_path(root: Path | str) -> None:
    """Refuse what sbatch would expand in the name of the log, and separators of entries in PATH and PYTHONPATH."""
    if not re.fullmatch(r"[^\s%:\\'\"]+", str(root)) or printable(root) != str(root):
        raise ConfigError(
            f"run.dir={printable(root)}: choose a path without spaces, control characters, quotes, colons, backslashes "
            f"and percent signs"
        )


def _check(configs: Mapping[str, Config], request: Request) -> list[str]:
    """Check that a number of nodes asked for works, and the time limit; return notes on nodes not used in full."""
    check_time_limit(request.resources.time, request.profile.warning_s)
    if request.profile.container is not None:
        _check_mounts(configs)
    notes: dict[str, None] = {}
    for name, config in configs.items():
        try:
            notes |= dict.fromkeys(_check_layout(config, request))
        except UnipoolError as error:
            raise type(error)(str(error) if len(configs) == 1 else f"{name}: {error}") from None
    return list(notes)


def _check_mounts(configs: Mapping[str, Config]) -> None:
    """Refuse paths that a container's mounts, ``HOST:CONTAINER,HOST:CONTAINER``, cannot hold."""
    for config in configs.values():
        for field, path in (("run.dir", config.run.dir), *(("data.path", path) for path in corpus_paths(config))):
            if re.search("[,:]", path) or printable(path) != path:
                raise ConfigError(
                    f"{field}={printable(path)} cannot be mounted in a container: choose a path without commas, colons "
                    f"and control characters"
                )


def _check_layout(config: Config, request: Request) -> list[str]:
    fewest, most = request.resources.node_range
    per_node = request.resources.tasks_per_node
    notes, trained = [], max(CheckpointDirectory(Path(config.run.dir)).steps(), default=0)
    for count in range(most, fewest - 1, -1):
        layout = choose_layout(
            config,
            [f"node {i}" for i in range(count)],
            per_node,
            whole_nodes=request.profile.launcher == "torchrun",
            from_step=trained + 1,
        )
        if layout.num_tasks < count * per_node:
            notes.append(
                f"on {count} nodes only {layout.num_tasks} of {count * per_node} processes would be used: "
                f"train.global_batch_size={config.train.global_batch_size} and the layout allow no more"
            )
    return notes
