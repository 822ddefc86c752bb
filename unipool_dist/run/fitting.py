"""Refuse, before anything is allocated or started, a run that no machine of this size can hold.

Counted is only what is certain: weights, gradients, masters and moments, one layer's input, and the index of the
training data. A run that passes may still need more than there is.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from unipool_dist.base.machine import gpus_here, machine_memory
from unipool_dist.config.plan import Plan
from unipool_dist.data.corpora import Corpora
from unipool_dist.data.draws import draws
from unipool_dist.data.segments import index_bytes
from unipool_dist.errors import ConfigError
from unipool_dist.planning.memory import RankKind, rank_kinds

_WEIGHT_BYTES = {"fp32": 4, "bf16": 2}


def check_fits_here(plan: Plan, corpora: Corpora) -> None:
    """Check that this machine can hold all processes of ``plan``.

    Where there are GPUs, only the index of the data is checked: their memory is not known here.

    Raises:
        ConfigError: it cannot; says what is too large.
    """
    memory = machine_memory()
    _check_index(plan, corpora, memory)
    if not gpus_here(os.environ):
        kinds = rank_kinds(plan)
        num_ranks = sum(kind.num_ranks for kind in kinds)
        needed = sum(kind.num_ranks * _rank_bytes(plan, kind) for kind in kinds)
        _check_model(f"the {num_ranks} processes" if num_ranks > 1 else "the process", needed, memory, "this machine")


def check_rank_fits(plan: Plan, corpora: Corpora, *, stage: int, device_bytes: int | None) -> None:
    """Check that one rank of pipeline stage ``stage`` can hold its part.

    Args:
        device_bytes: memory of its GPU; ``None``: it has none.

    Raises:
        ConfigError: it cannot.
    """
    _check_index(plan, corpora, machine_memory())
    needed = _rank_bytes(plan, _kind_of(rank_kinds(plan), stage))
    where = "this machine" if device_bytes is None else "its GPU"
    _check_model(f"a rank of stage {stage}", needed, device_bytes or machine_memory(), where)


def _rank_bytes(plan: Plan, kind: RankKind) -> int:
    largest = max(stage.train.micro_batch_size * stage.sequence_length for stage in plan.stages.each)
    tokens = largest // plan.parallel.tp
    return kind.each.total_bytes + tokens * plan.model.hidden_size * _WEIGHT_BYTES[plan.train.dtype]


def _kind_of(kinds: Iterable[RankKind], stage: int) -> RankKind:
    return next(kind for kind in kinds if stage in kind.stages)


def _check_model(who: str, needed: int, memory: int, where: str) -> None:
    if needed > memory:
        raise ConfigError(
            f"the model cannot be trained here: {who} would hold {needed / 1e9:,.1f} GB of weights, gradients, "
            f"optimizer states and a layer's input, and {where} has {memory / 1e9:,.1f} GB of memory; make model.*, "
            f"pool.num_experts or train.micro_batch_size smaller, or use more machines (`unipool-dist model` counts)"
        )


def _check_index(plan: Plan, corpora: Corpora, memory: int) -> None:
    for draw in draws(plan):
        stage = draw.stage
        corpus = corpora.by_path.get(stage.data.path)
        if corpus is None or stage.data.order == "computed":
            continue
        needed = index_bytes(corpus, stage.sequence_length, draw.num_samples)
        if needed > memory:
            raise ConfigError(
                f"the {draw.num_samples:,} sequences from step {stage.first_step} to the end of train.steps="
                f"{plan.train.steps:,}, or to another corpus, blend or length, take from the "
                f"{sum(domain.train_tokens for domain in corpus.domains.values()):,} tokens of data.path="
                f"{stage.data.path} an index of {needed / 1e9:,.1f} GB, and this machine has {memory / 1e9:,.1f} GB of "
                f"memory; set data.order=computed, which needs no index, or lower train.steps or the batch"
            )
