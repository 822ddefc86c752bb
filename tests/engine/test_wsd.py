"""``optimizer.decay: wsd``: warm-up, a constant rate, and a fall over the last steps in four forms."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from unipool_dist.config import load_config, outline
from unipool_dist.engine.optim.schedule import LearningRates
from unipool_dist.errors import ConfigError

FORMS: dict[str, Callable[[float], float]] = {
    "linear": lambda x: 1 - x,
    "cosine": lambda x: (1 + math.cos(math.pi * x)) / 2,
    "exponential": lambda x: 2 / 2**x - 1,
    "minus_sqrt": lambda x: 1 - math.sqrt(x),
}
STEPS, WARMUP, DECAY, LR, MIN_LR = 20, 4, 6, 0.01, 0.001


@pytest.mark.parametrize("form", FORMS)
def test_the_rate_is_constant_up_to_the_last_steps_and_falls_in_its_form(form: str) -> None:
    fields = {"lr": LR, "min_lr": MIN_LR, "warmup_steps": WARMUP, "wsd_decay_steps": DECAY, "wsd_decay": form}
    overrides = [f"optimizer.{name}={value}" for name, value in fields.items()]
    rates = LearningRates(outline(load_config(None, ["optimizer.decay=wsd", f"train.steps={STEPS}", *overrides]), 1))
    for step in range(1, STEPS + 1):
        rates.advance()
        past = step - (STEPS - DECAY)
        if step <= WARMUP:
            expected = LR * step / WARMUP
        else:
            expected = LR if past <= 0 else MIN_LR + FORMS[form](past / DECAY) * (LR - MIN_LR)
        assert rates.rate() == pytest.approx(expected, rel=1e-12), step
        assert rates.rate(10.0) == pytest.approx(10 * expected, rel=1e-12), step
    assert rates.rate() == pytest.approx(MIN_LR)


def test_warm_up_and_decay_have_to_fit_into_the_run() -> None:
    fields = ["optimizer.decay=wsd", "train.steps=20", "optimizer.warmup_steps=11"]
    with pytest.raises(ConfigError, match=r"warmup_steps=11 and .*wsd_decay_steps=10 are together .* train.steps=20"):
        outline(load_config(None, fields), 1)
    assert outline(load_config(None, [*fields, "optimizer.wsd_decay_steps=9"]), 1).optimizer.wsd_decay_steps == 9
