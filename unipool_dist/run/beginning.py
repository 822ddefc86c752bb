"""The beginning of a run in its directory: whether it may write there, and what it writes first."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from unipool_dist.base.belongings import Folder, empty, exists, foreign, listed, refuse, remove
from unipool_dist.base.run_directory import RunDirectory
from unipool_dist.base.writing import replace_text
from unipool_dist.checkpoint.directory import CheckpointDirectory
from unipool_dist.config import Config, dump_config
from unipool_dist.errors import ConfigError
from unipool_dist.run.own_files import is_mark, things_of_a_run
from unipool_dist.run.start import Start


def check_run_dir(path: Path, *, overwrite: bool, resume: bool, must_resume: bool = False) -> None:
    """Refuse a directory that holds another run, or anything not made by this program where the run would write.

    Other files (``notes.txt``) are ignored. Nothing is changed, except that ``path`` is made.

    Args:
        must_resume: there has to be a checkpoint.

    Raises:
        ConfigError: it is refused, or cannot be made.
    """
    directory = CheckpointDirectory(path)
    steps = [step for step in directory.steps() if directory.folder(step) not in directory.in_the_way()]
    if (steps or _is_begun(path)) and not (overwrite or resume):
        raise ConfigError(
            f"run.dir={path} already holds a run; pass --resume to continue it, choose another directory, or pass "
            f"--overwrite to replace it"
        )
    found = in_the_way(path, resume=resume)
    if found:
        raise ConfigError(
            f"run.dir={path} holds what unipool-dist has not made, where the run would write: {listed(found)}; move it "
            f"away or choose another directory"
        )
    if must_resume and not steps:
        raise ConfigError(
            f"no checkpoint in {path}, and --resume=must asks for one; correct run.dir, or pass --resume to begin"
        )
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"run.dir={path} cannot be made: {error}; choose a directory that can be written") from None


def next_step(path: Path, start: Start) -> int:
    """Return the step that a run in ``path`` trains next, as far as the names of its checkpoints tell."""
    if start.from_step is not None:
        return start.from_step + 1
    return max(CheckpointDirectory(path).steps(), default=0) + 1 if start.resume else 1


def in_the_way(path: Path, *, resume: bool) -> list[Path]:
    """Return what the run would delete, replace or write through in ``path`` and this program has not made.

    A run that resumes from a checkpoint deletes nothing: it only checks that it can write into its folders.
    """
    if exists(path) and not path.is_dir():
        return [path]
    directory = CheckpointDirectory(path)
    found = directory.in_the_way()
    goes_on = resume and bool(directory.steps())
    if not goes_on and not found:
        found = directory.foreign()
    for name, kind in things_of_a_run(path).items():
        only_writes = isinstance(kind, Folder) and (goes_on or (resume and name == RunDirectory.watchdog.name))
        if not only_writes:
            found += foreign(path / name, kind)
        elif exists(path / name) and not (path / name).is_dir():
            found.append(path / name)
    return found


def begin_run_dir(path: Path, config: Config, unigram_entropy: Mapping[str, float], *, same_run: bool = False) -> None:
    """Remove an earlier run's files from ``path``; then write the resolved configuration.

    Checkpoints go first: if this is interrupted, no ``--resume`` continues the run that was to be replaced.

    Args:
        same_run: it is the same run, which has no checkpoint yet: keep what its watchdog has found.

    Raises:
        ForeignError: something that would be deleted was not made by this program; then nothing is changed.
        OSError: something cannot be deleted.
    """
    refuse(in_the_way(path, resume=same_run), f"beginning a run in {path}")
    things = things_of_a_run(path)
    CheckpointDirectory(path).delete_all()
    for name, kind in things.items():
        if not isinstance(kind, Folder):
            remove(path / name, kind)
        elif not (same_run and name == RunDirectory.watchdog.name):
            empty(path / name, kind)
    continue_run_dir(path, config, unigram_entropy)


def continue_run_dir(path: Path, config: Config, unigram_entropy: Mapping[str, float]) -> None:
    """Write the resolved configuration, which may differ from the one the run began with."""
    files = RunDirectory(path)
    replace_text(files.data_summary, json.dumps({"unigram_entropy": dict(unigram_entropy)}, indent=1) + "\n")
    dump_config(config, files.config)


def _is_begun(path: Path) -> bool:
    """Return whether there is anything that only a run which has begun leaves."""
    marks = {path / name: kind for name, kind in things_of_a_run(path).items() if is_mark(name)}
    return any(
        not foreign(thing, kind) and (any(thing.iterdir()) if thing.is_dir() else exists(thing))
        for thing, kind in marks.items()
    )
