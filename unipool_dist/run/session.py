"""One rank's part of a run, from the first look at the run directory to the last line of output."""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from unipool_dist.base.console import say
from unipool_dist.base.exit_statuses import RESUME
from unipool_dist.base.run_directory import RunDirectory
from unipool_dist.base.stopping import Stop
from unipool_dist.checkpoint.compatibility import check_compatible
from unipool_dist.checkpoint.directory import CheckpointDirectory
from unipool_dist.checkpoint.progress import DataIdentity
from unipool_dist.checkpoint.randomness import seed_generators
from unipool_dist.checkpoint.resume import DamagedError, Found, find_checkpoint, load_checkpoint
from unipool_dist.checkpoint.saver import Saver, SaveReport
from unipool_dist.checkpoint.state import TrainingState
from unipool_dist.config import Config, outline
from unipool_dist.config.effects import settings_without_effect
from unipool_dist.config.plan import Outline, Plan
from unipool_dist.data import Corpus, extended, training_data, validation_sequences
from unipool_dist.engine.evaluate import Sequences
from unipool_dist.engine.progress import Beat
from unipool_dist.engine.trainer import Trainer
from unipool_dist.errors import NonFiniteError
from unipool_dist.model.assembly import build_model
from unipool_dist.resilience.deadline import Deadline
from unipool_dist.resilience.handover import Handover
from unipool_dist.resilience.signals import StopSignals
from unipool_dist.resilience.stop import StopRequest
from unipool_dist.resilience.watchdog import Watchdog
from unipool_dist.run.assembly import batch_source, describe
from unipool_dist.run.beginning import begin_run_dir, check_run_dir, continue_run_dir
from unipool_dist.run.fitting import check_rank_fits
from unipool_dist.run.heartbeat import HeartbeatWriter, read_heartbeat
from unipool_dist.run.lock import RunLock
from unipool_dist.run.observer import RunObserver
from unipool_dist.run.start import Start
from unipool_dist.run.state import RunState
from unipool_dist.topology.agreement import failing_together, on_rank_0
from unipool_dist.topology.environment import Environment
from unipool_dist.topology.groups import ParallelGroups, process_groups

_SLOW_BYTES_PER_S = 50e6
"""Assumed speed of a rank's writing until a save was seen, so that a time limit leaves room for the first one."""


def train_session(config: Config, environment: Environment, start: Start, signals: StopSignals) -> int:
    """Train to the end (status 0), or until the run is told to stop and its state is saved (status 75).

    Raises:
        UnipoolError: anything that the user has to deal with.
    """
    known = outline(config, environment.world_size)
    with _watchdog(known, environment, signals) as watchdog, process_groups(known, environment) as groups:
        watchdog.watch(groups.by_name(), cpu_counts=groups.device.type == "cpu")
        # The save of an interval may begin just before time is up, and the last one waits for it.
        deadline = Deadline(known.run.time_limit_s, num_saves=2 if known.checkpoint.interval else 1)
        handover = Handover(Path(known.run.dir), environment.job_id, environment.restarts) if groups.rank == 0 else None
        stop = StopRequest(signals, deadline, groups.world, groups.device, handover)
        with failing_together("opening the corpus"):
            corpus = Corpus.open(known.data.path, verify="size")
            plan = known.with_vocabulary(corpus.vocab_size)
            check_rank_fits(plan, corpus, stage=groups.pp_index, device_bytes=_device_bytes(groups.device))
        for setting in settings_without_effect(config) if groups.rank == 0 else ():
            say(f"warning: {setting}", err=True)
        session = _Session(plan, groups, corpus, stop, deadline, watchdog.beat, environment)
        reason = session.run(start)
        watchdog.beat("ending", slow=True)
        signals.ignore_from_now()  # before the barrier at the end of the groups, see there
    if reason is None:
        return 0
    if environment.rank == 0:
        then = "the state is saved, --resume continues from it" if session.step else "no step is done, --resume begins"
        say(f"stopped: {reason}; {then}", err=True)
    return RESUME


def _device_bytes(device: torch.device) -> int | None:
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None


def _watchdog(plan: Outline, environment: Environment, signals: StopSignals) -> Watchdog:
    return Watchdog(
        plan.run.watchdog_s,
        RunDirectory(plan.run.dir).watchdog,
        environment.rank,
        environment.world_size,
        on_alarm=signals.mute,
    )


@dataclass(frozen=True)
class _Ready:
    """A run that can go on."""

    found: Found | None
    data: DataIdentity
    trainer: Trainer
    state: TrainingState


class _Session:
    def __init__(
        self,
        plan: Plan,
        groups: ParallelGroups,
        corpus: Corpus,
        stop: StopRequest,
        deadline: Deadline,
        beat: Beat,
        environment: Environment,
    ) -> None:
        self._environment = environment
        self._beat = beat
        self._plan, self._groups, self._corpus, self._stop, self._deadline = plan, groups, corpus, stop, deadline
        self._run_dir = Path(plan.run.dir)
        self._directory = CheckpointDirectory(self._run_dir)
        self._lock = RunLock(self._run_dir)
        self._observer: RunObserver | None = None
        self._heartbeat: HeartbeatWriter | None = None
        self._step = 0
        self._asked_at: float | None = None
        self._stopped_by: Stop | None = None

    @property
    def step(self) -> int:
        """The last that is done."""
        return self._step

    def run(self, start: Start) -> str | None:
        """Returns why the run was stopped, or ``None`` if it is finished."""
        self._open_run_dir(start)
        damaged: dict[int, str] = {}
        while True:
            try:
                ready = self._get_ready(start, damaged)
                break
            except DamagedError as error:  # while the model was being built
                if start.from_step is not None:
                    raise
                damaged[error.step] = error.fault
            gc.collect()  # that model, before another is built
        reason = None if ready is None else self._train(ready, start)
        self._lock.release()
        return reason

    def _get_ready(self, start: Start, damaged: Mapping[int, str]) -> _Ready | None:
        """Build everything and load the state it goes on from; ``None`` if the run is finished already."""
        plan, groups = self._plan, self._groups
        found = None
        if start.resume:
            self._beat("looking for a checkpoint", slow=True)
            found = find_checkpoint(
                self._directory,
                groups.storage,
                from_step=start.from_step,
                verify=plan.checkpoint.verify,
                damaged=damaged,
            )
        data = self._data_identity(found)
        if found is not None:
            self._check(found, data)
            if found.step >= plan.train.steps:
                found.verification.confirm()
                self._say(f"run.dir={self._run_dir} is finished: its checkpoint is of step {found.step}")
                return None
        self._beat("building the model", slow=True)
        model = build_model(plan, groups)
        dataset = training_data(
            self._corpus,
            segments=data.segments,
            sequence_length=plan.model.sequence_length,
            seed=plan.train.seed,
            weights=plan.data.weights,
            spare_dir=RunDirectory(self._run_dir).cache,  # seen by all nodes, unlike /tmp
            consumed_samples=found.progress.consumed_samples if found else 0,
        )
        batches = batch_source(dataset, plan, groups)
        trainer = Trainer(plan, groups, model, batches, self._validation_sequences(), self._beat)
        state = TrainingState(groups, model, trainer.step.optimizer)
        seed_generators(plan.train.seed)
        if found is not None:
            self._beat("loading the checkpoint", slow=True)
            try:
                load_checkpoint(found, state, groups.storage)
            except DamagedError:
                trainer.step.optimizer.close()
                raise
        return _Ready(found, data, trainer, state)

    def _train(self, ready: _Ready, start: Start) -> str | None:
        """Returns why the run was stopped, or ``None`` if it is finished."""
        self._beat("beginning", slow=True)
        self._begin(ready.found, start)
        saver = Saver(self._plan.config, self._groups, ready.state, self._directory, ready.data, self._report_save)
        self._deadline.assume_save(saver.num_bytes / _SLOW_BYTES_PER_S)
        self._step = ready.found.step if ready.found else 0
        reason = self._should_stop()
        if reason is None:
            try:
                reason = ready.trainer.run(
                    first_step=self._step + 1, observer=self._observer, saver=saver, should_stop=self._after_step
                )
            except NonFiniteError:
                saver.wait()  # on every rank alike: what is being written is good
                raise
            finally:
                self._beat("closing", slow=True)
                if self._observer is not None:
                    self._observer.close()
        if self._heartbeat is not None:
            state = RunState.FINISHED if reason is None else RunState.STOPPED
            self._heartbeat.write(self._step, state, None if reason is None else self._stopped_by)
            self._heartbeat.close()
        if self._observer is not None and reason is None:
            self._observer.finish()
        return reason

    def _open_run_dir(self, start: Start) -> None:
        """Take the lock and refuse what must be, before anything is read or changed."""
        with failing_together(f"opening run.dir={self._run_dir}"):
            if self._groups.rank == 0:
                check_run_dir(
                    self._run_dir, overwrite=start.overwrite, resume=start.resume, must_resume=start.must_resume
                )
                # Its former self may be alive: on a node whose slurmd has died, where it is asked to save and end; or
                # on one that was cut off, until its watchdog or a timeout ends it. To wait as long as the watchdog does
                # would look stuck, and who holds the lock would not be said.
                restarts = self._environment.restarts
                handover = Handover(self._run_dir, self._environment.job_id, restarts)
                wait_s = 0.8 * self._plan.run.watchdog_s if restarts else 0.0
                self._lock.acquire(wait_s=wait_s, on_held=handover.ask)
                handover.settle()
                self._directory.clean_up()
        if self._plan.data.verify == "hash":
            self._beat("verifying the corpus", slow=True)
            on_rank_0(
                f"verifying data.path={self._plan.data.path}",
                lambda: Corpus.open(self._plan.data.path, verify="hash"),
                self._groups.storage,
            )

    def _data_identity(self, found: Found | None) -> DataIdentity:
        train = self._plan.train
        segments = found.progress.data.segments if found else ()
        return DataIdentity(
            tokenizer_hash=self._corpus.tokenizer_hash,
            content_hash=self._corpus.content_hash,
            segments=extended(segments, train.steps * train.global_batch_size),
        )

    def _check(self, found: Found, data: DataIdentity) -> None:
        """Say what was found and what changes. Raises if the run cannot go on from it."""
        changes = check_compatible(found.config, found.progress.data, self._plan.config, data)
        for step, fault in found.damaged.items():
            self._say(f"warning: the checkpoint of step {step} is damaged and passed over: {fault}", err=True)
        for change in changes:
            self._say(f"note: {change}", err=True)

    def _begin(self, found: Found | None, start: Start) -> None:
        """The run directory becomes this run's. Only now is anything in it changed."""
        plan = self._plan
        with failing_together(f"preparing run.dir={self._run_dir}"):
            if self._groups.rank == 0:
                entropy = {name: domain.unigram_entropy for name, domain in self._corpus.domains.items()}
                before = read_heartbeat(self._run_dir)
                if found is None:
                    if start.resume:
                        say(f"no checkpoint in {self._run_dir}: starting at step 1")
                    begin_run_dir(self._run_dir, plan.config, entropy, same_run=start.resume)
                else:
                    continue_run_dir(self._run_dir, plan.config, entropy)
                    for step in (step for step in self._directory.steps() if step > found.step):
                        reason = "damaged" if step in found.damaged else "superseded"
                        say(f"moved aside: {self._directory.set_aside(step, reason)}")
                self._observer = RunObserver(plan, self._corpus, resume_from_step=found.step if found else None)
                say(describe(plan, self._groups))
                step = found.step if found else 0
                if found is not None:
                    say(f"resumed after step {step} of {plan.train.steps} from {found.folder}")
                if before is not None and before.step > step and start.resume:
                    when = "after it" if found is not None else "before there was a checkpoint"
                    say(f"{before.step - step} steps that had been done {when} are lost and repeated")
                self._heartbeat = HeartbeatWriter(self._run_dir, steps=plan.train.steps, resumed_from=step)

    def _validation_sequences(self) -> dict[str, Sequences]:
        train, length = self._plan.train, self._plan.model.sequence_length
        return {
            name: validation_sequences(self._corpus, name, sequence_length=length, count=train.eval_sequences)
            for name in (self._corpus.domains if train.eval_sequences else ())
        }

    def _after_step(self) -> str | None:
        """A step is done. Collectives: as :meth:`_should_stop`."""
        self._step += 1
        if self._heartbeat is not None:
            self._heartbeat.write(self._step)
        return self._should_stop()

    def _should_stop(self) -> str | None:
        """Collectives: one all-reduce over the world."""
        now = time.monotonic()
        if self._asked_at is not None:
            self._deadline.observe_step(now - self._asked_at)
        self._asked_at = now
        self._stopped_by = self._stop.poll()
        return None if self._stopped_by is None else self._stopped_by.detail

    def _report_save(self, report: SaveReport) -> None:
        if report.error is None:  # one that failed may have been quick
            self._deadline.observe_save(max(report.stall_s, report.write_s))
        if self._observer is not None:
            self._observer.checkpoint(report)

    def _say(self, line: str, *, err: bool = False) -> None:
        if self._groups.rank == 0:
            say(line, err=err)
