"""Figures of losses over training, and at its end."""

from __future__ import annotations

import textwrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from unipool_dist.base.printable import printable
from unipool_dist.observe.figures import SMOOTH_FROM_STEPS, running_mean
from unipool_dist.observe.token_scale import TokenScale
from unipool_dist.observe.usage import Counts, Floats
from unipool_dist.report import text
from unipool_dist.report.pictures import WIDTH, Findings, Picture, extremes, label_ends
from unipool_dist.report.runs import Run

# Of training; before, the loss falls so far that nothing else would be seen.
_SHOWN_FROM = 0.2
_VALIDATION_SHOWN_FROM = 0.1


class Curves:
    """One line per variant: the mean over its runs, and the range of these."""

    def __init__(self, at: Counts, values_RS: Floats) -> None:
        self.at = at
        self.mean = values_RS.mean(axis=0)
        self.low, self.high = values_RS.min(axis=0), values_RS.max(axis=0)


def training_picture(findings: Findings) -> Picture | None:
    """Draw the training loss, and below it differences to the baseline."""
    smoothed = {name: [_smoothed(run) for run in findings.of(name)] for name in findings.names}
    curves = {name: _together(list(each)) for name, each in smoothed.items()}
    drawn = {name: curve for name, curve in curves.items() if curve is not None and len(curve.at) > 1}
    if not drawn:
        return None
    differences = _differences(findings, smoothed)
    figure = Figure(figsize=(WIDTH, 7.0 if differences else 4.6), layout="constrained")
    panels = figure.subplots(
        1 + bool(differences), 1, sharex=True, squeeze=False, height_ratios=[3, 2] if differences else [1]
    )[:, 0]
    _draw(panels[0], findings, drawn, "training loss (nats per token)")
    if differences:
        baseline = findings.experiment.title_of(findings.experiment.baseline or "")
        _draw(panels[1], findings, differences, "difference to baseline\n(nats per token)", zero=True)
        panels[0].set_xlabel("")
    _tokens_above(panels[0], findings)
    ends = {findings.styles[name].title: float(curve.mean[-1]) for name, curve in drawn.items()}
    said = f"Training loss at the end: {extremes(ends, text.loss)}."
    if differences:
        said += f" Below: loss minus that of {baseline}, seed by seed."
    reaches = sorted({_reach(len(run.steps)) for run in findings.runs})
    smoothing = (
        "Not smoothed."
        if reaches == [0]
        else f"Every run's loss is the running mean of a record and {_span(reaches)} on either side."
    )
    longest = max(window for run in findings.runs for window in run.windows)
    if longest > 1:
        smoothing = f"A record is the mean of up to {longest} steps. {smoothing}"
    several = any(len(findings.of(name)) > 1 for name in drawn)
    return Picture(
        "training_loss",
        "Training loss",
        figure,
        f"Line chart of training loss against {_against(findings)} for {len(drawn)} variants"
        + (", with a second panel of differences to the baseline" if differences else ""),
        f"{said} {'Lines are means over seeds, bands go from the lowest to the highest seed. ' if several else ''}"
        f"{smoothing} The axes are fitted to what follows the first {_SHOWN_FROM:.0%} of training.",
    )


def validation_picture(findings: Findings) -> Picture | None:
    """Draw the validation loss over training, where it was measured more than once."""
    curves = {}
    for name in findings.names:
        runs = [
            ([step for step, _ in run.evaluations], [_mean_of(losses) for _, losses in run.evaluations])
            for run in findings.of(name)
        ]
        curve = _together(runs)
        if curve is not None and len(curve.at) > 1:
            curves[name] = curve
    if not curves:
        return None
    figure = Figure(figsize=(WIDTH, 4.6), layout="constrained")
    axes = figure.subplots()
    _draw(axes, findings, curves, "validation loss (nats per token)", markers=True)
    _tokens_above(axes, findings)
    ends = {findings.styles[name].title: float(curve.mean[-1]) for name, curve in curves.items()}
    return Picture(
        "validation_loss",
        "Validation loss",
        figure,
        f"Line chart of validation loss against {_against(findings)} for {len(curves)} variants",
        f"Mean over domains, measured at most {max(len(curve.at) for curve in curves.values())} times. At the end, "
        f"{extremes(ends, text.loss)}. Lines are means over seeds, bands go from the lowest to the highest. The axis "
        f"is fitted to what follows the first {_VALIDATION_SHOWN_FROM:.0%} of training.",
    )


def final_picture(findings: Findings) -> Picture | None:
    """Draw the final validation loss of every run, and the mean of each variant."""
    summary = findings.summary
    variants = [variant for variant in summary.variants if variant.validation_loss is not None]
    if not variants:
        return None
    figure = Figure(figsize=(WIDTH, 1.3 + 0.46 * len(variants)), layout="constrained")
    axes = figure.subplots()
    for row, variant in enumerate(variants):
        style, value = findings.styles[variant.name], variant.validation_loss
        assert value is not None
        dots = [run.validation_loss for run in summary.runs if run.variant == variant.name and run.state == "finished"]
        known = [dot for dot in dots if dot is not None]
        axes.plot(known, [row + 0.17] * len(known), "o", color=style.colour, alpha=0.45, markersize=5, mew=0)
        axes.errorbar(
            value.mean, row - 0.1, xerr=value.standard_error, fmt="D", color=style.colour, markersize=6, capsize=4
        )
    axes.set_yticks(range(len(variants)), [_wrapped(variant.title) for variant in variants])
    axes.set_ylim(len(variants) - 0.5, -0.5)
    axes.set_xlabel("final validation loss (nats per token)")
    axes.grid(axis="x", alpha=0.25)
    _bare(axes)
    means = {variant.title: text.mean(variant.validation_loss) or 0.0 for variant in variants}
    return Picture(
        "final_loss",
        "Final validation loss",
        figure,
        f"Dot plot of the final validation loss of {len(variants)} variants, every run and the mean",
        f"Mean over seeds, {extremes(means, text.loss)}. Diamonds: means and standard errors; pale dots: single runs.",
    )


def domain_picture(findings: Findings) -> Picture | None:
    """Draw differences to the baseline, domain by domain."""
    summary = findings.summary
    variants = [variant for variant in summary.variants if variant.domain_differences]
    domains = [name for name in summary.domains if any(name in variant.domain_differences for variant in variants)]
    if not domains:
        return None
    figure = Figure(figsize=(WIDTH, 1.6 + max(0.55, 0.2 * len(variants) + 0.12) * len(domains)), layout="constrained")
    axes = figure.subplots()
    extreme: tuple[float, str, str] | None = None
    for number, variant in enumerate(variants):
        style = findings.styles[variant.name]
        shift = 0.7 * ((number + 0.5) / len(variants) - 0.5)
        rows = [row for row, name in enumerate(domains) if name in variant.domain_differences]
        values = [variant.domain_differences[domains[row]] for row in rows]
        axes.errorbar(
            [value.mean for value in values],
            [row + shift for row in rows],
            xerr=[value.standard_error or 0.0 for value in values],
            fmt=style.marker,
            color=style.colour,
            capsize=3,
            markersize=5.5,
            label=style.title,
        )
        for row, value in zip(rows, values, strict=True):
            if extreme is None or value.mean < extreme[0]:
                extreme = (value.mean, style.title, domains[row])
    for row in range(len(domains) - 1):
        axes.axhline(row + 0.5, color="0.9", linewidth=0.8)
    axes.axvline(0, color="0.25", linestyle="--", linewidth=1)
    axes.set_yticks(range(len(domains)), [printable(domain) for domain in domains])
    axes.set_ylim(len(domains) - 0.5, -0.5)
    axes.set_xlabel("final validation loss minus the baseline's (nats per token)")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: text.tick(value)))
    axes.grid(axis="x", alpha=0.25)
    _bare(axes)
    figure.legend(loc="outside upper left", ncols=3, frameon=False, fontsize=9, handletextpad=0.3)
    assert extreme is not None
    return Picture(
        "domains",
        "Domains: difference to the baseline",
        figure,
        f"Dot plot of the differences in validation loss to the baseline for {len(variants)} variants in "
        f"{len(domains)} domains",
        f"Lowest: {extreme[1]} in {extreme[2]} with {text.difference(extreme[0])}. Means of the differences seed by "
        f"seed; bars are standard errors, where there is more than one seed.",
    )


def _draw(
    axes: Axes, findings: Findings, curves: dict[str, Curves], label: str, *, zero: bool = False, markers: bool = False
) -> None:
    lows, highs, last = [], [], 0.0
    scales = _scales_apart(findings)
    for name, curve in curves.items():
        style = findings.styles[name]
        at = scales[name].millions(curve.at) if name in scales else curve.at
        axes.fill_between(at, curve.low, curve.high, color=style.colour, alpha=0.16, linewidth=0)
        axes.plot(
            at,
            curve.mean,
            color=style.colour,
            linestyle=style.line,
            linewidth=1.5,
            marker=style.marker if markers else None,
            markersize=4,
        )
        last = max(last, float(at[-1]))
        late = curve.at >= (_VALIDATION_SHOWN_FROM if markers else _SHOWN_FROM) * curve.at[-1]
        lows.append(curve.low[late].min())
        highs.append(curve.high[late].max())
    if zero:
        axes.axhline(0, color=findings.styles[findings.experiment.baseline or ""].colour, linewidth=1.2)
        lows.append(0.0)
        highs.append(0.0)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: text.tick(value)))
    room = 0.05 * (max(highs) - min(lows)) or 0.05
    axes.set_ylim(min(lows) - room, max(highs) + room)
    axes.set_xlim(0, last)
    axes.set_xlabel("tokens seen (millions)" if scales else "training step")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    ends = [(float(curve.mean[-1]), findings.styles[name]) for name, curve in curves.items()]
    label_ends(axes, ends)


def _tokens_above(axes: Axes, findings: Findings) -> None:
    """Add a second axis in tokens, unless the first is in tokens already."""
    scales = set(_token_scales(findings).values())
    if len(scales) != 1:
        return
    (scale,) = scales
    top = axes.secondary_xaxis("top", functions=(scale.millions, scale.steps))
    top.set_xlabel("tokens seen (millions)", fontsize=9)
    top.tick_params(labelsize=8)


def _scales_apart(findings: Findings) -> dict[str, TokenScale]:
    """Return the tokens that each variant has seen at a step; empty if equal, so that steps are comparable."""
    scales = _token_scales(findings)
    return scales if len(set(scales.values())) > 1 else {}


def _token_scales(findings: Findings) -> dict[str, TokenScale]:
    scales = {run.variant: TokenScale.of(run.steps, run.tokens) for run in findings.runs}
    return {name: scale for name, scale in scales.items() if scale is not None}


def _against(findings: Findings) -> str:
    return "tokens seen" if _scales_apart(findings) else "training step"


def _smoothed(run: Run) -> tuple[list[int], list[float]]:
    return run.steps, running_mean(run.losses, _reach(len(run.losses))) if run.losses else []


def _reach(num_records: int) -> int:
    return num_records // 60 if num_records >= SMOOTH_FROM_STEPS else 0


def _span(reaches: list[int]) -> str:
    few, most = reaches[0], reaches[-1]
    many = f"{few}" if few == most else f"{few} to {most}"
    return f"{many} record{'s' * (most > 1)}"


def _together(runs: list[tuple[list[int], list[float]]]) -> Curves | None:
    """Return the curves of several runs at the steps that all have."""
    tables = [dict(zip(steps, values, strict=True)) for steps, values in runs]
    if not tables:
        return None
    common = sorted(set.intersection(*(set(table) for table in tables)))
    if not common:
        return None
    return Curves(np.array(common), np.array([[table[step] for step in common] for table in tables]))


def _differences(findings: Findings, smoothed: dict[str, list[tuple[list[int], list[float]]]]) -> dict[str, Curves]:
    """Return the curves of every variant but the baseline, over the seeds that both have."""
    baseline = findings.experiment.baseline
    if baseline not in smoothed or _scales_apart(findings):
        return {}
    assert baseline is not None
    base = {run.seed: dict(zip(*curve, strict=True)) for run, curve in _with_runs(findings, smoothed, baseline)}
    found = {}
    for name in smoothed.keys() - {baseline}:
        each = []
        for run, (steps, losses) in _with_runs(findings, smoothed, name):
            other = base.get(run.seed)
            if other is not None:
                pairs = [(s, loss - other[s]) for s, loss in zip(steps, losses, strict=True) if s in other]
                each.append(([step for step, _ in pairs], [value for _, value in pairs]))
        curve = _together(each)
        if curve is not None and len(curve.at) > 1:
            found[name] = curve
    return {name: found[name] for name in findings.names if name in found}


def _with_runs(
    findings: Findings, smoothed: dict[str, list[tuple[list[int], list[float]]]], name: str
) -> list[tuple[Run, tuple[list[int], list[float]]]]:
    return list(zip(findings.of(name), smoothed[name], strict=True))


def _mean_of(losses: dict[str, float]) -> float:
    return sum(losses.values()) / len(losses)


def _wrapped(title: str) -> str:
    return "\n".join(textwrap.wrap(printable(title), 30))


def _bare(axes: Axes) -> None:
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_axisbelow(True)
