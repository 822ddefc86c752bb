"""The probe: the same on any layout, without effect where there can be none, and with the one it must have."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.using import LAYOUTS, validation_of_training, with_run
from tests.support.workers import Workers, free_port
from unipool_dist.inference.opened import OpenedRun
from unipool_dist.inference.validation import Loss, validation_batches, validation_losses
from unipool_dist.observe.usage import spread_over_pools
from unipool_dist.probe.measure import measure, num_evaluations
from unipool_dist.probe.record import Probe
from unipool_dist.probe.routing import RandomRouting, tapped

SEQUENCES, SEEDS = 6, 2


def probe(run: OpenedRun) -> dict[str, Any]:
    done: list[int] = []
    batches = validation_batches(run, SEQUENCES)
    found = measure(run, batches, SEEDS, done.append)
    assert sum(done) == num_evaluations(run, SEEDS) * SEQUENCES * len(batches)
    return found.model_dump()


@lru_cache
def reference(workers: Workers, run_dir: Path) -> Probe:
    """What one process gives."""
    return Probe.model_validate(workers.run(with_run, 1, run_dir, (), 0, probe)[0])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_what_one_process_gives(workers: Workers, small_run: Path, layout: str) -> None:
    world_size, overrides = LAYOUTS[layout]
    one = reference(workers, small_run)
    for rank in workers.run(with_run, world_size, small_run, overrides, free_port(), probe):
        found = Probe.model_validate(rank)
        assert found.loss == pytest.approx(one.loss, rel=1e-5)
        assert found.domains == pytest.approx(one.domains, rel=1e-5)
        for form, randomized in one.randomized.items():
            np.testing.assert_allclose(found.randomized[form].loss, randomized.loss, rtol=1e-5, err_msg=form)
        # Rounding may let a token whose choices are nearly equal choose otherwise.
        assert np.abs(found.all_counts - one.all_counts).sum() <= 4
        np.testing.assert_allclose(found.distinct, one.distinct, atol=0.01)


def test_the_loss_as_it_is_is_that_of_training(workers: Workers, small_run: Path) -> None:
    recorded = validation_of_training(small_run)["validation"]
    assert reference(workers, small_run).domains == pytest.approx(recorded, rel=1e-6)


def test_random_routing_costs_and_seeds_differ(workers: Workers, small_run: Path) -> None:
    found = reference(workers, small_run)
    for form in ("pool", "matched"):
        added = found.randomized[form].added_to(found.loss)
        assert added.shape == (SEEDS, found.num_layers) and added.mean(axis=0).max() > 0.01
        assert (added[0] != added[1]).all()


def test_matched_experts_are_the_most_used(workers: Workers, small_run: Path) -> None:
    found = reference(workers, small_run)
    for counts, candidates in zip(found.all_counts, found.randomized["matched"].candidates, strict=True):
        assert len(candidates) == 8 and candidates == sorted(candidates)
        others = [expert for expert in range(16) if expert not in candidates]
        assert counts[candidates].min() >= counts[others].max()


def test_every_predicted_token_is_counted_once_in_each_layer(workers: Workers, small_run: Path) -> None:
    found = reference(workers, small_run)
    assert found.all_counts.sum(axis=1).max() <= sum(found.tokens.values()) * found.top_k
    assert found.all_counts.sum(axis=1).min() > 0.9 * sum(found.tokens.values()) * found.top_k, "scores of 0 are rare"
    assert found.distinct[0] == 1.0 >= found.distinct[1] > 0.5


def test_with_equal_experts_random_routing_changes_nothing(workers: Workers, small_run: Path) -> None:
    for overrides, world_size in (((), 1), (("parallel.pp=2",), 2)):
        for rank in workers.run(with_run, world_size, small_run, overrides, free_port(), _equal_experts):
            found = Probe.model_validate(rank)
            for form in ("pool", "matched"):
                assert np.abs(found.randomized[form].added_to(found.loss)).max() < 2e-6


@torch.no_grad()
def _equal_experts(run: OpenedRun) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    for parameter in run.model.bank.parameters():
        parameter.copy_(0.2 * torch.randn(parameter.shape[1:], generator=generator))
    return probe(run)


def test_the_last_layer_has_the_loss_of_the_experts_that_are_drawn(workers: Workers, small_run: Path) -> None:
    """Routing that is random over two experts, of which one gives nothing, lies between each of them alone."""
    (found,) = workers.run(with_run, 1, small_run, (), 0, _two_experts)
    nothing, expert, either, without = (found[name] for name in ("nothing", "expert", "either", "without"))
    assert nothing == pytest.approx(without, rel=1e-6), "as if the layer had no experts"
    assert abs(expert - nothing) > 0.05
    assert min(expert, nothing) < either < max(expert, nothing)
    # Half of the tokens get one, half the other, and after the last layer they do not see each other.
    assert either == pytest.approx((expert + nothing) / 2, abs=0.25 * abs(expert - nothing))


@torch.no_grad()
def _two_experts(run: OpenedRun) -> dict[str, float]:
    layer, top_k = run.plan.model.num_layers - 1, run.plan.pool.top_k
    assert top_k == 2
    run.model.bank.down[2:4] = 0.0  # these give nothing
    run.model.bank.gate_up[1].copy_(run.model.bank.gate_up[0])
    run.model.bank.down[1].copy_(run.model.bank.down[0])
    batches = validation_batches(run, SEQUENCES)

    def loss(candidates: list[int]) -> float:
        routing = RandomRouting(run, 0, candidates)
        with tapped(run, routing.on_scores, [layer]):
            return _prose(validation_losses(run, batches, callback=routing))

    with tapped(run, lambda layer, scores_TM: torch.zeros_like(scores_TM), [layer]):
        without = _prose(validation_losses(run, batches))
    return {"nothing": loss([2, 3]), "expert": loss([0, 1]), "either": loss([0, 1, 2, 3]), "without": without}


def _prose(losses: dict[str, Loss]) -> float:
    return losses["prose"].nats_per_token


def test_the_model_is_left_as_it_was(workers: Workers, small_run: Path) -> None:
    (found,) = workers.run(with_run, 1, small_run, (), 0, _probe_twice)
    assert found[0] == found[1]


def _probe_twice(run: OpenedRun) -> list[dict[str, Any]]:
    return [probe(run), probe(run)]


def test_layers_with_experts_of_their_own(workers: Workers, layered_run: Path) -> None:
    """The ordinary MoE: both forms are one, no expert is met twice, each serves its layer."""
    (rank,) = workers.run(with_run, 1, layered_run, (), 0, probe)
    found = Probe.model_validate(rank)
    assert list(found.randomized) == ["pool"]
    assert found.randomized["pool"].candidates == [list(range(4))] * 2
    assert found.distinct == [1.0, 1.0]
    assert (found.num_pools, found.all_counts.shape) == (2, (2, 8))
    own = np.stack([found.all_counts[0, :4], found.all_counts[1, 4:]])
    np.testing.assert_array_equal(spread_over_pools(own, 2), found.all_counts)
    assert set(found.layers_using) <= {0, 1} and 1 in found.layers_using
