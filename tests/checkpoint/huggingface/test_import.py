"""Models from elsewhere become runs: exports bit for bit, also after training elsewhere, and models of transformers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.checkpoint.command_line import fail, same_bits, succeed
from tests.checkpoint.huggingface.asking import ask, needs_transformers
from tests.checkpoint.huggingface.importing import assembled, imported, logits_of_runs, masters
from tests.checkpoint.huggingface.models import MODELS, STEP, tokens
from tests.support.workers import Workers, free_port
from unipool_dist.checkpoint.huggingface.folder import HuggingFaceForm
from unipool_dist.checkpoint.offline.export import export_model
from unipool_dist.checkpoint.offline.locate import locate

LAYOUTS: dict[int, list[tuple[str, ...]]] = {
    1: [()],
    2: [("parallel.pp=2",), ("parallel.dp=2",)],
    4: [("parallel.pp=2", "parallel.tp=2")],
}
EQUAL = ("llama", "llama-tied", "mistral", "mixtral")


def weights(folder: Path) -> dict[str, Tensor]:
    return {name: value for path in folder.glob("*.safetensors") for name, value in load_file(path).items()}


@pytest.mark.parametrize("name", MODELS)
def test_an_export_comes_back_bit_for_bit(
    name: str, model_runs: tuple[Path, dict[str, Tensor]], exports: Path, tmp_path: Path
) -> None:
    run = imported(exports / name, tmp_path / "run")
    assert same_bits(masters(run, 0), masters(model_runs[0] / name, STEP))
    (exports / name / "config.yaml").rename(tmp_path / "config.yaml")  # as after training elsewhere
    try:
        run = imported(exports / name, tmp_path / "other")
    finally:
        (tmp_path / "config.yaml").rename(exports / name / "config.yaml")
    assert same_bits(masters(run, 0), masters(model_runs[0] / name, STEP))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_type_in_one_file_or_many_is_read(dtype: torch.dtype, exports: Path, tmp_path: Path) -> None:
    tensors = {name: value.to(dtype) for name, value in weights(exports / "norm-groups").items()}
    folder = tmp_path / "one"
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    shutil.copy(exports / "norm-groups" / "config.json", folder)
    run = imported(folder, tmp_path / "run")
    export_model(locate(run, 0), tmp_path / "again", "fp32", 60_000, form=HuggingFaceForm())
    assert same_bits(weights(tmp_path / "again"), {name: value.float() for name, value in tensors.items()})


@needs_transformers
def test_what_was_trained_elsewhere_comes_back_as_it_was_left(used: dict[str, Any], tmp_path: Path) -> None:
    tuned = used["scratch"] / "tuned"
    run = imported(tuned, tmp_path / "run")
    export_model(locate(run, 0), tmp_path / "again", "fp32", 60_000, form=HuggingFaceForm())
    assert same_bits(weights(tmp_path / "again"), weights(tuned))


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    """A folder with models of transformers, and their logits. Not to be changed."""
    folder = tmp_path_factory.mktemp("made")
    torch.save(tokens(), folder / "expected.pt")
    ask("make", folder, folder, folder / "expected.pt")
    return folder, torch.load(folder / "expected.pt")


@pytest.fixture(scope="session")
def begun(made: tuple[Path, dict[str, Tensor]], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A run for each model of transformers that has an equal. Not to be changed."""
    folder = tmp_path_factory.mktemp("begun")
    return [imported(made[0] / name, folder / name) for name in EQUAL]


@needs_transformers
@pytest.mark.parametrize("world_size", LAYOUTS)
def test_models_of_transformers_have_equal_logits(
    world_size: int, workers: Workers, made: tuple[Path, dict[str, Tensor]], begun: list[Path]
) -> None:
    for layout in LAYOUTS[world_size]:
        ports = [free_port() for _ in begun]
        by_rank = workers.run(logits_of_runs, world_size, begun, layout, ports)
        for index, name in enumerate(EQUAL):
            found = assembled([part for parts in by_rank for part in parts[index]])
            assert float((found - made[1][name]).abs().max()) < 1e-5, (name, layout)


@needs_transformers
def test_what_has_no_equal_is_named_before_anything_is_written(
    made: tuple[Path, dict[str, Tensor]], tmp_path: Path
) -> None:
    message = fail("import", made[0] / "qwen2", tmp_path / "run")
    assert "model.layers.0.self_attn.q_proj.bias is not a parameter of the model" in message
    assert "rotary positions are scaled (linear)" in fail("import", made[0] / "scaled", tmp_path / "run")
    long = "model.sequence_length=32"
    assert "longer than the window of 16" in fail("import", made[0] / "mistral", tmp_path / "run", long)
    assert not (tmp_path / "run").exists()
    succeed("import", made[0] / "llama", tmp_path / "run", "model.sequence_length=8", "train.dtype=bf16")


def _edit_config(folder: Path, **fields: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def _lead_elsewhere(folder: Path) -> None:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["model.norm.weight"] = "../model.safetensors"
    path.write_text(json.dumps(index))


def _pickle_only(folder: Path) -> None:
    for path in folder.glob("model*"):
        path.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"pickle")


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "another type": (lambda folder: _edit_config(folder, model_type="gpt2"), "of the type gpt2; what can be imported"),
    "another router": (lambda folder: _edit_config(folder, router="hash"), "router=hash is not one of the project"),
    "more layers": (lambda folder: _edit_config(folder, num_hidden_layers=8), "layers.4.input_layernorm.weight is"),
    "too large": (lambda folder: _edit_config(folder, num_hidden_layers=9000), "too few for the model"),
    "no sizes": (lambda folder: (folder / "config.json").write_text("{}"), "does not describe a decoder"),
    "no JSON": (lambda folder: (folder / "config.json").write_text("{"), "cannot be read"),
    "no numbers": (lambda folder: _edit_config(folder, num_hidden_layers=-1), "model.num_layers"),
    "a pickle": (_pickle_only, "only safetensors are read"),
    "elsewhere": (_lead_elsewhere, "model.safetensors.index.json cannot be read"),
    "damaged": (
        lambda folder: next(folder.glob("*.safetensors")).write_bytes(b"0"), "if they were trained further, delete"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_no_such_model_is_refused(name: str, exports: Path, tmp_path: Path) -> None:
    folder = tmp_path / "export"
    shutil.copytree(exports / "norm", folder)
    fault, words = FAULTS[name]
    fault(folder)
    message = fail("import", folder, tmp_path / "run")
    assert message.startswith("CheckpointError") and words in message, message
    assert not (tmp_path / "run").exists()
