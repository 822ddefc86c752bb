"""The figures of a probe: of one run, or of two side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from unipool_dist.base.printable import printable
from unipool_dist.observe.figures import UNUSED_COLOUR, expert_order, save
from unipool_dist.observe.usage import Floats, effective_experts
from unipool_dist.probe.record import MATCHED, Probe

_COLOURS = {"pool": "#4c78a8", "matched": "#e45756"}
LINEAR_BELOW = 0.01
"""Losses added by random routing, in nats per token, below which a scale is linear."""
_LINEAR_UP_TO = 20.0
_LIFT_LIMIT = 4.0  # colours end here; few experts go beyond


def draw(probes: Sequence[Probe], folder: Path) -> list[Path]:
    """Write randomized.png, distinct.png, ownership.png and affinity.png into ``folder``; return their paths."""
    figures = {
        "randomized": randomized_figure(probes),
        "distinct": distinct_figure(probes),
        "ownership": ownership_figure(probes),
        "affinity": affinity_figure(probes),
    }
    return [save(figure, folder / f"{name}.png") for name, figure in figures.items()]


def randomized_figure(probes: Sequence[Probe]) -> Figure:
    """Draw the loss added by random routing, layer by layer, for each form; bars span the seeds.

    A run that has one form only takes the colour of what it is compared with: next to a run that has both, that of the
    matched form, so that equally many experts are compared.
    """
    figure = Figure(figsize=(max(7.5, 5.5 * len(probes)), 4.8), layout="constrained")
    panels = figure.subplots(1, len(probes), sharey=True, squeeze=False)[0]
    only = "pool" if all(probe.has_one_form for probe in probes) else "matched"
    added = np.concatenate([f.added_to(probe.loss).mean(axis=0) for probe in probes for f in probe.randomized.values()])
    logarithmic = is_logarithmic(added)
    for axes, probe in zip(panels, probes, strict=True):
        layers = np.arange(probe.num_layers)
        for number, (form, found) in enumerate(probe.randomized.items()):
            added_SL = found.added_to(probe.loss)
            mean_L = added_SL.mean(axis=0)
            spread = np.stack([mean_L - added_SL.min(axis=0), added_SL.max(axis=0) - mean_L])
            shift = 0.08 * number  # so that bars of equal height do not hide each other
            colour = _COLOURS[only if probe.has_one_form else form]
            axes.errorbar(layers + shift, mean_L, spread, color=colour, marker="o", capsize=3, label=_form(form, probe))
        axes.axhline(0, color="0.2", linestyle="--", linewidth=1)
        axes.set_title(f"{probe.title}; loss as it is {probe.loss:.4f}", fontsize=10)
        axes.set_xlabel("layer whose routing is random")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        label = scale_added(axes, logarithmic)
        axes.grid(alpha=0.25)
        axes.legend(fontsize=9, frameon=False, title=f"experts drawn from ({_seeds(probe)})", title_fontsize=9)
    panels[0].set_ylabel(label)
    figure.suptitle("What it costs to send the tokens of one layer to random experts", fontsize=12)
    return figure


def distinct_figure(probes: Sequence[Probe]) -> Figure:
    """Draw distinct experts over experts met by a token, from the first layer up to each."""
    figure = Figure(figsize=(7.5, 4.6), layout="constrained")
    axes = figure.add_subplot()
    for probe, colour in zip(probes, ("#4c78a8", "#f58518"), strict=False):
        share = np.array(probe.distinct)
        axes.plot(np.arange(1, len(share) + 1), share, marker="o", color=colour, label=probe.title)
        axes.annotate(
            f"{share[-1]:.1%}",
            (len(share), share[-1]),
            xytext=(0, -14),
            textcoords="offset points",
            ha="center",
            color=colour,
            fontsize=9,
        )
    lowest = min(min(probe.distinct) for probe in probes)
    axes.set_ylim(min(0.9, lowest - 0.05), 1.01)
    axes.set_title("How many of the experts that a token meets on its way up are different ones", fontsize=12)
    axes.set_xlabel("layers passed")
    axes.set_ylabel("distinct experts (share of those met)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.margins(x=0.06)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=9, frameon=False, loc="lower left")
    return figure


def ownership_figure(probes: Sequence[Probe]) -> Figure:
    """Draw how many experts are used by how many layers, and how many experts serve each layer."""
    figure = Figure(figsize=(max(7.5, 5.5 * len(probes)), 6.4), layout="constrained")
    grid = figure.subplots(2, len(probes), squeeze=False, sharey="row")
    for column, probe in enumerate(probes):
        top, bottom = grid[0, column], grid[1, column]
        using_E = np.array(probe.layers_using)
        number = np.bincount(using_E, minlength=probe.num_layers + 1)
        top.bar(np.arange(len(number)), number / len(using_E), color="#4c78a8", width=0.85)
        top.set_title(probe.title, fontsize=10)
        top.set_xlabel(f"layers that make 1/{2 * probe.layers_per_pool} or more of the choices of an expert")
        top.xaxis.set_major_locator(MaxNLocator(integer=True))
        top.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        bottom.bar(np.arange(probe.num_layers), effective_experts(probe.all_counts), color="#72b7b2", width=0.85)
        bottom.set_xlabel("layer")
        bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
        bottom.yaxis.set_major_locator(MaxNLocator(integer=True))
        for axes in (top, bottom):
            axes.grid(axis="y", alpha=0.25)
            axes.set_axisbelow(True)
    grid[0, 0].set_ylabel("experts (share of all)")
    grid[1, 0].set_ylabel("effective experts (number)")
    figure.suptitle("How many layers share an expert, and how many experts serve a layer", fontsize=12)
    return figure


def affinity_figure(probes: Sequence[Probe]) -> Figure:
    """Draw how much more often each expert is chosen in each domain than in the mean domain."""
    heights = [max(len(probe.tokens), 2) for probe in probes]
    figure = Figure(figsize=(11, 2.2 + 0.42 * sum(heights)), layout="constrained")
    panels = figure.subplots(len(probes), 1, squeeze=False, height_ratios=heights)[:, 0]
    colours = matplotlib.colormaps["RdBu_r"].with_extremes(bad=UNUSED_COLOUR)
    for axes, probe in zip(panels, probes, strict=True):
        order = expert_order(probe.all_counts, probe.num_pools)
        shown = np.ma.masked_invalid(np.clip(probe.affinity[:, order], 1 / _LIFT_LIMIT, _LIFT_LIMIT))
        norm = LogNorm(1 / _LIFT_LIMIT, _LIFT_LIMIT)
        image = axes.imshow(shown, aspect="auto", norm=norm, cmap=colours, interpolation="nearest")
        axes.set_yticks(range(len(probe.tokens)), [printable(domain) for domain in probe.tokens])
        axes.set_title(probe.title, fontsize=10)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[-1].set_xlabel("experts, sorted by the layer that uses them most (grey: chosen nowhere)")
    ticks = [1 / 4, 1 / 2, 1, 2, 4]
    bar = figure.colorbar(image, ax=list(panels), ticks=ticks, extend="both", label="times the mean of the domains")
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    bar.ax.minorticks_off()
    figure.suptitle("Which expert is chosen more often, or less, in which domain", fontsize=12)
    return figure


def _form(form: str, probe: Probe) -> str:
    if form == "matched":
        return f"the {MATCHED} that the layer uses most"
    return f"all {probe.num_experts} of the {'layer' if probe.layers_per_pool == 1 else 'pool'}"


def _seeds(probe: Probe) -> str:
    number = len(next(iter(probe.randomized.values())).loss)
    return "1 seed" if number == 1 else f"mean and range of {number} seeds"


def is_logarithmic(added: Floats) -> bool:
    """Return whether some of ``added`` (nats per token) would be invisible on a linear scale.

    One layer can cost a hundred times as much as another; anything below ``LINEAR_BELOW`` counts as small.
    """
    return bool(added.max() > _LINEAR_UP_TO * max(np.abs(added).min(), LINEAR_BELOW))


def scale_added(axes: Axes, logarithmic: bool) -> str:
    """Set the scale of the y axis; return its label."""
    if logarithmic:
        axes.set_yscale("symlog", linthresh=LINEAR_BELOW)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "\N{MINUS SIGN}")))
    return "loss added (nats per token" + (f";\nlogarithmic beyond {LINEAR_BELOW:g})" if logarithmic else ")")
