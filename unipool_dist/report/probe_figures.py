"""Probes of several variants side by side. Those of one run are drawn by :mod:`unipool_dist.probe.plots`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from unipool_dist.observe.usage import Floats
from unipool_dist.probe.plots import LINEAR_BELOW, is_logarithmic, scale_added
from unipool_dist.probe.record import MATCHED, Probe
from unipool_dist.report import text
from unipool_dist.report.pictures import WIDTH, Findings, Picture, extremes, label_ends


def probe_pictures(findings: Findings) -> list[Picture]:
    """Draw for the probed runs loss added by random routing, distinct experts of a token, and layers per expert."""
    probes = {name: [run.probe for run in findings.of(name) if run.probe is not None] for name in findings.names}
    probes = {name: found for name, found in probes.items() if found}
    if not probes:
        return []
    return [
        *(
            _randomized(findings, probes, form)
            for form in ("pool", "matched")
            if form == "pool" or not all(probe.has_one_form for found in probes.values() for probe in found)
        ),
        _distinct(findings, probes),
        _ownership(findings, probes),
    ]


def _randomized(findings: Findings, probes: dict[str, list[Probe]], form: str) -> Picture:
    """Draw the loss added when one layer's experts are drawn at random, layer by layer.

    A pool that has no more experts than the matched form draws from is drawn as a whole; the matched form of the others
    is to be compared with that.
    """
    figure = Figure(figsize=(WIDTH, 4.4), layout="constrained")
    axes = figure.subplots()
    means: dict[str, float] = {}
    least = 0.0
    every: list[Floats] = []
    for number, (name, found) in enumerate(probes.items()):
        style = findings.styles[name]
        mean_L, low_L, high_L = _over_runs(found, lambda probe: probe.in_form(form).added_to(probe.loss).mean(axis=0))
        layers = np.arange(len(mean_L)) + 0.06 * (number - (len(probes) - 1) / 2)
        axes.errorbar(
            layers,
            mean_L,
            np.stack([mean_L - low_L, high_L - mean_L]) if len(found) > 1 else None,
            color=style.colour,
            linestyle=style.line,
            marker=style.marker,
            markersize=4.5,
            capsize=2,
            label=style.title,
        )
        means[style.title] = float(mean_L.mean())
        least = min(least, float(low_L.min()))
        every.append(mean_L)
    axes.axhline(0, color="0.25", linestyle="--", linewidth=1)
    axes.set_ylabel(scale_added(axes, is_logarithmic(np.concatenate(every))))
    axes.set_ylim(bottom=1.3 * least - LINEAR_BELOW / 4)
    axes.set_xlabel("layer whose experts are drawn at random")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper left", ncols=3, frameon=False, fontsize=9)
    drawn_from, but = "the whole pool", ""
    if form == "matched":
        several = (probe for found in probes.values() for probe in found if not probe.has_one_form)
        sizes = sorted({len(probe.randomized[form].candidates[0]) for probe in several})
        drawn_from = f"the {' or '.join(map(str, sizes))} experts that the layer uses most"
        whole = [findings.styles[name].title for name, found in probes.items() if found[0].has_one_form]
        if whole:
            but = f" (of {', '.join(whole)}, with no more than {MATCHED} in a pool: from the whole pool)"
    return Picture(
        f"probe_randomized_{form}",
        f"Random experts, from {drawn_from}",
        figure,
        f"Line chart of the loss added by random routing in each layer, for {len(probes)} variants",
        f"Loss added, mean over layers: {extremes(means, text.difference)}. One layer at a time chooses at random from "
        f"{drawn_from}{but}; bars, where there are several runs, go from the lowest to the highest. "
        f"{_of_one_text(probes)}",
    )


def _distinct(findings: Findings, probes: dict[str, list[Probe]]) -> Picture:
    """Draw the share of distinct experts among those that a token meets."""
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    axes = figure.subplots()
    ends = []
    least = 1.0
    for name, found in probes.items():
        style = findings.styles[name]
        mean_L, low_L, high_L = _over_runs(found, lambda probe: np.array(probe.distinct))
        at = np.arange(1, len(mean_L) + 1)
        axes.fill_between(at, low_L, high_L, color=style.colour, alpha=0.16, linewidth=0)
        axes.plot(at, mean_L, color=style.colour, linestyle=style.line, marker=style.marker, markersize=4.5)
        ends.append((float(mean_L[-1]), style))
        least = min(least, float(low_L.min()))
    axes.set_ylim(min(0.9, least - 0.03), 1.01)
    axes.margins(x=0.01)
    axes.set_xlabel("layers passed")
    axes.set_ylabel("distinct experts (share of those met)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    label_ends(axes, ends)
    return Picture(
        "probe_distinct",
        "Distinct experts of a token over depth",
        figure,
        f"Line chart of the share of distinct experts that a token has met, by layers passed, for {len(ends)} variants",
        f"After the last layer, {extremes({style.title: end for end, style in ends}, text.percent)}. "
        f"{_of_one_text(probes)}",
    )


def _ownership(findings: Findings, probes: dict[str, list[Probe]]) -> Picture:
    """Draw how many experts are used by how many layers."""
    columns = min(len(probes), 3)
    rows = -(-len(probes) // columns)
    figure = Figure(figsize=(WIDTH, 2.5 * rows + 0.4), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    means = {}
    for axes, (name, found) in zip(grid.flat, probes.items(), strict=False):
        style = findings.styles[name]
        layers = max(probe.num_layers for probe in found)
        share, _, _ = _over_runs(found, partial(_shares, num_layers=layers))
        axes.bar(np.arange(len(share)), share, color=style.colour, width=0.85)
        axes.set_title(style.title, fontsize=9, color=style.colour, loc="left")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.grid(axis="y", alpha=0.25)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
        means[style.title] = float((share * np.arange(len(share))).sum())
    for axes in grid.flat[len(probes) :]:
        axes.set_axis_off()
    figure.supxlabel("layers that use an expert", fontsize=10)
    figure.supylabel("experts (share of all)", fontsize=10)
    return Picture(
        "probe_ownership",
        "How many layers share an expert",
        figure,
        f"Bar charts of the share of experts used by each number of layers, for {len(means)} variants",
        f"Layers that use an expert, in the mean: {extremes(means, text.ratio)}. A layer uses an expert if it makes at "
        f"least 1/(2 G) of the choices of it, G layers sharing a pool. {_of_one_text(probes)}",
    )


def _shares(probe: Probe, num_layers: int) -> Floats:
    """Return the share of experts used by each number of layers: float64 [num_layers + 1]."""
    return np.bincount(probe.layers_using, minlength=num_layers + 1) / len(probe.layers_using)


def _over_runs(probes: list[Probe], values: Callable[[Probe], Floats]) -> tuple[Floats, Floats, Floats]:
    """Return mean, lowest and highest of an array of every run, up to the shortest."""
    arrays = [values(probe) for probe in probes]
    length = min(map(len, arrays))
    table = np.array([array[:length] for array in arrays])
    return table.mean(axis=0), table.min(axis=0), table.max(axis=0)


def _of_one_text(found: dict[str, list[Probe]]) -> str:
    probes = [probe for each in found.values() for probe in each]
    tokens = [sum(probe.tokens.values()) for probe in probes]
    if len({(probe.corpus, tuple(sorted(probe.tokens.items()))) for probe in probes}) > 1:
        return "Runs were probed on different text, so their numbers should not be compared."
    return f"{len(probes)} {'run' if len(probes) == 1 else 'runs'} probed on the same {tokens[0]:,} tokens."
