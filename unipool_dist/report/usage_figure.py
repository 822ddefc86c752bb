"""A figure that shows which layer uses which expert, one panel per variant."""

from __future__ import annotations

import math

import matplotlib
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from unipool_dist.observe.figures import UNUSED_COLOUR, expert_order
from unipool_dist.observe.usage import Floats
from unipool_dist.report import text
from unipool_dist.report.expert_use import Usage
from unipool_dist.report.pictures import WIDTH, Findings, Picture, extremes

_LEAST = 1 / 16  # colours begin here; what is below is hardly used
_WIDE_FROM_EXPERTS = 128  # then a panel needs the whole width for a column of pixels per expert


def usage_picture(findings: Findings) -> Picture | None:
    """Draw heat maps of the first seed of every variant that chooses experts, on one scale."""
    shown: list[tuple[str, int, Usage]] = []
    for name in findings.names:
        run = next((run for run in findings.of(name) if run.usage is not None), None)
        if run is not None and run.usage is not None:
            shown.append((name, run.seed, run.usage))
    if not shown:
        return None
    columns = 1 if len(shown) == 1 or any(use.counts_LE.shape[1] > _WIDE_FROM_EXPERTS for _, _, use in shown) else 2
    rows = -(-len(shown) // columns)
    layers = max(usage.counts_LE.shape[0] for _, _, usage in shown)
    height = min(max(0.13 * layers, 1.3), 3.2)
    figure = Figure(figsize=(WIDTH, rows * (height + 0.85) + 0.5), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    tables = [_over_uniform(usage) for _, _, usage in shown]
    most = 2.0 ** math.ceil(math.log2(max(4.0, *(float(table.max()) for table in tables))))
    colours = matplotlib.colormaps["viridis"].with_extremes(bad=UNUSED_COLOUR)
    for axes, (name, seed, usage), table in zip(grid.flat, shown, tables, strict=False):
        order = expert_order(usage.counts_LE, usage.num_pools)
        cells = np.ma.masked_equal(table[:, order], 0)
        image = axes.imshow(cells, aspect="auto", norm=LogNorm(_LEAST, most), cmap=colours, interpolation="nearest")
        style = findings.styles[name]
        axes.set_title(f"{style.title} (seed {seed})\n{_sizes(usage)}", fontsize=9, color=style.colour, loc="left")
        axes.set_ylabel("layer")
        axes.set_xlabel("expert, sorted by its main layer", fontsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        axes.tick_params(labelsize=8)
    for axes in grid.flat[len(shown) :]:
        axes.set_axis_off()
    ticks = [2.0**power for power in range(-4, int(math.log2(most)) + 1, 2)]
    bar = figure.colorbar(
        image,
        ax=list(grid.flat),
        ticks=ticks,
        format=FuncFormatter(lambda value, _: f"{value:g}" if value >= 1 else f"1/{1 / value:g}"),
        extend="min",
        location="top",
        aspect=50,
        shrink=0.7,
        pad=0.01,
    )
    bar.set_label("use by the layer (times its mean; grey: none)", fontsize=9)
    bar.ax.minorticks_off()
    owned = {findings.styles[name].title: usage.summary.ownership for name, _, usage in shown}
    return Picture(
        "expert_usage",
        "Which layer uses which expert",
        figure,
        f"Heat maps of how much each layer uses each expert, for {len(shown)} variants",
        f"Share of an expert's use by the layer that uses it most, {extremes(owned, text.percent)}. Colours say how "
        f"often a layer chose an expert, over the mean of the experts that it can choose, on one scale for all panels; "
        f"summed over what was recorded in the last tenth of training.",
    )


def _over_uniform(usage: Usage) -> Floats:
    """Return assignments over those of uniform use of the layer's pool: float64 [L, E]."""
    experts = usage.counts_LE.shape[1] // usage.num_pools
    totals_L = np.maximum(usage.counts_LE.sum(axis=1), 1)
    table: Floats = usage.counts_LE * experts / totals_L[:, None]
    return table


def _sizes(usage: Usage) -> str:
    layers, experts = usage.counts_LE.shape
    pools = "one pool" if usage.num_pools == 1 else f"{usage.num_pools} pools"
    return f"{layers} layers, {pools} of {experts // usage.num_pools}"
