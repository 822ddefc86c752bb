"""Experts that move to other ranks in the middle of a run: the run stays the same, bit for bit."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from tests.checkpoint.known_state import differences, fill
from tests.checkpoint.support import DATA, load_step, save_step
from tests.pool.test_placement import Shuffled
from tests.support.callbacks import Saves
from tests.support.training import batches_of, built, tiny_config
from tests.support.workers import Workers, free_port
from unipool_dist.base.user_code import trust
from unipool_dist.checkpoint.directory import CheckpointDirectory
from unipool_dist.checkpoint.migrate import migrate
from unipool_dist.checkpoint.saver import Saver
from unipool_dist.checkpoint.state import TrainingState, optimizer_state
from unipool_dist.comm.environment import Environment
from unipool_dist.comm.groups import ParallelGroups
from unipool_dist.engine.step import TrainStep
from unipool_dist.model.assembly import PooledModel
from unipool_dist.pool.placement import Contiguous

SHUFFLED = "tests.pool.test_placement:Shuffled"
PLACED = f"pool.placement={SHUFFLED}"
ZERO0 = f"optimizer.deepspeed={Path(__file__).parents[2] / 'ds_configs/zero0.json'}"
# Without clipping: the global norm sums over a rank's experts, and so depends on the placement in its last bits.
COMMON = ("optimizer.clip_grad=0", "train.global_batch_size=8")
CHUNK_BYTES = 3000  # several to every parameter, which no expert's size is a multiple of
LAYOUTS = {
    "q2": (4, ("pool.parallel_size=2",)),
    "q2-zero0-bf16": (4, ("pool.parallel_size=2", "train.dtype=bf16", ZERO0)),
    "q4-pp2-bf16": (8, ("parallel.pp=2", "pool.parallel_size=4", "train.dtype=bf16", "pool.top_k=2")),
}


@dataclass
class Ran:
    losses: list[float] = field(default_factory=list)
    experts: list[tuple[int, ...]] = field(default_factory=list)
    state: list[tuple[str, tuple[int, ...], int, np.ndarray]] = field(default_factory=list)
    """Tensor, its shape, the first element that is here, and those from it on."""


def _train(environment: Environment, overrides: tuple[str, ...], ports: list[int], moving: list[bool]) -> list[Ran]:
    """Six steps; a run that moves its experts does so after two, and back after four."""
    results = []
    for port, moves in zip(ports, moving, strict=True):
        config = tiny_config(*COMMON, *overrides, world_size=environment.world_size)
        with built(config, replace(environment, master_port=port)) as (groups, model, train_step):
            ran = Ran()
            for step in range(6):
                policy = {2: Shuffled, 4: Contiguous}.get(step)
                if moves and policy is not None:
                    new = policy().place(model.pool_group)
                    migrate(new, model, train_step.optimizer, groups, chunk_bytes=CHUNK_BYTES)
                ran.experts.append(model.expert_ids)
                ran.losses.append(train_step.run(step, batches_of(config, groups, step)).loss)
                if step == 3:
                    ran.state = _state(groups, model, train_step)
            results.append(ran)
    return results


def _state(
    groups: ParallelGroups, model: PooledModel, train_step: TrainStep
) -> list[tuple[str, tuple[int, ...], int, np.ndarray]]:
    held = [
        (item.piece.key, item.piece.shape, item.piece.start, item.values.numpy().copy())
        for item in optimizer_state(groups, model, train_step.optimizer)
    ]
    for name, parameter in model.named_expert_parameters():
        for expert, values in zip(model.expert_ids, parameter.detach(), strict=True):
            key = f"weight/experts.{expert}.{name}"
            held.append((key, tuple(values.shape), 0, values.float().flatten().numpy().copy()))
    return held


def _joined(ranks: list[Ran]) -> dict[str, np.ndarray]:
    whole: dict[str, np.ndarray] = {}
    for rank in ranks:
        for key, shape, start, values in rank.state:
            flat = whole.setdefault(key, np.full(int(np.prod(shape)), np.nan, dtype=np.float32))
            flat[start : start + len(values)] = values
    return whole


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_run_that_moves_its_experts_is_the_run_that_does_not(workers: Workers, layout: str) -> None:
    world, overrides = LAYOUTS[layout]
    ranks = workers.run(_train, world, overrides, [free_port(), free_port()], [False, True])
    stayed, moved = ([rank[index] for rank in ranks] for index in range(2))
    assert {rank.experts[0] == rank.experts[3] for rank in moved} == {False}
    assert [rank.losses for rank in moved] == [rank.losses for rank in stayed]
    expected, found = _joined(stayed), _joined(moved)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert not np.isnan(value).any(), key
        np.testing.assert_array_equal(found[key], value, err_msg=key)


def _save_moved(environment: Environment, overrides: tuple[str, ...], folder: Path) -> None:
    """Known values, saved by a saver that was made before the experts moved."""
    config = tiny_config(*COMMON, *overrides, world_size=environment.world_size)
    with built(config, environment) as (groups, model, train_step):
        state = TrainingState(groups, model, train_step.optimizer)
        saver = Saver(config, groups, state, CheckpointDirectory(folder), lambda _: DATA, Saves([]))
        saver.save(1, waiting=True)
        fill(groups, model, train_step)
        migrate(Shuffled().place(model.pool_group), model, train_step.optimizer, groups)
        assert differences(groups, model, train_step) == []
        saver.save(2, waiting=True)


def _load(
    environment: Environment, overrides: tuple[str, ...], folder: Path, step: int
) -> tuple[list[str], tuple[int, ...]]:
    """Load the checkpoint of ``step`` and save it as the next; what is not as known, and the experts of this rank."""
    trust([SHUFFLED])
    config = tiny_config(*COMMON, *overrides, world_size=environment.world_size)
    with built(config, environment) as (groups, model, train_step):
        load_step(groups, model, train_step, folder, step)
        wrong = differences(groups, model, train_step)
        save_step(config, groups, model, train_step, folder, step + 1)
        return wrong, model.expert_ids


def test_a_checkpoint_of_one_placement_resumes_under_another(workers: Workers, tmp_path: Path) -> None:
    workers.run(_save_moved, 4, ("pool.parallel_size=2",), tmp_path)
    owned = []
    for step, overrides in ((2, ()), (3, (PLACED,)), (4, ())):
        ranks = workers.run(_load, 4, ("pool.parallel_size=4", *overrides), tmp_path, step)
        assert [wrong for wrong, _ in ranks] == [[]] * 4
        owned.append([experts for _, experts in ranks])
    assert owned[0] == owned[2] != owned[1]
