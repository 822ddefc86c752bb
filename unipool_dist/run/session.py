"""One rank's part of a run, from the first look at the run directory to the last line of output."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from unipool_dist.data import Corpus, Segment, extended, training_data, validation_sequences
from unipool_dist.engine.callback import Callback, Callbacks, RunInfo
from unipool_dist.engine.evaluate import Sequences
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
from unipool_dist.run.assembly import BatchSource, describe
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
    known = outline(config, environment.world_size)
    with _watchdog(known, environment, signals) as watchdog, process_groups(known, environment) as groups:
        watchdog.watch(groups.by_name(), cpu_counts=groups.device.type == "cpu")
        # The save of an interval may begin just before time is up, and the last one waits for it.
        deadline = Deadline(known.run.time_limit_s, num_saves=2 if known.checkpoint.interval else 1)
        handover = Handover(Path(known.run.dir), environment.job_id, environment.restarts) if groups.rank == 0 else None
        stop = StopRequest(signals, deadline, groups.world, groups.device, handover)
        with failing_together("opening corpus and callbacks"):
            corpus = Corpus.open(known.data.path, verify="size")
            plan = known.with_vocabulary(corpus.vocab_size)
            check_rank_fits(plan, corpus, stage=groups.pp_index, device_bytes=_device_bytes(groups.device))
            named = [CALLBACKS[name]() for name in plan.log.callbacks]
        for setting in settings_without_effect(config) if groups.rank == 0 else ():
            say(f"warning: {setting}", err=True)
        every = Callbacks([watchdog, Stopping(stop, deadline), Tracing(), MemorySnapshot(), *callbacks, *named])
        session = _Session(plan, groups, corpus, every, deadline, environment, start)
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
    data: DataIdentity
    model: PooledModel
    batches: BatchSource
    trainer: Trainer
    state: TrainingState


class _Session:
    def __init__(
        self,
        plan: Plan,
        groups: ParallelGroups,
        corpus: Corpus,
        callbacks: Callbacks,
        deadline: Deadline,
        environment: Environment,
        start: Start,
    ) -> None:
        self._environment = environment
        self._callbacks, self._doing = callbacks, callbacks.doing
        self._plan, self._groups, self._corpus, self._deadline = plan, groups, corpus, deadline
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
        plan, groups = self._plan, self._groups
        found = None
        if self._start.resume:
            self._doing("looking for a checkpoint", slow=True)
            found = find_checkpoint(
                self._opened.checkpoints,
                groups.storage,
                from_step=self._start.from_step,
                verify=plan.checkpoint.verify,
                damaged=damaged,
            )
        data = self._data_identity(found)
        if found is not None:
            self._check(found, data)
            if found.step >= plan.train.steps:
                found.verification.confirm()
                self._say(f"run.dir={self._opened.path} is finished: its checkpoint is of step {found.step}")
                return None
        self._doing("building the model", slow=True)
        model = build_model(plan, groups, draw=found is None)
        dataset = training_data(
            [
                Segment(self._corpus, num_samples, plan.model.sequence_length, plan.data.weights, plan.data.order)
                for num_samples in data.segments
            ],
            seed=plan.train.seed,
            spare_dir=RunDirectory(self._opened.path).cache,  # seen by all nodes, unlike /tmp
            consumed_samples=found.progress.consumed_samples if found else 0,
            group=groups.storage,
        )
        batches = BatchSource(dataset, plan, groups)
        trainer = Trainer(plan, groups, model, batches, self._validation_sequences(), self._callbacks)
        state = TrainingState(groups, model, trainer.step.optimizer)
        seed_generators(plan.train.seed)
        if found is not None:
            self._doing("loading the checkpoint", slow=True)
            try:
                load_checkpoint(found, state, groups.storage)
            except DamagedError:
                trainer.step.optimizer.close()
                raise
        return _Ready(found, data, model, batches, trainer, state)

    def _train(self, ready: _Ready) -> Stop | None:
        """Return why the run was stopped, or ``None`` if it is finished."""
        self._doing("beginning", slow=True)
        recording = self._begin(ready.found)
        checkpoints = self._opened.checkpoints
        saver = Saver(self._plan.config, self._groups, ready.state, checkpoints, ready.data, self._callbacks)
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
                lambda: Corpus.open(self._plan.data.path, verify="hash"),
                self._groups.storage,
            )

    def _data_identity(self, found: Found | None) -> DataIdentity:
        train = self._plan.train
        segments = found.progress.data.segments if found else ()
        return DataIdentity(
            tokenizer_hash=self._corpus.tokenizer_hash,
            content_hash=self._corpus.content_hash,
            segments=extended(segments, train.steps * train.global_batch_size, self._plan.data.order),
        )

    def _check(self, found: Found, data: DataIdentity) -> None:
        """Print what was found and what changes; raise if the run cannot resume from it."""
        changes = check_compatible(found.config, found.progress.data, self._plan.config, data)
        for step, fault in found.damaged.items():
            self._say(f"warning: the checkpoint of step {step} is damaged and passed over: {fault}", err=True)
        for change in changes:
            self._say(f"note: {change}", err=True)

    def _begin(self, found: Found | None) -> list[Callback]:
        """Make the run directory this run's. Return the callbacks of rank 0. Collectives: agreement over the world."""
        plan, opened = self._plan, self._opened
        with failing_together(f"preparing run.dir={opened.path}"):
            if self._groups.rank != 0:
                return []
            opened.begin(found, self._corpus)
            sinks = open_sinks(SinkStart(opened.path, plan.config, found.step if found else None))
            say(describe(plan, self._groups))
            opened.say_where_it_resumes(found)
            return [Recording(plan, self._corpus, sinks), Speed(), Heartbeat(), Console(self._corpus)]

    def _validation_sequences(self) -> dict[str, Sequences]:
        train, length = self._plan.train, self._plan.model.sequence_length
        return {
            name: validation_sequences(self._corpus, name, sequence_length=length, count=train.eval_sequences)
            for name in (self._corpus.domains if train.eval_sequences else ())
        }

    def _say(self, line: str, *, err: bool = False) -> None:
        if self._groups.rank == 0:
            say(line, err=err)
