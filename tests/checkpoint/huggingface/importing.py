"""Runs that begin with a model from elsewhere, and what their model gives on any layout."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from tests.checkpoint.huggingface.models import tokens
from unipool_dist.checkpoint.directory import CheckpointDirectory
from unipool_dist.checkpoint.offline.import_model import import_model, open_model
from unipool_dist.checkpoint.offline.tensor_reader import TensorReader
from unipool_dist.checkpoint.resume import find_checkpoint
from unipool_dist.checkpoint.weights import load_weights
from unipool_dist.comm.environment import Environment
from unipool_dist.comm.groups import process_groups
from unipool_dist.config import load_config, resolve
from unipool_dist.engine.pipeline import Pipeline, StageBatch
from unipool_dist.model.assembly import build_model

SMALL = ("train.micro_batch_size=1", "train.global_batch_size=2", "parallel.timeout_s=180")


def imported(source: Path, run_dir: Path, *chosen: str) -> Path:
    """Import ``source`` into ``run_dir``."""
    import_model(open_model(source, (*SMALL, *chosen)), run_dir)
    return run_dir


def masters(run_dir: Path, step: int) -> dict[str, Tensor]:
    """Every master of a checkpoint, by tensor."""
    reader = TensorReader(CheckpointDirectory(run_dir).folder(step))
    kinds = {name.partition("/"): info for name, info in reader.tensors.items()}
    return {name: reader.whole(info) for (kind, _, name), info in kinds.items() if kind == "master"}


Part = tuple[int, int, Tensor]
"""Data- and tensor-parallel index of a rank of the last stage, and its logits [s, b / dp, v / tp]."""


def assembled(parts: list[Part]) -> Tensor:
    """The logits [b, s, v] that the ranks have together."""
    by_replica = [
        torch.cat(
            [values for replica, _, values in sorted(parts, key=lambda part: part[:2]) if replica == index], dim=2
        )
        for index in sorted({replica for replica, _, _ in parts})
    ]
    return torch.stack(by_replica, dim=2).flatten(1, 2).transpose(0, 1)  # sequences were dealt out in turns


def logits_of_runs(
    environment: Environment, run_dirs: list[Path], overrides: tuple[str, ...], ports: list[int]
) -> list[list[Part]]:
    """What this rank has of the logits of each run's model."""
    return [
        _logits(replace(environment, master_port=port), run_dir, overrides)
        for run_dir, port in zip(run_dirs, ports, strict=True)
    ]


def _logits(environment: Environment, run_dir: Path, overrides: tuple[str, ...]) -> list[Part]:
    plan = resolve(load_config(run_dir / "config.yaml", overrides), environment.world_size)
    found: list[Part] = []
    with process_groups(plan, environment) as groups:
        model = build_model(plan, groups, draw=False)
        checkpoint = find_checkpoint(CheckpointDirectory(run_dir), groups.storage, from_step=0, verify="hash")
        assert checkpoint is not None
        load_weights(checkpoint, model, groups)
        text = tokens()[groups.dp_index :: groups.grid.dp]
        with torch.no_grad():
            Pipeline(plan, groups, model).forward(
                [StageBatch(text, None, None)],
                lambda _, part: found.append((groups.dp_index, groups.tp_index, part.clone())),
            )
    return found
