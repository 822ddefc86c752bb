"""Freeze a run at submission: its configuration, the code and its differences, packages, environment, command.

Of the environment, variables that explain how the run behaves are recorded, and no secret. It is a list of what is
kept, since no list of exclusions is ever complete.
"""

from __future__ import annotations

import importlib.metadata
import os
import shlex
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from unipool_dist.base.belongings import remove
from unipool_dist.base.credentials import looks_secret, names_a_secret, without_credentials
from unipool_dist.base.printable import printable
from unipool_dist.base.programs import run_program
from unipool_dist.base.project import PACKAGE, checkout, project_path, user_path
from unipool_dist.base.reading import read_bytes
from unipool_dist.base.run_directory import RunDirectory
from unipool_dist.base.user_code import CODE_FOLDER_VARIABLE, user_files
from unipool_dist.base.writing import replace_bytes, replace_text
from unipool_dist.config import Config, config_text, named_code
from unipool_dist.config.staging import with_corpora_at
from unipool_dist.errors import ConfigError
from unipool_dist.jobs.folder import JobFolder
from unipool_dist.run.own_files import CODE, USER_CODE

PRIVATE = 0o600
"""Mode of the files that may hold text or environment of the user."""


def freeze_config(run_dir: Path, config: Config) -> None:
    """Write ``RUN/job/config.yaml``: paths made absolute, the DeepSpeed file copied next to it."""
    files = RunDirectory(run_dir)
    files.job.mkdir(parents=True, exist_ok=True)
    optimizer = config.optimizer
    if optimizer.deepspeed is not None:
        try:
            content = read_bytes(user_path(optimizer.deepspeed))
        except (OSError, ValueError) as error:
            raise ConfigError(f"optimizer.deepspeed={optimizer.deepspeed} cannot be read: {error}") from None
        replace_bytes(files.deepspeed, content, mode=PRIVATE)
        optimizer = optimizer.model_copy(update={"deepspeed": str(files.deepspeed)})
    frozen = with_corpora_at(config, lambda path: str(Path(path).absolute())).model_copy(
        update={
            "optimizer": optimizer,
            "run": config.run.model_copy(update={"dir": str(run_dir)}),
        }
    )
    replace_text(files.job_config, config_text(frozen), mode=PRIVATE)


def freeze_code(folder: JobFolder, task_python: str) -> dict[str, str | bool] | None:
    """Copy the package and the launchers; record their git state and the installed packages.

    ``task_python`` is the interpreter that the tasks run, by its path on the nodes or in their container.

    Returns the commit and whether the working tree differs from it (then ``code.diff`` holds the difference), or
    ``None`` if the code is in no git repository.
    """
    carried = "project"  # by a wheel: a job has copies of what it needs
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc", carried)
    launchers = project_path("launchers")
    for source, target in ((PACKAGE, folder.files.code / PACKAGE.name), (launchers, folder.files.launchers)):
        remove(target, CODE)
        shutil.copytree(source, target, ignore=ignore, dirs_exist_ok=True)
    _write_program(folder, task_python)
    packages = sorted(
        f"{item.metadata['Name']}=={item.version}"
        for item in importlib.metadata.distributions()
        if item.metadata["Name"]
    )
    folder.files.packages.write_text("\n".join(packages) + "\n", encoding="utf-8")
    return _git_state(folder)


def freeze_user_code(folder: JobFolder, configs: Iterable[Config]) -> None:
    """Copy the user's own modules that ``configs`` name, and what they import from the folder that they are in."""
    remove(folder.files.user_code, USER_CODE)
    names = [name for config in configs for name in named_code(config)]
    for place, file in user_files(names).items():
        copy = folder.files.user_code / place
        copy.parent.mkdir(parents=True, exist_ok=True)
        replace_bytes(copy, read_bytes(file), mode=PRIVATE)


def freeze_environment(folder: JobFolder) -> None:
    """Write the submitter's variables to ``environment.txt``, values only of those that explain how a run behaves."""
    replace_text(folder.files.environment, "\n".join(recorded(os.environ)) + "\n", mode=PRIVATE)


def _write_program(folder: JobFolder, python: str) -> None:
    """Write ``bin/unipool-dist``, which runs the frozen code and no other from PATH or the current directory."""
    program = folder.files.programs / "unipool-dist"
    program.parent.mkdir(exist_ok=True)
    variables = f"PYTHONPATH={shlex.quote(str(folder.files.code))}"
    variables += f" {CODE_FOLDER_VARIABLE}={shlex.quote(str(folder.files.user_code))}"
    program.write_text(
        f'#!/bin/sh\nPYTHONSAFEPATH=1 {variables} exec {shlex.quote(python)} -m unipool_dist "$@"\n',
        encoding="utf-8",
    )
    program.chmod(0o755)


def _git_state(folder: JobFolder) -> dict[str, str | bool] | None:
    top = checkout()
    commit = None if top is None else _git(top, "rev-parse", "HEAD")
    if top is None or commit is None:
        return None
    paths = ("--", "unipool_dist", "launchers")
    diff = _git(top, "diff", "HEAD", *paths) or ""
    untracked = (_git(top, "ls-files", "--others", "--exclude-standard", *paths) or "").split()
    if diff or untracked:
        new = "".join(f"untracked: {name}\n" for name in untracked)  # copied with the rest
        replace_text(folder.files.code_diff, new + diff, mode=PRIVATE)
    return {"commit": commit.strip(), "dirty": bool(diff or untracked)}


def _git(top: Path, *arguments: str) -> str | None:
    try:
        done = run_program(["git", "-C", str(top), *arguments], timeout_s=60)
    except OSError:
        return None
    return done.out if done.status == 0 else None


NOT_RECORDED = "(not recorded)"
_NAMES = frozenset(
    {
        *("PATH", "LD_LIBRARY_PATH", "LD_PRELOAD", "LIBRARY_PATH", "CPATH", "PKG_CONFIG_PATH", "MANPATH"),
        *("HOME", "PWD", "SHELL", "USER", "LOGNAME", "HOSTNAME", "HOST", "TERM", "TZ", "TMPDIR", "LANG", "LANGUAGE"),
        *("VIRTUAL_ENV", "MODULEPATH", "LOADEDMODULES", "_LMFILES_", "CC", "CXX", "CUDA_HOME"),
        *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
        *("HF_HOME", "HF_DATASETS_CACHE", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "MPLCONFIGDIR", "CUBLAS_WORKSPACE_CONFIG"),
    }
)
_BEGINNINGS = (
    *("PYTHON", "CUDA_", "CUDNN_", "NVIDIA_", "NCCL_", "NVTE_", "GLOO_", "TORCH", "PYTORCH_", "TRITON_", "DS_"),
    *("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "UCX_", "FI_", "IBV_", "OMPI_", "MPICH_", "ROCM_", "HIP_", "HSA_"),
    *("SLURM_", "SBATCH_", "SRUN_", "CONDA_", "LMOD_", "LC_", "XDG_", "UNIPOOL_DIST_"),
)


def recorded(variables: Mapping[str, str]) -> list[str]:
    """Return a line ``NAME='value'`` for each variable; of those that are not kept only the name."""
    return [f"{printable(name)}={_value(name, variables[name])}" for name in sorted(variables)]


def _value(name: str, value: str) -> str:
    kept = name in _NAMES or (name.startswith(_BEGINNINGS) and not names_a_secret(name))
    public = without_credentials(value)
    return NOT_RECORDED if not kept or looks_secret(public) else printable(repr(public))
