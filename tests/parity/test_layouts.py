"""Every layout gives what one process gives: losses, all gradients, gradient norms, and weights after three steps."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest

from tests.support.training import (
    RankResult,
    assemble_gradients,
    assemble_weights,
    relative_difference,
    train_variants,
)
from tests.support.workers import Workers, free_port

STEPS = 3

# Overrides that change what is computed: each has a reference of its own, computed by one process.
SGD = ("optimizer.name=sgd", "optimizer.momentum=0.9", "optimizer.clip_grad=0.05")
MODELS: dict[str, tuple[str, ...]] = {
    # AdamW's first updates are nearly lr * sign(gradient): with its usual epsilon, gradients of the size of rounding
    # noise would decide the comparison.
    "adamw": ("optimizer.epsilon=1e-5",),
    "sgd": SGD,
    "top2-sgd": (*SGD, "pool.top_k=2", "pool.balance.scores=raw"),
    "groups-of-2": (*SGD, "pool.layers_per_group=2"),
    "vanilla": (*SGD, "pool.layers_per_group=1", "pool.router=softmax", "pool.balance.loss=layer"),
    "bias": (*SGD, "pool.router=sigmoid", "pool.balance.bias_rate=0.1", "pool.layers_per_group=2"),
    "normalized": (*SGD, "pool.router=softmax", "pool.top_k=2", "pool.normalize_gates=true"),
    "vanilla-top2": (*SGD, "pool.layers_per_group=1", "pool.router=softmax", "pool.top_k=2"),
}
DENSE = (*SGD, "pool.router=none", "pool.num_experts=1", "pool.balance.loss=none")
RECOMPUTE = ("parallel.recompute=true",)
GPIPE = ("parallel.schedule=lockstep_gpipe",)

# (pp, dp, tp, q, n) and the variants run on it: a model, and overrides that must change nothing.
# With 6 sequences of micro-batches of 1, m = 6 / dp is no multiple of pp wherever pp is 4 or dp is 2.
CASES: dict[tuple[int, int, int, int, int], list[tuple[str, tuple[str, ...]]]] = {
    (1, 1, 1, 1, 1): [("sgd", RECOMPUTE), ("top2-sgd", RECOMPUTE), ("adamw", GPIPE)],
    (2, 1, 1, 2, 2): [("adamw", ()), ("sgd", GPIPE), ("top2-sgd", RECOMPUTE), ("groups-of-2", ())],
    (1, 2, 1, 2, 1): [("adamw", ()), ("sgd", RECOMPUTE), ("vanilla-top2", ())],
    (1, 1, 2, 2, 1): [("adamw", ()), ("sgd", RECOMPUTE), ("top2-sgd", ()), ("vanilla", ()), ("bias", ())],
    (2, 2, 1, 4, 2): [("adamw", RECOMPUTE), ("sgd", ()), ("top2-sgd", GPIPE), ("groups-of-2", ()), ("vanilla", ())],
    (2, 2, 1, 2, 2): [("adamw", ()), ("sgd", ()), ("vanilla-top2", RECOMPUTE), ("bias", RECOMPUTE)],
    (2, 2, 1, 2, 1): [("adamw", ()), ("sgd", ()), ("top2-sgd", ()), ("groups-of-2", ())],
    (2, 1, 2, 4, 2): [("adamw", ()), ("sgd", RECOMPUTE), ("normalized", ()), ("top2-sgd", ()), ("vanilla", ())],
    (4, 1, 1, 4, 4): [("adamw", ()), ("sgd", GPIPE), ("top2-sgd", ()), ("groups-of-2", RECOMPUTE), ("bias", GPIPE)],
    (4, 2, 1, 8, 4): [("adamw", ()), ("sgd", ()), ("vanilla-top2", ())],
    (2, 2, 2, 8, 2): [("adamw", ()), ("sgd", RECOMPUTE), ("top2-sgd", ()), ("groups-of-2", ())],
    (3, 2, 1, 6, 3): [("sgd", ("pool.num_experts=18",))],  # 4 layers over 3 stages: 2, 1, 1
}
FAST = {(2, 1, 1, 2, 2), (1, 2, 1, 2, 1), (1, 1, 2, 2, 1), (2, 2, 1, 2, 2)}
"""Those of `make test-fast`: each axis alone, and two of them."""
LAYOUTS = [pytest.param(layout, marks=[pytest.mark.fast] if layout in FAST else []) for layout in CASES]


# (pp, dp, tp), and overrides that must change nothing
DENSE_CASES: list[tuple[tuple[int, int, int], tuple[str, ...]]] = [
    ((1, 2, 1), RECOMPUTE),
    ((1, 1, 2), ()),
    ((2, 2, 1), ("pool.layers_per_group=1",)),
    ((2, 1, 2), RECOMPUTE),
    ((4, 1, 1), GPIPE),
    ((3, 2, 1), ()),
]


@lru_cache
def reference(workers: Workers, model: tuple[str, ...]) -> RankResult:
    """What one process gives."""
    (results,) = workers.run(train_variants, 1, [model], [0], STEPS)
    return results[0]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: "pp{}-dp{}-tp{}-q{}-n{}".format(*layout))
def test_layout_equals_one_process(workers: Workers, layout: tuple[int, int, int, int, int]) -> None:
    pp, dp, tp, q, n = layout
    grid = (f"parallel.pp={pp}", f"parallel.tp={tp}", f"pool.parallel_size={q}", f"pool.stages_per_group={n}")
    cases = CASES[layout]
    sizes = [tuple(o for o in extra if o.startswith("pool.")) for _, extra in cases]
    variants = [(*MODELS[model], *extra, *grid) for model, extra in cases]
    ports = [free_port() for _ in variants]
    by_rank = workers.run(train_variants, pp * dp * tp, variants, ports, STEPS)
    for index, (model, extra) in enumerate(cases):
        ranks = [results[index] for results in by_rank]
        expected = reference(workers, (*MODELS[model], *sizes[index]))
        check(ranks, expected, f"{model} {' '.join(extra)}")
        assert min(expected.aux_losses) > 0
        assert bool(expected.biases) == all(bool(rank.biases) for rank in ranks) == (model == "bias")
        assert all(rank.num_local_experts <= num_experts(expected) // q for rank in ranks)


@pytest.mark.parametrize(("layout", "extra"), DENSE_CASES, ids=str)
def test_a_dense_model_equals_one_process(
    workers: Workers, layout: tuple[int, int, int], extra: tuple[str, ...]
) -> None:
    pp, dp, tp = layout
    variant = (*DENSE, *extra, f"parallel.pp={pp}", f"parallel.tp={tp}")
    by_rank = workers.run(train_variants, pp * dp * tp, [variant], [free_port()], STEPS)
    expected = reference(workers, DENSE)
    check([result for (result,) in by_rank], expected, f"dense {' '.join(extra)}")
    assert expected.aux_losses == [0.0] * STEPS
    assert not any("router" in name for name in expected.dense_weights)


def num_experts(result: RankResult) -> int:
    return result.num_local_experts


def check(ranks: list[RankResult], expected: RankResult, case: str) -> None:
    for rank in ranks:
        np.testing.assert_allclose(rank.losses, expected.losses, rtol=2e-6, err_msg=f"{case}: loss")
        np.testing.assert_allclose(rank.aux_losses, expected.aux_losses, rtol=2e-6, err_msg=f"{case}: auxiliary loss")
        np.testing.assert_allclose(rank.grad_norms, expected.grad_norms, rtol=1e-5, err_msg=f"{case}: gradient norm")
        for layer, bias in rank.biases.items():
            np.testing.assert_array_equal(bias, expected.biases[layer], err_msg=f"{case}: bias of layer {layer}")
    for what, assemble in (("gradient", assemble_gradients), ("weight", assemble_weights)):
        found, wanted = assemble(ranks), assemble([expected])
        assert found.keys() == wanted.keys(), case
        for name, value in wanted.items():
            difference = relative_difference(found[name], value)
            assert difference < 1e-5, f"{case}: {what} of {name} differs by {difference:.1e}"
