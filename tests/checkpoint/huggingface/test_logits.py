"""Exports in a process without this project: the logits of every kind of model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.checkpoint.huggingface.asking import ask, needs_transformers
from tests.checkpoint.huggingface.models import MODELS, STEP, tokens
from unipool_dist.checkpoint.huggingface.config_json import ClassName
from unipool_dist.checkpoint.huggingface.folder import HuggingFaceForm
from unipool_dist.checkpoint.offline.export import export_model
from unipool_dist.checkpoint.offline.locate import locate
from unipool_dist.errors import CheckpointError

CLASSES: dict[str, ClassName] = {"dense": "llama", "mixtral": "mixtral"}
"""By model, the class of transformers that computes the same."""


@needs_transformers
def test_logits_equal_those_of_the_trainer(
    model_runs: tuple[Path, dict[str, Tensor]], exports: Path, tmp_path: Path
) -> None:
    assert len(MODELS) >= 12
    runs, expected = model_runs
    folders = [exports / name for name in MODELS]
    for name, class_name in CLASSES.items():
        folders.append(tmp_path / class_name / name)
        export_model(locate(runs / name, STEP), folders[-1], "fp32", 60_000, form=HuggingFaceForm(class_name))
    torch.save((tokens(), expected), tmp_path / "expected.pt")
    found = ask("logits", tmp_path, tmp_path / "expected.pt", *folders)
    assert found.keys() == {str(folder) for folder in folders}
    assert max(found.values()) < 1e-5, found
    assert len({round(float(logits.sum()), 4) for logits in expected.values()}) == len(MODELS), "no two are the same"


def test_the_pool_is_on_disk_once(exports: Path) -> None:
    folder = exports / "norm-groups"
    tensors = {name: value for path in folder.glob("*.safetensors") for name, value in load_file(path).items()}
    pools = {name: tuple(value.shape) for name, value in tensors.items() if "pools" in name}
    assert pools == {
        f"model.pools.{pool}.{name}": shape
        for pool in range(2)
        for name, shape in (("gate_up_proj", (16, 96, 32)), ("down_proj", (16, 32, 48)))
    }
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == tensors.keys() and len(set(index["weight_map"].values())) > 1


@pytest.mark.parametrize(
    ("name", "class_name", "words"),
    [
        ("norm", "llama", "pool.router=norm, where it needs none"),
        ("dense", "mixtral", "pool.router=none, where it needs softmax"),
        ("vanilla", "mixtral", "pool.normalize_gates=false"),
        ("softmax", "mixtral", "pool.layers_per_group=4, where it needs 1"),
        ("sandwich-dense", "llama", "model.family=sandwich"),
    ],
)
def test_what_no_class_of_transformers_computes_is_refused(
    name: str, class_name: ClassName, words: str, model_runs: tuple[Path, dict[str, Tensor]], tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError) as refused:
        export_model(
            locate(model_runs[0] / name, STEP), tmp_path / "out", "fp32", 10**9, form=HuggingFaceForm(class_name)
        )
    assert words in str(refused.value) and not list(tmp_path.iterdir())
