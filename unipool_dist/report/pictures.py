"""Common parts of a report's figures: captions, one colour per variant, and labels at the ends of curves."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from unipool_dist.report.runs import Run
from unipool_dist.report.summary import Summary
from unipool_dist.report.variants import Experiment

WIDTH = 9.0
"""Inches; at the 130 dots of :func:`unipool_dist.observe.figures.save` wider than the page, so sharp."""
BASELINE_COLOUR = "#404040"
# Okabe and Ito's, which the colour-blind can tell apart; without yellow, which is too pale for lines on white.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_LINES = ("-", "--", ":", "-.")  # for more variants than colours
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")


@dataclass(frozen=True)
class Style:
    """The appearance of one variant in all figures."""

    title: str
    colour: str
    line: str
    marker: str


@dataclass(frozen=True)
class Picture:
    """A figure and its captions."""

    name: str
    """Name of its file, without ending."""
    title: str
    figure: Figure
    alt: str
    """What is drawn, for those who cannot see it."""
    caption: str
    """What it shows, from the numbers."""


@dataclass(frozen=True)
class Findings:
    """The data that figures are drawn from; ``runs`` are the finished ones."""

    experiment: Experiment
    runs: list[Run]
    summary: Summary
    styles: dict[str, Style]

    def of(self, variant: str) -> list[Run]:
        """Return the finished runs of ``variant``."""
        return [run for run in self.runs if run.variant == variant]

    @property
    def names(self) -> list[str]:
        """Variants with finished runs, in order."""
        return [variant.name for variant in self.experiment.variants if self.of(variant.name)]


def collect(experiment: Experiment, runs: list[Run], summary: Summary) -> Findings:
    """Collect what the figures are drawn from."""
    return Findings(experiment, [run for run in runs if run.is_finished], summary, styles(experiment))


def styles(experiment: Experiment) -> dict[str, Style]:
    """Return styles by variant; the baseline is grey, the others are coloured in their order."""
    found = {}
    number = 0
    for position, variant in enumerate(experiment.variants):
        if variant.name == experiment.baseline:
            colour, line = BASELINE_COLOUR, "-"
        else:
            colour, line = _COLOURS[number % len(_COLOURS)], _LINES[number // len(_COLOURS) % len(_LINES)]
            number += 1
        found[variant.name] = Style(variant.title, colour, line, _MARKERS[position % len(_MARKERS)])
    return found


def label_ends(axes: Axes, ends: Sequence[tuple[float, Style]]) -> None:
    """Write each title to the right of the axes at the height of its curve's end, moved apart where they would overlap.

    Call it when the axes have their limits, which must be linear.
    """
    bottom, top = axes.get_ylim()
    figure = axes.get_figure(root=True)
    assert isinstance(figure, Figure)
    points = axes.get_position().height * figure.get_size_inches()[1] * 72
    texts = {style.title: textwrap.wrap(style.title, 24) or [""] for _, style in ends}
    placed = sorted(((min(max((y - bottom) / (top - bottom), 0.0), 1.0), style) for y, style in ends), key=_height)
    heights = [(len(texts[style.title]) * 11.5 + 3) / points for _, style in placed]
    at = _apart([y for y, _ in placed], heights)
    for (y, style), label_y in zip(placed, at, strict=True):
        axes.plot(
            [1.004, 1.022], [y, label_y], color=style.colour, linewidth=0.8, transform=axes.transAxes, clip_on=False
        )
        axes.text(
            1.027,
            label_y,
            "\n".join(texts[style.title]),
            color=style.colour,
            fontsize=9,
            va="center",
            linespacing=1.1,
            transform=axes.transAxes,
        )


def _height(placed: tuple[float, Style]) -> float:
    return placed[0]


def _apart(centres: list[float], heights: list[float]) -> list[float]:
    """Move ``centres``, ascending, as little as keeps boxes of these heights from touching.

    Nothing is moved below 0, where the axis has its numbers.
    """
    at = list(centres)
    for _ in range(200):
        moved = False
        for i in range(len(at) - 1):
            overlap = (heights[i] + heights[i + 1]) / 2 - (at[i + 1] - at[i])
            if overlap > 1e-4:
                at[i] -= overlap / 2
                at[i + 1] += overlap / 2
                moved = True
        if not moved:
            break
    bottom = heights[0] / 2 if heights else 0.0
    for i in range(len(at)):
        at[i] = max(at[i], bottom)
        bottom = at[i] + (heights[i] + heights[min(i + 1, len(at) - 1)]) / 2
    return at


def extremes(values: dict[str, float], show: Callable[[float], str]) -> str:
    """Return ``lowest: A with 3.21; highest: B with 3.40``, from values by title."""
    lowest, highest = min(values, key=lambda name: values[name]), max(values, key=lambda name: values[name])
    if len(values) == 1:
        return f"{lowest}: {show(values[lowest])}"
    return f"lowest: {lowest} with {show(values[lowest])}; highest: {highest} with {show(values[highest])}"
