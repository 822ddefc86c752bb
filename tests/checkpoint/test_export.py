"""``checkpoint export``: safetensors that need nothing of this project, equal to the masters; whole or not at all."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.checkpoint.command_line import document, fail, same_bits, step_folder, succeed, tensors_of
from tests.checkpoint.damage import adapt_manifest, copy_run, flip_bit, replace_file
from tests.support.trees import snapshot
from unipool_dist.checkpoint.offline import export_weights
from unipool_dist.config import dump_config, load_config
from unipool_dist.data import Corpus
from unipool_dist.data.corpus_manifest import combined_hash


def masters_of(run_dir: Path, scratch: Path, step: int = 4) -> dict[str, torch.Tensor]:
    tensors = tensors_of(step_folder(run_dir, step), scratch)
    return {name.removeprefix("master/"): value for name, value in tensors.items() if name.startswith("master/")}


def test_the_weights_are_the_masters(trained: Path, tmp_path: Path) -> None:
    for step in (2, 4):
        out = tmp_path / f"out{step}"
        succeed("export", trained, out, "--step", step)
        assert same_bits(load_file(out / "model.safetensors"), masters_of(trained, tmp_path, step))
    files = {path.name for path in out.iterdir()}
    assert files == {"model.safetensors", "config.yaml", "export.json", "tokenizer.model"}
    assert len({path.stat().st_mode for path in out.iterdir()}) == 1, "whoever may read one file may read all"


def test_bf16_is_rounded_but_for_routers(trained: Path, tmp_path: Path) -> None:
    succeed("export", trained, tmp_path / "out", "--dtype", "bf16")
    expected = {
        name: value if ".router." in name else value.to(torch.bfloat16)
        for name, value in masters_of(trained, tmp_path).items()
    }
    assert {value.dtype for value in expected.values()} == {torch.float32, torch.bfloat16}
    assert same_bits(load_file(tmp_path / "out" / "model.safetensors"), expected)


def test_large_models_are_cut_into_files_with_an_index(trained: Path, tmp_path: Path) -> None:
    out, limit = tmp_path / "out", 100_000
    done = document("export", trained, out, "--max-shard-size-gb", limit / 1e9)
    index = json.loads((out / "model.safetensors.index.json").read_text())
    names = sorted(path.name for path in out.glob("*.safetensors"))
    count = len(names)
    assert count > 3 and names == [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
    joined: dict[str, torch.Tensor] = {}
    for name in names:
        tensors = load_file(out / name)
        assert sum(value.nbytes for value in tensors.values()) <= limit
        assert not joined.keys() & tensors.keys()
        assert all(index["weight_map"][tensor] == name for tensor in tensors)
        joined |= tensors
    assert joined.keys() == index["weight_map"].keys()
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in joined.values())
    assert same_bits(joined, masters_of(trained, tmp_path))
    assert sorted(done["files"]) == names and done["bytes"] == sum((out / name).stat().st_size for name in names)


def test_a_tensor_larger_than_a_file_is_a_file(trained: Path, tmp_path: Path) -> None:
    succeed("export", trained, tmp_path / "out", "--max-shard-size-gb", 1e-9)
    masters = masters_of(trained, tmp_path)
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == len(masters)


def test_it_says_where_the_model_is_from(trained: Path, tiny_corpus: Path, tmp_path: Path) -> None:
    done = document("export", trained, tmp_path / "out", "--dtype", "bf16", "--step", 2)
    record = json.loads((tmp_path / "out" / "export.json").read_text())
    assert record.items() <= done.items() and done["tokenizer_missing"] is None
    assert (record["format"], record["format_version"]) == ("unipool-dist export", 1)
    assert (record["step"], record["tokens"], record["dtype"]) == (2, 512, "bf16")
    assert record["num_parameters"] == sum(value.numel() for value in masters_of(trained, tmp_path).values())
    assert record["tokenizer_hash"] == Corpus.open(tiny_corpus).tokenizer_hash
    assert record["versions"] == json.loads((step_folder(trained, 2) / "state.json").read_text())["versions"]
    assert load_config(tmp_path / "out" / "config.yaml") == load_config(step_folder(trained, 2) / "config.yaml")
    tokenizer = tmp_path / "out" / "tokenizer.model"
    assert tokenizer.read_bytes() == (tiny_corpus / "tokenizer.model").read_bytes()


def test_without_its_tokenizer_it_says_so(trained: Path, tiny_corpus: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    folder = copy_run(trained, tmp_path / "run").folder(4)
    config = load_config(folder / "config.yaml")
    (folder / "config.yaml").unlink()
    data = config.data.model_copy(update={"path": str(corpus)})
    dump_config(config.model_copy(update={"data": data}), folder / "config.yaml")
    adapt_manifest(folder)

    def missing(name: str) -> str:
        succeed("export", tmp_path / "run", tmp_path / name)
        assert not (tmp_path / name / "tokenizer.model").exists()
        return str(document("export", tmp_path / "run", tmp_path / f"{name} again")["tokenizer_missing"])

    assert missing("no corpus") == f"data.path={corpus} is not a corpus here"
    shutil.copytree(tiny_corpus, corpus)
    (corpus / "tokenizer.model").unlink()
    assert "lacks a file" in missing("no file")
    (corpus / "tokenizer.model").write_bytes(b"another")
    assert "are damaged" in missing("another file")
    manifest = json.loads((corpus / "manifest.json").read_text())
    manifest["files"]["tokenizer.model"]["sha256"] = "0" * 64
    manifest["tokenizer"]["sha256"] = combined_hash({"tokenizer.model": "0" * 64})
    (corpus / "manifest.json").write_text(json.dumps(manifest))
    assert "has another tokenizer now" in missing("another corpus")


def test_what_is_there_already_is_kept(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert "exists already" in fail("export", trained, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    (tmp_path / "link").symlink_to("nowhere")
    assert "(a link that leads nowhere) exists already" in fail("export", trained, tmp_path / "link")
    (tmp_path / "file").write_text("")
    assert "cannot be made" in fail("export", trained, tmp_path / "file" / "out")


def _thesis(draft: Path) -> None:
    draft.mkdir()
    (draft / "thesis.tex").write_text("years of work")


def _model_of_somebody(draft: Path) -> None:
    draft.mkdir()
    (draft / "model.safetensors").write_text("weights")


def _thesis_in_a_draft(draft: Path) -> None:
    _thesis(draft)
    (draft / ".lock").touch()


def _link_to_a_draft(draft: Path) -> None:
    draft.with_name("mine").mkdir()
    (draft.with_name("mine") / ".lock").touch()
    draft.symlink_to("mine")


def _dangling_link(draft: Path) -> None:
    draft.symlink_to("nowhere")


@pytest.mark.parametrize(
    "put", [_thesis, _model_of_somebody, _thesis_in_a_draft, _link_to_a_draft, _dangling_link, Path.touch]
)
def test_what_is_somebody_elses_is_refused_before_the_checkpoint_is_read(
    put: Callable[[Path], None], trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "new.writing")
    before = snapshot(tmp_path)
    monkeypatch.setattr("unipool_dist.cli.checkpoint.interchange.check_contents", pytest.fail)
    assert "ForeignError" in (message := fail("export", trained, tmp_path / "new")) and "new.writing" in message
    assert snapshot(tmp_path) == before


def test_what_a_killed_export_has_left_is_replaced_and_one_that_lives_is_not(trained: Path, tmp_path: Path) -> None:
    draft = tmp_path / "new.writing"
    draft.mkdir()
    for name in ("model-00007-of-00009.safetensors", ".config.yaml.0123456789ab.new"):
        (draft / name).write_text("half of it")
    with (draft / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another export is writing" in fail("export", trained, tmp_path / "new")
        assert len(list(draft.iterdir())) == 3
    succeed("export", trained, tmp_path / "new")
    assert not draft.exists()
    assert {path.name for path in (tmp_path / "new").iterdir()} == {
        "model.safetensors",
        "config.yaml",
        "export.json",
        "tokenizer.model",
    }


def test_what_is_damaged_is_not_exported(trained: Path, tmp_path: Path) -> None:
    folder = copy_run(trained, tmp_path / "run").folder(4)
    flip_bit(folder / "__0_0.distcp", 3)
    assert f"{folder / '__0_0.distcp'} is damaged" in fail("export", tmp_path / "run", tmp_path / "out")
    replace_file(folder / "__0_0.distcp", b"")
    assert "__0_0.distcp has 0 bytes" in fail("export", tmp_path / "run", tmp_path / "out", "--step", 4)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_interrupted_it_leaves_nothing(
    error: BaseException, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []

    def save_file(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
        assert path.parent == tmp_path / "out.writing" and not (tmp_path / "out").exists()
        if len(written) == 2:
            raise error
        written.append(path)
        path.write_bytes(b"weights")

    monkeypatch.setattr(export_weights, "save_file", save_file)
    message = fail("export", trained, tmp_path / "out", "--max-shard-size-gb", 1e-4)
    assert len(written) == 2
    assert message.startswith("CheckpointError: " if isinstance(error, OSError) else "SystemExit")
    assert list(tmp_path.iterdir()) == []
