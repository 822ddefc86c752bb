"""A submitted run's folder ``RUN/job``: everything needed to start the run again as it was submitted."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from unipool_dist.base.reading import read_json, read_text, record_of
from unipool_dist.base.run_directory import RunDirectory
from unipool_dist.base.writing import replace_text
from unipool_dist.config import Config, load_config
from unipool_dist.errors import UnipoolError
from unipool_dist.jobs.profile import Profile, parse_profile


@dataclass(frozen=True)
class Job:
    """The content of ``job.json``, written once, when the run is submitted."""

    name: str
    tasks_per_node: int
    gpus_per_node: int
    python: str
    """Interpreter that the job uses."""
    doctor: bool
    """Whether `doctor` has to pass before the first start."""
    requeue: bool
    """Whether the batch script puts the job back into the queue."""
    profile: dict
    command: str
    submitted_from: str
    versions: dict[str, str]
    git: dict[str, str | bool] | None
    runs: list[str] = field(default_factory=lambda: ["."])
    """Run directories, relative to the folder that `job` is in; for a job array one per task."""
    preparation: list[str] = field(default_factory=list)
    """Of a corpus, and no run: the arguments of `unipool-dist` that make it."""
    shards: int = 1
    """Shares of that preparation, which are tasks of job arrays."""


class JobFolder:
    """The job folder of the run, or of the array of runs, in ``run_dir``."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.files = RunDirectory(run_dir)
        self.path = self.files.job

    def exists(self) -> bool:
        return self.files.job_record.exists()

    def write(self, job: Job) -> None:
        """Write ``job.json``, readable only by the user: the profile and the command may contain secrets."""
        replace_text(self.files.job_record, json.dumps(asdict(job), indent=1) + "\n", mode=0o600)

    def write_script(self, script: str) -> None:
        """Write the batch script, readable only by the user, as it contains the profile's variables."""
        replace_text(self.files.job_script, script, mode=0o600)

    def read(self) -> Job:
        """Read what was submitted.

        Raises:
            UnipoolError: this is not a submitted run, or one of another version.
            PermissionError: it is that of another user.
        """
        path = self.files.job_record
        try:
            return record_of(Job, read_json(path))
        except FileNotFoundError:
            raise UnipoolError(f"{self.run_dir} was not submitted with `unipool-dist submit`: no {path}") from None
        except PermissionError:  # somebody else's run: nothing is wrong with it
            raise
        except (OSError, ValueError, TypeError) as error:
            raise UnipoolError(f"{path} cannot be read: {error}; submit the run again") from None

    def profile(self) -> Profile:
        return parse_profile(self.read().profile, str(self.files.job_record))

    def submissions(self) -> list[str]:
        """Return the ids of the jobs that were submitted for it, oldest first.

        Raises:
            UnipoolError: the file that has them is not a text file.
        """
        path = self.files.submissions
        try:
            return read_text(path).split() if path.exists() else []
        except ValueError as error:
            raise UnipoolError(f"{path} cannot be read: {error}; remove it, or restore it from a copy") from None

    def add_submission(self, job_id: str) -> None:
        with self.files.submissions.open("a", encoding="utf-8") as file:
            file.write(job_id + "\n")


def run_config(run_dir: Path) -> Config:
    """Read the configuration that was frozen for the run in ``run_dir``; its ``parallel.dp`` may be ``auto``."""
    return load_config(RunDirectory(run_dir).job_config)
