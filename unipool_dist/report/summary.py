"""The numbers of a report: a summary of every run and of every variant. Plain arithmetic."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from unipool_dist.base.run_directory import RunDirectory
from unipool_dist.config import Config, resolve_model
from unipool_dist.config.roles import flat, role_of, settings_of
from unipool_dist.config.staging import config_at
from unipool_dist.errors import UnipoolError
from unipool_dist.planning.parameters import count_parameters
from unipool_dist.report.runs import Run
from unipool_dist.report.statistics import Estimate, estimate, paired
from unipool_dist.report.variants import Experiment

_TAIL = 0.1
_OF_THE_TEXT = ("data.path", "train.eval_sequences", "model.sequence_length")


@dataclass(frozen=True)
class RunSummary:
    """The end of one run. What a run does not have is ``None``: validation, or the experts of a dense model."""

    variant: str
    seed: int
    directory: str
    state: str
    detail: str
    tokens: int | None
    validation_loss: float | None
    """Nats per token: the mean over domains, each counting the same, after the last step."""
    domains: dict[str, float]
    training_loss: float | None
    """Nats per token: the mean over the steps of the records that end in the last tenth of training."""
    tokens_per_s: float | None
    """Median of the records without the first tenth."""
    busiest_over_mean: float | None
    """This and ownership as :mod:`unipool_dist.observe.usage` defines them."""
    effective_experts: float | None
    """Mean over layers."""
    ownership: float | None
    command: str | None
    """Command that trains the same again, into another directory."""


@dataclass(frozen=True)
class VariantSummary:
    """Means over the finished runs of a variant; differences are to the baseline, seed by seed."""

    name: str
    title: str
    is_baseline: bool
    seeds: list[int]
    stored_parameters: int | None
    active_parameters: int | None
    """Parameters that take part in computing one token."""
    tokens: int | None
    validation_loss: Estimate | None
    difference: Estimate | None
    training_loss: Estimate | None
    tokens_per_s: Estimate | None
    busiest_over_mean: Estimate | None
    effective_experts: Estimate | None
    ownership: Estimate | None
    domains: dict[str, Estimate]
    domain_differences: dict[str, Estimate]


@dataclass(frozen=True)
class Summary:
    """All numbers of the page."""

    title: str
    baseline: str | None
    problems: list[str]
    """Runs that are left out of all means, and why."""
    warnings: list[str]
    """Reasons to doubt the comparison."""
    variants: list[VariantSummary]
    runs: list[RunSummary]

    @property
    def domains(self) -> list[str]:
        """Return the domains of all variants, in the order of first occurrence."""
        return list(dict.fromkeys(name for variant in self.variants for name in variant.domains))

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def summarize(experiment: Experiment, runs: list[Run]) -> Summary:
    """Return all numbers of the report about ``runs``."""
    each = [summarize_run(run) for run in runs]
    finished = [summary for summary in each if summary.state == "finished"]
    variants = []
    for variant in experiment.variants:
        mine = [summary for summary in finished if summary.variant == variant.name]
        base = [summary for summary in finished if summary.variant == experiment.baseline]
        is_baseline = variant.name == experiment.baseline
        domains = list(dict.fromkeys(name for summary in mine for name in summary.domains))
        differences = (
            {} if is_baseline else {name: paired(_domain(mine, name), _domain(base, name)) for name in domains}
        )
        stored, active = _parameters(run for run in runs if run.variant == variant.name)
        variants.append(
            VariantSummary(
                name=variant.name,
                title=variant.title,
                is_baseline=is_baseline,
                seeds=[summary.seed for summary in mine],
                stored_parameters=stored,
                active_parameters=active,
                tokens=max((summary.tokens or 0 for summary in mine), default=None),
                validation_loss=_mean(mine, "validation_loss"),
                difference=None if is_baseline else paired(_losses(mine), _losses(base)),
                training_loss=_mean(mine, "training_loss"),
                tokens_per_s=_mean(mine, "tokens_per_s"),
                busiest_over_mean=_mean(mine, "busiest_over_mean"),
                effective_experts=_mean(mine, "effective_experts"),
                ownership=_mean(mine, "ownership"),
                domains=_known({name: estimate(list(_domain(mine, name).values())) for name in domains}),
                domain_differences=_known(differences),
            )
        )
    problems = [f"{run.variant}, seed {run.seed}: {run.detail}" for run in runs if not run.is_finished]
    return Summary(experiment.title, experiment.baseline, problems, _warnings(experiment, runs), variants, each)


def summarize_run(run: Run) -> RunSummary:
    """Summarize the end of ``run``, or the last step of an unfinished one."""
    last_step = run.steps[-1] if run.steps else 0
    domains = run.evaluations[-1][1] if run.is_finished and run.evaluations else {}
    late = [number for number, step in enumerate(run.steps) if step > (1 - _TAIL) * last_step]
    usage = run.usage
    return RunSummary(
        variant=run.variant,
        seed=run.seed,
        directory=str(run.directory),
        state=run.state,
        detail=run.detail,
        tokens=run.tokens[-1] if run.tokens else None,
        validation_loss=sum(domains.values()) / len(domains) if domains else None,
        domains=domains,
        training_loss=_mean_over_steps(run, late) if late else None,
        tokens_per_s=median(run.speeds[_left_out(len(run.speeds)) :]) if run.speeds else None,
        busiest_over_mean=usage.summary.busiest_over_mean if usage else None,
        effective_experts=usage.effective_experts if usage else None,
        ownership=usage.summary.ownership if usage else None,
        command=repeat_command(run) if run.config else None,
    )


def repeat_command(run: Run) -> str:
    """Return the command that trains ``run`` again. Its configuration is resolved, so it needs as many processes."""
    assert run.config is not None
    parallel = run.config.parallel
    processes = parallel.pp * parallel.tp * (parallel.dp if isinstance(parallel.dp, int) else 1)
    config = shlex.quote(str(RunDirectory(run.directory).config))
    again = shlex.quote(f"run.dir=runs/again/{run.variant}/seed-{run.seed}")
    return f"unipool-dist train {config} --nproc {processes} {again}"


def _mean_over_steps(run: Run, records: list[int]) -> float:
    """Return the mean training loss, every step counting the same; records may cover different numbers of steps."""
    steps = sum(run.windows[number] for number in records)
    return sum(run.losses[number] * run.windows[number] for number in records) / steps


def _left_out(num_records: int) -> int:
    """Return how many first records of a run count as warm-up: at least one, if there are more."""
    return min(max(num_records // 10, 1), num_records - 1)


def _parameters(runs: Iterable[Run]) -> tuple[int | None, int | None]:
    config = next((run.config for run in runs if run.config is not None), None)
    try:
        counts = None if config is None else count_parameters(resolve_model(config))
    except UnipoolError:  # its vocabulary is not known, or it names code of a user's, which a report does not import
        counts = None
    if counts is None:
        return None, None
    return sum(counts.stored.values()), sum(counts.active.values())


def _warnings(experiment: Experiment, runs: list[Run]) -> list[str]:
    """Return warnings that a comparison may be unfair.

    Runs of a variant that differ in more than the seed, variants that were not measured on the same text, and probes of
    a model that was trained further afterwards.
    """
    warnings = []
    first: dict[str, dict[str, Any]] = {}
    path_of: dict[str, str] = {}  # of every corpus: it may have been moved, or called by another path
    for run in runs:
        if run.config is None or not run.is_finished:
            continue
        at_the_end = flat(config_at(run.config, run.config.train.steps))
        fields = _fields(run.config) | {name: at_the_end[name] for name in _OF_THE_TEXT}
        path = at_the_end["data.path"]
        fields["data.path"] = path if run.corpus is None else path_of.setdefault(run.corpus, path)
        differing = [name for name, value in first.setdefault(run.variant, fields).items() if fields[name] != value]
        if differing:
            warnings.append(
                f"{run.variant}, seed {run.seed}, was trained with another {', '.join(differing)} than the first run "
                f"of its variant; their mean is not one of equals"
            )
    for name in _OF_THE_TEXT:
        values = {variant: fields[name] for variant, fields in first.items()}
        if len(set(values.values())) > 1:
            listed = ", ".join(f"{variant}: {value}" for variant, value in values.items())
            warnings.append(f"validation losses are not of the same text, as {name} differs ({listed})")
    domains = {
        run.variant: tuple(sorted(run.evaluations[-1][1])) for run in runs if run.is_finished and run.evaluations
    }
    if len(set(domains.values())) > 1:
        warnings.append("validation losses are means over different domains, as variants differ in these")
    warnings += [
        f"the probe of {run.variant}, seed {run.seed}, is of step {run.stale_probe_step}, and not of the last, "
        f"{run.steps[-1]}; it is left out: run `unipool-dist probe {shlex.quote(str(run.directory))}` again"
        for run in runs
        if run.is_finished and run.stale_probe_step is not None
    ]
    return warnings


def _fields(config: Config) -> dict[str, Any]:
    """Return by name the value of every field that is to be the same in all runs of a variant, which differ by seed."""
    compared = [name for name, field in settings_of(Config).items() if role_of(field).is_compared]
    values = flat(config)
    return {name: values[name] for name in compared if name != "train.seed"}


def _mean(runs: list[RunSummary], name: str) -> Estimate | None:
    return estimate([value for run in runs if (value := getattr(run, name)) is not None])


def _losses(runs: list[RunSummary]) -> dict[int, float]:
    return {run.seed: run.validation_loss for run in runs if run.validation_loss is not None}


def _domain(runs: list[RunSummary], name: str) -> dict[int, float]:
    return {run.seed: run.domains[name] for run in runs if name in run.domains}


def _known(estimates: dict[str, Estimate | None]) -> dict[str, Estimate]:
    return {name: value for name, value in estimates.items() if value is not None}
