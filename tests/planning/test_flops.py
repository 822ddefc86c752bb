"""FLOPs per token against those that torch counts in a forward and backward pass."""

from __future__ import annotations

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.support.training import built, tiny_config
from tests.support.workers import Workers
from unipool_dist.comm.environment import Environment
from unipool_dist.engine.pipeline import StageBatch
from unipool_dist.model.inventory import Shape
from unipool_dist.planning.flops import forward_flops, training_flops

# Of one token each, so that causal attention computes no more than it needs; a softmax, so that no score is 0 and all
# choices are dispatched.
COMMON = ("model.sequence_length=1", "train.micro_batch_size=6", "pool.router=softmax", "optimizer.name=sgd")
MODELS = {
    "pool": (),
    "vanilla-top2": ("pool.layers_per_group=1", "pool.top_k=2"),
    "bias": ("pool.router=sigmoid", "pool.balance.bias_rate=0.001"),
    "sandwich": ("model.family=sandwich",),
    "dense": ("pool.router=none", "pool.num_experts=1", "pool.balance.loss=none"),
}
TOKENS = 6


def _count(environment: Environment, overrides: tuple[str, ...]) -> tuple[int, int]:
    """FLOPs of forward, and of a whole step without an optimizer's."""
    aten = torch.ops.aten
    in_place = {aten.addmm_: _product_flops, aten.baddbmm_: _product_flops}  # which torch does not know
    config = tiny_config(*COMMON, *overrides)
    tokens, labels = torch.randint(0, 64, (2, TOKENS, 1), generator=torch.Generator().manual_seed(0))
    batch = StageBatch(tokens, labels, torch.ones(TOKENS, 1))
    with built(config, environment) as (_, _, train_step):
        evaluation = FlopCounterMode(display=False, custom_mapping=in_place)
        with evaluation:
            train_step.pipeline.forward([batch], lambda microbatch, losses: None)
        step = FlopCounterMode(display=False, custom_mapping=in_place)
        with step:
            train_step.run(0, [batch])
        return evaluation.get_total_flops(), step.get_total_flops()


def _product_flops(added_to: Shape, left: Shape, right: Shape, **others: object) -> int:
    return 2 * math.prod(left) * right[-1]


@pytest.mark.parametrize("model", MODELS)
def test_torch_counts_as_many(workers: Workers, model: str) -> None:
    ((forward, training),) = workers.run(_count, 1, MODELS[model])
    config = tiny_config(*COMMON, *MODELS[model])
    # Torch adds up a token's results from several experts by a product, which is not one of the model.
    weighing = (
        2 * config.pool.top_k * config.model.hidden_size * config.model.num_layers if config.pool.top_k > 1 else 0
    )
    assert forward == TOKENS * (sum(forward_flops(config).values()) + weighing)
    assert training == TOKENS * (training_flops(config) + weighing)


def test_a_query_sees_its_own_key_and_those_before() -> None:
    config = tiny_config("model.sequence_length=16")
    layers, hidden = config.model.num_layers, config.model.hidden_size
    products = [2 * 2 * hidden * (position + 1) for position in range(16)]  # with keys and with values
    assert forward_flops(config)["attention_scores"] * 16 == layers * sum(products)
