"""The arithmetic against what is really built: parameters, and bytes of weights, gradients and ZeRO states, by rank."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.training import batches_of, built, tiny_config
from tests.support.workers import Workers
from unipool_dist.comm.environment import Environment
from unipool_dist.engine.optim.deepspeed_zero import DeepSpeedZero
from unipool_dist.planning.memory import RankMemory, rank_kinds
from unipool_dist.planning.parameters import count_parameters
from unipool_dist.pool.main_grad import main_grad

ZERO0 = f"optimizer.deepspeed={Path(__file__).parents[2] / 'ds_configs' / 'zero0.json'}"
DENSE = ("pool.router=none", "pool.num_experts=1", "pool.balance.loss=none")
VANILLA = ("pool.router=softmax", "pool.layers_per_group=1", "pool.num_experts=8")
COMMON = ("train.global_batch_size=8",)

CASES: list[tuple[int, tuple[str, ...]]] = [
    (1, ()),
    (1, DENSE),
    (1, (*VANILLA, "train.dtype=bf16")),
    (1, ("pool.layers_per_group=2", "optimizer.name=sgd")),
    (1, ("model.hidden_size=24", "model.num_layers=3", "optimizer.router_lr_scale=2.0")),  # scales padded apart
    (2, ("pool.parallel_size=1", "train.dtype=bf16")),
    (2, ("pool.router=sigmoid", "pool.balance.bias_rate=0.001")),
    (2, ("parallel.tp=2", "optimizer.name=sgd", "optimizer.momentum=0.5")),
    (2, ("parallel.pp=2", "model.num_layers=3", ZERO0)),
    (4, ("parallel.pp=2", "pool.parallel_size=2")),
    (4, ("parallel.pp=2", "pool.stages_per_group=1", "pool.layers_per_group=2", "train.dtype=bf16")),
    (4, ("parallel.pp=2", "pool.parallel_size=2", ZERO0, *VANILLA)),
    (4, ("parallel.pp=2", "parallel.tp=2", "train.dtype=bf16", *DENSE)),
    (2, ("parallel.pp=2", "model.family=sandwich")),  # the last stage has a copy of the embedding
    (4, ("pool.parallel_size=1", "model.hidden_size=24", "model.ffn_hidden_size=20")),  # partitions are padded
]


@dataclass
class Built:
    pp_index: int
    memory: RankMemory


def _measure(environment: Environment, overrides: tuple[str, ...]) -> Built:
    config = tiny_config(*COMMON, *overrides, world_size=environment.world_size)
    with built(config, environment) as (groups, model, train_step):
        train_step.run(0, batches_of(config, groups, 0))  # what is made on first use is there now
        dense = list(model.stage.parameters())
        experts = [parameter for _, parameter in model.named_expert_parameters()]
        zeros = [o._zero for o in train_step.optimizer._optimizers if isinstance(o, DeepSpeedZero)]
        assert len(zeros) == len(train_step.optimizer._optimizers)
        masters = [master for zero in zeros for master in zero.single_partition_of_fp32_groups]
        states = [
            tensor
            for zero in zeros
            for master in zero.single_partition_of_fp32_groups
            for tensor in zero.optimizer.state[master].values()
            if tensor is not None and tensor.dim() > 0  # Adam's count of steps is no moment
        ]
        memory = RankMemory(
            dense_parameters=sum(parameter.numel() for parameter in dense),
            expert_parameters=sum(parameter.numel() for parameter in experts),
            weight_bytes=sum(parameter.nbytes for parameter in dense + experts),
            gradient_bytes=sum(main_grad(parameter).nbytes for parameter in dense + experts),
            master_bytes=sum(master.nbytes for master in masters),
            moment_bytes=sum(state.nbytes for state in states),
        )
        return Built(groups.pp_index, memory)


@pytest.mark.parametrize(("world_size", "overrides"), CASES, ids=str)
def test_every_rank_holds_what_was_predicted(workers: Workers, world_size: int, overrides: tuple[str, ...]) -> None:
    config = tiny_config(*COMMON, *overrides, world_size=world_size)
    kinds = rank_kinds(config)
    assert sum(kind.num_ranks for kind in kinds) == world_size
    assert sorted(stage for kind in kinds for stage in kind.stages) == list(range(config.parallel.pp))
    for rank in workers.run(_measure, world_size, overrides):
        (expected,) = (kind.each for kind in kinds if rank.pp_index in kind.stages)
        assert rank.memory == expected
    if world_size == 1:
        (only,) = kinds
        stored = count_parameters(config).stored
        assert only.each.expert_parameters == stored["experts"]
        assert only.each.dense_parameters == sum(stored.values()) - stored["experts"]
