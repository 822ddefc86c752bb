"""The measurements of a probe, on any layout.

The routing-randomisation probe of UniPool (arXiv 2605.06665): one layer's choice of experts is replaced by a uniformly
random one, over the whole pool, or *matched*: over as many experts as an ordinary MoE layer has, the 8 that the layer
uses most on held-out text. The paper measures tasks, and the deeper half of the layers; here it is the validation loss
of every layer. The gates are the router's own (:class:`unipool_dist.probe.routing.RandomRouting`); the paper does not
say which it uses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from unipool_dist.base.progress_bars import Count, uncounted
from unipool_dist.data import Rows
from unipool_dist.inference.opened import OpenedRun
from unipool_dist.inference.validation import AT_ONCE, Loss, together, validation_losses
from unipool_dist.observe.files import name_of
from unipool_dist.observe.usage import Counts
from unipool_dist.probe.observation import Recorder
from unipool_dist.probe.record import MATCHED, Probe, Randomized
from unipool_dist.probe.routing import RandomRouting, tapped
from unipool_dist.probe.sharing import Path, layers_using, lift, most_used


def num_evaluations(run: OpenedRun, num_seeds: int) -> int:
    """Return how often :func:`measure` evaluates all sequences."""
    return 1 + len(_forms(run)) * num_seeds * run.plan.model.num_layers


def measure(run: OpenedRun, batches: Mapping[str, Rows], num_seeds: int, count: Count = uncounted) -> Probe:
    """Probe the model with the validation sequences ``batches``; the result is the same on every rank.

    Args:
        count: called with numbers of sequences done; each counts :func:`num_evaluations` times.

    Collectives: for every 256 sequences of a domain those of :meth:`Evaluation.run`; in the first round those of
    :meth:`Recorder.collect` too.
    """
    model, pool = run.plan.model, run.plan.pool
    losses, counts_DLE, path = _unperturbed(run, batches, count)
    counts_LE = np.sum(list(counts_DLE.values()), axis=0)
    randomized = {
        form: _randomized(run, batches, candidates, num_seeds, count)
        for form, candidates in _candidates(run, counts_LE).items()
    }
    return Probe(
        run=name_of(run.run_dir),
        step=run.step,
        num_layers=model.num_layers,
        num_pools=run.plan.pools.num_pools,
        num_experts=pool.num_experts,
        top_k=pool.top_k,
        corpus=run.corpus.content_hash,
        tokens={name: loss.tokens for name, loss in losses.items()},
        loss=together(losses.values()).nats_per_token,
        domains={name: loss.nats_per_token for name, loss in losses.items()},
        randomized=randomized,
        distinct=path.distinct.tolist(),
        counts={name: counts.tolist() for name, counts in counts_DLE.items()},
        layers_using=layers_using(counts_LE, pool.layers_per_group).tolist(),
        lift=_with_null(lift(np.array([counts.sum(axis=0) for counts in counts_DLE.values()])).tolist()),
    )


def _unperturbed(
    run: OpenedRun, batches: Mapping[str, Rows], count: Count
) -> tuple[dict[str, Loss], dict[str, Counts], Path]:
    """Return losses and choices [L, E] by domain, and the tokens' path."""
    recorder = Recorder(run)
    losses: dict[str, Loss] = {}
    counts: dict[str, Counts] = {}
    paths: list[Path] = []
    with tapped(run, recorder.on_scores, range(run.plan.model.num_layers)):
        for name, batch in batches.items():
            found = []
            for start in range(0, len(batch), AT_ONCE):
                part = batch.rows(start, start + AT_ONCE)
                loss = validation_losses(run, {name: part}, count, recorder)[name]
                found.append((loss, recorder.collect(part)))
            losses[name] = together(loss for loss, _ in found)
            counts[name] = np.sum([seen.counts_LE for _, seen in found], axis=0)
            paths += [seen.path for _, seen in found]
    return losses, counts, sum(paths[1:], paths[0])


def _randomized(
    run: OpenedRun, batches: Mapping[str, Rows], candidates: Sequence[Sequence[int]], num_seeds: int, count: Count
) -> Randomized:
    layers = range(run.plan.model.num_layers)
    found = []
    for seed in range(num_seeds):
        for layer in layers:
            routing = RandomRouting(run, seed, candidates[layer])
            with tapped(run, routing.on_scores, [layer]):
                found.append(validation_losses(run, batches, count, routing))

    def table(values: list[float]) -> list[list[float]]:
        return np.array(values).reshape(num_seeds, len(layers)).tolist()

    return Randomized(
        candidates=[list(experts) for experts in candidates],
        loss=table([together(losses.values()).nats_per_token for losses in found]),
        domains={name: table([losses[name].nats_per_token for losses in found]) for name in batches},
    )


def _forms(run: OpenedRun) -> list[str]:
    """Return the forms to measure: one, if the pool has no more experts than are drawn from."""
    return ["pool", "matched"] if run.plan.pool.num_experts > MATCHED else ["pool"]


def _candidates(run: OpenedRun, counts_LE: Counts) -> dict[str, list[list[int]]]:
    """Return by form and layer the experts of the layer's pool that may be drawn; at least K."""
    pool = run.plan.pool
    size, used = pool.num_experts, max(MATCHED, pool.top_k)
    own_LM = counts_LE.reshape(len(counts_LE), -1, size).sum(axis=1)  # a layer has no counts in other pools
    found = {
        "pool": [list(range(size)) for _ in own_LM],
        "matched": [most_used(counts_M, used).tolist() for counts_M in own_LM],
    }
    return {form: found[form] for form in _forms(run)}


def _with_null(rows: list[list[float]]) -> list[list[float | None]]:
    return [[None if np.isnan(value) else value for value in row] for row in rows]
