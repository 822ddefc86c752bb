"""The figures of a finished or running run, made only from the files in its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from unipool_dist.base.reading import read_json
from unipool_dist.base.run_directory import RunDirectory
from unipool_dist.errors import UnipoolError
from unipool_dist.observe.figures import LossCurves, loss_figure, save, usage_figure
from unipool_dist.observe.files import name_of
from unipool_dist.observe.jsonlines import read_json_lines


def write_figures(run_dir: Path) -> dict[str, Path]:
    """Write RUN/loss_curve.png and, where usage was recorded, RUN/expert_usage.png; return their paths by name.

    The names are ``loss_curve`` and ``expert_usage``. Unigram entropies are drawn if RUN/data_summary.json has a
    mapping ``unigram_entropy`` of nats per token by domain.

    Raises:
        UnipoolError: ``run_dir`` holds no metrics, or they are damaged.
    """
    files = RunDirectory(run_dir)
    path = files.metrics
    records = read_json_lines(path) if path.exists() else []
    if not records:
        raise UnipoolError(
            f"{path} is missing or empty, so there is nothing to draw; is {run_dir} the folder of a run?"
        )
    name = name_of(run_dir)
    curves = collect_losses(records)
    curves.unigram_entropy = _unigram_entropy(run_dir)
    written = {"loss_curve": save(loss_figure(curves, name), files.loss_curve)}

    path = files.usage
    windows = read_json_lines(path) if path.exists() else []
    if windows:
        last = windows[-1]
        counts_LE = np.array(last["counts"], dtype=np.int64)
        figure = usage_figure(counts_LE, last["num_pools"], last["step"], name)
        written["expert_usage"] = save(figure, files.usage_figure)
    return written


def collect_losses(records: list[dict[str, Any]]) -> LossCurves:
    """Sort the records of metrics.jsonl into curves, in the order in which they were written."""
    curves = LossCurves()
    for record in records:
        for domain, loss in record.get("validation", {}).items():
            steps, losses = curves.validation.setdefault(domain, ([], []))
            steps.append(record["step"])
            losses.append(loss)
        if "loss" in record:
            curves.train[0].append(record["step"])
            curves.train[1].append(record["loss"])
            curves.train_max.append(record.get("loss_max", record["loss"]))
            curves.tokens.append(record["tokens"])
            begun = record.get("stage_from_step", 1)
            if begun > 1 and begun not in curves.stages:
                curves.stages.append(begun)
    return curves


def _unigram_entropy(run_dir: Path) -> dict[str, float]:
    path = RunDirectory(run_dir).data_summary
    if not path.exists():
        return {}
    try:
        return {name: float(nats) for name, nats in read_json(path).get("unigram_entropy", {}).items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UnipoolError(f"{path} cannot be read ({error}): restore it from a copy, or remove it") from None
