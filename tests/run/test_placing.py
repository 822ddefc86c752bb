"""Experts move to where they are used, and the run stays what it was; its placement is found again at a resume."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.checkpoint.cli_runs import columns, command_of, complete
from tests.support.running import train_records
from unipool_dist.errors import ConfigError
from unipool_dist.layout.pool_map import PoolMap
from unipool_dist.layout.rank_grid import RankGrid
from unipool_dist.run.placement_file import KeptPlacement, layout_of, read_kept, write_kept
from unipool_dist.run.placing import steps_of_moves

GRID, POOLS = RankGrid(2, 2, 1, 4, 2), PoolMap(4, 2, 8)
KEPT = KeptPlacement(7, layout_of(GRID), [[0, 0, 1, 1, 2, 2, 3, 3]] * 2, [[1] * 8] * 4)


@pytest.mark.pure
def test_when_experts_move() -> None:
    assert steps_of_moves([], 49) == []
    assert steps_of_moves([], 900) == [50, 100, 200, 400, 800]
    assert steps_of_moves([8, 3, 3, 99], 50) == [3, 8]


@pytest.mark.pure
def test_a_placement_is_kept_for_its_layout(tmp_path: Path) -> None:
    path = tmp_path / "placement.json"
    assert read_kept(path, GRID, POOLS) is None
    write_kept(path, KEPT)
    kept = read_kept(path, GRID, POOLS)
    assert kept == KEPT
    owners = kept.owners_on(GRID)
    assert owners is not None and owners[1].tolist() == KEPT.owners[1]
    assert kept.owners_on(replace(GRID, dp=4)) is None


@pytest.mark.pure
@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        json.dumps({"step": 1}),
        json.dumps({**KEPT.__dict__, "owners": [[0] * 8] * 2}),  # all on one rank
        json.dumps({**KEPT.__dict__, "owners": [[0, 0, 1, 1, 2, 2, 3, 9]] * 2}),
        json.dumps({**KEPT.__dict__, "owners": [[0, 0, 1, 1, 2, 2, 3, -1]] * 2}),
        json.dumps({**KEPT.__dict__, "counts": [[1] * 4] * 4}),
    ],
)
def test_a_file_that_is_no_placement_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "placement.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match="delete it"):
        read_kept(path, GRID, POOLS)


# Clipping scales by a norm whose last bits depend on the placement (docs/architecture.md).
COMMON = ("optimizer.clip_grad=0", "train.eval_interval=0", "train.steps=8", "checkpoint.interval=6")
MOVING = ("pool.placement=usage", "pool.placement_steps=[2,4]")


def test_a_run_that_moves_is_the_run_that_does_not_and_resumes_on_any_layout(tiny_corpus: Path, tmp_path: Path) -> None:
    layout = ("parallel.pp=2", "parallel.dp=2")
    stayed, moved = tmp_path / "stayed", tmp_path / "moved"
    complete(command_of(tiny_corpus, stayed, *COMMON, *layout, nproc=4))
    out, _ = complete(command_of(tiny_corpus, moved, *COMMON, *layout, *MOVING, nproc=4))
    assert columns(moved)["loss"] == columns(stayed)["loss"]
    said = [line for line in out.splitlines() if line.startswith("placement after step")]
    assert [int(line.split()[3].rstrip(":")) for line in said] == [2, 4]
    assert all(int(line.split()[4]) > 0 for line in said), said
    leaving = [record["rows_leaving_stage"] for record in train_records(moved)]
    assert sum(leaving[4:6]) < sum(leaving[:2]), "what layers use is nearer than it was"

    elsewhere = (*COMMON, "parallel.pp=2", "parallel.dp=1", *MOVING, "--from", "6")
    out, _ = complete(command_of(tiny_corpus, moved, *elsewhere, nproc=2))
    assert "placement after step 6: " in out, "planned anew from the counts that were kept"
    for column in ("loss", "grad_norm"):
        np.testing.assert_allclose(columns(moved)[column], columns(stayed)[column], rtol=1e-4, err_msg=column)
    assert json.loads((moved / "placement.json").read_text())["layout"]["dp"] == 1
