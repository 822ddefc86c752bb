"""Weights that a checkpoint overwrites are not drawn, and what is trained from it is the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import torch

from tests.checkpoint.support import load_step, save_step
from tests.support.training import batches_of, built, tiny_config
from tests.support.workers import Workers, free_port
from unipool_dist.comm.environment import Environment
from unipool_dist.comm.groups import process_groups
from unipool_dist.engine.step import TrainStep
from unipool_dist.model.assembly import build_model


def _uninterrupted_and_resumed(environment: Environment, run_dir: Path, port: int) -> tuple[list[float], list[float]]:
    plan = tiny_config("train.dtype=bf16", world_size=environment.world_size)
    with built(plan, environment) as (groups, model, train_step):
        train_step.run(0, batches_of(plan, groups, 0))
        save_step(plan, groups, model, train_step, run_dir, 1)
        uninterrupted = [train_step.run(step, batches_of(plan, groups, step)).loss for step in (1, 2)]
    with process_groups(plan, replace(environment, master_port=port)) as groups:
        with patch.object(torch, "Generator", side_effect=AssertionError("a generator was made")):
            model = build_model(plan, groups, draw=False)
        for parameter in (*model.stage.parameters(), *model.bank.parameters()):
            parameter.data.fill_(float("nan"))
        train_step = TrainStep(plan, groups, model)
        load_step(groups, model, train_step, run_dir, 1)
        resumed = [train_step.run(step, batches_of(plan, groups, step)).loss for step in (1, 2)]
        train_step.optimizer.close()
    return uninterrupted, resumed


def test_a_model_to_be_loaded_draws_nothing_and_resumes_the_same(workers: Workers, tmp_path: Path) -> None:
    for uninterrupted, resumed in workers.run(_uninterrupted_and_resumed, 2, tmp_path, free_port()):
        assert resumed == uninterrupted


def _signs_of_life(environment: Environment) -> tuple[int, int]:
    plan, signs = tiny_config(world_size=environment.world_size), []
    with process_groups(plan, environment) as groups:
        model = build_model(plan, groups, drawing=lambda: signs.append(1))
        drawn = len(list(model.stage.parameters())) + len(list(model.bank.parameters())) * len(model.expert_ids)
    return len(signs), drawn


def test_there_is_a_sign_of_life_for_every_tensor_that_is_drawn(workers: Workers) -> None:
    for signs, drawn in workers.run(_signs_of_life, 1):
        assert signs == drawn > 30
