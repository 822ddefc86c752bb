"""What the checkpoints of a run will need, from its configuration."""

from __future__ import annotations

from math import prod
from pathlib import Path

import pytest

from tests.support.training import tiny_config
from unipool_dist.checkpoint.directory import CheckpointDirectory
from unipool_dist.cli.doctor import checkpoint_need
from unipool_dist.sizing.parameters import parameter_shapes


@pytest.mark.parametrize(
    ("settings", "num_kept"),
    [
        (["checkpoint.interval=10", "checkpoint.keep_last=2"], 3),  # and one that is being written
        (["checkpoint.interval=10", "checkpoint.keep_last=0"], 10),
        (["checkpoint.interval=10", "checkpoint.keep_last=1", "checkpoint.keep_every=50"], 3),
        (["checkpoint.interval=0"], 1),
        (["checkpoint.interval=1000"], 1),
    ],
)
def test_as_many_checkpoints_as_there_will_be_at_a_time(tmp_path: Path, settings: list[str], num_kept: int) -> None:
    need = checkpoint_need(tiny_config(f"run.dir={tmp_path}", *settings))
    assert (need.num_kept, need.num_there) == (num_kept, 0)


def test_masters_and_moments_count_and_so_does_what_is_there(tmp_path: Path) -> None:
    config = tiny_config(f"run.dir={tmp_path}")
    numel = sum(prod(shape) for shape in parameter_shapes(config).values())
    assert checkpoint_need(config).bytes_each == 12 * numel
    plain = checkpoint_need(tiny_config(f"run.dir={tmp_path}", "optimizer.name=sgd"))
    assert plain.bytes_each == 4 * numel
    CheckpointDirectory(tmp_path).folder(7).mkdir(parents=True)
    assert checkpoint_need(config).num_there == 1
