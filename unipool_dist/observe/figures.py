"""The figures of a run. Matplotlib's object-oriented interface only: no display, no global state."""

from __future__ import annotations

from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from unipool_dist.base.printable import printable
from unipool_dist.base.writing import replace_bytes
from unipool_dist.observe.files import FIGURE_METADATA
from unipool_dist.observe.token_scale import TokenScale
from unipool_dist.observe.usage import Counts, summarize

SMOOTH_FROM_STEPS = 60  # a curve of fewer points is readable as it is
UNUSED_COLOUR = "#e6e6e6"
DEAD_COLOUR = "#d62728"


@dataclass
class LossCurves:
    """Losses of a run, in nats per token, each a pair of equally long lists: steps and values."""

    train: tuple[list[int], list[float]] = field(default_factory=lambda: ([], []))
    validation: dict[str, tuple[list[int], list[float]]] = field(default_factory=dict)
    unigram_entropy: dict[str, float] = field(default_factory=dict)
    tokens: list[int] = field(default_factory=list)
    """Tokens seen at each point of ``train``; may be empty."""
    stages: list[int] = field(default_factory=list)
    """First steps of stages of the run, the first stage's excepted."""
    train_max: list[float] = field(default_factory=list)
    """For each training loss the highest of its window; for a record of one step that loss itself. May be empty."""


def save(figure: Figure, path: Path) -> Path:
    """Write ``figure`` as PNG; return ``path``.

    No text in it is parsed as a formula, whatever dollars a name has, and control characters are escaped. Tick labels
    are made while drawing, so names that go there must be printable already.
    """
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set_parse_math(False)
        text.set_text(printable(text.get_text(), lines=True))
    image = BytesIO()
    with matplotlib.rc_context({"text.parse_math": False}):
        FigureCanvasAgg(figure).print_figure(image, dpi=130, metadata=FIGURE_METADATA)
    replace_bytes(path, image.getvalue())
    return path


def loss_figure(curves: LossCurves, run_name: str) -> Figure:
    """Draw the training loss, up to the highest of each window, and per domain the validation loss.

    The unigram entropy is dashed in the domain's colour.
    """
    figure = Figure(figsize=(10, 5.6), layout="constrained")
    axes = figure.add_subplot()
    steps, losses = curves.train
    smooth = len(steps) >= SMOOTH_FROM_STEPS
    several = any(highest > loss for highest, loss in zip(curves.train_max, losses, strict=False))
    label = "training, mean since\nthe point before" if several else "training"
    axes.plot(steps, losses, color="0.6", linewidth=0.8 if smooth else 1.5, label=label, zorder=1)
    if several:
        band = axes.fill_between(steps, losses, curves.train_max, color="0.6", alpha=0.3, linewidth=0)
        band.set_label("training, up to the\nhighest step")
    if smooth:
        axes.plot(steps, running_mean(losses, len(losses) // 60), color="0.2", label="training, smoothed", zorder=2)
    colours = matplotlib.colormaps["tab10"].colors  # type: ignore[attr-defined]
    for number, (domain, (at, values)) in enumerate(sorted(curves.validation.items())):
        colour = colours[number % len(colours)]
        axes.plot(at, values, marker="o", markersize=4.5, color=colour, label=f"validation: {domain}", zorder=3)
        if domain in curves.unigram_entropy:
            axes.axhline(curves.unigram_entropy[domain], color=colour, linestyle="--", linewidth=1.1, zorder=0)
    for number, step in enumerate(curves.stages):
        line = axes.axvline(step - 0.5, color="0.35", linestyle=":", linewidth=1.1, zorder=0)
        if number == 0:
            line.set_label("a stage begins")
    handles = axes.get_legend_handles_labels()[0]
    if curves.unigram_entropy.keys() & curves.validation.keys():
        handles.append(Line2D([], [], color="0.4", linestyle="--", label="unigram entropy\n(same colour)"))
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=9)
    axes.set_title(f"Cross-entropy during training and on held-out text - {run_name}", fontsize=12)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss (nats per token)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.margins(x=0.015)
    axes.grid(alpha=0.25)
    scale = TokenScale.of(steps, curves.tokens) if curves.tokens else None
    if scale is not None:
        top = axes.secondary_xaxis("top", functions=(scale.millions, scale.steps))
        top.set_xlabel("tokens seen (millions)", fontsize=9)
        top.tick_params(labelsize=8)
    return figure


def usage_figure(counts_LE: Counts, num_pools: int, step: int, run_name: str) -> Figure:
    """Draw the assignments of each layer to each expert, with totals per expert and effective experts per layer.

    Experts are sorted by the layer that uses them most, then by how much: with ids in order, a pool in which every
    layer has its own experts looks like noise.
    """
    summary = summarize(counts_LE, num_pools)
    order = expert_order(counts_LE, num_pools)
    sorted_LE = counts_LE[:, order]
    num_layers, num_experts = counts_LE.shape

    figure = Figure(figsize=(11, 6.4), layout="constrained")
    grid = figure.add_gridspec(2, 3, width_ratios=[10, 1.6, 0.25], height_ratios=[3, 1.3])
    heat = figure.add_subplot(grid[0, 0])
    bars = figure.add_subplot(grid[1, 0], sharex=heat)
    side = figure.add_subplot(grid[0, 1], sharey=heat)

    shown = np.ma.masked_equal(sorted_LE, 0)
    heat.set_facecolor(UNUSED_COLOUR)
    norm = LogNorm(vmin=1, vmax=max(int(counts_LE.max()), 2))
    image = heat.imshow(shown, aspect="auto", norm=norm, cmap="viridis", interpolation="nearest")
    scale = figure.add_subplot(grid[0, 2])
    figure.colorbar(image, cax=scale, label="assignments (tokens, log scale; grey: none)")
    scale.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))  # by default powers as formulas
    scale.yaxis.set_minor_formatter(NullFormatter())
    heat.set_ylabel("layer")
    heat.yaxis.set_major_locator(MaxNLocator(nbins=16, integer=True))
    heat.tick_params(labelbottom=False)

    _draw_totals(bars, sorted_LE.sum(axis=0))
    side.barh(np.arange(num_layers), summary.effective_experts_L, color="#72b7b2", height=0.8)
    side.set_xlim(0, None)
    side.set_title("effective\nexperts", fontsize=9)
    side.tick_params(labelleft=False, labelsize=8)

    pools = "1 pool" if num_pools == 1 else f"{num_pools} pools"
    figure.suptitle(
        f"Which layer uses which expert - {run_name}, window ending at step {step}\n"
        f"{num_layers} layers, {pools} of {num_experts // num_pools} experts",
        fontsize=12,
    )
    figure.supxlabel(
        f"dead experts {summary.dead_share:.1%}   |   effective experts per layer "
        f"{summary.effective_experts_L.min():.1f} to {summary.effective_experts_L.max():.1f}   |   "
        f"busiest expert {summary.busiest_over_mean:.2f} x mean   |   "
        f"share of an expert's use by its main layer {summary.ownership:.0%}",
        fontsize=10,
    )
    return figure


def _draw_totals(bars: Axes, totals_E: Counts) -> None:
    bars.bar(np.arange(len(totals_E)), totals_E, width=1.0, color="#4c78a8", edgecolor="white", linewidth=0.3)
    bars.axhline(totals_E.mean(), color="0.2", linestyle="--", linewidth=1, label="mean")
    dead = np.flatnonzero(totals_E == 0)
    if len(dead):
        bars.plot(dead, np.zeros(len(dead)), "x", color=DEAD_COLOUR, markersize=5, clip_on=False, label="dead expert")
    bars.legend(loc="upper right", fontsize=8, frameon=False, ncols=2)
    bars.set_ylim(0, 1.25 * max(int(totals_E.max()), 1))
    bars.set_ylabel("assignments,\nall layers (tokens)")
    bars.set_xlabel("experts, sorted by the layer that uses them most")
    bars.xaxis.set_major_locator(MaxNLocator(integer=True))


def expert_order(counts_LE: Counts, num_pools: int) -> Counts:
    """Return expert ids by pool, then main layer, then falling use, dead experts last in their pool: int64 [E]."""
    totals_E = counts_LE.sum(axis=0)
    pool_E = np.arange(counts_LE.shape[1]) // (counts_LE.shape[1] // num_pools)
    main_layer_E = np.where(totals_E > 0, counts_LE.argmax(axis=0), counts_LE.shape[0])
    return np.lexsort((-totals_E, main_layer_E, pool_E))


def running_mean(values: list[float], reach: int) -> list[float]:
    """Return the mean of each value and up to ``reach`` neighbours on either side; as long as ``values``."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    here = np.arange(len(values))
    starts, ends = np.maximum(here - reach, 0), np.minimum(here + reach + 1, len(values))
    return [float(mean) for mean in (sums[ends] - sums[starts]) / (ends - starts)]
