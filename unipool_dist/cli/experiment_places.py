"""Check that an experiment may write where its runs are placed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from unipool_dist.base.belongings import exists, foreign, refuse
from unipool_dist.experiment.planned import Run
from unipool_dist.experiment.specification import Experiment, foreign_freeze
from unipool_dist.run.beginning import in_the_way
from unipool_dist.run.own_files import JOB_FOLDER


def check_places(experiment: Experiment, file: Path, runs: Sequence[Run]) -> None:
    """Refuse an output in which something not made by this program is where the experiment would write.

    Args:
        file: that of the experiment, which may be in its output.

    Raises:
        ForeignError: naming it.
    """
    begun = any(exists(run.files.job) for run in runs)
    found = foreign_freeze(experiment, file, begun=begun)
    for run in runs:
        found += foreign(run.files.job, JOB_FOLDER)
        found += in_the_way(run.directory, resume=True)
        found += _foreign_log(run)
    refuse(found, f"the experiment in {experiment.output}")


def _foreign_log(run: Run) -> list[Path]:
    """Return the log, which is only appended to, if no start has written it; or what blocks writing it."""
    log = run.files.train_log
    if exists(log.parent) and not log.parent.is_dir():
        return [log.parent]
    if exists(log) and not (log.is_file() and exists(run.files.attempts)):
        return [log]
    return []
