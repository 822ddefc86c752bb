"""Draws `lockstep.svg`: the schedule and one exchange, from the functions that the trainer itself runs.

python docs/img/lockstep.py [FILE]
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from unipool_dist.layout.rank_grid import RankGrid
from unipool_dist.pool.placement import Contiguous, Placement, PoolGroup
from unipool_dist.schedule.check import CheckedSchedule, check
from unipool_dist.schedule.lockstep import lockstep_1f1b
from unipool_dist.schedule.work import LANES, Schedule

STAGES, MICROBATCHES, LAYERS, EXPERTS = 3, 4, 6, 12
GRID = RankGrid(pp=STAGES, dp=2, tp=1, pool_parallel_size=6, stages_per_group=STAGES)
SHOWN = 1  # the forward tick whose first exchange is drawn in the lower half

COLORS = ["#c98a12", "#2f8f88", "#c9563f", "#6a6fbf"]
INK, FAINT, POOL = "#22303c", "#8a97a3", "#e8eef3"


def main(path: Path) -> None:
    plt.rcParams.update({"font.size": 10, "svg.hashsalt": "lockstep", "text.color": INK, "font.family": "DejaVu Sans"})
    figure, (upper, lower) = plt.subplots(2, 1, figsize=(12, 10.2), height_ratios=[4.75, 5.2])
    figure.subplots_adjust(left=0.01, right=0.99, top=0.995, bottom=0.005, hspace=0.02)
    schedule = check(lockstep_1f1b(STAGES, MICROBATCHES))
    draw_schedule(upper, schedule)
    draw_exchange(lower, schedule, Contiguous().place(PoolGroup((0,), EXPERTS, GRID.pool_parallel_size, STAGES)))
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=100)


def ranks_of(stage: int) -> list[int]:
    return [rank for rank in range(GRID.world_size) if GRID.coordinates(rank)[0] == stage]


def words(numbers: range | list[int] | tuple[int, ...]) -> str:
    return " and ".join(map(str, numbers))


def draw_schedule(axes: Axes, checked: CheckedSchedule) -> None:
    ticks = checked.schedule.ticks
    columns = len(ticks)
    axes.set(xlim=(-3.0, columns + 1.9), ylim=(STAGES + 1.95, -1.65))
    axes.axis("off")
    axes.text(-2.95, -1.32, "The schedule", fontsize=15, weight="bold", va="center")
    axes.text(
        0,
        -1.32,
        f"{STAGES} pipeline stages, {MICROBATCHES} micro-batches (numbered and coloured); time runs to the right, one "
        "column is one tick",
        va="center",
    )
    axes.text(-0.15, -0.55, "all stages run", ha="right", va="center", color=FAINT)
    for column, tick in enumerate(ticks):
        (lane,) = tick.lanes
        axes.text(column + 0.5, -0.72, str(column + 1), ha="center", va="center", color=FAINT, fontsize=9)
        axes.text(column + 0.5, -0.32, lane, ha="center", va="center", fontsize=9.5)
        for stage, work in enumerate(tick.works(lane)):
            draw_cell(axes, column, stage, lane, None if work is None else work.microbatch)
    layers = GRID.layers_of_stage(LAYERS)
    for stage in range(STAGES):
        axes.text(-0.15, stage + 0.5, f"stage {stage}", ha="right", va="center", fontsize=12, weight="bold")
        detail = f"ranks {words(ranks_of(stage))}\nlayers {words(layers[stage])}"
        axes.text(-2.95, stage + 0.5, detail, ha="left", va="center", fontsize=9, color=FAINT, linespacing=1.4)
        axes.text(columns + 0.2, stage + 0.5, f"holds at most {checked.in_flight[stage]}", va="center", fontsize=9.5)
    draw_pool_bar(axes, columns, max(len(range_) for range_ in layers))
    follow(axes, checked.schedule, microbatch=0)
    frame = Rectangle((SHOWN, -0.97), 1, STAGES + 1.92, fill=False, lw=2, ec=INK, zorder=5)
    axes.add_patch(frame)
    axes.annotate(
        f"tick {SHOWN + 1} in detail",
        (SHOWN + 0.5, STAGES + 0.97),
        (SHOWN + 0.5, STAGES + 1.75),
        ha="center",
        va="center",
        weight="bold",
        arrowprops={"arrowstyle": "<|-", "color": INK, "shrinkA": 4, "shrinkB": 0},
    )


def draw_cell(axes: Axes, column: int, stage: int, lane: str, microbatch: int | None) -> None:
    box = (column + 0.06, stage + 0.08)
    if microbatch is None:
        axes.add_patch(Rectangle(box, 0.88, 0.84, fc="white", ec="#c5ced6", lw=1, ls=(0, (3, 2))))
        axes.text(column + 0.5, stage + 0.5, "serves", ha="center", va="center", color=FAINT, fontsize=9)
        return
    color = COLORS[microbatch]
    forward = lane == "forward"
    axes.add_patch(Rectangle(box, 0.88, 0.84, fc=color if forward else "white", ec=color, lw=1 if forward else 3))
    ink = "white" if forward else color
    axes.text(
        column + 0.5, stage + 0.5, str(microbatch), ha="center", va="center", fontsize=15, weight="bold", color=ink
    )


def draw_pool_bar(axes: Axes, columns: int, exchanges: int) -> None:
    top = STAGES + 0.12
    axes.add_patch(Rectangle((0, top), columns, 0.72, fc=POOL, ec="none"))
    axes.text(-0.15, top + 0.36, "the pool, on all ranks", ha="right", va="center", fontsize=10.5, weight="bold")
    for column in range(columns):
        for slot in range(exchanges):
            x = column + (slot + 1) / (exchanges + 1)
            axes.annotate(
                "",
                (x, top + 0.12),
                (x, top + 0.60),
                arrowprops={"arrowstyle": "<->", "color": INK, "lw": 1.2, "shrinkA": 0, "shrinkB": 0},
            )
    axes.text(columns + 0.2, top + 0.36, f"{exchanges} exchanges per\ntick, always", va="center", fontsize=9.5)
    axes.text(
        4.0,
        STAGES + 1.45,
        "filled: forward     outlined: backward     arrows: tensors of micro-batch 0 between stages\n"
        "serves: nothing of its own to run, but its experts work for the other stages",
        va="center",
        fontsize=9.5,
        linespacing=1.6,
    )


def follow(axes: Axes, schedule: Schedule, microbatch: int) -> None:
    """Arrows along the edges of one micro-batch, to the ticks in which they are needed."""
    needed = {
        (lane, work): tick for lane in LANES for stage in range(STAGES) for tick, work in schedule.runs(stage, lane)
    }
    edges = [(column, edge) for column, tick in enumerate(schedule.ticks) for edge in tick.edges]
    for column, edge in edges:
        if edge.work.microbatch != microbatch:
            continue
        down = edge.target > edge.source
        start = (column + 0.80, edge.source + (0.80 if down else 0.20))
        end = (needed[edge.lane, edge.taken_by] + 0.24, edge.target + (0.24 if down else 0.76))
        style = {"arrowstyle": "-|>", "mutation_scale": 12, "color": INK, "lw": 1.3, "zorder": 6}
        axes.add_patch(FancyArrowPatch(start, end, **style))


def draw_exchange(axes: Axes, checked: CheckedSchedule, placement: Placement) -> None:
    works, layers = checked.schedule.ticks[SHOWN].forward, GRID.layers_of_stage(LAYERS)
    group = GRID.pool_groups()[0]
    axes.set(xlim=(-0.05, 14.4), ylim=(len(group) + 0.75, -1.55))
    axes.axis("off")
    axes.text(0.05, -1.2, "One exchange", fontsize=15, weight="bold", va="center")
    axes.text(
        2.62,
        -1.2,
        f"tick {SHOWN + 1}, the first MoE layer of every stage: requests of different layers and micro-batches "
        "travel together",
        va="center",
    )
    axes.text(1.85, -0.42, "client: what a rank asks", ha="center", va="center", fontsize=11, weight="bold")
    axes.text(6.92, -0.42, "server: the experts it owns", ha="center", va="center", fontsize=11, weight="bold")
    for row, rank in enumerate(group):
        stage = GRID.coordinates(rank)[0]
        work = works[stage]
        microbatch = None if work is None else work.microbatch
        color = FAINT if microbatch is None else COLORS[microbatch]
        draw_client(axes, row, rank, stage, microbatch, layers[stage][0], color)
        for owner in range(len(group)):
            if microbatch is not None:
                line = {"arrowstyle": "<|-|>", "mutation_scale": 7, "color": color, "lw": 0.9, "alpha": 0.85}
                axes.add_patch(FancyArrowPatch((3.67, row + 0.5), (5.53, owner + 0.5), shrinkA=0, shrinkB=0, **line))
    for owner, rank in enumerate(group):
        rounded(axes, (5.55, owner + 0.12), 2.75, 0.76, fc=POOL, ec="#b4c2cd")
        axes.text(5.7, owner + 0.5, f"rank {rank}", va="center", weight="bold")
        axes.text(8.15, owner + 0.5, f"experts {words(placement.experts_of(owner))}", ha="right", va="center")
    draw_steps(axes)


def draw_client(axes: Axes, row: int, rank: int, stage: int, microbatch: int | None, layer: int, color: str) -> None:
    idle = microbatch is None
    rounded(
        axes, (0.05, row + 0.12), 3.6, 0.76, fc="white" if idle else color, ec="#c5ced6" if idle else color, dashed=idle
    )
    ink = FAINT if idle else "white"
    text = "no tokens" if idle else f"micro-batch {microbatch}, layer {layer}"
    axes.text(0.2, row + 0.5, f"rank {rank}", va="center", weight="bold", color=ink)
    axes.text(3.5, row + 0.5, f"stage {stage}: {text}", ha="right", va="center", color=ink, fontsize=9.5)


def draw_steps(axes: Axes) -> None:
    steps = [
        ("Counts", "Every rank tells every owner\nhow many rows will come."),
        ("Rows", "Tokens, sorted by the owner of their\nexpert, go to the owners."),
        (
            "Experts",
            "Each owner sorts what came by expert, runs\nevery expert once, and keeps what the\n"
            "backward tick will need.",
        ),
        ("Results", "Outputs go back the way the rows came;\nthe client weighs them by router scores."),
    ]
    axes.text(8.75, -0.42, "on every rank at the same time", va="center", fontsize=11, weight="bold")
    y = 0.12
    for number, (name, text) in enumerate(steps, start=1):
        axes.text(8.75, y + 0.16, f"{number}  {name}", va="center", weight="bold")
        axes.text(9.02, y + 0.40, text, va="top", linespacing=1.4, fontsize=9.5)
        y += 1.30 if text.count("\n") < 2 else 1.58
    axes.text(
        8.75,
        y + 0.25,
        "In a backward tick the same with gradients, without\nstep 1: what was kept says how many rows there are.",
        va="top",
        linespacing=1.4,
        fontsize=9.5,
    )


def rounded(
    axes: Axes, corner: tuple[float, float], width: float, height: float, *, fc: str, ec: str, dashed: bool = False
) -> None:
    box = FancyBboxPatch(corner, width, height, boxstyle="round,pad=0,rounding_size=0.12", fc=fc, ec=ec, lw=1.2)
    box.set_linestyle((0, (3, 2)) if dashed else "-")
    axes.add_patch(box)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_suffix(".svg"))
