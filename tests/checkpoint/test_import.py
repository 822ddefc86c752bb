"""``checkpoint import``: a run with the weights of an exported model; what is no such model is refused beforehand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from tests.checkpoint.command_line import call, document, fail, same_bits, step_folder, succeed, tensors_of
from tests.checkpoint.damage import flip_bit
from tests.support.training import built, tiny_config
from tests.support.workers import Workers
from unipool_dist.checkpoint.manifest import hash_file
from unipool_dist.checkpoint.offline import import_model
from unipool_dist.comm.environment import Environment
from unipool_dist.config import load_config
from unipool_dist.model.families import inventory
from unipool_dist.run.lock import RunLock


def export(run_dir: Path, out: Path, *options: object) -> dict[str, torch.Tensor]:
    """Export and return the tensors in fp32."""
    succeed("export", run_dir, out, *options)
    files = [load_file(path) for path in out.glob("*.safetensors")]
    return {name: value.float() for tensors in files for name, value in tensors.items()}


@pytest.mark.parametrize("options", [(), ("--dtype", "bf16"), ("--max-shard-size-gb", 0.0001)])
def test_a_run_begins_with_the_weights(options: tuple[object, ...], trained: Path, tmp_path: Path) -> None:
    tensors = export(trained, tmp_path / "export", *options)
    done = document("import", tmp_path / "export", tmp_path / "run")
    folder = step_folder(tmp_path / "run", 0)
    assert (done["step"], done["path"]) == (0, str(folder))
    expected = {f"master/{name}": value for name, value in tensors.items()}
    assert same_bits(tensors_of(folder, tmp_path), expected), "masters in fp32, and no optimizer states"
    assert document("verify", tmp_path / "run")["ok"]
    progress = document("inspect", tmp_path / "run")["progress"]
    source = document("inspect", trained)["progress"]
    assert (progress["step"], progress["consumed_samples"], progress["schedule_steps"]) == (0, 0, 0)
    assert not progress["optimizer_states"]
    assert progress["data"] == {
        "tokenizer_hash": source["data"]["tokenizer_hash"],
        "content_hash": None,
        "segments": [],
    }
    config = load_config(tmp_path / "run" / "config.yaml")
    assert config.run.dir == str(tmp_path / "run")
    assert config.model == load_config(trained / "config.yaml").model
    assert "  imported    whole" in succeed("list", tmp_path / "run")


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_large_model_becomes_several_files(
    dtype: str, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = export(trained, tmp_path / "export", "--dtype", dtype)
    monkeypatch.setattr(import_model, "_FILE_BYTES", 100_000)
    succeed("import", tmp_path / "export", tmp_path / "run")
    folder = step_folder(tmp_path / "run", 0)
    assert len(list(folder.glob("*.distcp"))) == 5
    assert max(info["chunks"] for info in document("inspect", tmp_path / "run", "--tensors")["tensors"]) > 1
    expected = {f"master/{name}": value for name, value in tensors.items()}
    assert same_bits(tensors_of(folder, tmp_path), expected)


def test_what_was_imported_can_be_exported(trained: Path, tmp_path: Path) -> None:
    first = export(trained, tmp_path / "one")
    succeed("import", tmp_path / "one", tmp_path / "run")
    assert same_bits(export(tmp_path / "run", tmp_path / "two"), first)


def test_a_run_is_not_replaced(trained: Path, tmp_path: Path) -> None:
    export(trained, tmp_path / "export")
    assert "holds a run already" in fail("import", tmp_path / "export", trained)
    succeed("import", tmp_path / "export", tmp_path / "run")
    (tmp_path / "run" / "config.yaml").unlink()
    assert "holds a run already" in fail("import", tmp_path / "export", tmp_path / "run")
    with RunLock(tmp_path / "locked"):
        assert fail("import", tmp_path / "export", tmp_path / "locked").startswith("RunLockedError")
    assert call("import", tmp_path / "export", tmp_path / "locked").exit_code == 0


def _edit_weights(path: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the tensors, and ``export.json`` so that it fits."""
    tensors = load_file(path / "model.safetensors")
    edit(tensors)
    save_file(tensors, path / "model.safetensors")
    found = hash_file(path / "model.safetensors")
    file = {"num_bytes": found.num_bytes, "xxh3_128": found.xxh3_128}
    _edit_record(path, {"files": {"model.safetensors": file}})


def _edit_record(path: Path, values: dict[str, object]) -> None:
    record = json.loads((path / "export.json").read_text())
    (path / "export.json").write_text(json.dumps(record | values))


def _edit_config(path: Path, section: str, field: str, value: object) -> None:
    config = yaml.safe_load((path / "config.yaml").read_text())
    config[section][field] = value
    (path / "config.yaml").write_text(yaml.safe_dump(config))


def _split_with_duplicate(path: Path) -> None:
    (path / "second.safetensors").write_bytes((path / "model.safetensors").read_bytes())
    files = json.loads((path / "export.json").read_text())["files"]
    _edit_record(path, {"files": files | {"second.safetensors": files["model.safetensors"]}})


def _no_safetensors(path: Path) -> None:
    (path / "model.safetensors").write_bytes(b"text")
    found = hash_file(path / "model.safetensors")
    _edit_record(path, {"files": {"model.safetensors": {"num_bytes": 4, "xxh3_128": found.xxh3_128}}})


FAULTS: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "no export": (lambda path: (path / "export.json").unlink(), ("is not an exported model", "export.json")),
    "damaged record": (lambda path: (path / "export.json").write_text("{"), ("export.json cannot be read",)),
    "another JSON": (lambda path: (path / "export.json").write_text("[1]"), ("export.json cannot be read",)),
    "a later format": (lambda path: _edit_record(path, {"format_version": 2}), ("format_version=2", "up to 1")),
    "another format": (lambda path: _edit_record(path, {"format": "other"}), ("export.json cannot be read", "format")),
    "flipped bit": (lambda path: flip_bit(path / "model.safetensors", 7), ("model.safetensors is damaged",)),
    "missing file": (lambda path: (path / "model.safetensors").unlink(), ("model.safetensors is missing",)),
    "no safetensors": (_no_safetensors, ("model.safetensors is not a safetensors file",)),
    "a tensor twice": (_split_with_duplicate, ("and in another file too",)),
    "missing tensor": (
        lambda path: _edit_weights(path, lambda tensors: tensors.pop("experts.3.down")),
        ("experts.3.down is missing",),
    ),
    "a tensor more": (
        lambda path: _edit_weights(path, lambda tensors: tensors.update({"bias": torch.zeros(3)})),
        ("bias is not a parameter of the model",),
    ),
    "another shape": (
        lambda path: _edit_weights(path, lambda t: t.update({"final_norm.weight": torch.zeros(31)})),
        ("final_norm.weight has shape (31,) instead of (32,)",),
    ),
    "another type": (
        lambda path: _edit_weights(path, lambda t: t.update({"final_norm.weight": torch.zeros(32).half()})),
        ("final_norm.weight has type F16",),
    ),
    "another model": (
        lambda path: _edit_config(path, "model", "hidden_size", 64),
        ("embedding.weight has shape (384, 32) instead of (384, 64)", "and 45 more"),
    ),
    "no configuration": (lambda path: (path / "config.yaml").unlink(), ("no configuration at",)),
    "open sizes": (lambda path: _edit_config(path, "model", "vocab_size", None), ("leaves sizes of the model open",)),
    "unknown field": (lambda path: _edit_config(path, "model", "depth", 3), ("model.depth: no such field",)),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_no_such_model_is_refused_before_anything_is_written(name: str, trained: Path, tmp_path: Path) -> None:
    export(trained, tmp_path / "export")
    fault, expected = FAULTS[name]
    fault(tmp_path / "export")
    message = fail("import", tmp_path / "export", tmp_path / "run")
    assert message.startswith("CheckpointError")
    assert all(part in message for part in expected), message
    assert not (tmp_path / "run").exists()


MODELS = (
    (),
    ("pool.router=softmax",),
    ("pool.router=sigmoid", "pool.balance.bias_rate=0.001"),
    ("pool.router=none", "pool.num_experts=1", "pool.balance.loss=none"),
    ("pool.layers_per_group=2", "model.num_query_groups=4", "model.ffn_hidden_size=null"),
    ("model.num_layers=3", "model.num_attention_heads=8", "pool.top_k=2", "pool.num_experts=5"),
)


def _built_shapes(environment: Environment, overrides: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    with built(tiny_config(*overrides), environment) as (_, model, _):
        shapes = {name: tuple(parameter.shape) for name, parameter in model.named_dense_parameters()}
        for name, parameter in model.named_expert_parameters():
            shapes |= {f"experts.{expert}.{name}": tuple(parameter.shape[1:]) for expert in model.expert_ids}
        shapes |= {f"layers.{layer}.router.bias": tuple(bias.shape) for layer, bias in model.router_biases().items()}
    return shapes


@pytest.mark.parametrize("overrides", MODELS, ids=str)
def test_parameters_are_those_of_the_model_that_is_built(workers: Workers, overrides: tuple[str, ...]) -> None:
    (built_shapes,) = workers.run(_built_shapes, 1, overrides)
    config = tiny_config(*overrides)
    assert {spec.name: spec.shape for spec in inventory(config)} == built_shapes
