"""Experiments of made-up runs, written as real ones are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import yaml

from unipool_dist.base.stopping import Stop, StopReason
from unipool_dist.config import dump_config, load_config, outline
from unipool_dist.observe.metrics import MetricsWriter
from unipool_dist.probe.record import MATCHED, Probe, Randomized, write_probe
from unipool_dist.run.heartbeat import HeartbeatWriter
from unipool_dist.run.state import RunState

STEPS = 80
TOKENS_PER_STEP = 16 * 256
SIZES = ("model.num_layers=4", "model.vocab_size=512", f"train.steps={STEPS}", "train.eval_interval=40")
DENSE = ("pool.router=none", "pool.num_experts=1", "pool.balance.loss=none")


def make_run(
    run_dir: Path,
    *,
    seed: int = 1,
    loss: float = 3.0,
    overrides: tuple[str, ...] = ("pool.num_experts=8",),
    steps: int = STEPS,
    speeds: tuple[float, ...] = (1000.0,),
    probed: bool = False,
) -> Path:
    """A run that has come to ``steps``; its final validation losses are ``loss`` in prose and ``loss + 1`` in sums.

    Args:
        speeds: tokens per second of the last records; of those before, 10.
    """
    config = outline(load_config(None, [*SIZES, *overrides, f"train.seed={seed}", f"run.dir={run_dir}"]), 2)
    run_dir.mkdir(parents=True)
    dump_config(config.config, run_dir / "config.yaml")
    (run_dir / "data_summary.json").write_text("{}")
    writer = MetricsWriter(run_dir)
    num_pools = config.pools.num_pools
    counts = usage_table(config.model.num_layers, num_pools, config.pool.num_experts)
    for step in range(1, steps + 1):
        speed = ([10.0] * steps + list(speeds))[step - steps - 1]
        record = {"step": step, "loss": loss + 5 / step, "aux_loss": 0.01, "grad_norm": 1.0, "lr": 1e-3}
        writer.train({**record, "tokens": step * TOKENS_PER_STEP, "tokens_per_s": speed})
        if config.pool.router != "none":
            writer.usage(step, counts, num_pools)
        if step % 40 == 0:
            gone = 80 - step
            losses = {"prose": loss + gone / 10, "sums": loss + 1 + gone / 10}
            writer.validation(step, losses, losses)
    writer.close()
    beat = HeartbeatWriter(run_dir, steps=STEPS, resumed_from=0)
    if steps == STEPS:
        beat.write(steps, RunState.FINISHED)
    else:
        beat.write(steps, RunState.STOPPED, Stop(StopReason.TERMINATED, "SIGTERM"))
    beat.close()
    if probed:
        write_probe(made_probe(run_dir.name, counts, num_pools, loss), run_dir)
    return run_dir


def usage_table(num_layers: int, num_pools: int, num_experts: int) -> np.ndarray:
    """Every layer uses the experts of its pool, the one of its own number four times as much as the others."""
    counts = np.zeros((num_layers, num_pools * num_experts), dtype=np.int64)
    for layer in range(num_layers):
        pool = layer * num_pools // num_layers
        counts[layer, pool * num_experts : (pool + 1) * num_experts] = 10
        counts[layer, pool * num_experts + layer % num_experts] = 40
    return counts


def made_probe(run: str, counts: np.ndarray, num_pools: int, loss: float) -> Probe:
    """A probe of two seeds, in which layer l adds l / 10, with the forms that a real one has."""
    num_layers, num_experts = counts.shape
    size = num_experts // num_pools
    added = [[loss + layer / 10 for layer in range(num_layers)]] * 2
    drawn_from = {"pool": size} | ({"matched": MATCHED} if size > MATCHED else {})
    randomized = {
        form: Randomized(candidates=[list(range(number))] * num_layers, loss=added, domains={})
        for form, number in drawn_from.items()
    }
    return Probe(
        run=run,
        step=STEPS,
        num_layers=num_layers,
        num_pools=num_pools,
        num_experts=size,
        top_k=1,
        corpus="0123",
        tokens={"prose": 100, "sums": 100},
        loss=loss,
        domains={"prose": loss, "sums": loss},
        randomized=randomized,
        distinct=[1.0, 0.9, 0.8, 0.7],
        counts={"prose": counts.tolist()},
        layers_using=[1] * num_experts,
        lift=[[1.0] * num_experts] * 2,
    )


def make_experiment(folder: Path, losses: Mapping[str, Mapping[int, float]], **fields: object) -> Path:
    """An experiment with a run for every loss; all but ``dense``, which is dense, are probed; ``layered`` has a pool in
    each layer, of so few experts that both forms of the probe are one."""
    overrides = {"dense": DENSE, "layered": ("pool.num_experts=4", "pool.layers_per_group=1")}
    for name, by_seed in losses.items():
        for seed, loss in by_seed.items():
            sizes = overrides.get(name, ("pool.num_experts=16",))
            make_run(folder / name / f"seed-{seed}", seed=seed, loss=loss, overrides=sizes, probed=name != "dense")
    describe(folder, {name: {"title": f"The {name} one"} for name in losses}, **fields)
    return folder


def describe(folder: Path, variants: Mapping[str, object], **fields: object) -> None:
    """Write ``experiment.yaml``."""
    values = {"title": "A & B", "output": str(folder), "seeds": [1, 2, 3], "variants": dict(variants), **fields}
    folder.mkdir(exist_ok=True)
    (folder / "experiment.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(values)), sort_keys=False))
