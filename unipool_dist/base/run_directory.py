"""Every path in the directory of a run.

In ``base``, because the rooms below ``run`` write there too: checkpoints, metrics, watchdog, handover. Which of the
files are this program's own is known to :mod:`unipool_dist.run.own_files`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import overload


class Entry:
    """A file or folder of a run directory: of the class its name, of an instance its path."""

    def __init__(self, relative: str) -> None:
        self.relative = relative

    @property
    def name(self) -> str:
        """The last part of the path."""
        return Path(self.relative).name

    @property
    def pattern(self) -> str:
        """A regular expression that matches :attr:`name` alone."""
        return re.escape(self.name)

    @overload
    def __get__(self, instance: None, owner: type) -> Entry: ...
    @overload
    def __get__(self, instance: _HasPath, owner: type) -> Path: ...
    def __get__(self, instance: _HasPath | None, owner: type) -> Entry | Path:
        return self if instance is None else instance.path / self.relative


class _HasPath:
    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)


class RunDirectory(_HasPath):
    """The directory of a run.

    That of a job array or an experiment, which holds the directories of runs, has ``job``, ``logs`` and the report too.
    """

    config = Entry("config.yaml")
    """The resolved configuration. Written when training begins, so a directory with it holds a run."""
    data_summary = Entry("data_summary.json")
    metrics = Entry("metrics.jsonl")
    usage = Entry("expert_usage.jsonl")
    tensorboard = Entry("tensorboard")
    profile = Entry("profile")
    """Traces of torch.profiler."""
    gpu_memory = Entry("gpu_memory")
    """Snapshots of GPU memory."""
    mlflow = Entry("mlflow")
    """What MLflow writes where it does not send; Weights & Biases names its own folder, ``wandb``."""
    tracker_id = Entry("tracker_id.txt")
    """What trackers know the run by."""
    loss_curve = Entry("loss_curve.png")
    usage_figure = Entry("expert_usage.png")

    checkpoints = Entry("checkpoints")
    aside = Entry("checkpoints/aside")
    """Checkpoints that are kept but not resumed from."""
    cache = Entry("cache")
    """Index of the training data, where the folder of the corpus cannot be written."""

    placement = Entry("placement.json")
    """Who owns which expert, where ``pool.placement`` learns it."""

    lock = Entry(".lock")
    heartbeat = Entry("heartbeat.json")
    handover = Entry(".handover")
    watchdog = Entry("watchdog")
    """One folder for each time that the run got stuck, named after the start that did."""

    probe = Entry("probe")
    probe_record = Entry("probe/probe.json")

    job = Entry("job")
    """Everything that a submitted run was frozen into."""
    job_record = Entry("job/job.json")
    job_config = Entry("job/config.yaml")
    deepspeed = Entry("job/deepspeed.json")
    job_script = Entry("job/job.sbatch")
    job_lock = Entry("job/.lock")
    attempts = Entry("job/attempts.jsonl")
    submissions = Entry("job/submissions")
    doctor_status = Entry("job/doctor.status")
    packages = Entry("job/packages.txt")
    environment = Entry("job/environment.txt")
    code_diff = Entry("job/code.diff")
    code = Entry("job/code")
    user_code = Entry("job/user_code")
    """Modules of the user's own that the configuration names."""
    launchers = Entry("job/launchers")
    programs = Entry("job/bin")
    logs = Entry("logs")
    train_log = Entry("logs/train.log")
    """Output of the starts that an experiment makes on this machine."""

    report = Entry("report.html")
    report_figures = Entry("figures")

    def watchdog_summaries(self) -> list[Path]:
        """Return one path for each time that the watchdog ended the run, in no order."""
        return list(self.watchdog.glob(f"*/{WatchdogFolder.summary.name}"))


class WatchdogFolder(_HasPath):
    """A folder in ``RUN/watchdog``: what the watchdog found when it ended a start of the run."""

    summary = Entry("summary.txt")
    """The lines that were also printed."""
    board = Entry("board")
    """Messages between the watchdogs of one host if their store is lost."""

    def stacks(self, rank: int | str) -> Path:
        """Return where the stacks of ``rank`` are written; ``*`` for a pattern."""
        return self.path / f"rank-{rank}.txt"
