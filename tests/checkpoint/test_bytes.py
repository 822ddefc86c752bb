"""One copy of the state on disk, whatever is replicated; every rank writes its share of it, whatever is uneven."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.checkpoint.support import save_step
from tests.support.training import built, tiny_config
from tests.support.workers import Workers
from unipool_dist.checkpoint.directory import CheckpointDirectory
from unipool_dist.comm.environment import Environment

HIDDEN, FFN, EXPERTS, VOCAB, LAYERS = 128, 256, 24, 4096, 4
MODEL = (
    f"model.num_layers={LAYERS}",
    f"model.hidden_size={HIDDEN}",
    f"model.ffn_hidden_size={FFN}",
    f"model.vocab_size={VOCAB}",
    f"pool.num_experts={EXPERTS}",
    "train.global_batch_size=8",
)

ZERO0 = f"optimizer.deepspeed={Path(__file__).parents[2] / 'ds_configs' / 'zero0.json'}"

LAYOUTS = {
    "one": (1, ()),
    "replicated over dp": (4, ("pool.parallel_size=2",)),
    "replicated over dp, states too": (4, ("pool.parallel_size=2", ZERO0)),
    "replicated over tp": (4, ("parallel.tp=2",)),
    "embedding on one stage, output on another, none between": (4, ("parallel.pp=4",)),
    "2, 1 and 1 layers": (6, ("parallel.pp=3", "pool.parallel_size=6")),
    "a pool copy per stage": (4, ("parallel.pp=2", "pool.stages_per_group=1", "pool.parallel_size=1")),
    "all": (8, ("parallel.pp=2", "parallel.tp=2")),
}


def _save(environment: Environment, overrides: tuple[str, ...], folder: Path) -> None:
    config = tiny_config(*MODEL, *overrides, world_size=environment.world_size)
    with built(config, environment) as (groups, model, train_step):
        save_step(config, groups, model, train_step, folder, 1)


def one_copy() -> int:
    """Bytes of fp32 masters and two moments of every parameter, by the architecture."""
    attention = HIDDEN * HIDDEN * 2 + HIDDEN * HIDDEN  # queries and output; keys and values of 2 groups for 4 heads
    layer = attention + 2 * HIDDEN + EXPERTS * HIDDEN + 1  # norms, router, its scale
    return 3 * 4 * (LAYERS * layer + EXPERTS * 3 * HIDDEN * FFN + 2 * VOCAB * HIDDEN + HIDDEN)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_copy_on_disk_and_equal_shares(workers: Workers, tmp_path: Path, layout: str) -> None:
    world, overrides = LAYOUTS[layout]
    workers.run(_save, world, overrides, tmp_path)
    folder = CheckpointDirectory(tmp_path).folder(1)
    total = sum(path.stat().st_size for path in folder.iterdir())
    assert one_copy() <= total <= 1.02 * one_copy()
    written = [path.stat().st_size for path in folder.glob("*.distcp")]
    assert len(written) == world
    mean = sum(written) / world
    assert all(abs(size - mean) <= 0.1 * mean for size in written), written
