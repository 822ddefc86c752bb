"""The public Python API: train, open a run, build a model.

Every function works in this process as one rank: of those that torchrun or SLURM started, or as the only one. All ranks
call the same functions in the same order. ``import unipool_dist as up`` gives these names.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from unipool_dist.base.user_code import trust
from unipool_dist.checkpoint.compatibility import ALLOWED
from unipool_dist.comm.environment import read_environment
from unipool_dist.comm.groups import ParallelGroups, process_groups
from unipool_dist.comm.megatron_import import quiet_libraries
from unipool_dist.config import Config, Plan, named_code, resolve
from unipool_dist.config import load_config as read_config
from unipool_dist.engine.callback import Callback, Stop, stop
from unipool_dist.engine.pipeline import Pipeline
from unipool_dist.errors import ConfigError
from unipool_dist.inference.generation import generated
from unipool_dist.inference.layout import inference_plan
from unipool_dist.inference.opened import OpenedRun, opened_run
from unipool_dist.inference.sampler import Sampling
from unipool_dist.inference.validation import Loss, validation_batches, validation_losses
from unipool_dist.model.assembly import PooledModel
from unipool_dist.model.assembly import build_model as build_part
from unipool_dist.observe.sink import Sink
from unipool_dist.resilience.signals import StopSignals
from unipool_dist.run.session import train_session
from unipool_dist.run.start import Start

__all__ = [
    "BuiltModel",
    "Callback",
    "Config",
    "Run",
    "Sampling",
    "Sink",
    "Stop",
    "build_model",
    "load_config",
    "open_run",
    "stop",
    "train",
]


def load_config(path: str | Path | None = None, *overrides: str) -> Config:
    """Read a configuration; each of ``overrides`` is ``section.field=value``, as on the command line.

    Code that it names may be imported from now on: read a file of somebody else before you load it.

    Raises:
        ConfigError: a file cannot be read, or a field is unknown, ill-typed or outside its range.
    """
    config = read_config(path, overrides)
    trust(named_code(config))
    return config


def train(
    config: Config,
    callbacks: Sequence[Callback] = (),
    *,
    resume: bool = False,
    overwrite: bool = False,
    allow: Sequence[str] = (),
) -> bool:
    """Train to the end, and return ``True``; or until a callback or a signal stops the run, and return ``False``.

    A stopped run is saved, and continues with ``resume=True``. Until this returns, SIGTERM, SIGINT (a notebook's
    interrupt too), SIGUSR1 and SIGHUP ask for a stop; so it is called from the main thread.

    Args:
        callbacks: called on this rank, before those of ``log.callbacks``; each rank gives as many.
        resume: continue from the newest whole checkpoint, if there is one.
        overwrite: replace the run that ``run.dir`` already holds, checkpoints included.
        allow: fields that may have another value than in the checkpoint, from the next step on, as ``--allow`` says.

    Raises:
        UnipoolError: the message says what to do.
    """
    if resume and overwrite:
        raise ConfigError("overwrite=True deletes the checkpoints that resume=True needs; give one of them")
    unknown = [name for name in allow if name not in ALLOWED]
    if unknown:
        raise ConfigError(f"allow={unknown}: a resume may be allowed to change {', '.join(ALLOWED)}, and nothing else")
    trust(named_code(config))
    environment = read_environment()
    with quiet_libraries(), StopSignals(environment.rank) as signals:
        start = Start(overwrite=overwrite, resume=resume, allow=tuple(allow))
        return train_session(config, environment, start, signals, callbacks) == 0


@dataclass(frozen=True)
class Run:
    """A run whose model is in memory; made by :func:`open_run`."""

    opened: OpenedRun
    """This rank's part: model, process groups, pipeline, corpus."""

    @property
    def plan(self) -> Plan:
        """The run on the present layout, with all sizes known."""
        return self.opened.plan

    @property
    def step(self) -> int:
        """The step of the checkpoint that was loaded."""
        return self.opened.step

    def evaluate(self, sequences: int | None = None) -> dict[str, Loss]:
        """Measure the validation loss of every domain; the same on every rank.

        Args:
            sequences: of each domain; ``None``: those that training evaluates, ``train.eval_sequences``.
        """
        count = self.plan.train.eval_sequences if sequences is None else sequences
        return validation_losses(self.opened, validation_batches(self.opened, count))

    def generate(
        self,
        prompt: str,
        max_tokens: int = 64,
        *,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int | None = None,
        seed: int = 0,
        stop: str | Sequence[str] = (),
    ) -> str:
        """Return what the model continues ``prompt`` with; the same on every rank and layout for one ``seed``.

        It ends with the document, before ``stop`` (the first of several), or after ``max_tokens``.

        Raises:
            UnipoolError: an argument is out of its range, or the model cannot begin a document.
        """
        return self.generate_batch([prompt], max_tokens, Sampling(temperature, top_p, seed, top_k), stop)[0]

    def generate_batch(
        self,
        prompts: Sequence[str],
        max_tokens: int = 64,
        sampling: Sampling = Sampling(),  # noqa: B008 (frozen)
        stop: str | Sequence[str] = (),
    ) -> list[str]:
        """Return what each of ``prompts`` is continued with, in their order; they are continued together.

        Prompt number i is continued as by :meth:`generate` with the seed ``sampling.seed + i``, up to rounding.
        """
        follow = [""] * len(prompts)
        stops = [stop] if isinstance(stop, str) else stop
        for piece in generated(self.opened, prompts, max_tokens, sampling, stops):
            follow[piece.prompt] += piece.text
        return follow


@contextmanager
def open_run(
    run_dir: str | Path,
    *overrides: str,
    step: int | None = None,
    allow: Sequence[str] = (),
    tokenizer: str | Path | None = None,
) -> Iterator[Run]:
    """Open the model of a run for the body of a ``with`` statement; no optimizer states, and no lock is taken.

    Args:
        overrides: ``section.field=value`` of what may be set for a trained model: layout, corpus, micro-batch.
        step: of the checkpoint; ``None``: the newest whole one.
        allow: names ``module:Class`` in the run's configuration whose code may be imported.
        tokenizer: where the run's tokenizer is, in an export, a corpus or a file: then its corpus is not needed to
            generate text.

    Raises:
        UnipoolError: there is no such run or checkpoint, it is damaged, or names code that is not allowed.
    """
    trust(allow)
    environment = read_environment()
    with quiet_libraries():
        plan = inference_plan(Path(run_dir), overrides, environment.world_size, step)
        found = None if tokenizer is None else Path(tokenizer)
        with opened_run(Path(run_dir), plan, environment, step, found) as opened:
            yield Run(opened)


@dataclass(frozen=True)
class BuiltModel:
    """A model that has just been drawn, and what runs it; made by :func:`build_model`."""

    plan: Plan
    """The configuration, resolved for the number of processes."""
    model: PooledModel
    """This rank's part."""
    groups: ParallelGroups
    pipeline: Pipeline
    """``pipeline.forward(batches, use)`` runs micro-batches on all ranks together."""


@contextmanager
def build_model(config: Config, *, document_end: int | None = None) -> Iterator[BuiltModel]:
    """Build the model of ``config`` for the body of a ``with`` statement, on the layout that it asks for.

    In one process that is the whole model; among several, this rank's part. The configuration needs
    ``model.vocab_size``.

    Args:
        document_end: the token that ends a document; ``data.reset_at_documents`` needs it.

    Raises:
        UnipoolError: the sizes contradict each other, or the number of processes.
    """
    trust(named_code(config))
    environment = read_environment()
    with quiet_libraries():
        plan = resolve(config, environment.world_size)
        plan = plan if document_end is None else plan.ending_documents_with(document_end)
        with process_groups(plan, environment) as groups:
            model = build_part(plan, groups)
            yield BuiltModel(plan, model, groups, Pipeline(plan, groups, model))
