"""Saved in any layout, a run is resumed in any other: bit for bit the same state, and the same losses from there on."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from tests.checkpoint.known_state import differences, fill, tensors_on_disk
from tests.checkpoint.support import load_step, save_step
from tests.support.training import batches_of, built, tiny_config
from tests.support.workers import Workers
from unipool_dist.checkpoint.directory import CheckpointDirectory
from unipool_dist.checkpoint.index import read_index
from unipool_dist.checkpoint.manifest import read_manifest
from unipool_dist.comm.environment import Environment

KNOWN, TRAINED, MORE = 1, 3, 5
"""Step under which known values are saved; steps trained before the second save; steps trained after loading it."""

COMMON = ("train.global_batch_size=8", "optimizer.epsilon=1e-5")

# (pp, dp, tp, q, n), micro-batch size; those named so with ZeRO stage 0, all others with stage 1
LAYOUTS = {
    "one": (1, 1, 1, 1, 1, 2),
    "dp2-zero0": (1, 2, 1, 2, 1, 1),
    "tp2": (1, 1, 2, 2, 1, 4),
    "pp2": (2, 1, 1, 2, 2, 1),
    "pp2-dp2-copy-per-stage": (2, 2, 1, 2, 1, 1),
    "pp2-tp2": (2, 1, 2, 4, 2, 4),
    "pp3-dp2": (3, 2, 1, 6, 3, 2),
    "pp4-dp2": (4, 2, 1, 8, 4, 2),
    "pp2-dp2-tp2-zero0": (2, 2, 2, 8, 2, 2),
}
EXPERTS = "pool.num_experts=24"  # divisible by 1, 2, 4, 6, 8


def overrides_of(layout: str) -> tuple[str, ...]:
    pp, _, tp, q, n, micro_batch = LAYOUTS[layout]
    sizes = (f"parallel.pp={pp}", f"parallel.tp={tp}", f"pool.parallel_size={q}", f"pool.stages_per_group={n}")
    zero = "zero0.json" if layout.endswith("zero0") else "zero1.json"
    deepspeed = f"optimizer.deepspeed={Path(__file__).parents[2] / 'ds_configs' / zero}"
    return (*COMMON, EXPERTS, *sizes, f"train.micro_batch_size={micro_batch}", deepspeed)


def world_of(layout: str) -> int:
    pp, dp, tp, *_ = LAYOUTS[layout]
    return pp * dp * tp


@dataclass
class Continued:
    losses: list[float]
    wrong: list[str]


def _save(environment: Environment, overrides: tuple[str, ...], folder: Path, more: int) -> list[float]:
    """Save known values, then the state after some steps from the beginning; train on for ``more`` steps."""
    config = tiny_config(*overrides, world_size=environment.world_size)
    with built(config, environment) as (groups, model, train_step):
        fill(groups, model, train_step)
        save_step(config, groups, model, train_step, folder, KNOWN)
    environment = replace(environment, master_port=environment.master_port + 1)
    with built(config, environment) as (groups, model, train_step):
        for step in range(TRAINED):
            train_step.run(step, batches_of(config, groups, step))
        save_step(config, groups, model, train_step, folder, TRAINED)
        return [train_step.run(step, batches_of(config, groups, step)).loss for step in range(TRAINED, TRAINED + more)]


def _load(environment: Environment, overrides: tuple[str, ...], folders: list[Path]) -> list[Continued]:
    config = tiny_config(*overrides, world_size=environment.world_size)
    results: list[Continued] = []
    with built(config, environment) as (groups, model, train_step):
        for folder in folders:
            fill(groups, model, train_step, salt="something else")
            assert results or differences(groups, model, train_step), "the check sees what is to be overwritten"
            load_step(groups, model, train_step, folder, KNOWN)
            wrong = differences(groups, model, train_step)
            load_step(groups, model, train_step, folder, TRAINED)
            steps = range(TRAINED, TRAINED + MORE)
            losses = [train_step.run(step, batches_of(config, groups, step)).loss for step in steps]
            results.append(Continued(losses, wrong))
    return results


@pytest.fixture(scope="module")
def saved(workers: Workers, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Path], list[float]]:
    """A run directory for each layout; and the losses of the uninterrupted run, from one process."""
    folders: dict[str, Path] = {}
    uninterrupted: list[float] = []
    for layout in LAYOUTS:
        folders[layout] = tmp_path_factory.mktemp(layout)
        more = MORE if layout == "one" else 0
        ranks = workers.run(_save, world_of(layout), overrides_of(layout), folders[layout], more)
        uninterrupted += ranks[0] if more else []
    return folders, uninterrupted


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_resumes_from_every_other(
    workers: Workers, saved: tuple[dict[str, Path], list[float]], layout: str
) -> None:
    folders, uninterrupted = saved
    assert len(uninterrupted) == MORE
    ranks = workers.run(_load, world_of(layout), overrides_of(layout), list(folders.values()))
    for rank, results in enumerate(ranks):
        for source, result in zip(folders, results, strict=True):
            assert result.wrong == [], f"saved in {source}, rank {rank}"
            for step, (found, expected) in enumerate(zip(result.losses, uninterrupted, strict=True)):
                assert found == pytest.approx(expected, rel=1e-5), f"saved in {source}, step {step} after it"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_on_disk_does_not_depend_on_the_layout(saved: tuple[dict[str, Path], list[float]], layout: str) -> None:
    folder = CheckpointDirectory(saved[0][layout]).folder(KNOWN)
    tensors = read_index(folder, read_manifest(folder).files).state_dict_metadata
    assert set(tensors) == tensors_on_disk(tiny_config(*overrides_of("one")))
    for name, tensor in tensors.items():
        assert isinstance(tensor, TensorStorageMetadata)
        elements = sum(math.prod(chunk.sizes) for chunk in tensor.chunks)
        assert elements == tensor.size.numel(), f"{name} is on disk once"
