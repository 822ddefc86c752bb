"""The axis of tokens where stages have other sizes, and the mark where they begin."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes

from unipool_dist.observe.figures import loss_figure
from unipool_dist.observe.run_figures import collect_losses
from unipool_dist.observe.token_scale import TokenScale

STEPS = list(range(10, 101, 10))
RAMP = [step * 1000 if step <= 50 else 50_000 + (step - 50) * 4000 for step in STEPS]


def test_a_run_of_one_size_is_a_straight_line() -> None:
    scale = TokenScale.of(STEPS, [step * 4096 for step in STEPS])
    assert scale == TokenScale((0,), (4096.0,))
    assert scale.millions(1000.0) == pytest.approx(4.096)
    assert TokenScale.of([], []) is None and TokenScale.of([0], [0]) is None


def test_one_of_several_sizes_is_bent_where_they_change() -> None:
    scale = TokenScale.of(STEPS, RAMP)
    assert scale == TokenScale((0, 50), (1000.0, 4000.0))
    np.testing.assert_allclose(scale.millions(STEPS) * 1e6, RAMP)
    every = np.linspace(-5, 150, 311)
    np.testing.assert_allclose(scale.steps(scale.millions(every)), every, atol=1e-9)


def test_variants_of_equal_sizes_have_equal_scales_however_far_they_came() -> None:
    assert TokenScale.of(STEPS, RAMP) == TokenScale.of(STEPS[:8], RAMP[:8])
    assert TokenScale.of(STEPS, RAMP) != TokenScale.of(STEPS, STEPS)


def record(step: int, tokens: int, **more: Any) -> dict[str, Any]:
    return {"step": step, "loss": 5.0 - step / 100, "tokens": tokens, **more}


def test_the_loss_curve_marks_where_stages_begin() -> None:
    begun = [1] * 5 + [51] * 3 + [81] * 2
    records = [record(s, t, stage_from_step=b) for s, t, b in zip(STEPS, RAMP, begun, strict=True)]
    curves = collect_losses(records)
    assert curves.stages == [51, 81]
    axes = loss_figure(curves, "run").axes[0]
    assert isinstance(axes, Axes)
    marks = [line for line in axes.lines if line.get_linestyle() == ":"]
    assert [np.asarray(line.get_xdata()).tolist() for line in marks] == [[50.5, 50.5], [80.5, 80.5]]
    assert marks[0].get_label() == "a stage begins"
    assert collect_losses([record(s, t) for s, t in zip(STEPS, RAMP, strict=True)]).stages == []
