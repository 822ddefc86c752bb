"""One rank's part of a run, from the first look at the run directory to the last line of output."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from unipool_dist.base.console import say
from unipool_dist.base.exit_statuses import RESUME
from unipool_dist.base.run_directory import RunDirectory
from unipool_dist.base.stopping import Stop
from unipool_dist.checkpoint.compatibility import check_compatible
from unipool_dist.checkpoint.progress import DataIdentity
from unipool_dist.checkpoint.randomness import seed_generators
from unipool_dist.checkpoint.resume import DamagedError, Found, find_checkpoint, load_checkpoint
from unipool_dist.checkpoint.saver import Saver
from unipool_dist.checkpoint.state import TrainingState
from unipool_dist.comm.agreement import failing_together, on_rank_0
from unipool_dist.comm.environment import Environment
from unipool_dist.comm.groups import ParallelGroups, process_groups
from unipool_dist.config import Config, outline
from unipool_dist.config.effects import settings_without_effect
from unipool_dist.config.plan import Outline, Plan
from unipool_dist.config.staging import continued
from unipool_dist.data import training_data
from unipool_dist.data.corpora import Corpora
from unipool_dist.data.draws import drawn, segments_of
from unipool_dist.engine.callback import Callback, Callbacks, RunInfo
from unipool_dist.engine.trainer import Trainer
from unipool_dist.model.assembly import PooledModel, build_model
from unipool_dist.observe.memory_snapshot import MemorySnapshot
from unipool_dist.observe.sink import SinkStart
from unipool_dist.observe.speed import Speed
from unipool_dist.observe.tracing import Tracing
from unipool_dist.pool.placement import PLACEMENTS, LearnedPolicy
from unipool_dist.resilience.deadline import Deadline
from unipool_dist.resilience.handover import Handover
from unipool_dist.resilience.signals import StopSignals
from unipool_dist.resilience.stop import StopRequest
from unipool_dist.resilience.watchdog import Watchdog
from unipool_dist.run.assembly import BatchSource, ValidationByStage, describe
from unipool_dist.run.beginning import next_step
from unipool_dist.run.callbacks import CALLBACKS, Heartbeat, Stopping
from unipool_dist.run.fitting import check_rank_fits
from unipool_dist.run.opening import OpenedDirectory
from unipool_dist.run.placing import Placing
from unipool_dist.run.recording import Console, Recording, open_sinks
from unipool_dist.run.start import Start

_SLOW_BYTES_PER_S = 50e6
"""Assumed speed of a rank's writing until a save was seen, so that a time limit leaves room for the first one."""


def train_session(
    config: Config,
    environment: Environment,
    start: Start,
    signals: StopSignals,
    callbacks: Sequence[Callback] = (),
) -> int:
    """Train to the end (status 0), or until the run is asked to stop and its state is saved (status 75).

    Args:
        callbacks: called before those that ``log.callbacks`` names.

    Raises:
        UnipoolError: anything that the user has to deal with.
    """
    known = outline(config, environment.world_size, from_step=next_step(Path(config.run.dir), start))
    with _watchdog(known, environment, signals) as watchdog, process_groups(known, environment) as groups:
        watchdog.watch(groups.by_name(), cpu_counts=groups.device.type == "cpu")
        # The save of an interval may begin just before time is up, and the last one waits for it.
        deadline = Deadline(known.run.time_limit_s, num_saves=2 if known.checkpoint.interval else 1)
        handover = Handover(Path(known.run.dir), environment.job_id, environment.restarts) if groups.rank == 0 else None
        stop = StopRequest(signals, deadline, groups.world, groups.device, handover)
        with failing_together("opening corpus and callbacks"):
            corpora = Corpora.open(known, from_step=next_step(Path(known.run.dir), start))
            plan = _with_text(known, corpora)
            check_rank_fits(plan, corpora, stage=groups.pp_index, device_bytes=_device_bytes(groups.device))
            named = [CALLBACKS[name]() for name in plan.log.callbacks]
        for setting in settings_without_effect(config) if groups.rank == 0 else ():
            say(f"warning: {setting}", err=True)
        every = Callbacks([watchdog, Stopping(stop, deadline), Tracing(), MemorySnapshot(), *callbacks, *named])
        session = _Session(plan, groups, corpora, every, deadline, environment, start)
        reason = session.run()
        watchdog.doing("ending", slow=True)
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
    """All that is needed to train from where the run is."""

    found: Found | None
    segments: tuple[int, ...]
    """Sample counts of what is drawn of the training data."""
    model: PooledModel
    batches: BatchSource
    trainer: Trainer
    state: TrainingState


class _Session:
    def __init__(
        self,
        plan: Plan,
        groups: ParallelGroups,
        corpora: Corpora,
        callbacks: Callbacks,
        deadline: Deadline,
        environment: Environment,
        start: Start,
    ) -> None:
        self._environment = environment
        self._callbacks, self._doing = callbacks, callbacks.doing
        self._plan, self._groups, self._corpora, self._deadline = plan, groups, corpora, deadline
        self._asked = plan
        """What the user's configuration says; :attr:`_plan` may have stages of the run's past."""
        self._start, self._opened = start, OpenedDirectory(plan, start)
        self.step = 0
        """The last step that is done."""

    def run(self) -> Stop | None:
        """Return why the run was stopped, or ``None`` if it is finished."""
        self._open()
        damaged: dict[int, str] = {}
        while True:
            try:
                ready = self._get_ready(damaged)
                break
            except DamagedError as error:  # while the model was being built
                if self._start.from_step is not None:
                    raise
                damaged[error.step] = error.fault
            gc.collect()  # that model, before another is built
        reason = None if ready is None else self._train(ready)
        self._opened.release()
        return reason

    def _get_ready(self, damaged: Mapping[int, str]) -> _Ready | None:
        """Build everything and load the state to resume from; return ``None`` if the run is finished already."""
        groups = self._groups
        found = None
        if self._start.resume:
            self._doing("looking for a checkpoint", slow=True)
            found = find_checkpoint(
                self._opened.checkpoints,
                groups.storage,
                from_step=self._start.from_step,
                verify=self._plan.checkpoint.verify,
                damaged=damaged,
            )
        if found is not None:
            self._continue(found)
            if found.step >= self._plan.train.steps:
                found.verification.confirm()
                self._say(f"run.dir={self._opened.path} is finished: its checkpoint is of step {found.step}")
                return None
        plan = self._plan
        consumed = found.progress.consumed_samples if found else 0
        segments = drawn(found.progress.data.segments if found else (), plan, consumed)
        self._doing("building the model", slow=True)
        model = build_model(plan, groups, draw=found is None, drawing=self._drawing)
        dataset = training_data(
            segments_of(segments, self._corpora),
            seed=plan.train.seed,
            spare_dir=RunDirectory(self._opened.path).cache,  # seen by all nodes, unlike /tmp
            consumed_samples=consumed,
            group=groups.storage,
        )
        batches = BatchSource(dataset, plan, groups)
        validation = ValidationByStage(self._corpora)
        trainer = Trainer(plan, groups, model, batches, validation.at, self._callbacks)
        state = TrainingState(groups, model, trainer.step.optimizer)
        seed_generators(plan.train.seed)
        if found is not None:
            self._doing("loading the checkpoint", slow=True)
            try:
                load_checkpoint(found, state, groups.storage)
            except DamagedError:
                trainer.step.optimizer.close()
                raise
        return _Ready(found, segments, model, batches, trainer, state)

    def _drawing(self) -> None:
        """Report that a tensor's initial values are drawn; on a GPU nothing else shows that this makes progress."""
        self._doing("drawing the initial weights", slow=True)

    def _train(self, ready: _Ready) -> Stop | None:
        """Return why the run was stopped, or ``None`` if it is finished."""
        self._doing("beginning", slow=True)
        recording = self._begin(ready.found)
        checkpoints = self._opened.checkpoints
        data = partial(_identity, self._corpora, segments=ready.segments)
        saver = Saver(self._plan, self._groups, ready.state, checkpoints, data, self._callbacks)
        for callback in (
            *self._placing(ready),
            saver,
            *recording,
        ):  # in this order: the last save is recorded before the files are closed
            self._callbacks.add(callback)
        self._deadline.assume_save(saver.num_bytes / _SLOW_BYTES_PER_S)
        self.step = ready.found.step if ready.found else 0
        try:
            with failing_together("beginning the run"):
                self._callbacks.run_begins(RunInfo(self._plan, self._groups, ready.model, self._opened.path, self.step))
            reason = self._callbacks.should_stop()
            if reason is None:
                reason = ready.trainer.run(first_step=self.step + 1)
                self.step = ready.trainer.last_step
        except BaseException as error:
            self._doing("closing", slow=True)
            self._callbacks.run_fails(error)
            raise
        finally:
            ready.batches.close()
        self._doing("closing", slow=True)
        self._callbacks.run_ends(self.step, reason)
        return reason

    def _placing(self, ready: _Ready) -> list[Callback]:
        policy = PLACEMENTS[self._plan.pool.placement]()
        if not isinstance(policy, LearnedPolicy):
            return []
        return [Placing(policy, ready.trainer.step.optimizer, self._environment.local_rank)]

    def _open(self) -> None:
        """Take the run directory, then verify the corpus if asked to. Collectives: agreement over the world."""
        with failing_together(f"opening run.dir={self._opened.path}"):
            if self._groups.rank == 0:
                self._opened.take(self._environment)
        if self._plan.data.verify == "hash":
            self._doing("verifying the corpus", slow=True)
            on_rank_0(
                f"verifying data.path={self._plan.data.path}",
                lambda: Corpora.open(self._plan, verify="hash", from_step=next_step(self._opened.path, self._start)),
                self._groups.storage,
            )

    def _continue(self, found: Found) -> None:
        """Make the plan that of a run that continues from ``found``; print what was found and what changes.

        Raises:
            UnipoolError: the run cannot resume from it.
        """
        step, saved, asked = found.step, found.progress.data, self._asked.config
        now = _identity(Corpora.open(self._asked, from_step=step + 1), step + 1)
        if self._asked.stages.at(step).data.path != self._asked.stages.at(step + 1).data.path:
            now = now.model_copy(update={"content_hash": saved.content_hash})  # a stage with another text begins
        changes = check_compatible(found.config, saved, asked, now, step=step, allowed=self._start.allow)
        for newer, fault in found.damaged.items():
            self._say(f"warning: the checkpoint of step {newer} is damaged and passed over: {fault}", err=True)
        for change in changes:
            self._say(f"note: {change}", err=True)
        if saved.content_hash is not None:
            other_text = saved.content_hash != now.content_hash
            config = continued(found.config, asked, step, other_text=other_text)
            known = outline(config, self._groups.grid.world_size, from_step=step + 1)
            self._corpora = Corpora.open(known, from_step=step + 1)
            self._plan = _with_text(known, self._corpora)

    def _begin(self, found: Found | None) -> list[Callback]:
        """Make the run directory this run's. Return the callbacks of rank 0. Collectives: agreement over the world."""
        plan, opened = self._plan, self._opened
        with failing_together(f"preparing run.dir={opened.path}"):
            if self._groups.rank != 0:
                return []
            opened.begin(found, plan.config, self._corpora)
            sinks = open_sinks(SinkStart(opened.path, plan.config, found.step if found else None))
            say(describe(plan, self._groups))
            opened.say_where_it_resumes(found)
            return [Recording(plan, self._corpora, sinks), Speed(), Heartbeat(), Console(self._corpora)]

    def _say(self, line: str, *, err: bool = False) -> None:
        if self._groups.rank == 0:
            say(line, err=err)


def _identity(corpora: Corpora, step: int, segments: tuple[int, ...] = ()) -> DataIdentity:
    """Return what a run trains on at ``step``."""
    corpus = corpora.at(step)
    return DataIdentity(tokenizer_hash=corpus.tokenizer_hash, content_hash=corpus.content_hash, segments=segments)


def _with_text(known: Outline, corpora: Corpora) -> Plan:
    """Return the plan of a run, with what follows from the tokenizer of its corpora."""
    return known.with_vocabulary(corpora.any.vocab_size).ending_documents_with(corpora.any.document_end)
