"""Documents in a row know nothing of each other, on any layout: logits, losses and gradients; and layouts agree."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.parity.test_layouts import GPIPE, RECOMPUTE, SGD, STEPS, check, reference
from tests.support.training import (
    DOCUMENT_END,
    SEQUENCE,
    RankResult,
    assemble_gradients,
    built,
    gradients_kept,
    relative_difference,
    tiny_config,
    train_variants,
)
from tests.support.workers import Workers, free_port
from unipool_dist.comm.environment import Environment
from unipool_dist.engine.pipeline import Pipeline, StageBatch
from unipool_dist.model.inventory import spec_of

RESET = ("data.reset_at_documents=true",)
ROWS = ([5, 3, 8], [2, 10, 4], [9, 6, 1], [4, 4, 8])
"""Tokens of the documents of each row; the second of each is the one that gets other tokens."""
PER_ROW, PER_MICROBATCH = 3, 2
SIZES = (
    "train.global_batch_size=4",
    f"train.micro_batch_size={PER_MICROBATCH}",
    "pool.balance.loss=none",  # which is of all tokens, by definition
    "pool.top_k=2",
)
# (pp, dp, tp) and overrides
LAYOUTS: dict[str, tuple[tuple[int, int, int], tuple[str, ...]]] = {
    "one-recompute": ((1, 1, 1), RECOMPUTE),
    "pp4": ((4, 1, 1), ()),
    "dp2-recompute": ((1, 2, 1), RECOMPUTE),
    "tp2-vanilla": ((1, 1, 2), ("pool.layers_per_group=1", "pool.router=softmax")),
    "pp2-tp2-bf16": ((2, 1, 2), ("train.dtype=bf16",)),
    "pp2-dp2-sandwich": ((2, 2, 1), ("model.family=sandwich", "pool.router=softmax")),
}


@dataclass
class Seen:
    """What a rank computed of its rows: only the last stage has logits and losses."""

    result: RankResult  # has the gradients of the loss of documents that do not change
    num_loss_tokens: int  # of a step on all documents
    logits: list[np.ndarray]  # of each micro-batch [b, s, v / tp]; 0 in the document that changes
    together: list[np.ndarray]  # token losses of each micro-batch, [b, s]
    alone: list[np.ndarray]  # the same, from a pass over every document in a row of its own


def text(seed: int) -> Tensor:
    """Rows of documents and a token more, [rows, SEQUENCE + 1]; the second document of each depends on ``seed``."""
    rows, other = (_tokens(number) for number in (0, seed))
    for row, (begin, length, _) in enumerate(ROWS):
        rows[row, begin : begin + length] = other[row, begin : begin + length]
        rows[row, torch.tensor(ROWS[row]).cumsum(0) - 1] = DOCUMENT_END
    return rows


def _tokens(seed: int) -> Tensor:
    shape, generator = (len(ROWS), SEQUENCE + 1), torch.Generator().manual_seed(seed)
    return torch.randint(0, DOCUMENT_END, shape, generator=generator)


def untouched() -> Tensor:
    """1 for every token of the documents that do not change, [rows, SEQUENCE]."""
    mask = torch.ones(len(ROWS), SEQUENCE)
    for row, (begin, length, _) in enumerate(ROWS):
        mask[row, begin : begin + length] = 0
    return mask


def spans(row: int) -> Iterator[tuple[int, int]]:
    """Begin and end of every document of a row."""
    ends = list(accumulate(ROWS[row]))
    return zip([0, *ends], ends, strict=False)


def see(environment: Environment, overrides: tuple[str, ...], ports: list[int]) -> list[Seen]:
    """What a rank sees of two texts, which differ in the second document of each row."""
    return [
        _see(replace(environment, master_port=port), overrides, text(seed)) for seed, port in enumerate(ports, start=1)
    ]


def _see(environment: Environment, overrides: tuple[str, ...], text_rs: Tensor) -> Seen:
    config = tiny_config(*SGD, *SIZES, *overrides, world_size=environment.world_size)
    with built(config, environment) as (groups, model, step):
        mine = torch.arange(len(ROWS)).view(-1, groups.grid.dp, PER_MICROBATCH)[:, groups.dp_index]
        tokens, labels, every = text_rs[:, :-1], text_rs[:, 1:], torch.ones(len(ROWS), SEQUENCE)
        logits = _forward(step.pipeline, [StageBatch(tokens[rows], None, None) for rows in mine])
        shown = [x.transpose(0, 1) * untouched()[rows].unsqueeze(2) for x, rows in zip(logits, mine, strict=False)]
        together = _forward(step.pipeline, [StageBatch(tokens[rows], labels[rows], None) for rows in mine])
        singly = _forward(step.pipeline, [_singly(tokens, labels, rows) for rows in mine])
        alone = [_joined(losses, rows) for losses, rows in zip(singly, mine, strict=False)]
        result = RankResult(groups.pp_index, groups.dp_index, groups.tp_index)
        with gradients_kept(step, model, result):
            step.run(1, [StageBatch(tokens[rows], labels[rows], untouched()[rows]) for rows in mine])
        result.tp_dims = {name: spec_of(parameter).tp_dim for name, parameter in model.named_dense_parameters()}
        seen = step.run(2, [StageBatch(tokens[rows], labels[rows], every[rows]) for rows in mine])
        arrays = ([x.numpy() for x in each] for each in (shown, together, alone))
        return Seen(result, seen.num_loss_tokens, *arrays)


def _forward(pipeline: Pipeline, batches: list[StageBatch]) -> list[Tensor]:
    outputs: list[Tensor] = []
    pipeline.forward(batches, lambda microbatch, output: outputs.append(output))
    return outputs


def _singly(tokens: Tensor, labels: Tensor, rows: Tensor) -> StageBatch:
    """Every document of ``rows`` at the beginning of a row of its own, padded with token 0."""
    padded = torch.zeros(2, len(rows), PER_ROW, SEQUENCE, dtype=torch.int64)
    for place, row in enumerate(rows.tolist()):
        for number, (begin, end) in enumerate(spans(row)):
            padded[0, place, number, : end - begin] = tokens[row, begin:end]
            padded[1, place, number, : end - begin] = labels[row, begin:end]
    return StageBatch(padded[0].flatten(0, 1), padded[1].flatten(0, 1), None)


def _joined(losses: Tensor, rows: Tensor) -> Tensor:
    """Put the token losses of documents in rows of their own back where they are in the text."""
    joined = torch.zeros(len(rows), SEQUENCE)
    for place, row in enumerate(rows.tolist()):
        for number, (begin, end) in enumerate(spans(row)):
            joined[place, begin:end] = losses[place * PER_ROW + number, : end - begin]
    return joined


@pytest.mark.parametrize("layout", LAYOUTS)
def test_documents_know_nothing_of_each_other(workers: Workers, layout: str) -> None:
    (pp, dp, tp), extra = LAYOUTS[layout]
    overrides = (*RESET, *extra, f"parallel.pp={pp}", f"parallel.tp={tp}")
    bound, gradient_bound = (2e-2, 2e-2) if "bf16" in layout else (1e-6, 1e-5)
    ranks = workers.run(see, pp * dp * tp, overrides, [free_port(), free_port()])
    gradients, changed = (assemble_gradients([rank[number].result for rank in ranks]) for number in (0, 1))
    for name, gradient in gradients.items():
        assert relative_difference(changed[name], gradient) <= gradient_bound, name
    for before, after in ranks:
        for one, other in zip(before.logits, after.logits, strict=True):
            np.testing.assert_allclose(other, one, rtol=0, atol=bound * np.abs(one).max())
        for together, alone in zip(before.together, before.alone, strict=True):
            np.testing.assert_allclose(together, alone, rtol=bound)
        assert before.num_loss_tokens == len(ROWS) * (SEQUENCE - PER_ROW)
    last = [before for before, _ in ranks if before.logits]
    assert len(last) == dp * tp and all(np.abs(x).max() > 0 for seen in last for x in seen.logits)


def test_without_the_setting_they_do(workers: Workers) -> None:
    ((before, after),) = workers.run(see, 1, (), [free_port(), free_port()])
    assert max(np.abs(one - other).max() for one, other in zip(before.logits, after.logits, strict=True)) > 1e-2
    changed = assemble_gradients([after.result])
    for name, gradient in assemble_gradients([before.result]).items():
        assert not gradient.any() or relative_difference(changed[name], gradient) > 1e-2, name
    assert before.num_loss_tokens == len(ROWS) * SEQUENCE


@pytest.mark.parametrize(
    ("layout", "extra"), [((1, 1, 2), ()), ((4, 1, 1), GPIPE), ((2, 2, 1), RECOMPUTE), ((2, 1, 2), RECOMPUTE)], ids=str
)
def test_layouts_agree(workers: Workers, layout: tuple[int, int, int], extra: tuple[str, ...]) -> None:
    """Loss, auxiliary loss, gradients and weights, with documents that end in some rows and not in others."""
    pp, dp, tp = layout
    model = (*SGD, *RESET, "pool.top_k=2")
    variant = (*model, *extra, f"parallel.pp={pp}", f"parallel.tp={tp}")
    by_rank = workers.run(train_variants, pp * dp * tp, [variant], [free_port()], STEPS)
    expected = reference(workers, model)
    check([result for (result,) in by_rank], expected, "documents")
    plain = reference(workers, model[:-2] + model[-1:])
    assert all(abs(a - b) > 1e-3 for a, b in zip(expected.losses, plain.losses, strict=True))
