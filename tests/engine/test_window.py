"""A logged line tells of every step since the one before, not of its last alone."""

from __future__ import annotations

import pytest
import torch

from tests.support.callbacks import Seen
from tests.support.training import batches_of, tiny_config
from tests.support.workers import Workers
from unipool_dist.comm.environment import Environment
from unipool_dist.comm.groups import process_groups
from unipool_dist.engine.step import StepResult
from unipool_dist.engine.trainer import Trainer
from unipool_dist.engine.window import AVERAGED, Window
from unipool_dist.model.assembly import build_model

Line = tuple[dict[str, float | int], list[list[int]]]


def test_mean_maximum_and_sum_of_the_steps() -> None:
    window = Window()
    for loss, count in ((5.0, 1), (9.0, 2), (1.0, 3)):
        window.add(StepResult(loss, loss / 10, 2 * loss, 1e-3, 96, torch.tensor([[count, 0]])))
    assert window.numbers() == {
        "window_steps": 3,
        "loss": 5.0,
        "loss_max": 9.0,
        "aux_loss": pytest.approx(0.5),
        "aux_loss_max": pytest.approx(0.9),
        "grad_norm": 10.0,
        "grad_norm_max": 18.0,
    }
    assert window.assignments.tolist() == [[6, 0]]


@pytest.mark.parametrize("value", [0.1, 1 / 3, 5.2e-17, 7.906534671783447])
def test_of_one_step_the_mean_is_its_number_to_the_last_digit(value: float) -> None:
    window = Window()
    window.add(StepResult(value, value, value, 1e-3, 96, torch.zeros(1, 1, dtype=torch.int64)))
    assert {window.numbers()[name] for key in AVERAGED for name in (key, f"{key}_max")} == {value}


def _lines(environment: Environment, interval: int, stop_after: int) -> list[Line]:
    """What is logged of seven steps with this ``log.interval``, of which the run may be told to stop early."""
    config = tiny_config("train.steps=7", f"log.interval={interval}", world_size=environment.world_size)
    seen = Seen(stop_after)
    with process_groups(config, environment) as groups:
        model = build_model(config, groups)
        trainer = Trainer(config, groups, model, lambda at, i: batches_of(config, groups, at)[i], lambda _: {}, seen)
        trainer.run()
        trainer.step.optimizer.close()
    assert not seen.evaluated
    return seen.lines


def test_every_step_is_in_one_line_and_lines_are_means_of_steps(workers: Workers) -> None:
    (single,) = workers.run(_lines, 1, 1, 0)
    assert [record["window_steps"] for record, _ in single] == [1] * 7
    for stop_after, windows in ((0, [3, 3, 1]), (5, [3, 2])):
        (lines,) = workers.run(_lines, 1, 3, stop_after)
        assert [record["window_steps"] for record, _ in lines] == windows
        assert sum(windows) == lines[-1][0]["step"]
        for record, assignments in lines:
            step = int(record["step"])
            mine = single[step - int(record["window_steps"]) : step]
            for name in AVERAGED:
                values = [float(each[name]) for each, _ in mine]
                assert record[name] == pytest.approx(sum(values) / len(values), rel=1e-12)
                assert record[f"{name}_max"] == max(values)
            assert record["lr"] == mine[-1][0]["lr"]
            assert torch.equal(torch.tensor(assignments), torch.tensor([each for _, each in mine]).sum(0))
