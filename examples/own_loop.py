"""A training loop and data of one's own: `python examples/own_loop.py`, or started by torchrun on several ranks.

The step keeps all that makes the layouts equal: the schedule, the exchanges with the pool, exact gradients and ZeRO.
"""

from __future__ import annotations

import torch

import unipool_dist as up
from unipool_dist.engine.pipeline import StageBatch
from unipool_dist.engine.step import TrainStep


def main(steps: int = 3) -> list[float]:
    """Train on random tokens; return the losses, which are the same on every rank."""
    config = up.load_config(
        None,
        "model.num_layers=2",
        "model.hidden_size=64",
        "model.sequence_length=32",
        "model.vocab_size=256",
        "pool.num_experts=8",
        "train.global_batch_size=8",
        "train.micro_batch_size=2",
        "optimizer.warmup_steps=1",
    )
    losses = []
    with up.build_model(config) as built:
        step = TrainStep(built.plan, built.groups, built.model)
        draw = torch.Generator().manual_seed(built.groups.dp_index)  # the same on the ranks of one replica
        for number in range(1, steps + 1):
            batches = []
            for _ in range(built.plan.num_microbatches):
                text = torch.randint(0, 256, (2, 33), generator=draw).to(built.groups.device)
                tokens, labels = text[:, :-1], text[:, 1:]
                batches.append(StageBatch(tokens, labels, torch.ones_like(labels, dtype=torch.float32)))
            losses.append(step.run(number, batches).loss)
        step.optimizer.close()
    return losses


if __name__ == "__main__":
    for number, loss in enumerate(main(), start=1):
        print(f"step {number}  loss {loss:.4f}")
