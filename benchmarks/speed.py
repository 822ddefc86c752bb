"""Forward and backward of one process: UniPool against the dense LLaMA of ``transformers`` with as many active
parameters.

A step is forward and backward of one micro-batch of random tokens, including zeroing the gradients, without an
optimizer. The contestants take turns in every round, each round in the opposite order of the one before, and a ratio
is taken within a round: so what else the machine is doing meets all of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from benchmarks.workload import Workload, rank_of
from unipool_dist.comm.environment import Environment
from unipool_dist.engine.pipeline import StageBatch
from unipool_dist.model.assembly import DTYPES

UNIPOOL = "UniPool"
Step = Callable[[Tensor], None]
"""Forward and backward of a micro-batch of text [b, s + 1]."""


@dataclass(frozen=True)
class Spread:
    """Median, quartiles and extremes of one figure over the rounds."""

    median: float
    quartiles: tuple[float, float]
    extremes: tuple[float, float]

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        ordered = sorted(values)
        last = len(ordered) - 1
        quartiles = ordered[round(last / 4)], ordered[round(3 * last / 4)]
        return cls(median(ordered), quartiles, (ordered[0], ordered[-1]))


@dataclass(frozen=True)
class SpeedResult:
    """One number type. Ratios are UniPool's tokens/s over a dense model's, round by round."""

    dtype: str
    rounds: int
    tokens_per_s: dict[str, Spread]
    ratio: dict[str, Spread]  # by dense model
    fastest_dense: str

    @property
    def ratio_to_fastest(self) -> Spread:
        return self.ratio[self.fastest_dense]


def measure_speed(workload: Workload, dtype: str, *, rounds: int, warmup: int = 2) -> SpeedResult:
    """Run all contestants on one thread and compare them.

    Raises:
        ImportError: ``transformers`` is not installed.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with _unipool(workload, dtype) as unipool:
            contestants = {UNIPOOL: unipool, **_dense(workload, dtype)}
            seconds = _take_turns(contestants, workload, rounds=rounds, warmup=warmup)
    finally:
        torch.set_num_threads(threads)
    dense = [name for name in contestants if name != UNIPOOL]
    ratio = {name: Spread.of([d / u for d, u in zip(seconds[name], seconds[UNIPOOL], strict=True)]) for name in dense}
    speed = {name: Spread.of([workload.tokens / s for s in times]) for name, times in seconds.items()}
    return SpeedResult(dtype, rounds, speed, ratio, max(dense, key=lambda name: speed[name].median))


def _take_turns(
    contestants: dict[str, Step], workload: Workload, *, rounds: int, warmup: int
) -> dict[str, list[float]]:
    generator = torch.Generator().manual_seed(0)
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(-warmup, rounds):
        shape = (workload.micro_batch_size, workload.sequence_length + 1)
        text = torch.randint(0, workload.vocab_size, shape, generator=generator)
        names = list(contestants) if number % 2 else list(reversed(contestants))
        for name in names:
            begin = time.perf_counter()
            contestants[name](text)
            if number >= 0:
                seconds[name].append(time.perf_counter() - begin)
    return seconds


@contextmanager
def _unipool(workload: Workload, dtype: str) -> Iterator[Step]:
    batch = workload.micro_batch_size
    config = workload.config(1, "pool.top_k=1", f"train.global_batch_size={batch}", f"train.dtype={dtype}")
    with rank_of(config, Environment(0, 1, 0, "127.0.0.1", 0)) as rank:
        mask = torch.ones(batch, workload.sequence_length)

        def step(text: Tensor) -> None:
            rank.run([StageBatch(text[:, :-1].contiguous(), text[:, 1:].contiguous(), mask)])

        yield step


def _dense(workload: Workload, dtype: str) -> dict[str, Step]:
    """The dense model with either of its ways to compute attention: which is faster depends on type and sizes."""
    from transformers import LlamaConfig, LlamaForCausalLM

    def make(attention: str) -> Step:
        config = LlamaConfig(
            vocab_size=workload.vocab_size,
            hidden_size=workload.hidden_size,
            intermediate_size=workload.ffn_hidden_size,
            num_hidden_layers=workload.num_layers,
            num_attention_heads=workload.num_attention_heads,
            num_key_value_heads=workload.num_query_groups,
            max_position_embeddings=workload.sequence_length,
            attn_implementation=attention,
            use_cache=False,
        )
        model = LlamaForCausalLM(config).to(DTYPES[dtype]).train()

        def step(text: Tensor) -> None:
            model.zero_grad(set_to_none=True)
            tokens = text[:, :-1]
            model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()

        return step

    return {f"dense, {attention}": make(attention) for attention in ("sdpa", "eager")}
