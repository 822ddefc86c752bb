"""The runs of an experiment: each with its configuration and directory, in the order in which they are trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unipool_dist.base.run_directory import RunDirectory
from unipool_dist.checkpoint.compatibility import run_differences
from unipool_dist.config import Config, load_config, outline
from unipool_dist.errors import ConfigError, UnipoolError
from unipool_dist.experiment.specification import Experiment

MAX_RUNS = 2_000


@dataclass(frozen=True)
class Run:
    """One training of an experiment."""

    variant: str
    seed: int
    directory: Path
    config: Config
    """Not resolved; ``run.dir`` is :attr:`directory`."""

    @property
    def name(self) -> str:
        """Its directory, relative to the experiment's."""
        return f"{self.variant}/seed-{self.seed}"

    @property
    def files(self) -> RunDirectory:
        """What is where in its directory."""
        return RunDirectory(self.directory)


def planned_runs(
    experiment: Experiment, folder: Path, *, only: Sequence[str] = (), seeds: Sequence[int] = ()
) -> list[Run]:
    """Return all runs, those of the first seed first, so that the variants can soon be compared.

    Args:
        folder: what the experiment's ``base`` is relative to.
        only: variants to keep; none: all.
        seeds: seeds to keep; none: all.

    Raises:
        ConfigError: a configuration is not valid, or ``only`` or ``seeds`` name what the experiment does not have.
    """
    if sum(len(experiment.seeds_of(name)) for name in experiment.variants) > MAX_RUNS:
        raise ConfigError(f"the experiment has more than {MAX_RUNS:,} runs; split it")
    _check_known("--only", only, list(experiment.variants))
    own = (seed for name in experiment.variants for seed in experiment.seeds_of(name))
    every_seed = list(dict.fromkeys([*experiment.seeds, *own]))
    _check_known("--seeds", seeds, every_seed)
    runs = [
        _run(experiment, folder, name, seed)
        for seed in every_seed
        for name in experiment.variants
        if seed in experiment.seeds_of(name) and (not seeds or seed in seeds) and (not only or name in only)
    ]
    if not runs:
        raise ConfigError("no run is left: the variants given with --only have none of the seeds given with --seeds")
    return runs


def check_distinct(runs: Sequence[Run]) -> None:
    """Refuse to train the same twice: values written differently may be the same, as ``1e-3`` and ``0.001``.

    Raises:
        ConfigError: two variants have the same configuration and seed.
    """
    seen: dict[str, str] = {}
    for run in runs:
        fields = run.config.model_dump_json(exclude={"run": {"dir"}})
        other = seen.setdefault(fields, run.variant)
        if other != run.variant:
            raise ConfigError(
                f"variants {other} and {run.variant} are the same configuration, with seed {run.seed} in both; leave "
                f"one of them out, or give it other fields or seeds"
            )


def resolved_configs(runs: Sequence[Run], num_processes: int) -> dict[str, Config]:
    """Return the configurations by the runs' names, resolved for ``num_processes``.

    Raises:
        UnipoolError: one cannot be trained on so many; says which variant's.
    """
    resolved = {}
    for run in runs:
        with naming_variant(run.variant):
            resolved[run.name] = outline(run.config, num_processes).config
    return resolved


def check_unchanged(runs: Sequence[Run], resolved: Mapping[str, Config]) -> None:
    """Refuse to mix runs of different configurations: directories must hold what the experiment's file says now.

    Layout, logging, checkpoints and paths may differ.

    Raises:
        ConfigError: naming every run and field; or a directory's configuration is not of this version.
    """
    faults = []
    for run in runs:
        begun = run.files.config
        if begun.exists():
            faults += [f"{run.directory}: {line}" for line in run_differences(_begun(begun), resolved[run.name])]
    if faults:
        raise ConfigError(
            "these runs were begun with another configuration than the experiment's file describes now:\n  "
            + "\n  ".join(faults)
            + "\nSet the fields back, give the changed variant another name, or delete these directories to train "
            "them again"
        )


@contextmanager
def naming_variant(variant: str) -> Iterator[None]:
    """Name the variant in errors of the body."""
    try:
        yield
    except UnipoolError as error:
        raise type(error)(f"variant {variant}: {error}") from None


def _run(experiment: Experiment, folder: Path, name: str, seed: int) -> Run:
    variant = experiment.variants[name]
    base = variant.base or experiment.base
    directory = Path(experiment.output) / name / f"seed-{seed}"
    fields = {**experiment.set, **variant.set, "train.seed": seed, "run.dir": str(directory)}
    with naming_variant(name):
        config = load_config(folder / base if base else None, fields=fields)
    return Run(name, seed, directory, config)


def _begun(path: Path) -> Config:
    """Return the configuration that a run was begun with."""
    try:
        return load_config(path)
    except ConfigError as error:
        raise ConfigError(
            f"{error}\n{path.parent} may be a run of another version of unipool-dist; use that, or delete the "
            f"directory to train it again"
        ) from None


def _check_known(option: str, given: Sequence[Any], known: Sequence[Any]) -> None:
    unknown = [str(item) for item in given if item not in known]
    if unknown:
        raise ConfigError(f"{option} {','.join(unknown)}: the experiment has {', '.join(map(str, known))}")
