"""Checkpoints of tiny models, and their exports for transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from tests.checkpoint.huggingface.asking import ask
from tests.checkpoint.huggingface.models import MODELS, STEP, train_models
from tests.support.workers import Workers
from unipool_dist.checkpoint.huggingface.folder import HuggingFaceForm
from unipool_dist.checkpoint.offline.export import export_model
from unipool_dist.checkpoint.offline.locate import locate


@pytest.fixture(scope="session")
def model_runs(workers: Workers, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    """A folder with a run of each model, and the logits of each. Not to be changed."""
    folder = tmp_path_factory.mktemp("models")
    return folder, workers.run(train_models, 1, folder)[0]


@pytest.fixture(scope="session")
def exports(model_runs: tuple[Path, dict[str, Tensor]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with each model as transformers loads it, in several files. Not to be changed."""
    folder = tmp_path_factory.mktemp("exports")
    for name in MODELS:
        export_model(locate(model_runs[0] / name, STEP), folder / name, "fp32", 60_000, form=HuggingFaceForm())
    return folder


@pytest.fixture(scope="session")
def used(exports: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What :func:`elsewhere.use` found; the folder ``scratch`` holds what it has saved."""
    scratch = tmp_path_factory.mktemp("used")
    return {**ask("use", scratch, exports / "norm-top3-normalized", scratch), "scratch": scratch}
