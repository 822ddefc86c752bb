"""The preparation of a corpus as jobs: one, or with shards two job arrays and a last job, each after the one before.

Every task runs `unipool-dist data prepare`, which does what can be done by then and keeps it. So a job starts when the
one before has ended, however that was: what a task has left undone is done by the next array, or by the last job.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from unipool_dist.base.belongings import foreign, refuse
from unipool_dist.base.machine import current_versions
from unipool_dist.base.programs import shown
from unipool_dist.base.system_errors import at
from unipool_dist.errors import ConfigError
from unipool_dist.jobs import slurm
from unipool_dist.jobs.folder import Job, JobFolder
from unipool_dist.jobs.freeze import freeze_code, freeze_environment
from unipool_dist.jobs.profile import Profile
from unipool_dist.jobs.render import Resources, render_script
from unipool_dist.jobs.submission import check_idle, check_path, command_line, interpreter
from unipool_dist.run.own_files import JOB_FOLDER

SUFFIX = ".preparation"
"""Of the folder of the jobs, next to the corpus."""


@dataclass(frozen=True)
class Preparation:
    """What is submitted. ``words``: the arguments of `unipool-dist`, ``data prepare OUT ...``, without a shard."""

    folder: JobFolder
    words: tuple[str, ...]
    shards: int
    resources: Resources
    profile: Profile
    template: Path | None = None

    @classmethod
    def of(
        cls,
        out: Path,
        words: Sequence[str],
        *,
        shards: int,
        workers: int | None,
        resources: Resources,
        profile: Profile,
        template: Path | None = None,
    ) -> Preparation:
        """Prepare the submission; nothing is written yet. A task has a processor for each worker.

        Raises:
            ConfigError: the path of the corpus cannot be written into a batch script; an earlier job has not ended.
            ForeignError: the folder of the jobs holds something else.
        """
        folder = JobFolder(Path(f"{out.absolute()}{SUFFIX}"))
        check_path(folder.run_dir)
        refuse(foreign(folder.path, JOB_FOLDER), f"writing {folder.path}")
        if folder.exists():
            check_idle(folder)
        cpus = {} if workers is None else {"cpus_per_task": workers}
        # Nothing has to be saved before the time is up, and there is no container: the batch script does all.
        profile = profile.model_copy(update={"warning_s": 0, "container": None, **cpus})
        return cls(folder, tuple(words), shards, resources, profile, template)

    def script(self) -> str:
        """Return the batch script, which all of the jobs have."""
        return render_script(
            self.folder,
            self.resources,
            self.profile,
            python=interpreter(),
            command=command_line(),
            template=self.template,
        )

    def write(self) -> None:
        """Freeze the code, the environment and the command into the folder of the jobs."""
        folder = self.folder
        with at(folder.path):
            folder.path.mkdir(parents=True, exist_ok=True)
            folder.files.logs.mkdir(mode=0o700, exist_ok=True)
            git = freeze_code(folder, interpreter())
            freeze_environment(folder)
            folder.write_script(self.script())
            folder.write(
                Job(
                    name=self.resources.name,
                    tasks_per_node=1,
                    gpus_per_node=0,
                    python=interpreter(),
                    doctor=False,
                    requeue=self.resources.requeue,
                    profile=self.profile.model_dump(mode="json"),
                    command=shown(command_line()),
                    submitted_from=os.getcwd(),
                    versions=current_versions(),
                    git=git,
                    runs=[],
                    preparation=list(self.words),
                    shards=self.shards,
                )
            )

    def submit(self) -> list[str]:
        """Hand the jobs to SLURM; return their ids, in the order in which they run.

        Raises:
            NoAnswerError: SLURM may have taken a job, and may not.
            SlurmError: SLURM refuses one; those before it are submitted, and what they do is kept.
        """
        arrays = [f"--array=0-{self.shards - 1}", f"--output={self.folder.files.logs / '%A_%a.log'}"]
        jobs: list[str] = []
        for options in [*([arrays, arrays] if self.shards > 1 else []), []]:
            after = [f"--dependency=afterany:{jobs[-1]}"] if jobs else []
            jobs.append(slurm.submit_script(self.folder.files.job_script, [*options, *after]))
            self.folder.add_submission(jobs[-1])
        return jobs


def task_command(job: Job, variables: Mapping[str, str]) -> list[str]:
    """Return what a task of a preparation runs: a shard in an array, else all that is left."""
    index = variables.get("SLURM_ARRAY_TASK_ID")
    if index is None:
        shard = []
    elif index.isdecimal() and int(index) < job.shards:
        shard = ["--shard", f"{int(index)}/{job.shards}"]
    else:
        raise ConfigError(f"array task {index} has no share of the {job.shards} that were submitted: submit again")
    return [job.python, "-m", "unipool_dist", *job.preparation, "--progress", *shard]
