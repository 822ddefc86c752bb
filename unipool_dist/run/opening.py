"""The run directory from the view of rank 0: taken under a lock, and made this run's once all ranks are ready."""

from __future__ import annotations

from pathlib import Path

from unipool_dist.base.console import say
from unipool_dist.checkpoint.directory import CheckpointDirectory
from unipool_dist.checkpoint.resume import Found
from unipool_dist.comm.environment import Environment
from unipool_dist.config import Config
from unipool_dist.config.plan import Plan
from unipool_dist.data.corpora import Corpora
from unipool_dist.resilience.handover import Handover
from unipool_dist.run.beginning import begin_run_dir, check_run_dir, continue_run_dir
from unipool_dist.run.heartbeat import Heartbeat, read_heartbeat
from unipool_dist.run.lock import RunLock
from unipool_dist.run.start import Start


class OpenedDirectory:
    """The run directory of ``plan``, held by this process from :meth:`take` to :meth:`release`."""

    def __init__(self, plan: Plan, start: Start) -> None:
        self._plan, self._start = plan, start
        self.path = Path(plan.run.dir)
        self.checkpoints = CheckpointDirectory(self.path)
        self._lock = RunLock(self.path)
        self._before: Heartbeat | None = None

    def take(self, environment: Environment) -> None:
        """Take the lock, and refuse a directory that must not be used; nothing in it is read or changed before.

        A previous start of the same SLURM job may still be alive: on a node whose slurmd has died, where it is asked to
        save and end; or on one that was cut off, until its watchdog or a timeout ends it. To wait as long as the
        watchdog does would look stuck, and who holds the lock would not be said.

        Raises:
            UnipoolError: the directory is refused or locked.
        """
        start, restarts = self._start, environment.restarts
        check_run_dir(self.path, overwrite=start.overwrite, resume=start.resume, must_resume=start.must_resume)
        handover = Handover(self.path, environment.job_id, restarts)
        self._lock.acquire(wait_s=0.8 * self._plan.run.watchdog_s if restarts else 0.0, on_held=handover.ask)
        handover.settle()
        self.checkpoints.clean_up()

    def begin(self, found: Found | None, config: Config, corpora: Corpora) -> None:
        """Make the directory this run's, which resumes from ``found``; only now is anything in it changed.

        Args:
            config: resolved; with the stages that the run has had.
        """
        self._before = read_heartbeat(self.path)  # which begin_run_dir removes
        domains = {name: domain for corpus in corpora.by_path.values() for name, domain in corpus.domains.items()}
        entropy = {name: domain.unigram_entropy for name, domain in domains.items()}
        if found is None:
            if self._start.resume:
                say(f"no checkpoint in {self.path}: starting at step 1")
            begin_run_dir(self.path, config, entropy, same_run=self._start.resume)
            return
        continue_run_dir(self.path, config, entropy)
        for step in (step for step in self.checkpoints.steps() if step > found.step):
            reason = "damaged" if step in found.damaged else "superseded"
            say(f"moved aside: {self.checkpoints.set_aside(step, reason)}")

    def say_where_it_resumes(self, found: Found | None) -> None:
        """Print from which checkpoint the run resumes, and how many steps of the previous start are lost."""
        step, before = found.step if found else 0, self._before
        if found is not None:
            say(f"resumed after step {step} of {self._plan.train.steps} from {found.folder}")
        if before is not None and before.step > step and self._start.resume:
            when = "after it" if found is not None else "before there was a checkpoint"
            say(f"{before.step - step} steps that had been done {when} are lost and repeated")

    def release(self) -> None:
        """Release the lock."""
        self._lock.release()
